"""A process that works as `pipeline.engine_process` does, without networks: it begins in a moment.

A video's id begins with the name of what happens to it (tests/faults.py).
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from faults import FAULTS
from feature_store import VideoStatus
from pipeline import engine_process
from pipeline.engine_process import Line
from pipeline.flights import Flights
from pipeline.messages import Handling, Pulse, Ready
from pipeline.meter import Meter, tally_of
from pipeline.work import Assignment, Fault, Outcome


@dataclass(frozen=True)
class LightJob:
    time_limit: float = 60.0
    decoders: int | None = 2
    lane: int = 0
    alone: bool = False
    fails: str = ""
    loads: float = 0.0  # seconds until it is ready


def serve(line: Line) -> None:
    if line.job.fails == "at once":
        raise SystemExit(7)
    time.sleep(line.job.loads)
    meter = Meter()
    flights = Flights(line.job.time_limit, lambda flight, begins: line.tell(Handling(flight, begins)))
    line.tell(Ready(line.job.decoders, {}))

    def pulse() -> None:
        while True:
            time.sleep(0.1)
            line.tell(Pulse(meter.take(), tuple(flights.now())))

    threading.Thread(target=pulse, daemon=True).start()
    for assignment in line.assignments():
        if assignment is None:
            time.sleep(0.01)
        elif line.job.decoders == 1 or line.job.alone:
            work(line, flights, meter, assignment)
        else:
            threading.Thread(target=work, args=(line, flights, meter, assignment), daemon=True).start()
    while flights.now():
        time.sleep(0.01)


def work(line: Line, flights: Flights, meter: Meter, assignment: Assignment) -> None:
    faults = []
    for number, video in enumerate(assignment.videos):
        if number in assignment.left_out:
            faults.append(Fault(video.id, "light", "failed", "decode", assignment.left_out[number]))
            continue
        with flights.at(assignment.shard, number, video.id) as progress, progress.working():
            time.sleep(0.1)
            fault = FAULTS[video.id.split()[0]]
            if line.job.fails == "in another thread":
                other = threading.Thread(target=fault)
                other.start()
                other.join()
            else:
                fault()
    meter.add(tally_of([{"light": VideoStatus(video.id, "ok", 1, 1.0)} for video in assignment.videos]))
    line.tell(Outcome(assignment.shard, "written", "light", len(assignment.videos), {}, tuple(faults), meter.take()))


if __name__ == "__main__":
    engine_process.serve = serve
    engine_process.main()
