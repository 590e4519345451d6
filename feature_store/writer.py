"""Writing a store: experts, and their shards, each whole and marked complete or not there at all."""

from __future__ import annotations

import errno
import json
import re
import shutil
import socket
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from pydantic import TypeAdapter, ValidationError
from zarr.codecs import Crc32cCodec

from data_manifests.folder_walk import is_hidden
from feature_store.kinds import KINDS, kind_of
from feature_store.layout import (
    ATTRIBUTE,
    COMPLETE,
    FEATURES,
    FORMAT,
    METADATA,
    OFFSETS,
    RECORD_OFFSETS,
    RECORDS,
    TIMES,
    Segment,
    ShardPlan,
    ShardRecord,
    StoreError,
    VideoStatus,
    differences,
    digest_of,
    dump_record,
    file_digest,
    first_problem,
    node_name,
    parse_attributes,
    parse_record,
    seal,
    shard_name,
    split_records,
)
from feature_store.leases import new_holder
from feature_store.places import FULL, RUN, LocalPlace, Place, naming, new_folder, open_place

DIMENSIONS = {  # as xarray and others name the axes of arrays
    FEATURES: ("row", "dim"),
    TIMES: ("row", "edge"),  # start, end
    OFFSETS: ("video_edge",),
    RECORDS: ("byte",),
    RECORD_OFFSETS: ("row_edge",),
}
CHUNK_BYTES = 4 << 20  # of features; a chunk is what a reader maps at once
SPOOL_BYTES = 16 << 20  # of a shard's rows kept in memory before they go to a temporary file
DTYPES = ("float16", "float32")
SHARD_NAME = re.compile(r"\d{6}|[1-9]\d{6,}")  # as `shard_name` writes it


