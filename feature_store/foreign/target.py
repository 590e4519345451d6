"""The store that an import goes into: which videos it has, and how it stays what it was if the import fails."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from feature_store.foreign.source import ImportUsageError
from feature_store.layout import (
    ShardPlan,
    StoreError,
    VideoStatus,
    differences,
    load_attributes,
    node_name,
    replace_file,
)
from feature_store.reader import FeatureStore
from feature_store.writer import StoreWriter, read_plan

ZARR = "zarr.json"
LOOK_EVERY = 0.05  # seconds, while a folder is being removed
LOOKS, LOOKS_GONE = 200, 4  # at most; and in a row, until it is taken for gone


def digest_of_ids(ids: Sequence[str]) -> Callable[[int, int], str]:
    """What a manifest of these videos, none of them cut, tells of a range of them.

    So a corpus that was imported can be extended by `extract`, with a manifest in the same order.
    """
    lines = [hashlib.blake2b(json.dumps([video, None, None]).encode(), digest_size=8).digest() for video in ids]
    return lambda first, stop: hashlib.sha256(b"".join(lines[first:stop])).hexdigest()


def ids_of_store(store: Path, imported: Sequence[str]) -> list[str]:
    """All videos of a store, in order, as its complete shards name them; of a new one those `imported`.

    So are those of a store that an import of them began, and was killed.
    """
    if not _is_store(store) or _planned_for(store, imported):
        return list(imported)
    opened = FeatureStore(store)
    shards: dict[int, tuple[VideoStatus, ...]] = {}
    for name in opened.experts:
        for record in opened[name].shards():
            shards.setdefault(record.shard, record.videos)
    if len(shards) < len(opened.plan):
        raise ImportUsageError(
            f"{store}: no expert is complete, so it does not know all its videos yet; name its manifest: --manifest"
        )
    return [video.id for shard in sorted(shards) for video in shards[shard]]


def _planned_for(store: Path, ids: Sequence[str]) -> bool:
    digest, first = digest_of_ids(ids), 0
    for segment in read_plan(store).segments:
        if digest(first, first + segment.videos) != segment.digest:
            return False
        first += segment.videos
    return first == len(ids)


def plan_of(
    store: Path, ids: Sequence[str], shard_videos: int, digest: Callable[[int, int], str] | None, named: bool
) -> ShardPlan:
    """The shards to write; videos that are named may be more than the store had."""
    if not named and _is_store(store):
        return read_plan(store)
    return StoreWriter(store).plan(len(ids), shard_videos, digest or digest_of_ids(ids))


def refuse_another(store: Path, expert: str, identity: Mapping[str, Any]) -> None:
    """Raise StoreError if the store has an expert of that name that is not this import, begun before."""
    folder = store / node_name(expert)
    if not (folder / ZARR).exists():
        return
    changed = differences(load_attributes(folder)["identity"], json.loads(json.dumps(identity)))
    if changed:
        raise StoreError(
            f"{store}: expert {expert!r} is there, made in another way (the store's against this import's):\n  "
            + "\n  ".join(changed)
            + "\nImport under another name: --expert NAME"
        )


@contextmanager
def all_or_nothing(store: Path, expert: str) -> Iterator[None]:
    """Where an import fails within, the store becomes what it was: the expert goes, and so do its videos.

    One that went on from an earlier, killed one leaves what that would have left: complete shards.
    """
    folder, was_there = store / node_name(expert), store.exists()
    plan = (store / ZARR).read_bytes() if _is_store(store) else None
    if (folder / ZARR).exists():
        yield
        return
    try:
        yield
    except BaseException:  # also Ctrl-C: whatever it is goes on once the store is what it was
        (folder / ZARR).unlink(missing_ok=True)  # first: without it no shard counts
        _remove(folder)
        if plan is not None:
            replace_file(store / ZARR, plan)
        elif store.exists():
            (store / ZARR).unlink(missing_ok=True)
            if not was_there and not any(store.iterdir()):
                store.rmdir()
        raise


def _remove(folder: Path) -> None:
    """Remove a folder for good: threads of Zarr may go on for a moment with a write that was interrupted."""
    looks_gone = 0
    for _ in range(LOOKS):
        looks_gone = 0 if folder.exists() else looks_gone + 1
        if looks_gone == LOOKS_GONE:
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(LOOK_EVERY)
    shutil.rmtree(folder)  # which raises what is wrong


def _is_store(path: Path) -> bool:
    return (path / ZARR).exists()
