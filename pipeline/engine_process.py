"""The process that does the work of a watched run: python -m pipeline.engine_process CONNECTION CRASH_NOTE

Both are handles that it inherits.

It is told what to do, and tells what comes of it, over the connection. When that breaks, whoever watched is gone, and
the process ends at once, even in the midst of a decoder's endless loop. When it is a video that ends it, the note says
in which thread.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import queue
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from pipeline.flights import Flight, Flights
from pipeline.messages import Failed, Handling, Lane, Pulse
from pipeline.meter import Meter
from pipeline.tuning import die_with_parent, keep_freed_memory
from pipeline.work import Assignment

PULSE = 1.0  # seconds


class Line:
    """The connection to who watches, for all threads of this process."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self._assignments: queue.SimpleQueue[Assignment | None] = queue.SimpleQueue()
        job = pickle.loads(connection.recv_bytes())  # made by the process that started this one
        lane: Lane = connection.recv()
        self.job = replace(job, lane=lane.number, alone=lane.alone)
        threading.Thread(target=self._listen, daemon=True).start()

    def tell(self, message: Any) -> None:
        with self._lock:
            try:
                self._connection.send(message)
            except OSError:
                os._exit(1)

    def assignments(self) -> Iterator[Assignment | None]:
        """What is to be done, until no more will come; None while it is not known."""
        while True:
            try:
                assignment = self._assignments.get_nowait()
            except queue.Empty:
                yield None
            else:
                if assignment is None:
                    return
                yield assignment

    def _listen(self) -> None:
        while True:
            try:
                self._assignments.put(self._connection.recv())
            except (EOFError, OSError):
                os._exit(1)  # without waiting for anything: nobody is there to want it


def serve(line: Line) -> None:
    """Load the networks, then do what is assigned. What ends the work before its time is told, not raised."""
    try:
        from pipeline.worker import Worker  # and with it torch

        meter = Meter()

        def handling(flight: Flight, begins: bool) -> None:
            line.tell(Handling(flight, begins))

        flights = Flights(line.job.time_limit, handling)
        worker = Worker(line.job, meter, flights)
        line.tell(worker.ready)
        ended = threading.Event()
        pulse = threading.Thread(target=_pulse, args=(line, meter, flights, ended), daemon=True)
        pulse.start()
        worker.run(line.assignments(), lambda outcome: line.tell(replace(outcome, tally=meter.take())))
        ended.set()
        pulse.join()
        line.tell(Pulse(meter.take(), ()))
    except BaseException as error:
        line.tell(Failed(_portable(error)))


def _pulse(line: Line, meter: Meter, flights: Flights, ended: threading.Event) -> None:
    while not ended.wait(PULSE):
        line.tell(Pulse(meter.take(), tuple(flights.now())))


def _portable(error: BaseException) -> BaseException:
    """The error if it can be sent, with where it came from."""
    error.add_note("".join(traceback.format_exception(error)))
    with suppress(Exception):
        if isinstance(pickle.loads(pickle.dumps(error)), type(error)):
            return error
    return RuntimeError(f"{type(error).__name__}: {error}")


def main() -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded, as on the command line
    keep_freed_memory()
    connection, note = map(int, sys.argv[1:])
    faulthandler.enable(note, all_threads=True)
    die_with_parent()
    serve(Line(Connection(connection)))
    sys.stdout.flush()
    os._exit(0)  # threads that libraries left behind hold nothing back


if __name__ == "__main__":
    main()
