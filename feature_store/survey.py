"""Looking at a store: what is done of every expert, how a video went, how two stores differ."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, get_args

import numpy as np
from pydantic_core import from_json

from feature_store.layout import (
    COMPLETE,
    State,
    StoreError,
    VideoStatus,
    differences,
    node_name,
    shard_name,
)
from feature_store.places import LocalPlace, Place, open_place
from feature_store.reader import MEND, ExpertInfo, FeatureStore, unknown_video
from feature_store.writer import complete_shards

STATES: tuple[str, ...] = get_args(State)
REQUESTS, TOGETHER = 16, 32  # threads that read records, and records that one of them reads at a time


@dataclass(frozen=True)
class ExpertSummary:
    """How far an expert is. Counts of videos by status; `seconds` of video, `bytes` on disk."""

    kind: str
    dim: int
    dtype: str
    weights: str
    ok: int
    truncated: int
    no_stream: int
    failed: int
    pending: int
    rows: int
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Failure:
    """A video that has not all its rows for an expert, and why."""

    video: str
    expert: str
    stage: str
    reason: str


@dataclass(frozen=True)
class StoreSummary:
    """How far a store is. `decodes` counts the times that videos were decoded for what is in it."""

    videos: int
    shards: int
    decodes: int
    experts: dict[str, ExpertSummary]
    failures: tuple[Failure, ...]


def summarize(path: str | Path) -> StoreSummary:
    """Count what the records of all complete shards say, which only `verify` checks. Raises StoreError."""
    return Survey(path).refresh()


class Survey:
    """The summary of a store that may be growing: each time it is asked for costs what is new since the last.

        survey = Survey("corpus.zarr")
        survey.refresh().experts["s3d"].pending  # 640
        survey.refresh().experts["s3d"].pending  # 576

    Of a shard only counts and failures stay in memory, some 500 bytes.
    """

    def __init__(self, path: str | Path) -> None:
        self._path, self._place = path, open_place(path)
        self._known: dict[str, dict[tuple[int, str], _ShardSummary]] = {}  # expert -> shard, its record's stamp

    def refresh(self) -> StoreSummary:
        """How far the store is now. Raises StoreError, also at a shard's record that is damaged or misplaced."""
        store = FeatureStore(self._path)
        self._known = {name: self._look(name, len(store.plan)) for name in store.experts}
        experts = {}
        failures: list[Failure] = []
        passes: dict[tuple[int, str], int] = {}  # over a shard's videos -> how many of them it decoded
        for name, info in store.experts.items():
            experts[name] = _total(info, list(self._known[name].values()), store.plan.videos)
            for (number, _), shard in self._known[name].items():
                failures += shard.failures
                for served, videos in shard.passes:
                    passes[number, served] = videos
        return StoreSummary(store.plan.videos, len(store.plan), sum(passes.values()), experts, tuple(failures))

    def _look(self, expert: str, shards: int) -> dict[tuple[int, str], _ShardSummary]:
        """The complete shards of an expert, in order; those are read whose record is not the known one."""
        there = [key for key in complete_shards(self._place, node_name(expert)) if key[0] < shards]
        known = self._known.get(expert, {})
        fresh = [key for key in there if key not in known]
        read = zip(fresh, self._read(expert, [shard for shard, _ in fresh]), strict=True)
        known = known | {key: summary for key, summary in read if summary is not None}
        return {key: known[key] for key in there if key in known}

    def _read(self, expert: str, shards: list[int]) -> Iterator[_ShardSummary | None]:
        """By several threads at once, since object stores and network file systems let each wait."""
        node = node_name(expert)

        def look(first: int) -> list[_ShardSummary | None]:
            return [_summarize_shard(self._place, expert, node, shard) for shard in shards[first : first + TOGETHER]]

        firsts = range(0, len(shards), TOGETHER)
        if isinstance(self._place, LocalPlace):  # threads that wait for a disk only get into each other's way
            for first in firsts:
                yield from look(first)
            return
        with ThreadPoolExecutor(REQUESTS) as pool:
            for found in pool.map(look, firsts):
                yield from found


