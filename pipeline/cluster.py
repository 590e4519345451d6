"""A run on the workers of a Dask cluster: one that is begun here, or any that is there already.

A task is a shard. On its worker it goes to a process that is watched over, which stays from shard to shard, so that
networks are loaded once, and Dask's own worker does not die of a video.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import dask
from distributed import Client, KilledWorker, LocalCluster, Worker, WorkerPlugin, get_worker
from distributed.utils import silence_logging_cmgr

from feature_store.clean_processes import clean_command
from pipeline.errors import ExtractError, WorkerLost
from pipeline.executors import Hands, give_out, given_ahead
from pipeline.guard import Guard
from pipeline.messages import Ready
from pipeline.tuning import usable_cores
from pipeline.work import Assignment, Outcome, Work

if TYPE_CHECKING:
    from pipeline.worker import Job

MOST_GIVEN = 2000  # shards that the scheduler knows of at once
POLL = 0.1  # seconds between looks at whether workers have begun
LOOK = 5.0  # seconds between looks at how large the cluster is
LOSSES = 20  # workers that Dask may lose over a shard before it gives it up, and times that it may, before the run ends
PATIENCE = 60  # seconds until the scheduler must have answered
GONE = "the cluster is gone; what is written stays, and the same command goes on"
SETTINGS = {
    "distributed.scheduler.allowed-failures": LOSSES,  # a shard whose worker died is no worse than others
    "distributed.worker.profile.enabled": False,  # it would look at idle threads a hundred times a second
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.memory.monitor-interval": "5s",
}


@contextmanager
def on_cluster(
    job: Job, workers: int | None, scheduler: str | None, tell: Callable[..., None]
) -> Iterator[tuple[Hands, str]]:
    """Workers of a cluster, and the address of its dashboard: `workers` here, or those of the `scheduler`.

    Whenever it has no workers, and some are waited for, `tell` hears "no_workers".

    Raises ExtractError if there is no scheduler at the address.
    """
    with _joined(scheduler) if scheduler else _begun(job, workers or 1) as client:
        job = replace(job, sharers=workers or 1)
        packed = Packed(job.run, job.time_limit, job.memory_limit, job.sharers, pickle.dumps(job))
        try:
            yield Cluster(client, packed, tell), client.dashboard_link
        except BaseException:  # also Ctrl-C: what goes on is not waited for
            _forget(client, job.run, at_once=True)
            raise
        _forget(client, job.run, at_once=False)


@dataclass(frozen=True)
class Packed:
    """A job, pickled: its experts need torch, which Dask's workers, who only pass it on, do without."""

    run: str
    limit: float  # of a video, in seconds
    memory: float | None  # that its process may take, in GB
    sharers: int  # processes on a machine
    job: bytes


class Cluster:
    """The workers that a client reaches."""

    def __init__(self, client: Client, packed: Packed, tell: Callable[..., None]) -> None:
        self._client, self._packed, self._tell = client, packed, tell
        self._pool = client.get_executor(pure=False, retries=0)
        self._looked, self._hands = 0.0, 1
        self._losses: Counter[int] = Counter()
        try:
            ready = self._loaded()
        except CancelledError as error:
            raise WorkerLost(GONE) from error
        except KilledWorker as error:
            raise WorkerLost(f"no worker of the cluster came as far as loading the networks: {error}") from error
        processes = max(1, len(client.nthreads()))
        self.ready = replace(ready, decoders=ready.decoders * processes, processes=processes)

    def run(self, work: Work) -> None:
        def submit(assignment: Assignment) -> Future[Outcome]:
            return self._pool.submit(do_shard, self._packed, assignment)

        give_out(work, submit, self._at_once, self._again)

    def _loaded(self) -> Ready:
        """Wait for the first worker that has the networks; batch systems may take hours to begin one."""
        loading: Future[Ready] = self._pool.submit(make_ready, self._packed)
        self._look()
        while wait([loading], LOOK).not_done:
            self._look()
        return loading.result()

    def _at_once(self) -> int:
        if time.monotonic() - self._looked > LOOK:
            self._look()
        return min(MOST_GIVEN, max(1, self._hands))

    def _look(self) -> None:
        """Workers may come and go while the run goes on."""
        before, self._hands = self._hands, sum(self._client.nthreads().values())
        self._looked = time.monotonic()
        if before and not self._hands:
            self._tell("no_workers", scheduler=self._client.scheduler_info()["address"])

    def _again(self, assignment: Assignment, error: BaseException) -> bool:
        """Dask gives a task up when some workers have died over it; it is not to blame for what else they did."""
        if isinstance(error, CancelledError):
            raise WorkerLost(GONE) from error
        self._losses[assignment.shard] += isinstance(error, KilledWorker)
        if self._losses[assignment.shard] >= LOSSES:
            raise WorkerLost(f"Dask gave up {LOSSES} times shard {assignment.shard}: {error}") from error
        return isinstance(error, KilledWorker)


