"""Who does the shards of a run: this process, one that is watched over, or the workers of a Dask cluster.

All take assignments from `Work` and tell it what came of them; none knows of experts.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from pipeline.flights import Flights
from pipeline.guard import Guard
from pipeline.messages import Ready
from pipeline.meter import Meter
from pipeline.work import Assignment, Outcome, Work

if TYPE_CHECKING:
    from pipeline.worker import Job

AHEAD = 2  # shards that a process is given at once: while one ends, the next begins
POLL = 0.2  # seconds


class Hands(Protocol):
    """What does the shards of a run. `ready` tells of it, the decoders of all its processes together."""

    ready: Ready

    def run(self, work: Work) -> None:
        """Do all the work there is. Raises the first error that is no single video's."""


@contextmanager
def in_this_process(job: Job, meter: Meter) -> Iterator[Hands]:
    """Everything where it is called: a video that ends the process ends the run."""
    from pipeline.worker import Worker

    class Here:
        def __init__(self) -> None:
            self._worker = Worker(job, meter, Flights(job.time_limit))
            self.ready = self._worker.ready

        def run(self, work: Work) -> None:
            self._worker.run(work, work.finish)

    yield Here()


@contextmanager
def watched_over(job: Job, meter: Meter) -> Iterator[Hands]:
    """One process of its own, begun again when a video ends it."""
    guard = Guard(pickle.dumps(job), job.time_limit, job.memory_limit, counted=meter.add)

    class Watched:
        def __init__(self) -> None:
            self.ready = guard.ready()

        def run(self, work: Work) -> None:
            ahead = given_ahead(self.ready.decoders, job.shard_videos)
            with ThreadPoolExecutor(ahead) as pool:
                try:
                    give_out(work, lambda assignment: pool.submit(guard.do, assignment), lambda: ahead)
                except BaseException:  # also Ctrl-C: the pool would wait for what goes on
                    guard.kill()
                    raise
            guard.close()

    try:
        yield Watched()
    finally:
        guard.kill()


def given_ahead(decoders: int, shard_videos: int) -> int:
    """How many shards a process has at once, so that none of its decoders waits for one."""
    return AHEAD + decoders // shard_videos


def give_out(
    work: Work,
    submit: Callable[[Assignment], Future[Outcome]],
    most: Callable[[], int],
    again: Callable[[Assignment, BaseException], bool] = lambda assignment, error: False,
) -> None:
    """Submit assignments, at `most` so many at once, and tell `work` what comes of them.

    Raises what any of them raises, unless `again` says that it is to be submitted once more.
    """
    given: dict[Future[Outcome], Assignment] = {}
    assignments: Iterator[Assignment | None] | None = iter(work)
    while given or assignments:
        room = most()
        while assignments and len(given) < room:
            try:
                assignment = next(assignments)
            except StopIteration:
                assignments = None
                break
            if assignment is None:
                break
            given[submit(assignment)] = assignment
        if not given:
            time.sleep(POLL)
        for future in wait(given, POLL, FIRST_COMPLETED).done:
            assignment = given.pop(future)
            error: BaseException | None
            try:
                error = future.exception()
            except CancelledError as cancelled:
                error = cancelled
            if error is None:
                work.finish(future.result())
            elif again(assignment, error):
                given[submit(assignment)] = assignment
            else:
                raise error
