"""Where a store lies: a local folder, or a prefix in an object store that fsspec knows, e.g. s3://bucket/corpus.zarr.

Names are paths within the store, with "/" between. What is written is there whole, or not at all.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from feature_store.layout import COMPLETE, NOT_OFFERED, StoreError, replace_file, sync_to_disk

if TYPE_CHECKING:
    from feature_store.object_place import ObjectPlace

OBJECT_STORES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs"}  # protocols and the packages that speak them
RUN = ".run"  # what runs tell each other, within the store; readers of Zarr pass over it
SCRATCH = f"{RUN}/scratch"
TRIES = 10  # to make a folder in one that another process removes because it is empty
FULL = {errno.ENOSPC, errno.EDQUOT}
LOOK_EVERY = 0.05  # seconds, while a folder is being removed
LOOKS, LOOKS_GONE = 200, 4  # at most; and in a row, until it is taken for gone
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]*)://")  # with ":", as a chain of fsspec's has it
_PATTERN = re.compile(r"[*?[\]]")


class Place(ABC):
    """A folder of files by name. Reading and writing raise OSError where the disk or the network gives out."""

    def __init__(self, url: str) -> None:
        self.url = url  # as users write it

    @abstractmethod
    def read(self, name: str) -> bytes:
        """A whole file. Raises FileNotFoundError."""

    @abstractmethod
    def write(self, name: str, content: bytes) -> None:
        """Make or replace a file."""

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Make a file that is not there, and say whether it was not: of several who try at once, one makes it.

        No two of them have the same content.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def children(self, folder: str = "") -> list[str]:
        """The names of files and folders directly in a folder, sorted; none if it is not there."""

    @abstractmethod
    def find(self, folder: str, leaf: str) -> dict[str, str]:
        """The folders directly in `folder` that hold a file `leaf`, with a stamp that changes when that file does."""

    @abstractmethod
    def sizes(self, folder: str) -> dict[str, int]:
        """All files below a folder, by name within it, with their bytes."""

    @abstractmethod
    def scratch(self, holder: str) -> Path:
        """A local folder of this holder's own, for what is on its way to the store; made if need be."""

    def clear_scratch(self, holder: str) -> None:
        """Remove the holder's scratch with all that is in it, if there is any."""
        folder, *above = self._scratch(holder)
        _remove_folder(folder)
        _remove_empty(*above)

    def leave_scratch(self, holder: str) -> None:
        """Remove the holder's scratch if nothing is in it."""
        _remove_empty(*self._scratch(holder))

    @abstractmethod
    def _scratch(self, holder: str) -> list[Path]:
        """The holder's scratch, and the folders above it that serve nothing else."""

    @abstractmethod
    def publish(self, folder: Path, name: str) -> bool:
        """Put a finished shard, a folder in scratch that holds a COMPLETE, in its place, and take it from scratch.

        What is there of it goes. False if another one came first, which then stays.
        """

    @abstractmethod
    def drop(self, name: str, mark: str = COMPLETE) -> None:
        """Remove the folder of a shard, its mark first: what is half removed never counts as complete.

        An expert goes in the same way; its mark is METADATA.
        """

    @abstractmethod
    def at_hand(self, name: str) -> AbstractContextManager[Path]:
        """A context in which all files of a shard lie in a local folder, which it gives: only to be read."""


