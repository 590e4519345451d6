"""Which videos the threads of a process are at: whom to ask when the process dies, or one takes too long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

SLOWEST = 10.0  # seconds of work that a second of video may take


@dataclass(frozen=True)
class Flight:
    """Video `number` of a shard in the hands of a thread. `work` is how long, waiting for others not counted."""

    shard: int
    number: int
    video: str
    thread: int
    fetching: float = 0.0  # seconds that it may take beside
    work: float = 0.0  # seconds
    reached: float = 0.0  # seconds of the video

    @property
    def key(self) -> tuple[int, int]:
        return self.shard, self.number


class Flights:
    """The videos that threads are at now. `tell` hears at once who begins one (True) and who is done (False)."""

    def __init__(self, limit: float, tell: Callable[[Flight, bool], None] | None = None) -> None:
        self.limit = limit
        self._tell = tell or (lambda flight, begins: None)
        self._under_way: dict[int, Progress] = {}

    @contextmanager
    def at(self, shard: int, number: int, video: str, fetching: float = 0.0) -> Iterator[Progress]:
        """This thread is at a video within, which may take `fetching` seconds more than others."""
        progress = Progress(Flight(shard, number, video, threading.get_ident(), fetching))
        self._under_way[progress.flight.thread] = progress
        self._tell(progress.flight, True)
        try:
            yield progress
        finally:
            del self._under_way[progress.flight.thread]
            self._tell(progress.flight, False)

    def now(self) -> list[Flight]:
        """All of them, as far as they are."""
        return [progress.now() for progress in list(self._under_way.values())]

    def late(self, progress: Progress) -> bool:
        return is_late(progress.now(), self.limit)


class Progress:
    """How far a thread is with its video."""

    def __init__(self, flight: Flight) -> None:
        self.flight = flight
        self.reached = 0.0  # seconds of the video
        self._work = 0.0
        self._since: float | None = None  # of work that goes on

    @contextmanager
    def working(self) -> Iterator[None]:
        """Time within counts as work."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._work, self._since = self._work + time.monotonic() - self._since, None

    def now(self) -> Flight:
        since = self._since
        going_on = 0.0 if since is None else time.monotonic() - since
        return replace(self.flight, work=self._work + going_on, reached=self.reached)


def is_late(flight: Flight, limit: float) -> bool:
    """Whether a video takes longer than `limit` seconds, and SLOWEST times as long as what was seen of it lasts."""
    return flight.work > limit + flight.fetching + SLOWEST * flight.reached


def late_reason(limit: float) -> str:
    return f"it takes more than {limit:g} s longer than {SLOWEST:g} times its length (--time-limit)"
