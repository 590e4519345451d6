"""Checking a store: every file against its digest, every array against what its shard says."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import zarr

from feature_store.layout import (
    COMPLETE,
    FEATURES,
    METADATA,
    OFFSETS,
    RECORD_OFFSETS,
    RECORDS,
    TIMES,
    ShardRecord,
    StoreError,
    digest_of,
    dump_record,
    file_digest,
    load_record,
    node_name,
    parse_record,
    shard_name,
    split_records,
)
from feature_store.places import RUN
from feature_store.reader import ExpertInfo, FeatureStore
from feature_store.writer import SHARD_NAME, complete_shards

# What Zarr would read as a part of a shard, and a record must name.
OURS = re.compile(
    rf"zarr\.json|(?:{'|'.join((FEATURES, TIMES, OFFSETS, RECORDS, RECORD_OFFSETS))})/(?:zarr\.json|c(?:/\d+)+)"
)
SHARD = "shard"  # stands for the array where a whole shard is meant


@dataclass(frozen=True)
class Damage:
    """One thing found wrong: in which expert, shard and array, and what."""

    expert: str
    shard: int
    array: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """What a check of a store found; `checked` counts shards.

    `foreign` are files in the store that no shard names, by their paths within it: what Finder, file servers or
    people leave. They do no harm, and stay.
    """

    checked: int
    damaged: tuple[Damage, ...]
    foreign: tuple[str, ...] = ()


def verify(path: str | Path, repair: bool = False) -> Verdict:
    """Check every complete shard of every expert; with `repair`, drop the damaged ones, for extract to redo.

    Finds any changed or missing byte in a shard's files, offsets and ids that contradict each other or the other
    experts, and values that are not finite. Files that do not belong there are named, and left. Raises StoreError
    if the store's or an expert's own metadata cannot be read, PermissionError if a file may not be read.
    """
    store = FeatureStore(path)
    checked = 0
    damaged: list[Damage] = []
    foreign: list[str] = _strangers(store)
    ids: dict[int, tuple[str, ...]] = {}
    known = set(map(node_name, store.experts))
    for node in store.place.children():
        if node not in known and complete_shards(store.place, node):
            where = f"{store.url}/{node}"
            raise StoreError(f"{where}: holds shards, but no {METADATA}: bring it back from a copy, or remove {where}")
    for expert, info in store.experts.items():
        for shard, _ in complete_shards(store.place, node_name(expert)):  # others are pending: done from scratch
            if shard >= len(store.plan):
                continue
            name = f"{node_name(expert)}/{shard_name(shard)}"
            try:
                with store.place.at_hand(name) as folder:
                    found = [Damage(expert, shard, *what) for what in _check(store, info, folder, shard, ids)]
                    foreign += [f"{name}/{file}" for file in _beside(folder)]
            except (StoreError, FileNotFoundError) as error:  # of an object store: its files could not be had
                found = [Damage(expert, shard, SHARD, str(error))]
            checked += 1
            damaged += found
            if found and repair:
                store.place.drop(name)
    return Verdict(checked, tuple(damaged), tuple(foreign))


def _check(
    store: FeatureStore, info: ExpertInfo, folder: Path, shard: int, ids: dict[int, tuple[str, ...]]
) -> Iterator[tuple[str, str]]:
    """What is wrong with one shard, as (array, reason)."""
    where = f"{store.url}/{node_name(info.name)}/{shard_name(shard)}/{COMPLETE}"
    try:
        content = (folder / COMPLETE).read_bytes()
        record = parse_record(content, where)
    except PermissionError:  # says nothing of the content; repair must not drop it
        raise
    except (StoreError, OSError) as error:
        yield COMPLETE, str(error)
        return
    if (record.expert, record.shard) != (info.name, shard):
        yield COMPLETE, f"it belongs to shard {record.shard} of {record.expert}"
        return
    if dump_record(record) != content:
        yield COMPLETE, "it says what was written, but not byte for byte: it was damaged or edited"
    if record.provenance != digest_of(dict(info.identity)):
        yield COMPLETE, "it was made under another provenance than the expert's metadata says"
    first, stop = store.plan.bounds(shard)
    names = tuple(video.id for video in record.videos)
    if len(names) != stop - first:
        yield COMPLETE, f"it lists {len(names)} videos; the shard plan has {stop - first}"
    elif ids.setdefault(shard, names) != names:
        yield COMPLETE, "its video ids are not those of the other experts"
    try:
        broken = list(_check_files(record, folder))
    except PermissionError:
        raise
    except OSError as error:
        broken = [(SHARD, f"it cannot be read: {error}")]
    yield from broken
    if broken:
        return
    try:
        yield from _check_arrays(record, folder, info)
    except (KeyError, TypeError, ValueError) as error:  # zarr's, of files that are as they were written
        yield SHARD, f"its arrays are not those of a shard: {error}"


def _strangers(store: FeatureStore) -> list[str]:
    """What lies beside the experts and beside their shards."""
    nodes = {node_name(expert) for expert in store.experts}
    beside = [name for name in store.place.children() if name not in {*nodes, METADATA, RUN}]
    return beside + [
        f"{node}/{name}"
        for node in sorted(nodes)
        for name in store.place.children(node)
        if name != METADATA and not SHARD_NAME.fullmatch(name)
    ]


def _beside(folder: Path) -> list[str]:
    """The files in a shard's folder that are none of a shard's."""
    try:
        known = {*load_record(folder / COMPLETE).files, COMPLETE}
    except (StoreError, OSError):
        return []  # which is damage, and told as such
    return sorted(name for name in _files(folder) - known if not OURS.fullmatch(name))


def _files(folder: Path) -> set[str]:
    """The files below a folder, by their paths within it. Raises OSError for a folder that cannot be listed."""
    paths = (Path(place, name) for place, _, names in os.walk(folder, onerror=_raise) for name in names)
    return {path.relative_to(folder).as_posix() for path in paths if path.is_file()}


def _raise(error: OSError) -> None:
    raise error


def _check_files(record: ShardRecord, folder: Path) -> Iterator[tuple[str, str]]:
    there = _files(folder)  # what a record names never becomes a path by itself
    for name in sorted({*record.files, *filter(OURS.fullmatch, there)}):
        array = name.split("/")[0] if "/" in name else SHARD
        if name not in there:
            yield array, f"{name} is missing"
        elif name not in record.files:
            yield array, f"{name} does not belong there"
        elif file_digest(folder / name) != record.files[name]:
            yield array, f"{name} was changed: its SHA-256 is not the one recorded"


def _check_arrays(record: ShardRecord, folder: Path, info: ExpertInfo) -> Iterator[tuple[str, str]]:
    """The files are those that were written: do they make sense together?"""
    group = zarr.open_group(folder, mode="r")
    features, times, offsets = (group[name] for name in (FEATURES, TIMES, OFFSETS))
    rows = [video.rows for video in record.videos]
    if not np.array_equal(offsets[:], np.cumsum([0, *rows])):
        yield OFFSETS, "they are not the sums of the videos' rows"
    if features.shape != (sum(rows), info.dim) or str(features.dtype) != info.dtype:
        yield FEATURES, f"{features.shape} {features.dtype}, not {(sum(rows), info.dim)} {info.dtype}"
    if times.shape != (sum(rows), 2):
        yield TIMES, f"{times.shape}, not {(sum(rows), 2)}"
    elif not (times[:, 0] <= times[:, 1]).all():
        yield TIMES, "a row ends before it starts"
    if info.has_records:
        yield from _check_records(group, sum(rows))
    step = features.chunks[0]
    if not all(np.isfinite(features[first : first + step]).all() for first in range(0, features.shape[0], step)):
        yield FEATURES, "values that are not finite"


def _check_records(group: zarr.Group, rows: int) -> Iterator[tuple[str, str]]:
    ends, content = group[RECORD_OFFSETS][:], group[RECORDS][:]
    if len(ends) != rows + 1 or ends[0] != 0 or ends[-1] != len(content) or (np.diff(ends) < 0).any():
        yield RECORD_OFFSETS, "they do not cut the records into one a row"
        return
    try:
        split_records(content, ends)
    except ValueError as error:
        yield RECORDS, f"a record that is not JSON: {error}"
