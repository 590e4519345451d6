"""Looking at a store: what is done of every expert, how a video went, how two stores differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from feature_store.layout import VideoStatus, differences, node_name, shard_name
from feature_store.reader import FeatureStore, unknown_video


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
    """Read the records of all complete shards. Raises StoreError."""
    store = FeatureStore(path)
    experts = {}
    failures: list[Failure] = []
    passes: dict[tuple[int, str], int] = {}  # over a shard's videos -> how many of them it decoded
    for name, info in store.experts.items():
        counts: Counter[str] = Counter()
        rows, seconds, size = 0, 0.0, 0
        for record in store[name].shards():
            counts.update(video.status for video in record.videos)
            rows += sum(video.rows for video in record.videos)
            seconds += sum(video.seconds for video in record.videos)
            folder = store.path / node_name(name) / shard_name(record.shard)
            size += sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            failures += _failures(name, record.videos)
            for served in record.run.get("passes", ()):
                passes[record.shard, served["pass"]] = served["videos"]
        experts[name] = ExpertSummary(
            kind=info.kind,
            dim=info.dim,
            dtype=info.dtype,
            weights=info.weights,
            ok=counts["ok"],
            truncated=counts["truncated"],
            no_stream=counts["no_stream"],
            failed=counts["failed"],
            pending=store.plan.videos - counts.total(),
            rows=rows,
            seconds=seconds,
            bytes=size,
        )
    return StoreSummary(store.plan.videos, len(store.plan), sum(passes.values()), experts, tuple(failures))


def _failures(expert: str, videos: tuple[VideoStatus, ...]) -> Iterator[Failure]:
    for video in videos:
        if video.status in ("failed", "truncated"):
            yield Failure(video.id, expert, video.stage or video.status, video.reason or "")


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
