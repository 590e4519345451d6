"""Watching over a process that works: whatever a video does to it, the run goes on.

When the process dies, it is found out why, and with which video in hand. A video that ends it twice is left out, and so
is at once one that takes too long; all else that was in hand is done again. If a death names no video, the shards
that were in hand are done one video at a time. A process that is killed from outside is no video's fault.
"""

from __future__ import annotations

import pickle
import re
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any

import psutil

from feature_store.clean_processes import clean_command
from pipeline.errors import WorkerLost
from pipeline.flights import Flight, is_late, late_reason
from pipeline.messages import Failed, Handling, Lane, Pulse, Ready
from pipeline.meter import Tally
from pipeline.tuning import spare_memory
from pipeline.work import Assignment, Death, Outcome

LIVES = 2  # deaths of its process at which a video is left out
GRACE = 30.0  # seconds over its limit after which a video's process is killed, if it has not seen to it by itself
SILENCE = 5.0  # seconds without a word after which its own clock is no longer relied on
IDLE = 300.0  # seconds without work after which the process is let go
UNEXPLAINED, OUTSIDE, ANY = 3, 20, 60  # deaths with no shard done between them that end the run
LOOK = 0.5  # seconds between looks at how long videos take
ENGINE = clean_command("pipeline.engine_process")
STARVED = 8  # videos that took too much memory, with no sound one between, that end the run
CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGTRAP, signal.SIGSYS}
NO_MEMORY = "the kernel killed it for want of memory"


@dataclass
class Process:
    """A process that works, and what is known of it."""

    popen: subprocess.Popen[bytes]
    line: Connection
    note: IO[str]  # where it writes if it crashes
    alone: bool  # with one video in hand at a time
    oom_kills: int
    heard: float  # when it last said anything
    handling: dict[int, Flight]  # thread -> the video in its hands
    late: Flight | None = None  # the video for which it was killed
    swollen: bool = False  # was killed for what memory it took
    still: bool = False  # was killed since it said nothing, nobody knows at which video
    ready: bool = False
    ending: bool = False  # was told that no more will come


