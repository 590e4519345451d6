"""Watching a store from another process: its shards, who is at work on them, and when they will be done."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from feature_store import StoreError, StoreWriter
from feature_store.leases import HOLDERS
from pipeline.show import status_panel, time_left
from pipeline.watching import WINDOW, Heartbeat, View, Watcher, watch
from small_stores import CORPUS, identity, plan, status, write_shard


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of five videos in three shards, of which the first is done."""
    path = tmp_path / "corpus.zarr"
    writer = StoreWriter(path)
    plan(writer, CORPUS)
    write_shard(writer.add_expert("s3d", identity(), {}), 0, map(status, CORPUS[:2]))
    return path


def do_shard(store: Path, shard: int) -> None:
    videos = CORPUS[2 * shard : 2 * shard + 2]
    write_shard(StoreWriter(store).add_expert("s3d", identity(), {}), shard, map(status, videos))


def beat(store: Path, name: str = "gpu1-7-ab", **says: Any) -> Path:
    """What a process writes that is at work on a store."""
    path = store / HOLDERS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"holder": name, "host": "gpu1", "pid": 7, "beat": 1, **says}))
    return path


def shown(view: View) -> str:
    """What a terminal is sent."""
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    console.print(status_panel(view))
    return console.file.getvalue()  # type: ignore[attr-defined]


def lines(store: Path, monkeypatch: pytest.MonkeyPatch, *steps: Callable[[], object]) -> list[str]:
    """What is printed where there is no terminal, if one of `steps` happens between any two looks."""
    console, left = Console(file=io.StringIO(), width=40), list(steps)

    def sleep(seconds: float) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop(0)()

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        watch(store, console, 2.0)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


# Who is at work


def test_processes_come_and_go(store: Path) -> None:
    watcher = Watcher(store)
    assert watcher.look().holders == ()
    assert "nobody is at work" in shown(watcher.look())
    at = [["000001", "cat", 12.25], ["000001", "dog", 3]]
    path = beat(store, device="NVIDIA H200", shards=[1], at=at, videos=3, video_seconds=90.5, failed=1, rate=30.5)
    (holder,) = watcher.look().holders
    assert holder.name == "gpu1-7-ab" and not holder.silent
    assert holder.says == Heartbeat(
        host="gpu1",
        pid=7,
        device="NVIDIA H200",
        at=(("000001", "cat", 12.25), ("000001", "dog", 3.0)),
        videos=3,
        video_seconds=90.5,
        failed=1,
        rate=30.5,
    )
    text = shown(watcher.look())
    assert all(
        word in text for word in ("gpu1 pid 7", "NVIDIA H200", "30.5", "000001: cat (12 s)", "000001: dog (3 s)")
    )
    path.unlink()
    assert watcher.look().holders == ()


def test_a_process_is_silent_until_its_file_changes_again(store: Path) -> None:
    watcher = Watcher(store, silent=0.2)
    beat(store)
    assert not watcher.look().holders[0].silent
    time.sleep(0.25)
    view = watcher.look()
    assert view.holders[0].silent and "0 at work, 1 silent" in shown(view)
    beat(store, beat=2)
    view = watcher.look()
    assert not view.holders[0].silent and "1 at work, 0 silent" in shown(view)


@pytest.mark.parametrize("content", [b"", b'{"host": "gp', b"[1]", b"null", b"\xff", b'"x"', b"{}"])
def test_a_process_that_says_nothing_to_be_understood_goes_by_its_name(store: Path, content: bytes) -> None:
    beat(store).write_bytes(content)
    view = Watcher(store).look()
    assert [(holder.name, holder.says) for holder in view.holders] == [("gpu1-7-ab", Heartbeat())]
    assert "gpu1-7-ab" in shown(view)


def test_what_is_not_understood_does_not_hide_the_rest(store: Path) -> None:
    beat(store, at=[[3, "cat", 1]], rate=None, videos=-1, failed="many", new={"of": "another version"}, device=3)
    (holder,) = Watcher(store).look().holders
    assert holder.says == Heartbeat(host="gpu1", pid=7, device="3", at=(("3", "cat", 1.0),))


