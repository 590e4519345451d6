"""The store that an import goes into: which videos it has, and how it stays what it was if the import fails."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from feature_store.foreign.source import ImportUsageError
from feature_store.kinds import kind_of
from feature_store.layout import METADATA, ShardPlan, StoreError, VideoStatus, differences, node_name
from feature_store.places import LocalPlace, Place
from feature_store.reader import FeatureStore
from feature_store.writer import NoMetadata, StoreWriter, read_attributes, read_plan


def digest_of_ids(ids: Sequence[str]) -> Callable[[int, int], str]:
    """What a manifest of these videos, none of them cut, tells of a range of them.

    So a corpus that was imported can be extended by `extract`, with a manifest in the same order.
    """
    lines = [hashlib.blake2b(json.dumps([video, None, None]).encode(), digest_size=8).digest() for video in ids]
    return lambda first, stop: hashlib.sha256(b"".join(lines[first:stop])).hexdigest()


def ids_of_store(place: Place, imported: Sequence[str]) -> list[str]:
    """All videos of a store, in order, as its complete shards name them; of a new one those `imported`.

    So are those of a store that an import of them began, and was killed.
    """
    if not _is_store(place) or _planned_for(place, imported):
        return list(imported)
    opened = FeatureStore(place.url)
    shards: dict[int, tuple[VideoStatus, ...]] = {}
    for name in opened.experts:
        for record in opened[name].shards():
            shards.setdefault(record.shard, record.videos)
    if len(shards) < len(opened.plan):
        raise ImportUsageError(
            f"{place.url}: no expert is complete, so it does not know all its videos yet; name its manifest: --manifest"
        )
    return [video.id for shard in sorted(shards) for video in shards[shard]]


def _planned_for(place: Place, ids: Sequence[str]) -> bool:
    digest, first = digest_of_ids(ids), 0
    for segment in read_plan(place).segments:
        if digest(first, first + segment.videos) != segment.digest:
            return False
        first += segment.videos
    return first == len(ids)


def plan_of(
    store: StoreWriter, ids: Sequence[str], shard_videos: int, digest: Callable[[int, int], str] | None, named: bool
) -> ShardPlan:
    """The shards to write; videos that are named may be more than the store had."""
    if not named and _is_store(store.place):
        return read_plan(store.place)
    return store.plan(len(ids), shard_videos, digest or digest_of_ids(ids))


def refuse_another(place: Place, expert: str, identity: Mapping[str, Any]) -> None:
    """Raise StoreError if the store has an expert of that name that is not this import, begun before."""
    try:
        stored = read_attributes(place, node_name(expert)).get("identity", {})
    except NoMetadata:
        return
    changed = differences({**stored, "kind": kind_of(expert, stored)}, json.loads(json.dumps(identity)))
    if changed:
        raise StoreError(
            f"{place.url}: expert {expert!r} is there, made in another way (the store's against this import's):\n  "
            + "\n  ".join(changed)
            + "\nImport under another name: --expert NAME"
        )


@contextmanager
def all_or_nothing(place: Place, expert: str) -> Iterator[None]:
    """Where an import fails within, the store becomes what it was: the expert goes, and so do its videos.

    One that went on from an earlier, killed one leaves what that would have left: complete shards.
    """
    node = node_name(expert)
    if METADATA in place.children(node):
        yield
        return
    new_folder = isinstance(place, LocalPlace) and not place.root.exists()
    plan = place.read(METADATA) if _is_store(place) else None
    try:
        yield
    except BaseException:  # also Ctrl-C: whatever it is goes on once the store is what it was
        if place.children(node):
            place.drop(node, METADATA)  # first of all: without it no shard counts
        if plan is not None:
            place.write(METADATA, plan)
        else:
            place.remove(METADATA)
        if new_folder:
            with suppress(OSError):  # it was not made, or another process has put something there
                Path(place.url).rmdir()
        raise


def _is_store(place: Place) -> bool:
    return METADATA in place.children()
