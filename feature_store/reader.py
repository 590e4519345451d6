"""Reading features: chunk files are mapped into memory and sliced, which costs microseconds.

zarr-python does the same over any store, a hundred times slower; it is what `FeatureStore` falls back
to where chunks cannot be mapped. Shards of a store in an object store are fetched once, whole, and then
read like local ones.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal
from unicodedata import normalize

import numpy as np
from pydantic import ConfigDict, Field, PositiveInt, ValidationError
from pydantic.dataclasses import dataclass as checked

from feature_store.kinds import kind_of
from feature_store.layout import (
    COMPLETE,
    FEATURES,
    METADATA,
    OFFSETS,
    RECORD_OFFSETS,
    RECORDS,
    TIMES,
    NoFeatures,
    NotInStore,
    ShardPlan,
    ShardRecord,
    StoreError,
    VideoStatus,
    first_problem,
    load_record,
    node_name,
    parse_record,
    shard_name,
    split_records,
)
from feature_store.mapped_array import MappedArray
from feature_store.mirror import MEND, Mirror, MirroredShards, NotFetched
from feature_store.object_place import ObjectPlace
from feature_store.places import Place, open_place
from feature_store.writer import SHARD_NAME, NoMetadata, read_attributes, read_plan

ONE_THREAD = 32_768  # numbers that torch converts without waking other threads
SHARDS_HELD = 64  # shards of an expert whose files stay mapped


@checked(frozen=True, config=ConfigDict(strict=True))
class ExpertInfo:
    """What a store says of one expert. `identity` is everything that decides the features."""

    name: Annotated[str, Field(min_length=1)]
    kind: str
    dim: PositiveInt
    dtype: Literal["float16", "float32"]
    weights: str  # "random:<seed>" or the file they came from
    sampling: dict[str, Any]
    identity: dict[str, Any]
    about: dict[str, Any]

    @property
    def timed(self) -> bool:
        """Whether it is known which seconds a row covers; of some imported features it is not."""
        return self.sampling.get("times") != "unknown"

    @property
    def has_records(self) -> bool:
        """Whether it finds things, and says of each row what it is."""
        return bool(self.identity.get("records"))


@dataclass(frozen=True)
class Features:
    """The rows of one video: values (T, dim) float32, and times (T, 2) float64, [start, end) in seconds."""

    values: np.ndarray
    times: np.ndarray
    status: VideoStatus

    @property
    def missing(self) -> bool:
        """There are no rows: the video failed or has no such stream; `status` says which."""
        return self.status.status in ("failed", "no_stream")

    @property
    def first_not_finite(self) -> int | None:
        """The first row with a value that is NaN or infinite, None if there is none."""
        finite = np.isfinite(self.values)
        return None if finite.all() else int((~finite).any(axis=1).argmax())


class FeatureStore:
    """A store opened for reading.

        store = FeatureStore("corpus.zarr")
        store.experts["s3d"].dim                # 1024
        store["s3d"].read("video7010").values   # (T, 1024) float32

    `store` is a folder or an object store's URL. `path` is the local folder that is read: of a URL that of the
    cache, below $REELCACHE_CACHE. Raises StoreError if there is no store, OSError if the network gives out.
    A store that is being written can be read: its complete shards are there. Open it again to see newer ones.

    Pickled, e.g. for workers of a DataLoader, it is opened anew where it arrives. `close`, or the end of a `with`,
    lets go of all files.
    """

    def __init__(self, store: str | Path) -> None:
        self.place = open_place(store)
        self.url = self.place.url
        self._mirror = Mirror(self.place) if isinstance(self.place, ObjectPlace) else None
        self.path: Path = self._mirror.folder if self._mirror else Path(store)
        self.plan: ShardPlan = read_plan(self.place)
        self.experts: dict[str, ExpertInfo] = {info.name: info for info in _experts(self.place)}
        self._opened: dict[str, ExpertReader] = {}
        self._closed = False

    def __getitem__(self, expert: str) -> ExpertReader:
        if self._closed:
            raise StoreError(f"{self.url}: is closed; open the store again")
        if expert not in self.experts:
            there = ", ".join(sorted(self.experts)) or "none"
            raise NotInStore(f"{self.url} has no expert {expert!r}; it has {there}")
        if expert not in self._opened:
            node = node_name(expert)
            planned = len(self.plan)
            shards = self._mirror.expert(node, planned) if self._mirror else LocalShards(self.path / node, planned)
            self._opened[expert] = ExpertReader(shards, f"{self.url}/{node}", self.experts[expert])
        return self._opened[expert]

    def __contains__(self, expert: object) -> bool:
        return expert in self.experts

    def __reduce__(self) -> tuple[type[FeatureStore], tuple[str]]:
        return FeatureStore, (self.url if self._mirror else str(self.path.absolute()),)

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all files; reading raises StoreError from then on."""
        for reader in self._opened.values():
            reader.close()
        self._opened.clear()
        self._closed = True