class StoreWriter:
    """A store, a local folder or an object store's URL, opened for adding experts and videos.

    What is there stays: an expert is added or continued, videos are added at the end of the plan. Shards are put
    together in a local folder of the `holder`'s own, which `close` removes; it is made when the first one is begun.
    """

    def __init__(self, store: str | Path, holder: str | None = None) -> None:
        self.place = open_place(store)
        self.holder = holder or new_holder()
        if isinstance(self.place, LocalPlace):
            root = self.place.root
            nearest = next((path for path in (root, *root.parents) if path.exists()), root)
            if nearest.exists() and not nearest.is_dir():
                raise StoreError(f"{nearest} is a file; a store is a folder")
        there = self.place.children()
        if METADATA not in there and any(map(_foreign, there)):
            raise StoreError(f"{self.place.url} holds other things; name a new folder for the store")

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Forget shards that were begun and not finished."""
        self.place.clear_scratch(self.holder)

    def plan(self, videos: int, shard_videos: int, digest: Callable[[int, int], str]) -> ShardPlan:
        """The shards of a corpus of `videos`; `digest(first, stop)` tells which videos a range holds.

        Shards that were planned before stay as they are; videos beyond them make new ones. Raises
        StoreError if the videos planned before are no longer the same ones in the same order.
        """
        segments = list(self._segments())
        first = 0
        for segment in segments:
            stop = first + segment.videos
            if stop > videos or digest(first, stop) != segment.digest:
                raise StoreError(
                    f"{self.place.url}: its first {stop} videos are not those of this manifest. Videos may be added at "
                    "the end of a manifest, not removed, reordered or cut anew. `reelcache manifest build` adds them "
                    "there when it is given the old manifest as its output; or make a new store"
                )
            first = stop
        if videos > first:
            segments.append(Segment(videos - first, shard_videos, digest(first, videos)))
            document = {"format": FORMAT, "segments": [asdict(segment) for segment in segments]}
            self.place.write(METADATA, _group(document))
        self._forget_consolidated()
        return ShardPlan(tuple(segments))

    def _forget_consolidated(self) -> None:
        """Metadata that a user had Zarr put together would hide what is added from other readers."""
        metadata = json.loads(self.place.read(METADATA))
        if metadata.pop("consolidated_metadata", None):
            self.place.write(METADATA, json.dumps(metadata, indent=1, ensure_ascii=False).encode())

    def _segments(self) -> tuple[Segment, ...]:
        try:
            return read_plan(self.place).segments
        except NoMetadata:
            return ()

    def add_expert(self, name: str, identity: Mapping[str, Any], about: Mapping[str, Any]) -> ExpertWriter:
        """Begin or continue an expert. `identity` is its provenance; `about` is kept beside it for people.

        `identity` must hold "kind" (one of `KINDS`), "dim", "dtype", "sampling" and "weights" with a "source", and
        "records" if each row has a record. Raises StoreError for another kind, or naming the fields that differ if
        the store holds an expert of that name that was made in another way.
        """
        if identity["kind"] not in KINDS:
            raise StoreError(f"expert {name!r}: the kind {identity['kind']!r} must be one of {', '.join(KINDS)}")
        node = node_name(name)
        identity = json.loads(json.dumps(identity))  # as it will be read back
        try:
            there = read_attributes(self.place, node)
        except NoMetadata:
            made = {"made": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname()}
            document = {"expert": name, "identity": identity, "about": {**about, **made}}
            self._write_expert(name, node, _group(document))
        else:
            if there.get("expert") != name:  # on a disk to which capitals and small letters are the same
                raise StoreError(
                    f"{self.place.url}: expert {there.get('expert')!r} lies where {name!r} would, since this disk does "
                    "not tell capitals from small letters: store it under another name with --as NAME"
                )
            stored = there.get("identity", {})
            changed = differences({**stored, "kind": kind_of(name, stored)}, identity)
            identity = stored  # shards name its digest; 16 and 16.0 are equal, but their digests are not
            if changed:
                raise StoreError(
                    f"{self.place.url}: expert {name!r} is there, made in another way (the store's against this "
                    "run's):\n  "
                    + "\n  ".join(changed)
                    + "\nExtract with the same settings to continue it, or store a second variant with --as NAME"
                )
        return ExpertWriter(self.place, self.holder, name, identity)

    def _write_expert(self, name: str, node: str, content: bytes) -> None:
        try:
            self.place.write(f"{node}/{METADATA}", content)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT) or ":" not in node:
                raise
            plain = node.replace(":", "_")
            raise StoreError(
                f"{self.place.url}: this disk (exFAT, SMB, ...) takes no ':' in names: store {name} under another one "
                f"with --as {plain}"
            ) from error


class ExpertWriter:
    """One expert of a store, opened for adding shards."""

    def __init__(self, place: Place, holder: str, name: str, identity: Mapping[str, Any]) -> None:
        self.place, self.holder, self.name = place, holder, name
        self.node = node_name(name)
        self.dim, self.dtype = int(identity["dim"]), np.dtype(identity["dtype"])
        self.has_records = bool(identity.get("records"))
        self.provenance = digest_of(identity)

    def complete(self, shard: int) -> ShardRecord | None:
        """The record of a shard that is done under this provenance, else None."""
        name = f"{self.node}/{shard_name(shard)}/{COMPLETE}"
        try:
            record = parse_record(self.place.read(name), f"{self.place.url}/{name}")
        except (FileNotFoundError, StoreError):
            return None
        ours = (self.name, shard, self.provenance)
        return record if (record.expert, record.shard, record.provenance) == ours else None

    def begin(self, shard: int) -> ShardWriter:
        """Start a shard from scratch; what is there of it goes when the new one is written."""
        return ShardWriter(self, shard)

    def redo(self, record: ShardRecord, videos: Collection[int]) -> ShardWriter:
        """Start a complete shard again for some of its videos; the others' rows are kept as they are.

        Raises StoreError if the shard is damaged.
        """
        writer = self.begin(record.shard)
        try:
            with self.place.at_hand(f"{self.node}/{shard_name(record.shard)}") as folder:
                self._keep_rows(writer, folder, record, videos)
        except BaseException:  # also Ctrl-C: its spool and folder must not stay
            writer.give_up()
            raise
        return writer

    def _keep_rows(self, writer: ShardWriter, folder: Path, record: ShardRecord, videos: Collection[int]) -> None:
        """Copy the rows of all but some `videos` from the folder of a shard."""
        try:
            group = zarr.open_group(folder, mode="r")
            offsets = group[OFFSETS][:]
            for number, video in enumerate(record.videos):
                if video.rows and number not in videos:
                    first, stop = int(offsets[number]), int(offsets[number + 1])
                    records = read_records(group, first, stop) if self.has_records else None
                    writer.append(number, 0, group[FEATURES][first:stop], group[TIMES][first:stop], records)
        except (OSError, ValueError, KeyError) as error:
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            raise StoreError(f"{writer.where}: damaged ({error}); reelcache verify --repair drops it") from error


@dataclass(frozen=True)
class Run:
    """Consecutive rows of a video, from `first` on: where in the spool they are, and their records in the other."""

    first: int
    rows: int
    place: int
    record_place: int
    record_sizes: list[int]  # bytes


class ShardWriter:
    """The rows of one shard of one expert, in whatever order they come, then the shard written in one go.

    Rows wait in memory, and past SPOOL_BYTES in unnamed temporary files, so that long videos do not fill it.
    """

    def __init__(self, expert: ExpertWriter, shard: int) -> None:
        self._expert, self._shard = expert, shard
        self._name = f"{expert.node}/{shard_name(shard)}"
        self._row = np.dtype([("times", "<f8", 2), ("features", expert.dtype.newbyteorder("<"), expert.dim)])
        self._folder = new_folder(expert.place, expert.holder)
        self._spool, self._records = (
            tempfile.SpooledTemporaryFile(SPOOL_BYTES, dir=str(self._folder.parent))  # noqa: SIM115
            for _ in range(2)
        )
        self._runs: dict[int, list[Run]] = {}
        self._spooled = 0  # rows

    @property
    def where(self) -> str:
        """Where the shard goes."""
        return f"{self._expert.place.url}/{self._name}"

    def append(
        self,
        video: int,
        first_row: int,
        features: np.ndarray,
        times: np.ndarray,
        records: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        """Add rows first_row.. of the shard's `video`: features (rows, dim) and times (rows, 2) in seconds.

        `records` says of each row, in plain data, what it is about; experts that have records need them.
        """
        if (records is None) == self._expert.has_records or (records is not None and len(records) != len(features)):
            raise StoreError(f"{self.where}: every row of an expert has a record, or none has")
        rows = np.empty(len(features), self._row)
        rows["times"], rows["features"] = times, features
        lines = [json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records or ()]
        run = Run(first_row, len(rows), self._spooled, self._records.tell(), [len(line) for line in lines])
        with naming(self._folder):
            self._spool.write(rows.tobytes())
            self._records.writelines(lines)
        self._runs.setdefault(video, []).append(run)
        self._spooled += len(rows)

    def discard(self, video: int) -> None:
        """Forget the rows of a video."""
        self._runs.pop(video, None)

    @property
    def dtype(self) -> np.dtype:
        return self._expert.dtype

    def finish(self, videos: list[VideoStatus], run: Mapping[str, Any]) -> ShardRecord:
        """Write the shard, complete. `videos` are its statuses, in manifest order.

        Returns its record; that of another run if it came to write the same shard first. Raises OSError, naming a
        file, if the disk gives out: the shard is then not there, or is what it was before.
        """
        try:
            self._check(videos)
            offsets = np.cumsum([0, *(video.rows for video in videos)], dtype=np.int64)
            with naming(self._folder):
                self._write_arrays(videos, offsets)
                record = self._mark(videos, run)
            published = self._expert.place.publish(self._folder, self._name)
        finally:
            self.give_up()
        return record if published else self._expert.complete(self._shard) or record

    def _mark(self, videos: list[VideoStatus], run: Mapping[str, Any]) -> ShardRecord:
        paths = sorted(path for path in self._folder.rglob("*") if path.is_file())
        files = {path.relative_to(self._folder).as_posix(): file_digest(path) for path in paths}
        size = sum(path.stat().st_size for path in paths)
        about = {**run, "bytes": size}  # so that they need not be asked for again
        record = ShardRecord(self._expert.name, self._shard, self._expert.provenance, tuple(videos), files, about)
        (self._folder / COMPLETE).write_bytes(dump_record(record))
        return record

    def give_up(self) -> None:
        """Forget all rows and what is written of them, unless it is in its place."""
        self._spool.close()
        self._records.close()
        with suppress(OSError):  # as a rule that it is in its place
            shutil.rmtree(self._folder)
        self._expert.place.leave_scratch(self._expert.holder)

    def _check(self, videos: list[VideoStatus]) -> None:
        for number, video in enumerate(videos):
            runs = self._ordered(number)
            ends = [0, *(run.first + run.rows for run in runs)]
            if [run.first for run in runs] != ends[:-1] or ends[-1] != video.rows:
                raise StoreError(f"{self.where}: rows of video {video.id!r} are missing or double")

    def _ordered(self, video: int) -> list[Run]:
        return sorted(self._runs.get(video, ()), key=lambda run: run.first)

    def _write_arrays(self, videos: list[VideoStatus], offsets: np.ndarray) -> None:
        group = zarr.open_group(self._folder, mode="w-")
        rows, dim = int(offsets[-1]), self._expert.dim
        features = _create(group, FEATURES, (rows, dim), self._row["features"].base)
        times = np.empty((rows, 2))
        step = features.chunks[0]
        for first in range(0, rows, step):
            block = self._read(videos, offsets, first, min(first + step, rows))
            features[first : first + len(block)] = block["features"]
            times[first : first + len(block)] = block["times"]
        _create(group, TIMES, times.shape, times.dtype)[:] = times
        _create(group, OFFSETS, offsets.shape, offsets.dtype)[:] = offsets
        if self._expert.has_records:
            self._write_records(group, [run for number in range(len(videos)) for run in self._ordered(number)])

    def _write_records(self, group: zarr.Group, runs: list[Run]) -> None:
        ends = np.cumsum([0, *(size for run in runs for size in run.record_sizes)], dtype=np.int64)
        _create(group, RECORD_OFFSETS, ends.shape, ends.dtype)[:] = ends
        records = _create(group, RECORDS, (int(ends[-1]),), np.dtype(np.uint8))
        place = 0
        for run in runs:
            self._records.seek(run.record_place)
            content = self._records.read(sum(run.record_sizes))
            records[place : place + len(content)] = np.frombuffer(content, np.uint8)
            place += len(content)

    def _read(self, videos: list[VideoStatus], offsets: np.ndarray, first: int, stop: int) -> np.ndarray:
        """Rows first..stop - 1 of the shard, gathered from the spool."""
        block = np.empty(stop - first, self._row)
        for number in range(int(np.searchsorted(offsets, first, "right")) - 1, len(videos)):
            begin = int(offsets[number])
            if begin >= stop:
                break
            for run in self._runs.get(number, ()):
                low, high = max(first, begin + run.first), min(stop, begin + run.first + run.rows)
                if low < high:
                    self._spool.seek((run.place + low - begin - run.first) * self._row.itemsize)
                    content = self._spool.read((high - low) * self._row.itemsize)
                    block[low - first : high - first] = np.frombuffer(content, self._row)
            here = slice(max(first, begin) - first, min(stop, int(offsets[number + 1])) - first)
            # no row covers what lies behind the video's end
            np.minimum(block["times"][here], videos[number].seconds, out=block["times"][here])
        return block


def read_records(group: zarr.Group, first: int, stop: int) -> list[dict[str, Any]]:
    """The records of rows first..stop - 1 of a shard."""
    ends = group[RECORD_OFFSETS][first : stop + 1]
    return split_records(group[RECORDS][ends[0] : ends[-1]], ends)


def complete_shards(place: Place, node: str) -> list[tuple[int, str]]:
    """The numbers, in order, of an expert's shards that have a complete.json, each with that file's stamp."""
    found = place.find(node, COMPLETE)
    return sorted((int(name), stamp) for name, stamp in found.items() if SHARD_NAME.fullmatch(name))


def read_plan(store: Place | str | Path) -> ShardPlan:
    """The shard plan of a store; raises StoreError if there is none or it is of another format."""
    place = store if isinstance(store, Place) else open_place(store)
    document = read_attributes(place)
    if "expert" in document:
        raise StoreError(f"{place.url}: is the folder of an expert; name the store, the folder that it lies in")
    format = document.get("format")
    if isinstance(format, int) and format > FORMAT:
        raise StoreError(f"{place.url}: is of format {format}, and this version reads {FORMAT}: update Reelcache")
    if format != FORMAT or "segments" not in document:
        raise StoreError(f"{place.url}: is no feature store, but something else, such as an index of moments")
    try:
        return ShardPlan(_segments_adapter.validate_python(document["segments"]))
    except ValidationError as error:
        raise StoreError(f"{place.url}/{METADATA}: its shard plan is damaged ({first_problem(error)})") from None


_segments_adapter = TypeAdapter(tuple[Segment, ...])


class NoMetadata(StoreError):
    """There is no store, or no such expert in it."""


def read_attributes(place: Place, node: str = "") -> dict[str, Any]:
    """The sealed document of a store, or of an expert in it. Raises StoreError, NoMetadata if it is not there."""
    name = f"{node}/{METADATA}" if node else METADATA
    try:
        content = place.read(name)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        where = f"{place.url}/{node}" if node else place.url
        raise NoMetadata(f"{where}: there is no feature store") from None
    return parse_attributes(content, f"{place.url}/{name}")


def _foreign(name: str) -> bool:
    """Neither what a run leaves that was killed while it began a store, nor what systems leave in any folder."""
    ours = name == RUN or (name.startswith("zarr.json.") and name.endswith(".part"))
    return not ours and not is_hidden(name)


def _group(document: Mapping[str, Any]) -> bytes:
    """The metadata of a group that carries a document."""
    metadata = {"zarr_format": 3, "node_type": "group", "attributes": {ATTRIBUTE: seal(document)}}
    return json.dumps(metadata, indent=1, ensure_ascii=False).encode()


def _create(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    """An uncompressed array, so that chunk files can be mapped; CRC-32C so that any reader notices damage."""
    row_bytes = int(np.prod(shape[1:], dtype=np.int64)) * dtype.itemsize
    chunks = max(1, -(-shape[0] * row_bytes // CHUNK_BYTES))
    chunk_rows = max(1, -(-shape[0] // chunks))  # equal chunks: the last one is stored whole, too
    return group.create_array(
        name,
        shape=shape,
        chunks=(chunk_rows, *shape[1:]),
        dtype=dtype,
        compressors=Crc32cCodec(),
        fill_value=0,
        config={"write_empty_chunks": True},
        dimension_names=DIMENSIONS[name],
    )