# On a worker.

_guards: dict[str, Guard] = {}
_lock = threading.Lock()


def make_ready(packed: Packed) -> Ready:
    """Load the networks of a run."""
    return _guard(packed).ready()


def do_shard(packed: Packed, assignment: Assignment) -> Outcome:
    """Do a shard of a run."""
    guard = _guard(packed)
    guard.ready()
    return guard.do(assignment)


def _guard(packed: Packed) -> Guard:
    """The process that works for a run on this worker."""
    with _lock:
        if packed.run not in _guards:
            name = get_worker().name  # of workers that were begun here, a number
            lane = int(name) if str(name).isdecimal() else 0
            _guards[packed.run] = Guard(packed.job, packed.limit, packed.memory, lane, packed.sharers)
        return _guards[packed.run]


def _close(run: str, at_once: bool) -> None:
    with _lock:
        guard = _guards.pop(run, None)
    if guard and at_once:
        guard.kill()
    elif guard:
        guard.close()


class Settled(WorkerPlugin):
    """Ctrl-C reaches all processes of a terminal, but is for the one that began the others; so is what is told."""

    def setup(self, worker: Worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        logging.getLogger("distributed").setLevel(logging.CRITICAL)


def _forget(client: Client, run: str, at_once: bool) -> None:
    with suppress(OSError, TimeoutError, RuntimeError):  # a cluster that is gone has nothing to forget
        client.run(_close, run, at_once)


@contextmanager
def _joined(scheduler: str) -> Iterator[Client]:
    try:
        client = Client(scheduler, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ExtractError(f"--scheduler {scheduler}: no Dask scheduler answers there ({error})") from None
    with silence_logging_cmgr(logging.CRITICAL), client:  # that a cluster is lost is told once, in words of ours
        yield client


@contextmanager
def _begun(job: Job, workers: int) -> Iterator[Client]:
    with (
        dask.config.set(SETTINGS),
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL) as cluster,
        Client(cluster, set_as_default=False) as client,
        _worker_programs(
            cluster.scheduler_address,
            workers,
            given_ahead(job.decoders or usable_cores() // workers, job.shard_videos),
        ) as programs,
    ):
        client.register_plugin(Settled())  # also of workers that come in place of others
        _await_workers(client, programs)
        yield client


@contextmanager
def _worker_programs(scheduler: str, workers: int, threads: int) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Dask's own worker programs, which begin a new worker when one dies; their names are numbers.

    LocalCluster would begin workers that run the caller's script again.
    """
    settings = dask.config.serialize({**dask.config.global_config, "logging": {"distributed": "critical"}})
    options = ["--nthreads", str(threads), "--memory-limit", "0", "--no-dashboard", "--host", "127.0.0.1"]
    programs: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(workers):
            command = clean_command("distributed.cli.dask_worker", scheduler, "--name", str(number), *options)
            programs.append(
                subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # what libraries print must not mix with what the command prints
                    env={**os.environ, "DASK_INTERNAL_INHERIT_CONFIG": settings},
                    process_group=0,  # Ctrl-C is for the process that started it
                )
            )
        yield programs
    finally:
        for program in programs:
            program.terminate()
        for program in programs:
            with suppress(subprocess.TimeoutExpired):
                program.wait(PATIENCE)
            program.kill()
            program.wait()


def _await_workers(client: Client, programs: list[subprocess.Popen[bytes]]) -> None:
    """Wait for the workers. Raises WorkerLost if one of their programs ends before that."""
    while len(client.nthreads()) < len(programs):
        ended = [program.returncode for program in programs if program.poll() is not None]
        if ended:
            raise WorkerLost(f"a worker of the cluster ended with exit code {ended[0]} before it had begun")
        time.sleep(POLL)