class ExpertReader:
    """The features of one expert, by video id."""

    def __init__(self, shards: LocalShards | MirroredShards, where: str, info: ExpertInfo) -> None:
        self.info = info
        self._shards, self._where = shards, where
        self._shard = lru_cache(SHARDS_HELD)(self._open_shard)
        self._closed = False

    def __reduce__(self) -> tuple[type[ExpertReader], tuple[Any, ...]]:
        return ExpertReader, (self._shards, self._where, self.info)

    def close(self) -> None:
        """Let go of all files; reading raises StoreError from then on."""
        self._shard.cache_clear()
        self._closed = True

    def read(self, video: str) -> Features:
        """All rows of a video. Raises NotInStore (a KeyError), naming ids like it, if it is not there (yet)."""
        shard, number = self._place(video)
        try:
            return self._shard(shard).read(number)
        except (OSError, ValueError, KeyError, OverflowError) as error:
            raise self._damaged(shard, error) from error

    def records(self, video: str) -> list[dict[str, Any]]:
        """What each row of a video is about, e.g. {"text": "EXIT", "box": ..., "start": 3.0, "end": 3.5}.

        Raises StoreError for an expert without records (only OCR, face and speech have them), and NotInStore
        like `read`.
        """
        if not self.info.has_records:
            raise StoreError(f"{self.info.name} has no records: each of its rows is about all that is seen or heard")
        shard, number = self._place(video)
        try:
            return self._shard(shard).records(number)
        except (OSError, ValueError, KeyError, OverflowError) as error:
            raise self._damaged(shard, error) from error

    def status(self, video: str) -> VideoStatus:
        """How the video went. Raises NotInStore like `read`."""
        shard, number = self._place(video)
        if isinstance(self._shards, MirroredShards):  # whose rows may not be here, and are not needed
            return self._shards.record(shard).videos[number]
        return self._shard(shard).record.videos[number]

    def __contains__(self, video: object) -> bool:
        return isinstance(video, str) and self._spelled(video) is not None

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        """The ids of all videos that are done, in manifest order."""
        return iter(self._places)

    def shards(self) -> Iterator[ShardRecord]:
        """The records of all complete shards, in order. Raises StoreError at a damaged or misplaced one."""
        for shard, content in self._shards.records():
            where = f"{self._where}/{shard_name(shard)}/{COMPLETE}"
            try:
                record = parse_record(content, where)
            except StoreError as error:
                raise StoreError(f"{error}; {MEND}") from None
            if (record.expert, record.shard) != (self.info.name, shard):
                raise StoreError(f"{where}: belongs to shard {record.shard} of {record.expert}; {MEND}")
            yield record

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        return {
            video.id: (record.shard, number) for record in self.shards() for number, video in enumerate(record.videos)
        }

    @cached_property
    def _composed(self) -> dict[str, list[str]]:
        """Ids by their composed form: a Mac writes é as e and an accent, others as one character."""
        composed: dict[str, list[str]] = {}
        for video in self._places:
            if not video.isascii():
                composed.setdefault(normalize("NFC", video), []).append(video)
        return composed

    def _spelled(self, video: str) -> str | None:
        """A video's id as the store has it: equal, or else equal but for how accents are composed, if one is."""
        if video in self._places or video.isascii():
            return video if video in self._places else None
        alike = self._composed.get(normalize("NFC", video), [])
        return alike[0] if len(alike) == 1 else None

    def _place(self, video: str) -> tuple[int, int]:
        spelled = self._spelled(video)
        if spelled is None:
            raise unknown_video(self.info.name, video, self._places)
        return self._places[spelled]

    def _open_shard(self, shard: int) -> Shard:
        if self._closed:
            raise StoreError(f"{self._where}: is closed; open the store again")
        folder = self._shards.folder(shard)
        try:
            return Shard(folder)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise self._damaged(shard, error) from error

    def _damaged(self, shard: int, error: Exception) -> Exception:
        """What to raise for an error in reading a shard: not all of them are its own fault."""
        if isinstance(error, NotFetched | StoreError | PermissionError):
            return error
        return StoreError(f"{self._where}/{shard_name(shard)}: damaged ({error}); {MEND}")


