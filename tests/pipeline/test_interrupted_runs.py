"""Runs that are stopped, share a store with others, or lose their disk: what is written stays, and the rest is done."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pipeline.reach
import pipeline.work
import pipeline.worker
from command import reelcache
from corpora import make_corpus
from data_manifests import Manifest, Video, write_rows
from extractors import find_experts
from feature_store import StoreWriter, summarize, verify
from feature_store.leases import Leases, new_holder
from pipeline import extract
from pipeline.extraction import Account
from pipeline.meter import Meter, Tally
from pipeline.run_log import RunLog
from pipeline.shards import ShardTask
from pipeline.work import Outcome
from tests.pipeline.test_extraction import shard_bytes

QUICK = find_experts(["timm:test_resnet"])


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), videos=8)


@pytest.fixture(scope="module")
def unbroken(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("unbroken") / "s"
    run(manifest, store)
    return store


def run(manifest: Path, store: Path, **settings: Any) -> Any:
    return extract(manifest, store, QUICK, **{"weights": "random", "shard_videos": 1, **settings})


def complete(store: Path) -> list[str]:
    return sorted(path.parent.name for path in store.rglob("complete.json"))


def events(store: Path) -> list[str]:
    return [json.loads(line)["event"] for line in (store / ".run/log.jsonl").read_text().splitlines()]


def interrupting(monkeypatch: pytest.MonkeyPatch, *shards: int, how: signal.Signals = signal.SIGINT) -> None:
    """Press Ctrl-C, or send another signal, whenever one of these shards is about to be written."""
    finish = ShardTask.finish

    def press(task: ShardTask, info: Any) -> Any:
        if task.shard in shards:
            os.kill(os.getpid(), how)
            time.sleep(0.2)
        return finish(task, info)

    monkeypatch.setattr(ShardTask, "finish", press)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=lambda how: how.name)
def test_ctrl_c_and_sigterm_let_shards_in_flight_be_finished(
    manifest: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    interrupting(monkeypatch, 1, how=how)
    with pytest.raises(KeyboardInterrupt):
        run(manifest, tmp_path / "s")
    done = complete(tmp_path / "s")
    assert "000001" in done and 2 <= len(done) < 8
    assert events(tmp_path / "s")[-1] == "run_stopped" and "stopping" in events(tmp_path / "s")
    assert list((tmp_path / "s/.run/leases").glob("*")) == []
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    run(manifest, tmp_path / "s")
    assert shard_bytes(tmp_path / "s") == shard_bytes(unbroken)


def test_a_second_ctrl_c_stops_now(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupting(monkeypatch, 0, 1)
    with pytest.raises(KeyboardInterrupt):
        run(manifest, tmp_path / "s")
    assert events(tmp_path / "s")[-1] == "run_failed"
    assert len(complete(tmp_path / "s")) <= 3
    assert summarize(tmp_path / "s").experts["timm:test_resnet"].pending >= 5


@pytest.mark.parametrize(
    ("how", "cluster"),
    [(signal.SIGINT, []), (signal.SIGTERM, ["--workers", "1"])],
    ids=["Ctrl-C, one process", "SIGTERM, a cluster"],
)
def test_signals_to_the_whole_group_drain_the_run(how: signal.Signals, cluster: list[str], tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path, videos=16)
    command = [sys.executable, "-m", "pipeline.cli", "extract", str(manifest), str(tmp_path / "s"), *cluster]
    command += ["--experts", "timm:test_resnet", "--weights", "random", "--shard-videos", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not complete(tmp_path / "s"):
            time.sleep(0.01)
        os.killpg(process.pid, how)
        told = process.communicate(timeout=300)[1]
    assert process.returncode == 1, told
    assert "stopping once the shards in flight are written" in told
    assert "the same command goes on from here" in told and "Traceback" not in told
    assert events(tmp_path / "s")[-1] == "run_stopped"
    assert [path for path in (tmp_path / "s/.run").rglob("*") if path.is_file()] == [tmp_path / "s/.run/log.jsonl"]


def test_runs_at_the_same_time_share_the_shards(
    manifest: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.work, "ASK_AGAIN", 0.2)
    load, one_at_a_time = pipeline.worker.load_expert, threading.Lock()  # torch's random state is all threads' own

    def load_alone(*arguments: Any) -> Any:
        with one_at_a_time:
            return load(*arguments)

    monkeypatch.setattr(pipeline.worker, "load_expert", load_alone)
    finish = ShardTask.finish
    monkeypatch.setattr(ShardTask, "finish", lambda task, info: (time.sleep(0.15), finish(task, info))[1])
    summaries = []

    def work() -> None:
        summaries.append(run(manifest, tmp_path / "s", decoders=1))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(summary.shards for summary in summaries) == 8, "each shard was written once"
    assert sum(summary.shards > 0 for summary in summaries) >= 2
    assert all(summary.shards + summary.elsewhere + summary.shards_before == 8 for summary in summaries)
    assert shard_bytes(tmp_path / "s") == shard_bytes(unbroken)
    assert verify(tmp_path / "s").damaged == ()


def test_runs_at_the_same_time_agree_on_the_plan_or_one_is_refused(manifest: Path, tmp_path: Path) -> None:
    outcomes: list[object] = []

    def work(shard_videos: int) -> None:
        outcomes.append(run(manifest, tmp_path / "s", shard_videos=shard_videos).shards)

    threads = [threading.Thread(target=work, args=(size,)) for size in (1, 2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    plan = StoreWriter(tmp_path / "s").plan(8, 1, Manifest(manifest).digest)
    assert len(plan.segments) == 1 and len(complete(tmp_path / "s")) == len(plan)
    assert verify(tmp_path / "s").damaged == ()


def test_what_a_process_on_another_machine_holds_is_done_once_it_has_fallen_silent(
    manifest: Path, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.work, "ASK_AGAIN", 0.1)
    run(manifest, tmp_path / "s")
    shutil.rmtree(tmp_path / "s/timm:test_resnet/000003")
    silent = Leases(StoreWriter(tmp_path / "s").place, new_holder())
    silent.beat({"machine": "another"})
    silent.take("000003")
    monkeypatch.setattr(pipeline.worker, "Leases", lambda place, holder: Leases(place, holder, stale=1.0))
    heard: list[dict[str, Any]] = []
    began = time.monotonic()
    summary = run(manifest, tmp_path / "s", listener=heard.append)
    assert time.monotonic() - began > 1.0
    assert (summary.shards, summary.shards_before) == (1, 7)
    assert next(event["by"] for event in heard if event["event"] == "shard_held") == silent.holder
    assert shard_bytes(tmp_path / "s") == shard_bytes(unbroken)
    assert not silent.holds("000003")


def test_a_shard_that_is_held_for_long_is_told_once_and_what_was_counted_meanwhile_is_kept() -> None:
    told: list[dict[str, Any]] = []
    meter = Meter()
    account = Account(RunLog("r", told.append), meter)
    for by in ("one", "one", "another"):
        account.heard(Outcome(3, "held", by, tally=Tally(sampled=2)))
    assert [event["by"] for event in told] == ["one", "another"]
    assert meter.tally.sampled == 6


def test_who_was_taken_for_dead_writes_nothing_when_it_wakes_up(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.work, "ASK_AGAIN", 0.1)
    store = StoreWriter(tmp_path / "s")
    holds = Leases.holds
    taken = []

    def steal(leases: Leases, what: str) -> bool:
        """Just before shard 2 is written another process takes it, and does it."""
        if what == "000002" and not taken:
            taken.append(what)
            thief = Leases(store.place, new_holder(), stale=0.0)
            thief.beat()
            assert thief.take(what) is None
            lost = holds(leases, what)
            thief.release(what)
            thief.leave()
            return lost
        return holds(leases, what)

    monkeypatch.setattr(Leases, "holds", steal)
    heard: list[dict[str, Any]] = []
    run(manifest, tmp_path / "s", listener=heard.append)
    assert [event["event"] for event in heard if event.get("shard") == 2 and "video" not in event] == [
        "shard_held",
        "shard_written",
    ]
    assert verify(tmp_path / "s").damaged == ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    mounted = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True
    )
    if not mounted or mounted.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_the_same_command_completes_it(
    manifest: Path, unbroken: Path, tmp_path: Path, small_disk: Path
) -> None:
    command = ["extract", str(manifest), str(small_disk / "s")]
    command += ["--experts", "timm:test_resnet", "--weights", "random", "--shard-videos", "1"]
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(250_000))
    full = reelcache(*command, code=1)
    assert "No space left on device" in full.stderr
    done = complete(small_disk / "s")
    assert 0 < len(done) < 8
    assert verify(small_disk / "s").damaged == ()
    ballast.unlink()
    again = reelcache(*command)
    assert f"({len(done)} shards were complete before)" in again.stdout
    assert shard_bytes(small_disk / "s") == shard_bytes(unbroken)


def test_a_lost_file_system_is_no_videos_fault(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    videos = list(Manifest(manifest))
    rows = [videos[0], Video("gone", str(tmp_path / "gone.mp4")), videos[1]]
    write_rows(tmp_path / "m.jsonl", rows)
    stat = os.stat

    def stale(path: Any, *arguments: Any, **options: Any) -> os.stat_result:
        if str(path).endswith("gone.mp4"):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)
        return stat(path, *arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.reach.os, "stat", stale)
        with pytest.raises(OSError, match="file system of the videos is lost"):
            run(tmp_path / "m.jsonl", tmp_path / "s")
    assert "000001" not in complete(tmp_path / "s")
    summary = run(tmp_path / "m.jsonl", tmp_path / "s")  # it is back, and only the file is not
    assert summary.reasons == {"open: No such file or directory: only local files are read": 1}


def test_a_disk_that_is_not_mounted_does_not_make_failures_of_all_videos(manifest: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "m.jsonl", [Video(video.id, f"/mnt/nowhere{video.path}") for video in Manifest(manifest)])
    with pytest.raises(FileNotFoundError, match="is a disk not mounted"):
        run(tmp_path / "m.jsonl", tmp_path / "s", shard_videos=4)
    assert complete(tmp_path / "s") == []


def test_a_disk_that_is_unmounted_meanwhile_does_not_either(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mount").mkdir()
    rows = []
    for number, video in enumerate(Manifest(manifest)):
        shutil.copy(video.path, tmp_path / f"mount/{number}.mp4")
        rows.append(Video(video.id, str(tmp_path / f"mount/{number}.mp4")))
    write_rows(tmp_path / "m.jsonl", rows)
    finish = ShardTask.finish

    def unmount(task: ShardTask, info: Any) -> Any:
        done = finish(task, info)
        if task.shard == 0:
            (tmp_path / "mount").rename(tmp_path / "elsewhere")
            (tmp_path / "mount").mkdir()
        return done

    monkeypatch.setattr(ShardTask, "finish", unmount)
    with pytest.raises(FileNotFoundError, match="is a disk not mounted"):
        run(tmp_path / "m.jsonl", tmp_path / "s", shard_videos=2)
    (tmp_path / "mount").rmdir()
    (tmp_path / "elsewhere").rename(tmp_path / "mount")
    summary = run(tmp_path / "m.jsonl", tmp_path / "s", shard_videos=2)
    assert not [fault for fault in summarize(tmp_path / "s").failures if "No such file" in fault.reason]
    assert summary.shards >= 2