@dataclass(frozen=True, slots=True)
class _ShardSummary:
    """What a complete shard adds to its expert's summary."""

    videos: tuple[int, ...]  # by status, in the order of STATES
    rows: int
    seconds: float
    bytes: int
    failures: tuple[Failure, ...]
    passes: tuple[tuple[str, int], ...]  # over its videos: each one's name, and how many it decoded


def _summarize_shard(place: Place, expert: str, node: str, shard: int) -> _ShardSummary | None:
    """None of a shard that has gone since it was found."""
    folder = f"{node}/{shard_name(shard)}"
    where = f"{place.url}/{folder}/{COMPLETE}"
    try:
        content = place.read(f"{folder}/{COMPLETE}")
    except FileNotFoundError:
        return None
    try:
        record = from_json(content, allow_inf_nan=False, cache_strings="keys")  # several times faster than load_record
        if (record["expert"], record["shard"]) != (expert, shard):
            raise StoreError(f"{where}: belongs to shard {record['shard']} of {record['expert']}; {MEND}")
        return _count(record, expert, len(content), place, folder)
    except ValueError as error:
        raise StoreError(f"{where}: damaged ({error}); {MEND}") from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise StoreError(f"{where}: damaged (it is not the record of a shard); {MEND}") from None


def _count(record: dict[str, Any], expert: str, record_bytes: int, place: Place, folder: str) -> _ShardSummary:
    videos, run = record["videos"], record["run"]
    states = list(map(itemgetter("status"), videos))
    counts = tuple(map(states.count, STATES))
    if sum(counts) != len(videos):
        raise ValueError(f"a status is none of {', '.join(STATES)}")
    # Records of earlier versions do not say how large the other files are.
    size = record_bytes + run["bytes"] if "bytes" in run else sum(place.sizes(folder).values())
    faulty = [video for video, state in zip(videos, states, strict=True) if state in ("failed", "truncated")]
    return _ShardSummary(
        videos=counts,
        rows=sum(map(itemgetter("rows"), videos)),
        seconds=float(sum(map(itemgetter("seconds"), videos))),
        bytes=size,
        failures=tuple(_failure(expert, video) for video in faulty),
        passes=tuple((str(served["pass"]), int(served["videos"])) for served in run.get("passes", ())),
    )


def _failure(expert: str, video: dict[str, Any]) -> Failure:
    said = video["id"], video.get("stage") or video["status"], video.get("reason") or ""
    if not all(isinstance(each, str) for each in said):
        raise ValueError("what it says of a video is no text")
    return Failure(said[0], expert, *said[1:])


