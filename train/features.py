"""Features of videos as padded batches: from the mapped store, or from a copy in memory or on the device.

A store holds as many rows a video as it is long. A system wants some of them (which ones, it says), padded with zeros
to the longest of the batch, and perhaps a pool over all of them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from torch import Generator, Tensor

from feature_store import ExpertInfo, ExpertReader, Features, FeatureStore
from train import TrainError

Cache = Literal["none", "ram", "device"]
Pool = Literal["mean", "max"]
Scales = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Of each expert the mean and the deviation of each of its numbers."""
Select = Callable[[Tensor, Generator | None], Tensor]
"""Which rows of videos of these lengths (B,) to take: (B, K), of which the first min(length, K) count."""


@dataclass(frozen=True)
class ExpertFacts:
    """What a system has to know of an expert, and what tells its features from ones made in another way."""

    name: str
    kind: str
    dim: int
    weights: str  # "random:<seed>" or the file they came from
    digest: str  # of everything that decides the features
    timed: bool = True  # it is known which seconds a row covers

    @classmethod
    def of(cls, info: ExpertInfo) -> ExpertFacts:
        identity = json.dumps(info.identity, sort_keys=True).encode()
        return cls(info.name, info.kind, info.dim, info.weights, hashlib.sha256(identity).hexdigest(), info.timed)


class RowBatch(NamedTuple):
    """Rows of some videos, padded with zeros at the end."""

    values: Tensor  # (B, K, D) float32
    times: Tensor  # (B, K, 2) float32, seconds
    lengths: Tensor  # (B,) int64: how many of the K are there
    pooled: Tensor  # (B, D) float32 over all rows of each video; zeros where there are none


class VideoRows(Protocol):
    """The rows that one source has of the videos 0, 1, ... of a split."""

    lengths: Tensor  # (videos,) int64, all rows

    def batch(self, videos: Tensor, select: Select, generator: Generator | None = None) -> RowBatch:
        """Rows of the videos of these indices (B,); `generator` is for a selection that is random."""


def first_rows(limit: int) -> Select:
    """The first `limit` rows."""
    return lambda lengths, _: torch.arange(min(limit, _longest(lengths))).expand(len(lengths), -1)


def spread_rows(limit: int) -> Select:
    """`limit` rows spread evenly from the first to the last, or all if there are fewer."""

    def select(lengths: Tensor, _: Generator | None) -> Tensor:
        steps = torch.arange(min(limit, _longest(lengths)))
        last = (lengths - 1).clamp(min=0)[:, None]
        spread = (steps * last.double() / max(limit - 1, 1)).round().long()
        return spread.where(lengths[:, None] > limit, steps)

    return select


def random_rows(limit: int) -> Select:
    """A random choice of `limit` rows in order of time, or all if there are fewer.

    Without a generator the choice follows from the video's length alone: that of a fresh NumPy generator seeded
    with 0, as MMT evaluates.
    """

    def select(lengths: Tensor, generator: Generator | None) -> Tensor:
        steps = torch.arange(min(limit, _longest(lengths)))
        rows = steps.repeat(len(lengths), 1)
        long = (lengths > limit).nonzero()[:, 0]
        if not len(long):
            return rows
        if generator is None:
            rows[long] = torch.stack([_settled_choice(length, limit) for length in lengths[long].tolist()])
            return rows
        draws = torch.rand(len(long), _longest(lengths), generator=generator)
        draws.masked_fill_(torch.arange(draws.shape[1]) >= lengths[long, None], 2.0)  # beyond any draw
        rows[long] = draws.argsort(dim=1)[:, :limit].sort(dim=1).values
        return rows

    return select


@lru_cache(4096)
def _settled_choice(length: int, limit: int) -> Tensor:
    return torch.from_numpy(np.sort(np.random.RandomState(0).choice(length, limit, replace=False)))


def _longest(lengths: Tensor) -> int:
    return max(1, int(lengths.max()))