class LocalShards:
    """The complete shards of an expert, in its folder."""

    def __init__(self, folder: Path, planned: int) -> None:
        self._folder, self._planned = folder, planned

    def records(self) -> Iterator[tuple[int, bytes]]:
        """The number and the complete.json of each shard that has one, in order."""
        for shard in range(self._planned):
            try:
                content = (self._folder / shard_name(shard) / COMPLETE).read_bytes()
            except FileNotFoundError:
                continue
            yield shard, content

    def folder(self, shard: int) -> Path:
        """A local folder with the files of a complete shard."""
        return self._folder / shard_name(shard)


class Shard:
    """One complete shard, its chunk files mapped."""

    def __init__(self, folder: Path) -> None:
        self.record = load_record(folder / COMPLETE)
        self._folder = folder
        self._features, self._times = MappedArray(folder / FEATURES), MappedArray(folder / TIMES)
        offsets = MappedArray(folder / OFFSETS)
        self._offsets: list[int] = offsets.rows(0, offsets.shape[0]).tolist()
        rows = sum(video.rows for video in self.record.videos)
        if self._times.shape != (rows, 2) or len(self._features.shape) != 2 or self._features.shape[0] != rows:
            raise ValueError(f"its arrays do not have the {rows} rows that {COMPLETE} counts")
        if self._offsets != [0, *accumulate(video.rows for video in self.record.videos)]:
            raise ValueError(f"{OFFSETS} are not the sums of the videos' rows")

    def read(self, number: int) -> Features:
        first, stop = self._offsets[number], self._offsets[number + 1]
        values = _float32(self._features.rows(first, stop))
        return Features(values, self._times.rows(first, stop).copy(), self.record.videos[number])

    def records(self, number: int) -> list[dict[str, Any]]:
        first, stop = self._offsets[number], self._offsets[number + 1]
        ends = self._record_offsets.rows(first, stop + 1)
        records = split_records(self._records.rows(int(ends[0]), int(ends[-1])), ends)
        times = self._times.rows(first, stop).tolist()
        return [{**record, "start": start, "end": end} for record, (start, end) in zip(records, times, strict=True)]

    @cached_property
    def _record_offsets(self) -> MappedArray:
        return MappedArray(self._folder / RECORD_OFFSETS)

    @cached_property
    def _records(self) -> MappedArray:
        return MappedArray(self._folder / RECORDS)


def unknown_video(where: str | Path, video: str, ids: Iterable[str]) -> NotInStore:
    """The error for a video that is not among `ids`."""
    near = difflib.get_close_matches(str(video), ids, n=3)
    hint = f"; near: {', '.join(near)}" if near else ""
    return NotInStore(
        f"{where}: no complete shard holds video {video!r}{hint} (it is not in the manifest, or not extracted yet)"
    )


def _float32(values: np.ndarray) -> np.ndarray:
    """A float32 copy of (T, dim) rows.

    NumPy converts float16 a number at a time, torch by vector instructions, ten times faster; in blocks
    small enough for one thread, since to wake others takes longer than the work.
    """
    if values.dtype != np.float16:
        return values.astype(np.float32)
    import torch  # here, since most commands on a store do without it

    floats = np.empty(values.shape, np.float32)
    step = max(1, ONE_THREAD // max(1, values.shape[1]))
    for first in range(0, len(values), step):  # sliced by NumPy, which is five times faster at it
        block = slice(first, first + step)
        torch.from_numpy(floats[block]).copy_(torch.from_numpy(values[block]))
    return floats


def _experts(place: Place) -> Iterator[ExpertInfo]:
    for node in place.children():
        if node.startswith(".") or node == METADATA:  # what runs leave; no expert's folder is called so
            continue
        try:
            document = read_attributes(place, node)
        except NoMetadata:
            continue
        except NoFeatures:  # what somebody else keeps there, unless it has shards: then its metadata is damaged
            if any(map(SHARD_NAME.fullmatch, place.children(node))):
                raise
            continue
        info = _info(document, f"{place.url}/{node}/{METADATA}")
        if node_name(info.name) != node:
            raise StoreError(f"{place.url}/{node}: holds the expert {info.name!r}; give the folder its name back")
        yield info


def _info(document: Mapping[str, Any], where: str) -> ExpertInfo:
    """What the document of an expert says. Raises StoreError, naming `where` it lies, if it lacks something."""
    try:
        identity = document["identity"]
        return ExpertInfo(
            name=document["expert"],
            kind=kind_of(document["expert"], identity),
            dim=identity["dim"],
            dtype=identity["dtype"],
            weights=identity["weights"]["source"],
            sampling=identity["sampling"],
            identity=identity,
            about=document["about"],
        )
    except ValidationError as error:
        raise StoreError(f"{where}: damaged ({first_problem(error)})") from None
    except (KeyError, TypeError, AttributeError):
        raise StoreError(f"{where}: damaged (it does not say how the features were made)") from None