def _total(info: ExpertInfo, shards: list[_ShardSummary], videos: int) -> ExpertSummary:
    counts = {state: sum(shard.videos[place] for shard in shards) for place, state in enumerate(STATES)}
    return ExpertSummary(
        kind=info.kind,
        dim=info.dim,
        dtype=info.dtype,
        weights=info.weights,
        **counts,
        pending=videos - sum(counts.values()),
        rows=sum(shard.rows for shard in shards),
        seconds=math.fsum(shard.seconds for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
    )


@dataclass(frozen=True)
class VideoSummary:
    """One video in one expert: how it went, its row times, the L2 norm of every row, and what rows are about."""

    status: VideoStatus
    times: np.ndarray  # (T, 2) seconds
    norms: np.ndarray  # (T,)
    records: list[dict[str, Any]] | None = None

    def document(self) -> dict[str, Any]:
        """The same as plain data."""
        rows = {"times": self.times.tolist(), "norms": [float(norm) for norm in self.norms]}
        return {**asdict(self.status), **rows, **({} if self.records is None else {"records": self.records})}


def inspect_video(path: str | Path, video: str) -> dict[str, VideoSummary | None]:
    """A video in every expert; None where it is not extracted yet. Raises NotInStore if no expert has it."""
    store = FeatureStore(path)
    found: dict[str, VideoSummary | None] = dict.fromkeys(store.experts)
    for name in store.experts:
        if video in store[name]:
            features = store[name].read(video)
            norms = np.linalg.norm(features.values, axis=1)
            records = store[name].records(video) if store.experts[name].has_records else None
            found[name] = VideoSummary(features.status, features.times, norms, records)
    if not any(found.values()):
        raise unknown_video(store.path, video, {known for name in store.experts for known in store[name]})
    return found


@dataclass(frozen=True)
class ExpertDifference:
    """How an expert differs between two stores, over the videos that both have.

    `cosine_*` compare row with row (1 is equal), `largest` is the largest difference of a value
    relative to its row's largest, `seconds` the largest difference of a row's time.
    """

    videos: int
    only_in_a: int
    only_in_b: int
    different_rows: int  # videos that have another number of rows
    rows: int  # compared
    equal_rows: int  # equal to the bit
    cosine_mean: float
    cosine_min: float
    largest: float
    seconds: float
    provenance: list[str]  # the fields that differ


def diff_stores(a: str | Path, b: str | Path) -> dict[str, ExpertDifference | str]:
    """Compare two stores, an expert at a time; a string says why an expert cannot be compared."""
    first, second = FeatureStore(a), FeatureStore(b)
    result: dict[str, ExpertDifference | str] = {}
    for name in dict.fromkeys([*first.experts, *second.experts]):
        if name not in first or name not in second:
            result[name] = f"only in {a if name in first else b}"
        elif first.experts[name].dim != second.experts[name].dim:
            result[name] = f"{first.experts[name].dim} dimensions against {second.experts[name].dim}"
        else:
            result[name] = _diff_expert(first, second, name)
    return result


def _diff_expert(a: FeatureStore, b: FeatureStore, expert: str) -> ExpertDifference:
    ids_a, ids_b = list(a[expert]), list(b[expert])
    shared = [video for video in ids_a if video in b[expert]]
    different_rows = equal_rows = 0
    cosines: list[np.ndarray] = [np.empty(0)]
    largest = seconds = 0.0
    for video in shared:
        x, y = a[expert].read(video), b[expert].read(video)
        if len(x.values) != len(y.values):
            different_rows += 1
            continue
        if not len(x.values):
            continue
        gap = np.abs(x.values - y.values).max(axis=1)
        scale = np.maximum(np.abs(x.values).max(axis=1), np.abs(y.values).max(axis=1))
        equal_rows += int((gap == 0).sum())
        largest = max(largest, float((gap / np.maximum(scale, np.finfo(np.float32).tiny)).max()))
        seconds = max(seconds, float(np.abs(x.times - y.times).max()))
        cosines.append(_cosine(x.values.astype(np.float64), y.values.astype(np.float64)))
    cosine = np.concatenate(cosines)
    return ExpertDifference(
        videos=len(shared),
        only_in_a=len(ids_a) - len(shared),
        only_in_b=len(ids_b) - len(shared),
        different_rows=different_rows,
        rows=len(cosine),
        equal_rows=equal_rows,
        cosine_mean=float(cosine.mean()) if len(cosine) else 1.0,
        cosine_min=float(cosine.min()) if len(cosine) else 1.0,
        largest=largest,
        seconds=seconds,
        provenance=differences(dict(a.experts[expert].identity), dict(b.experts[expert].identity)),
    )


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Row-wise cosine of (T, D) and (T, D); two zero rows count as equal."""
    norms = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
    same = (x == y).all(axis=1)
    return np.where(same, 1.0, (x * y).sum(axis=1) / np.maximum(norms, np.finfo(np.float64).tiny))