class Source:
    """What some experts have of a video, in the rows of the first one.

    Rows of the others are averaged over what of them overlaps a row, weighted by the overlap in seconds; where
    nothing does, and where a video lacks them, there are zeros. With `scales`, all are brought to mean 0 and
    deviation 1 first.
    """

    def __init__(self, store: FeatureStore, experts: Sequence[str], scales: Scales | None = None) -> None:
        self._readers: list[ExpertReader] = [store[expert] for expert in experts]
        self._scales = {
            name: (np.array(mean, np.float32), np.array(deviation, np.float32))
            for name, (mean, deviation) in (scales or {}).items()
        }
        self.dim = sum(reader.info.dim for reader in self._readers)
        self.half = len(experts) == 1 and self._readers[0].info.dtype == "float16" and not scales

    def lengths(self, videos: Sequence[str]) -> Tensor:
        """How many rows each video has; 0 for one that is not in the store."""
        first = self._readers[0]
        return torch.tensor([first.status(video).rows if video in first else 0 for video in videos], dtype=torch.int64)

    def read(self, video: str) -> tuple[Tensor, Tensor]:
        """Values (T, dim) and times (T, 2), float32, of a video that has rows.

        Raises TrainError for values that are not finite.
        """
        grid = self._scaled(self._readers[0], video)
        values = [grid.values]
        for reader in self._readers[1:]:
            if video in reader:
                part = self._scaled(reader, video)
                values.append(_overlapping_mean(grid.times, part.times, part.values))
            else:
                values.append(np.zeros((len(grid.times), reader.info.dim), np.float32))
        together = values[0] if len(values) == 1 else np.concatenate(values, axis=1)
        return torch.from_numpy(together), torch.from_numpy(grid.times).float()

    def _scaled(self, reader: ExpertReader, video: str) -> Features:
        features = _read_finite(reader, video)
        if not self._scales:
            return features
        mean, deviation = self._scales[reader.info.name]
        return replace(features, values=(features.values - mean) / deviation)


def measure_scales(store: FeatureStore, experts: Sequence[str], videos: Sequence[str]) -> Scales:
    """What brings each number of these experts to mean 0 and deviation 1 over the rows of these videos.

    A number that never changes is only brought to 0. Raises TrainError for values that are not finite.
    """
    scales = {}
    for expert in experts:
        reader = store[expert]
        rows, total, squares = 0, np.zeros(reader.info.dim), np.zeros(reader.info.dim)
        for video in videos:
            if video in reader:
                values = _read_finite(reader, video).values.astype(np.float64)
                rows, total, squares = rows + len(values), total + values.sum(axis=0), squares + (values**2).sum(axis=0)
        mean = total / max(rows, 1)
        variance = (squares / max(rows, 1) - mean**2).clip(min=0)
        deviation = np.sqrt(np.where(variance > 1e-12 * mean**2, variance, 1))
        scales[expert] = mean.tolist(), deviation.tolist()
    return scales


def _read_finite(reader: ExpertReader, video: str) -> Features:
    features = reader.read(video)
    if features.first_not_finite is not None:
        raise TrainError(
            f"{reader.info.name} has values of {video} that are not finite, the first in row "
            f"{features.first_not_finite}: extract it anew, or leave the video out of the split"
        )
    if not np.isfinite(features.times).all():
        raise TrainError(f"{reader.info.name} has times of {video} that are not finite: extract or import it anew")
    return features