class LocalPlace(Place):
    """A folder on a disk, or on a network file system."""

    def __init__(self, root: Path) -> None:
        super().__init__(str(root))
        self.root = root

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        _make_folder(path.parent)
        with naming(path):
            replace_file(path, content)

    def create(self, name: str, content: bytes) -> bool:
        path = self.root / name
        _make_folder(path.parent)
        part = path.with_name(f".{secrets.token_hex(8)}.part")
        try:
            with naming(path):
                part.write_bytes(content)
            os.link(part, path)  # unlike a file that is opened, it has its content from the first moment on
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NOT_OFFERED | {errno.EMLINK}:
                raise
            return _create_opened(path, content)
        finally:
            part.unlink(missing_ok=True)
        return True

    def remove(self, name: str) -> None:
        (self.root / name).unlink(missing_ok=True)

    def children(self, folder: str = "") -> list[str]:
        with suppress(FileNotFoundError, NotADirectoryError):
            return sorted(os.listdir(self.root / folder))
        return []

    def find(self, folder: str, leaf: str) -> dict[str, str]:
        found = {}
        base = self.root / folder
        for name in self.children(folder):
            with suppress(FileNotFoundError, NotADirectoryError):
                stat = os.stat(f"{base}/{name}/{leaf}")
                found[name] = f"{stat.st_mtime_ns}-{stat.st_ino}-{stat.st_size}"
        return found

    def sizes(self, folder: str) -> dict[str, int]:
        base = self.root / folder
        files = (path for path in base.rglob("*") if path.is_file())
        return {path.relative_to(base).as_posix(): path.stat().st_size for path in files}

    def scratch(self, holder: str) -> Path:
        folder = self._scratch(holder)[0]
        _make_folder(folder)
        return folder

    def _scratch(self, holder: str) -> list[Path]:
        return [self.root / SCRATCH / holder, self.root / SCRATCH, self.root / RUN]

    def publish(self, folder: Path, name: str) -> bool:
        for path in (*folder.rglob("*"), folder):
            sync_to_disk(path)
        target = self.root / name
        aside = folder.with_name(f"{folder.name}.old")
        with suppress(FileNotFoundError):
            (target / COMPLETE).unlink()
            sync_to_disk(target)
        with suppress(FileNotFoundError):
            os.rename(target, aside)  # whole, so that two who remove it do not meet in it
            shutil.rmtree(aside, ignore_errors=True)  # what is in use elsewhere (NFS) goes with the scratch
        try:
            os.rename(folder, target)
        except OSError:
            if not (target / COMPLETE).exists():  # a folder that another run has just put there is no fault
                raise
            shutil.rmtree(folder)
            return False
        sync_to_disk(target.parent)
        return True

    def drop(self, name: str, mark: str = COMPLETE) -> None:
        folder = self.root / name
        (folder / mark).unlink(missing_ok=True)
        shutil.rmtree(folder)

    @contextmanager
    def at_hand(self, name: str) -> Iterator[Path]:
        yield self.root / name


def is_url(path: str) -> bool:
    """Whether this is no local path: a URL of any kind, or a chain of them."""
    return _URL.match(path) is not None


def open_place(store: str | Path) -> LocalPlace | ObjectPlace:
    """The place that a user names. Raises StoreError for a URL of a kind that cannot hold a store."""
    from feature_store.object_place import ObjectPlace  # here, since it builds on this file

    if not is_url(str(store)):
        return LocalPlace(Path(store))
    protocol, _, path = str(store).partition("://")
    if protocol not in OBJECT_STORES or "::" in str(store) or not path.strip("/"):
        known = ", ".join(f"{name}://bucket/..." for name in OBJECT_STORES)
        raise StoreError(f"{store}: a store lies in a local folder, or in an object store ({known})")
    if _PATTERN.search(path):
        raise StoreError(f"{store}: * ? [ ] mean more than themselves to clients of object stores; use another name")
    return ObjectPlace(str(store), protocol)


def fetch_object(url: str, path: Path) -> None:
    """Bring one object to a local path. Raises OSError; StoreError if its client is not installed."""
    from feature_store.object_place import ObjectPlace  # here, since it builds on this file

    ObjectPlace(url, url.partition("://")[0]).fetch({"": path})


def inside(folder: Path, name: str) -> Path:
    """A path below a folder. Raises StoreError for a name that leads elsewhere, as whoever wrote it may have meant."""
    if "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise StoreError(f"{name!a}: is no name of a file in a store")
    return folder / name


def new_folder(place: Place, holder: str) -> Path:
    """A new folder in a holder's scratch, of the umask's mode. While it is there, so is the scratch."""
    for _ in range(TRIES):
        folder = place.scratch(holder) / secrets.token_hex(8)
        with suppress(FileNotFoundError):  # the scratch has just been left by another thread
            folder.mkdir()
            return folder
    folder.mkdir()
    return folder


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Within, errors of the system name this file where they name none: a full disk raises such."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or not isinstance(error.errno, int):
            raise
        raise OSError(error.errno, error.strerror or os.strerror(error.errno), str(path)) from error


def _create_opened(path: Path, content: bytes) -> bool:
    """The same where there are no hard links (exFAT, SMB, mounted drives): for a moment the file is there and empty.

    Who reads it then finds no holder, and waits as for one that is alive.
    """
    try:
        with naming(path), open(path, "xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


def _make_folder(folder: Path) -> None:
    """Make a folder and those above it, though a process that ends may just remove an empty one of them."""
    for _ in range(TRIES):
        with suppress(FileNotFoundError):
            folder.mkdir(parents=True, exist_ok=True)
            return
    folder.mkdir(parents=True, exist_ok=True)


def _remove_empty(*folders: Path) -> None:
    for folder in folders:
        with suppress(OSError):  # it is not empty: something is under way
            folder.rmdir()


def _remove_folder(folder: Path) -> None:
    """Remove a folder for good: threads of Zarr may go on for a moment with a write that was interrupted."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    else:
        return
    looks_gone = 0
    for _ in range(LOOKS):
        looks_gone = 0 if folder.exists() else looks_gone + 1
        if looks_gone == LOOKS_GONE:
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(LOOK_EVERY)
    shutil.rmtree(folder)  # which raises what is wrong