class Guard:
    """Has a process of its own do assignments of a job, which is pickled.

    `limit` is that of a video, in seconds; `memory` is what the process may take, in GB, by default its part of
    what `spare_memory` gives all `sharers`; `lane` tells the process from its neighbours on the same machine. With
    `counted`, tallies go there as they come, and not with outcomes.
    """

    def __init__(
        self,
        job: bytes,
        limit: float,
        memory: float | None = None,
        lane: int = 0,
        sharers: int = 1,
        counted: Callable[[Tally], None] | None = None,
    ) -> None:
        self._job, self._limit, self._lane, self._counted = job, limit, lane, counted
        self._memory = memory * 1e9 if memory else spare_memory() / sharers  # bytes
        self._ready: Future[Ready] = Future()
        self._change = threading.Condition(threading.RLock())
        self._waiting: dict[int, tuple[Assignment, Future[Outcome]]] = {}
        self._careful: set[int] = set()  # shards that are to be done one video at a time
        self._blamed: Counter[tuple[int, int]] = Counter()
        self._starved: set[tuple[int, int]] = set()
        self._left_out: dict[int, dict[int, str]] = defaultdict(dict)
        self._untold: list[Death] = []
        self._tally = Tally()  # of what no outcome has told yet
        self._unexplained = self._outside = self._died = 0
        self._used = time.monotonic()
        self._closing = False
        self._process: Process | None = None
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()

    def ready(self) -> Ready:
        """Wait until the networks are loaded. Raises what keeps them from it."""
        return self._ready.result()

    def do(self, assignment: Assignment) -> Outcome:
        """Have a shard done, and wait for what comes of it. Raises what ends the run."""
        future: Future[Outcome] = Future()
        with self._change:
            if self._closing:
                raise WorkerLost("the process that works was closed")
            self._used = time.monotonic()
            self._waiting[assignment.shard] = (assignment, future)
            if self._process and not self._process.ending:
                self._send(self._process, assignment)
            self._change.notify()
        return future.result()

    def close(self) -> None:
        """Let the process end once it has done what it was given."""
        with self._change:
            self._closing = True
            if self._process:
                self._end(self._process)
            self._change.notify()
        self._watcher.join()

    def kill(self) -> None:
        """End the process now."""
        with self._change:
            self._closing = True
            if self._process:
                self._process.popen.kill()
            self._change.notify()
        self._watcher.join()

    # The process.

    def _start(self, alone: bool) -> Process:
        ours, theirs = Pipe()
        note = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        with theirs:
            handles = theirs.fileno(), note.fileno()
            popen = subprocess.Popen(
                [*ENGINE, *map(str, handles)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what libraries print must not mix with what the command prints
                pass_fds=handles,
                process_group=0,  # Ctrl-C is for who watches
            )
        process = Process(popen, ours, note, alone, _oom_kills(), time.monotonic(), {})
        with suppress(OSError):  # it died already, as will be seen
            ours.send_bytes(self._job)
            ours.send(Lane(self._lane, alone))
        return process

    def _send(self, process: Process, assignment: Assignment) -> None:
        left_out = self._left_out[assignment.shard]
        with suppress(OSError):  # it died, as will be seen; whoever comes next is given it
            process.line.send(replace(assignment, left_out={**assignment.left_out, **left_out}))

    def _end(self, process: Process) -> None:
        if not process.ending:
            process.ending = True
            with suppress(OSError):
                process.line.send(None)

    # The thread that watches.

    def _watch(self) -> None:
        try:
            self._keep_at_work()
        except BaseException as error:  # whatever it is: who waits must not wait for ever
            with self._change:
                if self._process:
                    self._process.popen.kill()
                    self._process.popen.wait()
                self._fail(error)

    def _keep_at_work(self) -> None:
        alone = False
        while True:
            with self._change:
                if not self._waiting and self._ready.done():
                    alone = False
                    self._change.wait_for(lambda: self._waiting or self._closing)
                if self._closing:
                    return self._fail(WorkerLost("the process that works was closed"))
                # By this thread, with whose end that of the process comes.
                process = self._process = self._start(alone)
                for assignment, _ in self._waiting.values():
                    self._send(process, assignment)
            code = self._attend(process)
            with self._change:
                self._process = None
                alone = self._ended(process, code)

    def _attend(self, process: Process) -> int:
        """Hear what a process says until it ends: its exit code."""
        with process.line:
            while True:
                try:
                    if process.line.poll(LOOK):
                        self._hear(process, process.line.recv())
                except (EOFError, OSError, pickle.UnpicklingError):  # it stopped in the midst of a word
                    break
                with self._change:
                    self._look(process)
        return process.popen.wait()

    def _hear(self, process: Process, message: Any) -> None:
        with self._change:
            process.heard = time.monotonic()  # loading networks, say, is no silence of the first video's
            match message:
                case Ready():
                    process.ready = True
                    if not self._ready.done():
                        self._ready.set_result(message)
                case Handling(flight, True):
                    process.handling[flight.thread] = flight
                case Handling(flight, False):
                    process.handling.pop(flight.thread, None)
                    if process.alone and flight.key not in {other.key for other in process.handling.values()}:
                        self._starved.clear()  # there is memory enough for videos as such
                case Pulse(tally, flights):
                    process.handling.update(
                        {flight.thread: flight for flight in flights if flight.thread in process.handling}
                    )
                    self._count(tally)
                case Outcome():
                    self._came(process, message)
                case Failed(error):
                    self._fail(error)

    def _came(self, process: Process, outcome: Outcome) -> None:
        _, future = self._waiting.pop(outcome.shard)
        deaths, self._untold = tuple(self._untold), []
        if outcome.tally:
            self._count(outcome.tally)
        tally, self._tally = self._tally, Tally()
        if outcome.state == "written" and 2 * len(self._left_out[outcome.shard]) <= outcome.videos:
            self._unexplained = self._outside = self._died = 0
            self._starved.clear()
        self._careful.discard(outcome.shard)
        self._used = time.monotonic()
        future.set_result(replace(outcome, deaths=deaths, tally=None if self._counted else tally))
        if process.alone and not self._careful:
            self._end(process)  # another one takes over, with all hands

    def _count(self, tally: Tally) -> None:
        if self._counted:
            self._counted(tally)
        else:
            self._tally.add(tally)

    def _look(self, process: Process) -> None:
        """Kill a process that a video holds for too long or that grows too large, let one go that has nothing to do."""
        if _resident(process) > self._memory:
            process.swollen = True
            return process.popen.kill()
        now = time.monotonic()
        silence = now - process.heard if now - process.heard > SILENCE else 0.0
        for flight in process.handling.values():
            if process.late or process.still:
                break
            if is_late(replace(flight, work=flight.work + silence), self._limit + GRACE):
                if not silence or len(process.handling) == 1:
                    process.late = flight
                process.still = not process.late
                process.popen.kill()
        if process.ready and not self._waiting and now - self._used > IDLE:
            self._end(process)

    def _ended(self, process: Process, code: int) -> bool:
        """Find out why a process ended; whether the next one is to have one video in hand at a time.

        Raises WorkerLost when there is no use in going on.
        """
        with process.note as file:
            file.seek(0)
            note = file.read()
        if self._closing or (process.ending and code == 0):
            return False
        shards = tuple(sorted(self._waiting))
        if process.late:
            self._leave_out(process.late, late_reason(self._limit))
            self._untold.append(Death(late_reason(self._limit), shards, process.late.video, left_out=True))
            return bool(self._careful)
        why, outside = self._why(process, code)
        self._died += 1
        self._outside += outside
        if self._outside >= OUTSIDE or self._died >= ANY:
            raise WorkerLost(f"the process that works died {self._died} times, with no shard done between: {why}")
        if outside:
            self._untold.append(Death(why, shards))
            return bool(self._careful)
        culprits = self._culprits(process, note)
        if culprits:
            for flight in culprits:
                self._blamed[flight.key] += 1
                if why in (NO_MEMORY, self._too_much):
                    self._starved.add(flight.key)
                if len(self._starved) >= STARVED:
                    raise WorkerLost(
                        f"{why}, at {STARVED} videos one after another: give it more, or less to do at once"
                    )
                left_out = self._blamed[flight.key] >= LIVES
                if left_out:
                    self._leave_out(flight, f"it ended the process that decoded it {LIVES} times: {why}")
                self._untold.append(Death(why, shards, flight.video, left_out))
            return bool(self._careful)
        self._unexplained += 1
        if self._unexplained >= UNEXPLAINED:
            raise WorkerLost(
                f"the process that works died {UNEXPLAINED} times, with no shard done between and no video to blame: "
                f"{why}{_last_lines(note)}"
            )
        self._untold.append(Death(why, shards))
        self._careful |= set(shards)
        return True

    def _why(self, process: Process, code: int) -> tuple[str, bool]:
        """How a process ended, in words, and whether that came from outside."""
        if process.still:
            return "it stood still, and was killed", False
        if code >= 0:
            return f"it ended by itself with exit code {code}", False
        if process.swollen:
            return self._too_much, False
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        if -code == signal.SIGKILL and _oom_kills() > process.oom_kills:
            return NO_MEMORY, False
        return (f"it crashed ({name})", False) if -code in CRASHES else (f"it was killed from outside ({name})", True)

    @property
    def _too_much(self) -> str:
        return f"it took more than {self._memory / 1e9:.3g} GB of memory (--memory-limit)"

    def _culprits(self, process: Process, note: str) -> list[Flight]:
        """The videos to blame for a crash: that of the thread which crashed, or the one in hand if alone."""
        crashed = re.search(r"Current thread 0x([0-9a-f]+)", note)
        if crashed and (flight := process.handling.get(int(crashed[1], 16))):
            return [flight]
        # In another thread it was, of the networks or of a library: alone, one video is in hand until its rows are out.
        return list({flight.key: flight for flight in process.handling.values()}.values()) if process.alone else []

    def _leave_out(self, flight: Flight, reason: str) -> None:
        self._left_out[flight.shard][flight.number] = reason

    def _fail(self, error: BaseException) -> None:
        """End all that waits with an error."""
        with self._change:
            self._closing = True
            if not self._ready.done():
                self._ready.set_exception(error)
            for _, future in self._waiting.values():
                future.set_exception(error)
            self._waiting.clear()


def _oom_kills() -> int:
    """How often the kernel of this machine has killed a process for want of memory, as far as it says."""
    with suppress(OSError):
        found = re.search(r"^oom_kill (\d+)$", Path("/proc/vmstat").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


def _resident(process: Process) -> int:
    """Bytes of memory that a process takes, without files mapped into it, which the kernel can drop."""
    with suppress(psutil.Error):  # it has just ended
        memory = psutil.Process(process.popen.pid).memory_info()
        return int(memory.rss - getattr(memory, "shared", 0))
    return 0


def _last_lines(note: str, count: int = 8) -> str:
    return "".join(f"\n  {line}" for line in note.splitlines()[:count])