def _overlapping_mean(to: np.ndarray, times: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Values (T, D) at `times` (T, 2), brought to the rows `to` (N, 2): (N, D)."""
    begin, end = np.maximum(to[:, None, 0], times[:, 0]), np.minimum(to[:, None, 1], times[:, 1])
    overlap = (end - begin).clip(min=0)  # (N, T) seconds
    total = overlap.sum(axis=1, keepdims=True)
    return ((overlap / np.where(total > 0, total, 1)) @ values).astype(np.float32)


class MappedRows:
    """Rows read from the store when they are wanted; it is mapped into memory, so what was read stays at hand."""

    def __init__(self, source: Source, videos: Sequence[str], pool: Pool | None) -> None:
        self._source, self._videos, self._pool = source, videos, pool
        self.lengths = source.lengths(videos)

    def batch(self, videos: Tensor, select: Select, generator: Generator | None = None) -> RowBatch:
        lengths = self.lengths[videos]
        rows = select(lengths, generator)
        count = lengths.clamp(max=rows.shape[1])
        values, times = torch.zeros(*rows.shape, self._source.dim), torch.zeros(*rows.shape, 2)
        pooled = torch.zeros(len(videos), self._source.dim)
        for place, (video, taken) in enumerate(zip(videos.tolist(), count.tolist(), strict=True)):
            if taken:
                all_values, all_times = self._source.read(self._videos[video])
                values[place, :taken] = all_values[rows[place, :taken]]
                times[place, :taken] = all_times[rows[place, :taken]]
                if self._pool:
                    pooled[place] = _pool(all_values, self._pool)
        return RowBatch(values, times, count, pooled)


class CachedRows:
    """Rows of all videos in one tensor, in memory or on the device, as they are stored: float16 stays float16."""

    def __init__(
        self, source: Source, videos: Sequence[str], pool: Pool | None, device: torch.device | str = "cpu"
    ) -> None:
        self.lengths = source.lengths(videos)
        self._starts = self.lengths.cumsum(0) - self.lengths
        self._blank = int(self.lengths.sum())  # a row of zeros, which padding points at
        values = torch.zeros(self._blank + 1, source.dim, dtype=torch.float16 if source.half else torch.float32)
        times = torch.zeros(self._blank + 1, 2)
        pooled = torch.zeros(len(videos), source.dim)
        for index, (video, start, length) in enumerate(
            zip(videos, self._starts.tolist(), self.lengths.tolist(), strict=True)
        ):
            if length:
                own, times[start : start + length] = source.read(video)
                values[start : start + length] = own
                if pool:
                    pooled[index] = _pool(own, pool)
        self._values, self._times, self._pooled = values.to(device), times.to(device), pooled.to(device)
        self._device = torch.device(device)

    def batch(self, videos: Tensor, select: Select, generator: Generator | None = None) -> RowBatch:
        lengths = self.lengths[videos]
        rows = select(lengths, generator)
        there = torch.arange(rows.shape[1]) < lengths[:, None]
        index = (self._starts[videos][:, None] + rows).where(there, self._blank).to(self._device)
        values = self._values.index_select(0, index.flatten()).float().unflatten(0, index.shape)
        count = lengths.clamp(max=rows.shape[1]).to(self._device)
        return RowBatch(values, self._times[index], count, self._pooled[videos.to(self._device)])


def _pool(values: Tensor, how: Pool) -> Tensor:
    return values.mean(dim=0) if how == "mean" else values.amax(dim=0)


def open_rows(
    store: FeatureStore,
    experts: Sequence[str],
    videos: Sequence[str],
    pool: Pool | None,
    cache: Cache,
    device: torch.device | str,
    scales: Scales | None = None,
) -> VideoRows:
    """The rows of these videos, of one expert or of several side by side (see `Source`).

    Raises TrainError for values that are not finite; also without a copy all are looked through once.
    """
    source = Source(store, experts, scales)
    if cache != "none":
        return CachedRows(source, videos, pool, device if cache == "device" else "cpu")
    rows = MappedRows(source, videos, pool)
    for video, length in zip(videos, rows.lengths.tolist(), strict=True):
        if length:
            source.read(video)
    return rows


def missing_videos(store: FeatureStore, experts: Sequence[str], videos: Sequence[str]) -> list[str]:
    """The videos that have no rows of any of these experts."""
    found = torch.stack([Source(store, [expert]).lengths(videos) > 0 for expert in experts]).any(dim=0)
    return [video for video, there in zip(videos, found.tolist(), strict=True) if not there]
