"""A store in an object store that fsspec knows, e.g. s3://bucket/corpus.zarr."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from feature_store.layout import COMPLETE, StoreError
from feature_store.places import FULL, OBJECT_STORES, RUN, Place, inside, naming

SETTLING = 2.0  # seconds in which a write that has begun is over; see `ObjectPlace.create`


class ObjectPlace(Place):
    """A prefix in an object store.

    A shard's files are uploaded at once, its COMPLETE after them: what is not complete counts for nothing.
    """

    def __init__(self, url: str, protocol: str) -> None:
        super().__init__(url.rstrip("/"))
        self._protocol = protocol
        # Of s3fs: a file is asked for at once, not its size first.
        self._whole = {"max_concurrency": 1} if protocol == "s3" else {}
        try:
            self._root = str(self._files._strip_protocol(self.url)).strip("/")
        except ImportError:
            package = OBJECT_STORES[protocol]
            extra = " (or reelcache[s3])" if protocol == "s3" else ""
            raise StoreError(
                f"{url}: needs the package {package}, which is not installed: pip install {package}{extra}"
            ) from None

    @property
    def _files(self) -> Any:
        """The client. fsspec keeps one a process, so that this serves in forked and in spawned processes, too."""
        import fsspec

        return fsspec.filesystem(self._protocol, use_listings_cache=False)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def read(self, name: str) -> bytes:
        with self._asking(name):
            return bytes(self._files.cat_file(self._path(name), **self._whole))

    def write(self, name: str, content: bytes) -> None:
        with self._asking(name):
            self._files.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> bool:
        if not self._makes_once:
            return self._create_by_waiting(name, content)
        with self._asking(name):
            self._put_new(name, content)
        with suppress(FileNotFoundError):
            return self.read(name) == content  # also of a request that was repeated after its answer was lost
        return False

    def _put_new(self, name: str, content: bytes) -> None:
        """Write a file on condition that there is none, which not every store heeds. One that is there is no fault."""
        try:
            self._files.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            pass
        except OSError:  # which s3fs raises for it, as for other faults
            if not self._files.exists(self._path(name)):
                raise

    @cached_property
    def _makes_once(self) -> bool:
        """Whether the store heeds conditions, found by trying."""
        name = f"{RUN}/conditions-{secrets.token_hex(8)}"
        try:
            with self._asking(name):
                for content in (b"1", b"2"):
                    self._put_new(name, content)
            return self.read(name) == b"1"
        finally:
            self.remove(name)

    def _create_by_waiting(self, name: str, content: bytes) -> bool:
        """Fischer's algorithm (Lamport, A fast mutual exclusion algorithm, 1987, section 2).

        All who saw no file have written theirs when the wait is over, and the last one's is there to stay.
        """
        with self._asking(name):
            if self._files.exists(self._path(name)):
                return False
        self.write(name, content)
        time.sleep(SETTLING)
        with suppress(FileNotFoundError):
            return self.read(name) == content
        return False

    def remove(self, name: str) -> None:
        with suppress(FileNotFoundError), self._asking(name):
            self._files.rm_file(self._path(name))

    def children(self, folder: str = "") -> list[str]:
        base = self._path(folder)
        try:
            with self._asking(folder):
                found = self._files.ls(base, detail=False)
        except FileNotFoundError:
            return []
        return sorted(name for path in found if (name := path.removeprefix(base).strip("/")))

    def find(self, folder: str, leaf: str) -> dict[str, str]:
        found = {}
        for path, about in self._below(folder).items():
            parent, _, name = path.rpartition("/")
            if name == leaf and parent and "/" not in parent:
                found[parent] = str(about.get("ETag") or about.get("etag") or about.get("mtime"))
        return dict(sorted(found.items()))

    def sizes(self, folder: str) -> dict[str, int]:
        return {name: about["size"] for name, about in self._below(folder).items()}

    def _below(self, folder: str) -> dict[str, Any]:
        """All files below a folder, by name within it, with what the store says of them."""
        base = self._path(folder)
        with self._asking(folder):
            found = self._files.find(base, detail=True)
        names = ((path.removeprefix(base).strip("/"), about) for path, about in found.items())
        return {name: about for name, about in names if name}  # some tools mark a folder by an object of its name

    def scratch(self, holder: str) -> Path:
        folder = self._scratch(holder)[0]
        folder.parent.mkdir(exist_ok=True, mode=0o700)
        if folder.parent.stat().st_uid != os.getuid():  # whose owner could change what is on its way
            raise StoreError(f"{folder.parent}: belongs to another user; set TMPDIR to a folder of your own")
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def _scratch(self, holder: str) -> list[Path]:
        return [Path(tempfile.gettempdir()) / f"reelcache-{os.getuid()}" / holder]

    def publish(self, folder: Path, name: str) -> bool:
        there = self.sizes(name)
        if COMPLETE in there:
            self.remove(f"{name}/{COMPLETE}")
        files = {path.relative_to(folder).as_posix(): str(path) for path in folder.rglob("*") if path.is_file()}
        mark = files.pop(COMPLETE)
        with self._asking(name):
            self._files.put(list(files.values()), [self._path(f"{name}/{file}") for file in files])
            for file in there.keys() - files.keys() - {COMPLETE}:
                self._files.rm_file(self._path(f"{name}/{file}"))
            self._files.put([mark], [self._path(f"{name}/{COMPLETE}")])
        shutil.rmtree(folder)
        return True

    def drop(self, name: str, mark: str = COMPLETE) -> None:
        self.remove(f"{name}/{mark}")
        with suppress(FileNotFoundError), self._asking(name):
            self._files.rm(self._path(name), recursive=True)

    def fetch(self, files: Mapping[str, Path]) -> None:
        """Bring files, by name, to local paths. Raises FileNotFoundError; what has come by then stays."""
        paths = [str(path) for path in files.values()]
        with self._asking(next(iter(files), "")):
            try:
                self._files.get([self._path(name) for name in files], paths)
            except OSError as error:
                if error.errno in FULL:
                    raise OSError(error.errno, error.strerror, paths[0]) from error
                raise

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="reelcache-") as temporary:
            folder = Path(temporary)
            self.fetch({f"{name}/{file}": inside(folder, file) for file in self.sizes(name)})
            yield folder

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        """Whatever clients raise within becomes an OSError that names the file."""
        where = f"{self.url}/{name}" if name else self.url
        try:
            with naming(where):
                yield
        except OSError as error:
            if error.errno is None and type(error).__module__ == "builtins":  # a message of the store, and no more
                raise type(error)(f"{where}: {error}") from error
            raise
        except Exception as error:  # each client has types of its own: no network, no credentials, no such endpoint
            raise OSError(f"{where}: {type(error).__name__}: {error}") from error
