"""What was read of a store in an object store, kept on this machine: fetched once, then read like a local one."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path

from feature_store.layout import (
    COMPLETE,
    ShardRecord,
    StoreError,
    file_digest,
    load_record,
    replace_file,
    shard_name,
    sync_to_disk,
)
from feature_store.object_place import ObjectPlace
from feature_store.places import inside, open_place
from feature_store.writer import complete_shards

RECORDS_HELD = 64  # records of an expert's shards that stay in memory
RECORDS_AT_ONCE = 256  # asked of an object store
MEND = "`reelcache verify STORE --repair` drops damaged shards for extract to do again"


class Mirror:
    """What was read of a store in an object store, kept on this machine for the next time.

        <cache>/stores/<digest of the URL>/url
        <cache>/stores/<digest of the URL>/<expert>/<shard>-<stamp>.json    its complete.json
        <cache>/stores/<digest of the URL>/<expert>/<shard>-<stamp>/        all of its files

    A shard that is done again has another stamp, and so is another one here. Each file and folder appears whole,
    so that processes may share the cache, and all of it may be removed while nobody reads.
    """

    def __init__(self, place: ObjectPlace) -> None:
        self._place = place
        cache = Path(os.environ.get("REELCACHE_CACHE", "~/.cache/reelcache")).expanduser()
        self.folder = cache / "stores" / hashlib.sha256(place.url.encode()).hexdigest()[:32]

    def expert(self, node: str, planned: int) -> MirroredShards:
        """The shards of an expert."""
        self.folder.mkdir(parents=True, exist_ok=True)
        replace_file(self.folder / "url", f"{self._place.url}\n".encode())  # for people who tidy up
        return MirroredShards(self._place, node, self.folder / node, planned)


class NotFetched(OSError):
    """A shard could not be brought here: the network gave out, or the disk of the cache."""


def _mirrored_shards(url: str, node: str, folder: Path, planned: int) -> MirroredShards:
    """Opened anew, in another process."""
    place = open_place(url)
    assert isinstance(place, ObjectPlace)
    return MirroredShards(place, node, folder, planned)


class MirroredShards:
    """The shards of an expert that were complete in an object store when they were first asked for."""

    def __init__(self, place: ObjectPlace, node: str, folder: Path, planned: int) -> None:
        self._place, self._node, self._folder, self._planned = place, node, folder, planned
        self.record = lru_cache(RECORDS_HELD)(self._read_record)

    def __reduce__(self) -> tuple[Callable[..., MirroredShards], tuple[str, str, Path, int]]:
        return _mirrored_shards, (self._place.url, self._node, self._folder, self._planned)

    @cached_property
    def _kept(self) -> dict[int, Path]:
        """By shard, in order, the folder here that it has or will have."""
        found = complete_shards(self._place, self._node)
        digests = ((shard, hashlib.sha256(stamp.encode()).hexdigest()[:16]) for shard, stamp in found)
        return {n: self._folder / f"{shard_name(n)}-{digest}" for n, digest in digests if n < self._planned}

    def records(self) -> Iterator[tuple[int, bytes]]:
        """The number and the complete.json of each shard that has one, in order."""
        shards = iter(self._kept)
        while some := list(islice(shards, RECORDS_AT_ONCE)):
            self._fetch_records([shard for shard in some if not self._mark(shard).exists()])
            for shard in some:
                with suppress(FileNotFoundError):
                    content = self._mark(shard).read_bytes()
                    yield shard, content

    def folder(self, shard: int) -> Path:
        """A local folder with the files of a complete shard, fetched if need be. Raises NotFetched, StoreError."""
        folder = self._kept[shard]
        if not folder.exists():
            with self._fetching(shard) as temporary:
                self._fetch_shard(shard, temporary / "shard")
                try:
                    os.rename(temporary / "shard", folder)
                except OSError:
                    if not folder.exists():  # else another process was faster
                        raise
        return folder

    def _read_record(self, shard: int) -> ShardRecord:
        """What a shard's complete.json says."""
        return load_record(self._mark(shard))

    def _mark(self, shard: int) -> Path:
        return self._kept[shard].with_name(f"{self._kept[shard].name}.json")

    def _fetch_records(self, shards: Sequence[int]) -> None:
        if not shards:
            return
        with self._fetching(shards[0]) as temporary:
            new = {shard: temporary / self._mark(shard).name for shard in shards}
            try:
                self._place.fetch({self._name(shard, COMPLETE): path for shard, path in new.items()})
            except FileNotFoundError:  # one that has gone since
                for shard, path in new.items():
                    with suppress(FileNotFoundError):
                        self._place.fetch({self._name(shard, COMPLETE): path})
            for shard, path in new.items():
                with suppress(FileNotFoundError):
                    os.replace(path, self._mark(shard))

    def _fetch_shard(self, shard: int, folder: Path) -> None:
        """Fetch what the record names, which must be what it says: another run may be just writing it anew."""
        record = self.record(shard)
        changed = (
            f"{self._place.url}/{self._node}/{shard_name(shard)}: changed since the store was opened: open it again"
        )
        try:
            self._place.fetch({self._name(shard, file): inside(folder, file) for file in record.files})
        except FileNotFoundError as error:
            raise StoreError(f"{changed} ({error}); {MEND}") from error
        for file, digest in record.files.items():
            if file_digest(folder / file) != digest:
                raise StoreError(f"{changed} ({file} is not the one recorded); {MEND}")
            sync_to_disk(folder / file)
        replace_file(folder / COMPLETE, self._mark(shard).read_bytes())

    def _name(self, shard: int, file: str) -> str:
        return f"{self._node}/{shard_name(shard)}/{file}"

    @contextmanager
    def _fetching(self, shard: int) -> Iterator[Path]:
        """A temporary folder beside the shards, within which errors are those of fetching."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder, prefix=".") as temporary:
                yield Path(temporary)
        except NotFetched:
            raise
        except OSError as error:
            raise NotFetched(f"{self._place.url}/{self._name(shard, '')}: cannot be fetched: {error}") from error
