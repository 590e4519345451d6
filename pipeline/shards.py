"""A shard in the making: the rows and statuses of its videos, until all are there and it is written."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_manifests import Video
from feature_store import ShardWriter, VideoStatus


@dataclass(frozen=True)
class Rows:
    """Rows of video `number` of a shard, from `first` on: features (rows, dim), times (rows, 2) in seconds."""

    expert: str
    number: int
    first: int
    features: np.ndarray
    times: np.ndarray
    records: Sequence[Mapping[str, Any]] | None = None


@dataclass(eq=False)
class ShardTask:
    """One shard to be done, with a writer for every expert that lacks it, or lacks videos of it.

    `kept` are the statuses of videos that an expert has already: those are not done again. `earlier` are the
    passes over the videos by which it has them. `left_out` are videos that are not to be touched, with the reason.
    """

    shard: int
    videos: Sequence[Video]
    writers: Mapping[str, ShardWriter]
    kept: Mapping[tuple[str, int], VideoStatus] = field(default_factory=dict)
    earlier: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    left_out: Mapping[int, str] = field(default_factory=dict)
    _statuses: dict[tuple[str, int], VideoStatus] = field(default_factory=dict)
    _unfit: dict[tuple[str, int], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._statuses.update(self.kept)
        for number, reason in self.left_out.items():
            status = VideoStatus(self.videos[number].id, "failed", stage="decode", reason=reason)
            self._statuses.update({(expert, number): status for expert in self._new(number)})

    def wanted(self, number: int) -> list[str]:
        """The experts for which video `number` is to be decoded."""
        return [] if number in self.left_out else self._new(number)

    @property
    def decoded(self) -> int:
        """How many of the videos are decoded for this."""
        return sum(bool(self.wanted(number)) for number in range(len(self.videos)))

    def _new(self, number: int) -> list[str]:
        """The experts for which video `number` is new."""
        return [expert for expert in self.writers if (expert, number) not in self.kept]

    def append(self, rows: Rows) -> None:
        """Add rows of a video; a video with features that cannot be stored fails as a whole."""
        writer = self.writers[rows.expert]
        reason = unfit(rows.features, writer.dtype)
        if reason:
            self._unfit.setdefault((rows.expert, rows.number), reason)
        else:
            writer.append(rows.number, rows.first, rows.features, rows.times, rows.records)

    def end(self, expert: str, number: int, status: VideoStatus) -> None:
        """Say how sampling a video ended; its last rows may still be on their way."""
        self._statuses[expert, number] = status

    @property
    def missing_files(self) -> bool:
        """Some video could not even be opened."""
        return any(status.stage == "open" for status in self._statuses.values())

    @property
    def ended(self) -> bool:
        """Every video has been sampled for every expert."""
        return len(self._statuses) == len(self.videos) * len(self.writers)

    def finish(self, run: Mapping[str, Any]) -> list[dict[str, VideoStatus]]:
        """Write the shard and mark it complete, an expert at a time.

        Returns of each video that was done its new statuses by expert. Experts that one pass over the videos
        served carry the same name of it.
        """
        served = {"pass": secrets.token_hex(8), "videos": self.decoded}
        statuses = {}
        for expert, writer in self.writers.items():
            statuses[expert] = [self._status(expert, number) for number in range(len(self.videos))]
            writer.finish(statuses[expert], {**run, "passes": [*self.earlier.get(expert, ()), served]})
        done = (
            {expert: statuses[expert][number] for expert in self._new(number)} for number in range(len(self.videos))
        )
        return [video for video in done if video]

    def give_up(self) -> None:
        """Forget all rows."""
        for writer in self.writers.values():
            writer.give_up()

    def _status(self, expert: str, number: int) -> VideoStatus:
        status = self._statuses[expert, number]
        if (expert, number) in self._unfit:
            status = VideoStatus(status.id, "failed", stage="expert", reason=self._unfit[expert, number])
        if status.status == "failed":
            self.writers[expert].discard(number)  # rows from before it failed
        return status


def unfit(features: np.ndarray, dtype: np.dtype) -> str | None:
    """Why features cannot be stored as `dtype`, or None."""
    largest = np.abs(features).max(initial=0.0)
    if not np.isfinite(largest):
        return "there are values that are not finite"
    if largest > np.finfo(dtype).max:
        return f"there are values up to {largest:.3g}, too large for {dtype}: extract with --dtype float32"
    return None
