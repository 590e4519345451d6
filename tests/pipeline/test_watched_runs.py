"""Whole runs with videos that crash, hang or slow down whoever decodes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pipeline.flights
import pipeline.guard
from data_manifests import Video, write_rows
from faulty_expert import COLOURS, Faulty, write_plain_video
from feature_store import FeatureStore, verify
from feature_store.places import SCRATCH
from pipeline import extract


def make_manifest(folder: Path, *kinds: str) -> Path:
    """A video of each kind: "good", or one of COLOURS; ids are kinds with their numbers."""
    rows = []
    for number, kind in enumerate(kinds):
        path = folder / f"{number}.mp4"
        write_plain_video(path, COLOURS.get(kind, (20 + 9 * number, 100, 128)))
        rows.append(Video(f"{kind} {number}", str(path)))
    write_rows(folder / "corpus.jsonl", rows)
    return folder / "corpus.jsonl"


def run(manifest: Path, store: Path, **settings: Any) -> tuple[Any, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    settings = {"shard_videos": 3, "decoders": 1, **settings}
    return extract(manifest, store, [Faulty()], weights="random", listener=events.append, **settings), events


def test_what_ends_the_process_is_left_out_and_all_else_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = Path(__file__).parents[1]  # where the process finds the faulty expert; the project's folder comes with it,
    monkeypatch.setenv("PYTHONPATH", f"{tests}:{tests.parent}")  # since tests/ has folders called like its packages
    monkeypatch.setattr(pipeline.guard, "GRACE", 1.0)
    kinds = ("good", "crash", "good", "hang", "good")
    manifest = make_manifest(tmp_path, *kinds)
    summary, events = run(manifest, tmp_path / "s", watched=True, time_limit=5.0)
    faulty = FeatureStore(tmp_path / "s")["faulty"]
    found = {video: faulty.status(video) for video in faulty}
    assert {video: status.status for video, status in found.items()} == {
        f"{kind} {number}": "ok" if kind == "good" else "failed" for number, kind in enumerate(kinds)
    }
    assert found["crash 1"].reason == "it ended the process that decoded it 2 times: it crashed (SIGSEGV)"
    assert "--time-limit" in str(found["hang 3"].reason)
    deaths = [(event["video"], event["left_out"]) for event in events if event["event"] == "process_died"]
    assert deaths == [("crash 1", False), ("crash 1", True), ("hang 3", True)]
    assert (summary.deaths, summary.videos, summary.statuses) == (3, 5, {"ok": 3, "failed": 2})
    assert verify(tmp_path / "s").damaged == ()
    logged = [json.loads(line) for line in (tmp_path / "s/.run/log.jsonl").read_text().splitlines()]
    assert logged == json.loads(json.dumps(events))
    assert [path for path in (tmp_path / "s" / ".run").rglob("*") if path.is_file()] == [tmp_path / "s/.run/log.jsonl"]
    assert list((tmp_path / "s" / SCRATCH).glob("*")) == []


def test_a_slow_video_is_given_up_and_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.flights, "SLOWEST", 0.0)
    manifest = make_manifest(tmp_path, "good", "slow", "good")
    summary, events = run(manifest, tmp_path / "s", time_limit=3.0)
    assert summary.statuses == {"ok": 2, "failed": 1}
    assert "--time-limit" in str(FeatureStore(tmp_path / "s")["faulty"].status("slow 1").reason)
    assert [event["event"] for event in events] == ["run_started", "video_failed", "shard_written", "run_ended"]
    summary, _ = run(manifest, tmp_path / "s", time_limit=60.0, retry_failed=True)
    assert (summary.videos, summary.statuses) == (1, {"ok": 1})
