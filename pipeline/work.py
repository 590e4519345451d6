"""What a run has to do: shards that are given out to whoever has a hand free, and what came of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from data_manifests import Manifest, Video
from feature_store import ShardPlan
from pipeline.meter import Tally

ASK_AGAIN = 5.0  # seconds until a shard that another run holds is asked for once more


@dataclass(frozen=True)
class Assignment:
    """A shard to do. Videos in `left_out`, by number, are not to be touched, for the reason given."""

    shard: int
    videos: tuple[Video, ...]
    left_out: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """A video that did not go well for an expert."""

    video: str
    expert: str
    status: str
    stage: str | None
    reason: str | None


@dataclass(frozen=True)
class Death:
    """The end of a process that was not to end: why, and with which video in hand, if one is to blame for it."""

    why: str
    shards: tuple[int, ...]
    video: str | None = None
    left_out: bool = False  # from now on, in this run


@dataclass(frozen=True)
class Outcome:
    """What came of an assignment.

    `written` by whom it was given to; `complete` when it came up, by another run; or `held` by another process.
    """

    shard: int
    state: Literal["written", "complete", "held"]
    by: str = ""  # the process
    videos: int = 0
    rows: Mapping[str, int] = field(default_factory=dict)
    faults: tuple[Fault, ...] = ()
    tally: Tally | None = None  # what was counted since the process's last outcome, if not told otherwise
    deaths: tuple[Death, ...] = ()


class Work:
    """The shards of a run that are to be done. Those that other runs hold come up again, until they are done.

    Iterating gives assignments, or None where there may be more later. `heard` is called with every outcome.
    """

    def __init__(
        self, manifest: Manifest, plan: ShardPlan, todo: Sequence[int], heard: Callable[[Outcome], None]
    ) -> None:
        self.videos = sum(stop - first for first, stop in map(plan.bounds, todo))
        self.left = len(todo)  # shards that are neither written here nor found complete
        self._manifest, self._plan, self._heard = manifest, plan, heard
        self._todo = deque(todo)
        self._held: deque[tuple[float, int]] = deque()  # when to ask again, in order
        self._lock = threading.Lock()
        self._draining = False

    def __iter__(self) -> Iterator[Assignment | None]:
        while self.left and not self._draining:
            shard = self._next()
            if shard is None:
                yield None
            else:
                yield Assignment(shard, tuple(self._manifest.read(*self._plan.bounds(shard))))

    def finish(self, outcome: Outcome) -> None:
        """Note what came of an assignment."""
        with self._lock:
            if outcome.state == "held":
                self._held.append((time.monotonic() + ASK_AGAIN, outcome.shard))
            else:
                self.left -= 1
        self._heard(outcome)

    def drain(self) -> None:
        """Give out no more."""
        self._draining = True

    def _next(self) -> int | None:
        with self._lock:
            if self._todo:
                return self._todo.popleft()
            if self._held and time.monotonic() >= self._held[0][0]:
                return self._held.popleft()[1]
        return None