def test_nothing_from_outside_steers_the_terminal(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "a\x1b[2J\x07\u202e[red]\r\n" + "x" * 10_000
    beat(store, hostile[:9].replace("\n", ""), host=hostile, device=hostile, at=[[hostile, hostile, 1]] * 50)
    view = Watcher(store).look()
    (line,) = lines(store, monkeypatch)
    for text in (shown(view), line):
        assert "\x1b[2J" not in text and "\x07" not in text and "\u202e" not in text and "x" * 100 not in text
    assert "[red]" in shown(view)


# How far it is


def test_a_look_shows_shards_that_are_new(store: Path) -> None:
    watcher = Watcher(store)
    assert watcher.look().summary.experts["s3d"].pending == 3
    do_shard(store, 1)
    view = watcher.look()
    assert view.summary.experts["s3d"].pending == 1 and "4/5 videos" in shown(view)


def test_the_end_is_told_from_progress_while_watching(store: Path) -> None:
    now = 0.0
    watcher = Watcher(store, clock=lambda: now)
    beat(store, videos=100)
    assert time_left(watcher.look()) == "ETA --:--", "what was done before says nothing of the pace"
    now = 20.0
    beat(store, videos=102, beat=2)
    assert watcher.look().left == pytest.approx(3 / (2 / 20))
    now = 40.0
    do_shard(store, 1)
    do_shard(store, 2)
    assert watcher.look().left == 0


def test_progress_of_shards_counts_where_no_process_says_anything_and_of_late_most(store: Path) -> None:
    now = 0.0
    watcher = Watcher(store, clock=lambda: now)
    watcher.look()
    now = 60.0
    assert watcher.look().left is None, "nothing happened"
    now = 120.0
    do_shard(store, 1)
    view = watcher.look()
    assert view.left == pytest.approx(60) and time_left(view) == "ETA 0:01:00"
    now = 60.0 + WINDOW
    assert watcher.look().left == pytest.approx(WINDOW / 2), "the first minute no longer counts"
    now = 120.0 + WINDOW
    assert watcher.look().left is None, "nothing happened of late"


# Where there is no terminal


def test_a_line_is_printed_whenever_something_changed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = lines(
        store,
        monkeypatch,
        lambda: None,
        lambda: beat(store, videos=1),
        lambda: beat(store, videos=1, beat=2),
        lambda: do_shard(store, 1),
        lambda: (store / HOLDERS / "gpu1-7-ab.json").unlink(),
    )
    assert [line.rpartition("; ")[0] for line in printed] == [
        "2/5 videos (s3d 2), 0 failures; at work: nobody",
        "2/5 videos (s3d 2), 0 failures; at work: gpu1 pid 7 1 videos",
        "4/5 videos (s3d 4), 1 failures; at work: gpu1 pid 7 1 videos",
        "4/5 videos (s3d 4), 1 failures; at work: nobody",
    ]


def test_the_command_watches_until_it_is_interrupted(store: Path) -> None:
    beat(store)
    command = [sys.executable, "-m", "pipeline.cli", "status", str(store)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    once = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert "at work on it: gpu1 pid 7" in once.stdout
    watching = subprocess.Popen([*command, "--watch", "--every", "0.1"], stdout=subprocess.PIPE, env=environment)
    assert watching.stdout is not None
    assert watching.stdout.readline().startswith(b"2/5 videos")
    do_shard(store, 1)
    assert watching.stdout.readline().startswith(b"4/5 videos")
    watching.send_signal(signal.SIGINT)
    assert watching.wait(300) == 0


def test_what_is_watched_is_no_json(store: Path) -> None:
    command = [sys.executable, "-m", "pipeline.cli", "status", str(store), "--watch", "--json"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "--json" in refused.stderr


def test_what_is_no_store_cannot_be_watched(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no feature store"):
        watch(tmp_path / "nowhere", Console(file=io.StringIO()), 1.0)
