"""Leases: one holder at a time, taken over from the dead and the silent only."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import feature_store.leases
from feature_store.leases import HOLDERS, LEASES, Leases, new_holder, read_holders
from feature_store.places import LocalPlace

ELSEWHERE = {"machine": "another machine"}


@pytest.fixture
def place(tmp_path: Path) -> LocalPlace:
    return LocalPlace(tmp_path)


def leases(place: LocalPlace, stale: float = 60.0, **about: object) -> Leases:
    made = Leases(place, new_holder(), stale)
    made.beat(about)
    return made


def test_of_many_at_once_one_takes_it(place: LocalPlace) -> None:
    everyone = [leases(place) for _ in range(16)]
    barrier = threading.Barrier(len(everyone))

    def take(one: Leases) -> str | None:
        barrier.wait()
        return one.take("000007")

    with ThreadPoolExecutor(len(everyone)) as pool:
        answers = list(pool.map(take, everyone))
    winner = everyone[answers.index(None)]
    assert answers.count(None) == 1
    assert all(answer in (None, winner.holder, "another process") for answer in answers)
    assert [one.holds("000007") for one in everyone] == [one is winner for one in everyone]


def test_a_lease_is_free_again_when_it_is_released(place: LocalPlace) -> None:
    first, second = leases(place), leases(place)
    assert first.take("000001") is None
    assert second.take("000001") == first.holder
    second.release("000001")  # not its own
    assert first.holds("000001")
    first.release("000001")
    assert second.take("000001") is None
    assert place.children(LEASES) == ["000001-0"]


@pytest.mark.parametrize("content", [bytes(40), b"\xff\xfe", b"[]", b"../../x", b"x" * 5000, b"a\nb"], ids=repr)
def test_a_lease_that_names_nobody_holds_nothing(place: LocalPlace, content: bytes) -> None:
    place.write(f"{LEASES}/000001-0", content)
    mine = leases(place)
    assert mine.take("000001") is None and mine.holds("000001")
    mine.release("000001")
    assert place.children(LEASES) == []


def test_what_a_process_holds_is_free_as_soon_as_it_is_killed(place: LocalPlace) -> None:
    program = (
        "import sys, time; from pathlib import Path; from feature_store.leases import *;"
        "from feature_store.places import LocalPlace;"
        f"one = Leases(LocalPlace(Path({str(place.root)!r})), 'killed'); one.beat(); one.take('000002');"
        "print(flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        other = leases(place)
        assert other.take("000002") == "killed"
        process.kill()
    assert other.take("000002") is None
    other.release("000002")
    assert place.children(LEASES) == []


def test_silence_is_measured_on_the_clock_of_who_waits(place: LocalPlace) -> None:
    silent = leases(place, **ELSEWHERE)
    assert silent.take("000003") is None
    other = leases(place, stale=0.3)
    assert other.take("000003") == silent.holder
    time.sleep(0.2)
    silent.beat(ELSEWHERE)
    time.sleep(0.2)
    assert other.take("000003") == silent.holder  # it beat meanwhile
    time.sleep(0.4)
    assert other.take("000003") is None
    assert other.holds("000003") and not silent.holds("000003")
    silent.release("000003")  # it wakes up: what it held is not its own any more
    assert other.holds("000003")


def test_only_one_takes_over_from_the_dead(place: LocalPlace) -> None:
    silent = leases(place, **ELSEWHERE)
    silent.take("000004")
    everyone = [leases(place, stale=0) for _ in range(8)]
    with ThreadPoolExecutor(len(everyone)) as pool:
        list(pool.map(lambda one: one.take("000004"), everyone))
    assert sum(one.holds("000004") for one in everyone) == 1


def test_what_the_dead_left_is_cleared_and_nothing_else(place: LocalPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    silent, alive = leases(place, **ELSEWHERE), leases(place)
    for one, shard in ((silent, "000005"), (alive, "000006")):
        one.take(shard)
        (place.scratch(one.holder) / "half").write_bytes(b"of a shard")
    other = leases(place, stale=0.3)
    other.clear()
    assert len(place.children(LEASES)) == 2
    time.sleep(0.4)
    alive.beat()
    other.clear()
    assert place.children(LEASES) == ["000006-0"]
    assert (place.root / ".run/scratch" / silent.holder / "half").exists(), "it may wake up, and go on"
    monkeypatch.setattr(feature_store.leases, "FORGOTTEN", 0.0)
    alive.beat()
    other.clear()
    assert {name for name, _ in read_holders(place)} == {alive.holder, other.holder}
    assert place.children(".run/scratch") == [alive.holder]


@pytest.mark.parametrize("name", ["...json", ".json", "..json", "a/../..", "somebody.json"])
def test_what_is_no_name_of_ours_never_becomes_a_path(name: str, place: LocalPlace) -> None:
    (place.scratch("alive") / "half").write_bytes(b"of a shard")
    (place.root / HOLDERS).mkdir(parents=True, exist_ok=True)
    (place.root / HOLDERS / name.replace("/", "%2F")).write_text("{}")
    mine = leases(place, stale=0.0)
    mine.clear()
    assert (place.root / ".run/scratch/alive/half").exists()


def test_a_damaged_heartbeat_is_one_that_may_fall_silent(place: LocalPlace) -> None:
    broken = leases(place)
    broken.take("000008")
    place.write(f"{HOLDERS}/{broken.holder}.json", b"{ not JSON")
    other = leases(place, stale=0.2)
    assert other.take("000008") == broken.holder
    time.sleep(0.3)
    assert other.take("000008") is None


def test_within_held_nobody_else_is(place: LocalPlace) -> None:
    inside = 0

    def enter(one: Leases) -> int:
        nonlocal inside
        with one.held("plan"):
            inside += 1
            now = inside
            time.sleep(0.01)
            inside -= 1
        return now

    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(enter, [leases(place) for _ in range(4)])) == {1}
