"""Watching over a process that works: what ends it, who is to blame, and that all else is done."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

import pipeline.guard
from data_manifests import Video
from light_engine import LightJob
from pipeline.errors import WorkerLost
from pipeline.flights import Flight, is_late
from pipeline.guard import Guard, Process
from pipeline.meter import Meter
from pipeline.work import Assignment, Outcome

TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}:{TESTS.parent}")
    monkeypatch.setattr(pipeline.guard, "ENGINE", [sys.executable, str(TESTS / "light_engine.py")])


@contextmanager
def guarding(memory: float | None = None, **job: object) -> Iterator[Guard]:
    made = LightJob(**job)  # type: ignore[arg-type]
    guard = Guard(pickle.dumps(made), made.time_limit, memory)
    try:
        yield guard
    finally:
        guard.kill()


def shards(*shards: Sequence[str]) -> list[Assignment]:
    return [
        Assignment(number, tuple(Video(f"{kind} {number}.{place}", "x") for place, kind in enumerate(kinds)))
        for number, kinds in enumerate(shards)
    ]


def do(guard: Guard, assignments: list[Assignment]) -> list[Outcome]:
    with ThreadPoolExecutor(len(assignments)) as pool:
        return list(pool.map(guard.do, assignments))


def left_out(outcomes: list[Outcome]) -> dict[str, str]:
    return {fault.video: str(fault.reason) for outcome in outcomes for fault in outcome.faults}


def process_of(guard: Guard) -> Process:
    """The process that works, as soon as there is one."""
    while not (process := guard._process):
        time.sleep(0.01)
    return process


def deaths(outcomes: list[Outcome]) -> list[tuple[str | None, bool]]:
    return [(death.video, death.left_out) for outcome in outcomes for death in outcome.deaths]


def test_a_video_that_crashes_its_process_twice_is_left_out_among_neighbours() -> None:
    with guarding(decoders=2) as guard:
        outcomes = do(guard, shards(["good", "crash", "good"], ["good", "good", "good", "good"]))
    assert left_out(outcomes) == {"crash 0.1": "it ended the process that decoded it 2 times: it crashed (SIGSEGV)"}
    assert sorted(deaths(outcomes), key=str) == [("crash 0.1", False), ("crash 0.1", True)]


def test_where_nothing_tells_which_video_it_was_they_are_done_one_at_a_time() -> None:
    with guarding(decoders=2) as guard:
        outcomes = do(guard, shards(["good", "good", "leave"], ["good", "good", "good", "good", "good"]))
        again = do(guard, shards(["good"], ["good"]))
    assert left_out(outcomes) == {
        "leave 0.2": "it ended the process that decoded it 2 times: it ended by itself with exit code 3"
    }
    assert deaths(outcomes + again)[0] == (None, False)
    assert [death for death in deaths(outcomes + again) if death[0]] == [("leave 0.2", False), ("leave 0.2", True)]


@pytest.mark.parametrize("kind", ["hang", "wait"])
def test_a_video_that_holds_its_process_for_too_long_is_left_out_at_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.guard, "GRACE", 0.5)
    monkeypatch.setattr(pipeline.guard, "SILENCE", 1.0)
    with guarding(time_limit=3.0, decoders=1) as guard:
        outcomes = do(guard, shards(["good", kind, "good"]))
    assert "--time-limit" in left_out(outcomes)[f"{kind} 0.1"]
    assert deaths(outcomes) == [(f"{kind} 0.1", True)]


def test_the_time_that_networks_take_to_load_is_not_counted_against_the_first_video(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline.guard, "GRACE", 0.5)
    monkeypatch.setattr(pipeline.guard, "SILENCE", 1.0)
    with guarding(time_limit=3.0, decoders=1, loads=5.0) as guard:
        outcomes = do(guard, shards(["good"] * 12))
    assert (left_out(outcomes), deaths(outcomes)) == ({}, [])


def test_a_crash_in_a_thread_of_the_networks_is_traced_to_its_video() -> None:
    with guarding(fails="in another thread", decoders=3) as guard:
        outcomes = do(guard, shards(["good", "good", "crash"], ["good", "good"], ["good"]))
    assert list(left_out(outcomes)) == ["crash 0.2"]
    assert sorted(deaths(outcomes), key=str) == [("crash 0.2", False), ("crash 0.2", True), (None, False)]


def test_an_innocent_neighbour_of_a_video_that_stops_everything_is_not_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pipeline.guard, "GRACE", 0.5)
    monkeypatch.setattr(pipeline.guard, "SILENCE", 1.0)
    with guarding(time_limit=5.0, decoders=2) as guard:
        outcomes = do(guard, shards(["slow"], ["good", "hang"]))
    assert list(left_out(outcomes)) == ["hang 1.1"]


def test_too_little_memory_is_not_blamed_on_all_videos(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter(range(1000))
    monkeypatch.setattr(pipeline.guard, "_oom_kills", lambda: next(kills))
    monkeypatch.setattr(pipeline.guard, "STARVED", 3)
    with guarding(decoders=1) as guard, pytest.raises(WorkerLost, match="for want of memory, at 3 videos"):
        do(guard, shards(["killed"] * 8))


def test_videos_that_take_too_much_memory_do_not_end_the_run_where_others_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kills = iter(range(1000))
    monkeypatch.setattr(pipeline.guard, "_oom_kills", lambda: next(kills))
    monkeypatch.setattr(pipeline.guard, "STARVED", 2)
    with guarding(decoders=1) as guard:
        outcomes = do(guard, shards(["killed", "good", "killed", "good"]))
    assert set(left_out(outcomes)) == {"killed 0.0", "killed 0.2"}


def test_a_video_that_takes_too_much_memory_is_left_out_among_neighbours() -> None:
    with guarding(memory=0.9, decoders=2) as guard:
        outcomes = do(guard, shards(["good", "swell", "good"], ["good", "good", "good"]))
    why = "it took more than 0.9 GB of memory (--memory-limit)"
    assert left_out(outcomes) == {"swell 0.1": f"it ended the process that decoded it 2 times: {why}"}
    assert sorted(deaths(outcomes), key=str) == [("swell 0.1", False), ("swell 0.1", True), (None, False)]


def test_a_signal_without_a_name_ends_nothing() -> None:
    with guarding() as guard, ThreadPoolExecutor(1) as pool:
        future = pool.submit(guard.do, shards(["good"] * 5)[0])
        guard.ready()
        os.kill(process_of(guard).popen.pid, 40)
        assert future.result(300).deaths[0].why == "it was killed from outside (signal 40)"


def test_a_process_that_cannot_be_begun_anew_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with guarding() as guard:
        guard.ready()

        def none_left(*arguments: object, **options: object) -> None:
            raise OSError(errno.EAGAIN, "no more processes")

        monkeypatch.setattr(subprocess, "Popen", none_left)
        with pytest.raises(OSError, match="no more processes"):
            do(guard, shards(["crash"]))


def test_a_process_that_is_killed_from_outside_is_no_videos_fault() -> None:
    with guarding() as guard, ThreadPoolExecutor(2) as pool:
        for killed in range(3):
            futures = [pool.submit(guard.do, each) for each in shards(["good"] * 5, ["good"] * 5)]
            psutil.Process(process_of(guard).popen.pid).kill()
            outcomes = [future.result() for future in futures]
            assert left_out(outcomes) == {}, killed
            assert [death.why for outcome in outcomes for death in outcome.deaths] == [
                "it was killed from outside (SIGKILL)"
            ]


def test_a_kill_for_want_of_memory_is_told_from_one_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    kills = iter(range(100))
    monkeypatch.setattr(pipeline.guard, "_oom_kills", lambda: next(kills))
    with guarding(decoders=1) as guard:
        outcomes = do(guard, shards(["good", "killed", "good"]))
    assert left_out(outcomes) == {
        "killed 0.1": "it ended the process that decoded it 2 times: the kernel killed it for want of memory"
    }


@pytest.mark.parametrize(
    ("job", "kind", "match"),
    [
        ({}, "killed", r"died 4 times, with no shard done between: it was killed from outside \(SIGKILL\)"),
        ({"fails": "at once"}, "good", r"died 3 times, .* no video to blame: it ended by itself with exit code 7"),
    ],
)
def test_a_process_that_dies_again_and_again_ends_the_run(
    job: dict, kind: str, match: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.guard, "OUTSIDE", 4)
    with guarding(**job) as guard, pytest.raises(WorkerLost, match=match):
        do(guard, shards([kind]))


def test_one_that_dies_before_it_is_ready_is_begun_again() -> None:
    with guarding() as guard:
        process_of(guard).popen.kill()
        assert guard.ready().decoders == 2


@pytest.mark.parametrize("kind", ["good", "hang"])
def test_the_process_ends_with_who_watches_over_it(kind: str) -> None:
    program = (
        "import pickle, sys; from concurrent.futures import ThreadPoolExecutor; import pipeline.guard;"
        f"pipeline.guard.ENGINE = {pipeline.guard.ENGINE!r};"
        "from light_engine import LightJob; from tests.pipeline.test_guard import shards;"
        "guard = pipeline.guard.Guard(pickle.dumps(LightJob(decoders=1)), 60); guard.ready();"
        f"ThreadPoolExecutor(1).submit(guard.do, shards(['{kind}'] * 50)[0]);"
        "import time; time.sleep(0.5); print(guard._process.popen.pid, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout
        engine = psutil.Process(int(caller.stdout.readline()))
        assert engine.is_running()
        caller.kill()
    engine.wait(60)


def test_an_idle_process_is_let_go_and_begun_again_for_the_next_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.guard, "IDLE", 0.3)
    with guarding() as guard:
        do(guard, shards(["good"]))
        process_of(guard).popen.wait(300)
        assert [outcome.state for outcome in do(guard, shards(["good"]))] == ["written"]


def test_tallies_of_all_its_lives_add_up() -> None:
    meter = Meter()
    job = LightJob(decoders=1)
    guard = Guard(pickle.dumps(job), job.time_limit, counted=meter.add)
    do(guard, shards(["good", "crash"], ["good"]))
    guard.close()
    assert (meter.tally.shards, meter.tally.videos) == (2, 3)


@pytest.mark.parametrize(
    ("work", "reached", "late"), [(59, 0, False), (61, 0, True), (161, 10, True), (159, 10, False)]
)
def test_a_video_may_take_ten_times_its_length_and_the_limit(work: float, reached: float, late: bool) -> None:
    assert is_late(Flight(0, 0, "v", 1, work=work, reached=reached), 60.0) is late
