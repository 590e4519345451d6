"""What a run has done so far, in numbers that add up over processes."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

from feature_store import VideoStatus


@dataclass
class Spent:
    """How long a stage was at work, all its threads together, in seconds.

    `busy` is by the clock, and says what the run waits for. `alone` is what it would take without
    neighbours on the processor: processor time, but elapsed time where a GPU does the work.
    """

    busy: float = 0.0
    alone: float = 0.0


@dataclass
class Tally:
    """What was done. `statuses` count videos, each by its worst expert, and `reasons` what did not go well."""

    sampled: int = 0  # videos that were decoded to their end
    sampled_seconds: float = 0.0  # of video
    videos: int = 0  # in shards that are written
    video_seconds: float = 0.0
    shards: int = 0
    rows: Counter[str] = field(default_factory=Counter)  # by expert
    statuses: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    decoding: Spent = field(default_factory=Spent)
    computing: Spent = field(default_factory=Spent)
    writing: Spent = field(default_factory=Spent)

    def add(self, other: Tally) -> None:
        """Count what another one counted, too."""
        for each in fields(Tally):
            mine, more = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(more)
            elif isinstance(mine, Spent):
                mine.busy, mine.alone = mine.busy + more.busy, mine.alone + more.alone
            else:
                setattr(self, each.name, mine + more)


class Meter:
    """A tally that the threads of a process write, and others read and take away."""

    def __init__(self) -> None:
        self.began = time.perf_counter()
        self.tally = Tally()
        self._lock = threading.Lock()

    @contextmanager
    def at_work(self, stage: str, on_gpu: bool = False) -> Iterator[None]:
        """Time a stage: "decoding", "computing" or "writing"."""
        busy, processor = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            busy, processor = time.perf_counter() - busy, time.thread_time() - processor
            with self._lock:
                spent: Spent = getattr(self.tally, stage)
                spent.busy += busy
                spent.alone += busy if on_gpu else processor

    def count_sampled(self, seconds: float) -> None:
        """Count a video that was decoded to its end."""
        self.add(Tally(sampled=1, sampled_seconds=seconds))

    def add(self, tally: Tally) -> None:
        with self._lock:
            self.tally.add(tally)

    def take(self) -> Tally:
        """What was counted since the last time it was taken."""
        with self._lock:
            taken, self.tally = self.tally, Tally()
        return taken


def tally_of(videos: Sequence[Mapping[str, VideoStatus]]) -> Tally:
    """A written shard, counted: of each of its videos that were done the statuses by expert."""
    tally = Tally(shards=1, videos=len(videos))
    for by_expert in videos:
        of_experts = by_expert.values()
        tally.rows.update({expert: video.rows for expert, video in by_expert.items()})
        tally.video_seconds += max(video.seconds for video in of_experts)
        tally.statuses[verdict(of_experts)] += 1
        tally.reasons.update({reason(video) for video in of_experts if video.status in ("truncated", "failed")})
    return tally


def verdict(statuses: Iterable[VideoStatus]) -> str:
    """A video counts as failed or truncated if it is so for any expert; a stream it lacks is no fault."""
    found = {video.status for video in statuses}
    return next((status for status in ("failed", "truncated") if status in found), "ok")


def reason(video: VideoStatus) -> str:
    return f"{video.stage}: {video.reason}" if video.stage else str(video.reason)
