"""Small stores for tests: made-up features of made-up videos, written as an extraction writes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feature_store import ExpertWriter, ShardPlan, StoreWriter, VideoStatus

DIM = 3
EVERY = 0.5  # seconds a row

CORPUS = ["ant", "bee", "cat", "dog", "eel"]  # "cat" has no stream, "dog" failed, "eel" broke off


def identity(**changes: Any) -> dict[str, Any]:
    """The provenance of an expert."""
    return {
        "kind": "motion",
        "network": "s3d",
        "sampling": {"of": "frames", "every": EVERY},
        "weights": {"source": "random:0", "sha256": None},
        "dim": DIM,
        "dtype": "float32",
        **changes,
    }


def status(video: str) -> VideoStatus:
    """How a video of the corpus went."""
    if video == "cat":
        return VideoStatus(video, "no_stream", reason="no sound")
    if video == "dog":
        return VideoStatus(video, "failed", stage="decode", reason="not a video")
    if video == "eel":
        return VideoStatus(video, "truncated", rows=2, seconds=1.0, at=1.0, stage="decode", reason="cut off")
    rows = 3 + len(video)
    return VideoStatus(video, "ok", rows=rows, seconds=rows * EVERY)


def features(video: str, rows: int, dim: int = DIM, expert: str = "s3d") -> np.ndarray:
    """The (rows, dim) float32 features that a video has."""
    seed = hashlib.sha256(f"{expert}/{video}".encode()).digest()
    return np.random.default_rng(list(seed)).normal(size=(rows, dim)).astype(np.float32)


def times(rows: int) -> np.ndarray:
    """(rows, 2) seconds."""
    starts = np.arange(rows) * EVERY
    return np.stack([starts, starts + EVERY], axis=1)


def plan(writer: StoreWriter, videos: Sequence[str], shard_videos: int = 2) -> ShardPlan:
    """Plan shards for a manifest of these videos."""
    return writer.plan(len(videos), shard_videos, lambda first, stop: repr(videos[first:stop]))


def write_shard(expert: ExpertWriter, shard: int, videos: Iterable[VideoStatus]) -> None:
    """Write one shard, whatever was there."""
    statuses = list(videos)
    writer = expert.begin(shard)
    for number, video in enumerate(statuses):
        rows = features(video.id, video.rows, expert.dim, expert.name)
        writer.append(number, 0, rows, times(video.rows))
    writer.finish(statuses, {"host": "here"})


def write_store(
    path: Path,
    videos: Sequence[str] = tuple(CORPUS),
    experts: Mapping[str, Mapping[str, Any]] | None = None,
    shard_videos: int = 2,
) -> list[tuple[str, int]]:
    """Do what is not complete, like an extraction, and return which (expert, shard) that was."""
    store = StoreWriter(path)
    shards = plan(store, videos, shard_videos)
    done = []
    for name, changes in (experts or {"s3d": {}}).items():
        expert = store.add_expert(name, identity(**changes), {"host": "here"})
        for shard in range(len(shards)):
            if expert.complete(shard) is None:
                first, stop = shards.bounds(shard)
                write_shard(expert, shard, map(status, videos[first:stop]))
                done.append((name, shard))
    return done


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def changed_at(folder: Path) -> dict[str, int]:
    """When every file below a folder was changed, in nanoseconds."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def reseal(document: dict[str, Any]) -> dict[str, Any]:
    """A document with its digest made anew, as someone would who knows how."""
    content = {key: value for key, value in document.items() if key != "sha256"}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return {**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}
