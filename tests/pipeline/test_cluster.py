"""Runs on a Dask cluster: the same bytes as in one process, whoever is killed."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import LocalCluster

from corpora import make_corpus
from extractors import find_experts
from feature_store import verify
from pipeline import extract
from pipeline.errors import WorkerLost
from pipeline.executors import give_out
from pipeline.extraction import ExtractError
from pipeline.work import Assignment, Outcome
from tests.pipeline.test_extraction import shard_bytes

QUICK = find_experts(["timm:test_resnet"])
SETTINGS: dict[str, Any] = {"weights": "random", "shard_videos": 1}


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), videos=10)


@pytest.fixture(scope="module")
def alone(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store that one process makes of the manifest."""
    store = tmp_path_factory.mktemp("alone") / "s"
    extract(manifest, store, QUICK, **SETTINGS)
    return store


def test_workers_give_the_bytes_of_one_process_though_one_is_killed(
    manifest: Path, alone: Path, tmp_path: Path
) -> None:
    killed: list[str] = []

    def kill() -> None:
        """A worker of Dask's, as soon as a shard is written."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            if list((tmp_path / "s").glob("[!.]*/*/complete.json")):
                for process in psutil.Process().children(recursive=True):
                    with suppress(psutil.Error):  # one that has just ended
                        if "spawn_main" in " ".join(process.cmdline()) and not killed:
                            process.kill()
                            killed.append(str(process.pid))
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    events: list[dict[str, Any]] = []
    summary = extract(manifest, tmp_path / "s", QUICK, workers=2, listener=events.append, **SETTINGS)
    killer.join()
    assert killed
    assert shard_bytes(tmp_path / "s") == shard_bytes(alone)
    assert verify(tmp_path / "s").damaged == ()
    written = [event["shard"] for event in events if event["event"] in ("shard_written", "shard_complete")]
    assert sorted(written) == list(range(10))
    assert summary.shards + summary.elsewhere == 10
    assert str(events[0]["dashboard"]).startswith("http://127.0.0.1:")
    assert events[-1]["event"] == "run_ended"
    assert [
        process for process in psutil.Process().children(recursive=True) if "engine" in str(process.cmdline())
    ] == []


def test_a_cluster_that_is_there_is_joined_and_its_first_worker_waited_for(
    manifest: Path, alone: Path, tmp_path: Path
) -> None:
    events: list[dict[str, Any]] = []

    def hear(event: dict[str, Any]) -> None:
        events.append(event)
        if event["event"] == "no_workers":
            cluster.scale(1)

    with LocalCluster(n_workers=0, threads_per_worker=2, dashboard_address="127.0.0.1:0") as cluster:
        address = cluster.scheduler_address
        summary = extract(manifest, tmp_path / "s", QUICK, scheduler=address, listener=hear, **SETTINGS)
    assert [event["event"] for event in events[:2]] == ["no_workers", "run_started"]
    assert events[0]["scheduler"] == address
    assert summary.shards == 10
    assert shard_bytes(tmp_path / "s") == shard_bytes(alone)


def test_a_run_that_is_stopped_while_it_waits_for_workers_leaves_nothing(manifest: Path, tmp_path: Path) -> None:
    def stop(event: dict[str, Any]) -> None:
        assert event["event"] == "no_workers"
        raise KeyboardInterrupt

    with LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as cluster, pytest.raises(KeyboardInterrupt):
        extract(manifest, tmp_path / "s", QUICK, scheduler=cluster.scheduler_address, listener=stop, **SETTINGS)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("hands", [{"watched": True}, {"workers": 1}], ids=str)
def test_networks_that_need_more_memory_than_they_may_take_are_told_of(
    hands: dict[str, Any], manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(WorkerLost, match=r"it took more than 0\.05 GB of memory \(--memory-limit\)"):
        extract(manifest, tmp_path / "s", QUICK, memory_limit=0.05, **hands, **SETTINGS)
    assert not (tmp_path / "s").exists()


def test_an_address_where_no_scheduler_is_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.cluster.PATIENCE", 1)
    with pytest.raises(ExtractError, match=r"--scheduler tcp://127\.0\.0\.1:1: no Dask scheduler answers there"):
        extract(
            make_corpus(tmp_path, 1), tmp_path / "s", ["timm:test_resnet"], scheduler="tcp://127.0.0.1:1", **SETTINGS
        )
    assert not (tmp_path / "s").exists()


def test_a_cluster_is_begun_or_joined_not_both(tmp_path: Path) -> None:
    with pytest.raises(ExtractError, match="say which of the two"):
        extract(make_corpus(tmp_path, 1), tmp_path / "s", ["timm:test_resnet"], workers=1, scheduler="tcp://a:1")


class Countless:
    """A million shards, of which it is noted how many are out at once."""

    def __init__(self, shards: int) -> None:
        self.shards, self.given, self.done, self.most = shards, 0, 0, 0

    def __iter__(self) -> Any:
        while self.given < self.shards:
            self.given += 1
            self.most = max(self.most, self.given - self.done)
            yield Assignment(self.given - 1, ())

    def finish(self, outcome: Outcome) -> None:
        self.done += 1


def test_no_more_shards_are_out_at_once_than_can_be_done() -> None:
    from concurrent.futures import ThreadPoolExecutor

    work = Countless(3000)
    with ThreadPoolExecutor(4) as pool:
        give_out(work, lambda one: pool.submit(Outcome, one.shard, "complete"), lambda: 50)  # type: ignore[arg-type]
    assert (work.given, work.done) == (3000, 3000)
    assert work.most <= 50
