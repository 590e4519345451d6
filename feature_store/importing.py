"""Bringing features that others published into a store, checked whole before anything is written."""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from feature_store.foreign import FORMATS, ImportUsageError, Rows, Source, read_rows
from feature_store.foreign.source import passed_over
from feature_store.foreign.survey import Show, Surveyed, digest_files, match, stored_dtype, survey
from feature_store.foreign.target import all_or_nothing, ids_of_store, plan_of, refuse_another
from feature_store.foreign.timing import Timing, timing
from feature_store.kinds import KINDS, kind_of, kind_of_name
from feature_store.layout import (
    ShardPlan,
    ShardRecord,
    StoreError,
    VideoStatus,
)
from feature_store.writer import DTYPES, ExpertWriter, StoreWriter

NOT_IMPORTED = "not in the imported features"


@dataclass(frozen=True)
class ImportSummary:
    """What an import did. Counts are of the store's videos; `skipped` are the source's that it leaves out."""

    expert: str
    format: str
    videos: int
    shards: int  # written; not those that an earlier run of the same import completed
    ok: int
    truncated: int
    no_stream: int
    failed: int
    skipped: int
    rows: int
    dim: int
    dtype: str
    sampling: dict[str, Any]
    sha256: str  # of the source files
    notes: tuple[str, ...]


def import_features(
    format: str,
    paths: Sequence[str | Path],
    store: str | Path,
    *,
    expert: str,
    key: str | None = None,
    kind: str | None = None,
    every: float | None = None,
    window: float | None = None,
    durations: Mapping[str, float] | None = None,
    untimed: bool = False,
    dtype: str | None = None,
    shard_videos: int = 64,
    videos: Sequence[str] | None = None,
    digest: Callable[[int, int], str] | None = None,
    skip_unknown: bool = False,
    show: Show | None = None,
) -> ImportSummary:
    """Import published features into a store, as an expert of it.

    The source is read twice: to check all of it, then to write. A failed import leaves the store as it was;
    of a killed one complete shards stay, and the same call goes on from there.

    Args:
        format: one of `FORMATS`.
        paths: the files or folders of the features.
        store: a folder or an object store's URL: of a store, or where to make one.
        expert: the name to store them under.
        key: which features, where a file holds several; by default those called like the expert, or the only ones.
        kind: what they are, one of `KINDS`; by default what an export of ours says, else what the names `key` and
            `expert` tell, e.g. motion of "s3d", else "other".
        every: row k covers the seconds k * every to k * every + window, whatever times the source has.
        window: how many seconds a row covers; by default `every`.
        durations: seconds of the videos, by the store's ids; the rows of a video cover it evenly.
        untimed: nobody knows which seconds rows cover: all get the times [0, 0].
        dtype: "float16" or "float32"; by default float16 if all of the source is that, else float32.
        shard_videos: videos a shard, for videos not yet planned in the store.
        videos: the ids of the store's videos in order, as its manifest has them. By default those that the
            store's experts know, and for a new store those of the source, in its order.
        digest: tells which videos a range of `videos` holds, as `StoreWriter.plan` takes it; by default what
            a manifest of these videos tells, none of them cut.
        skip_unknown: leave out videos that the store does not know, rather than refuse the import.
        show: told of progress: what is done, how many, of how many.

    Videos of the store that the source does not have are recorded as failed, at the stage "import"; those
    of which the source says that it has no such features as `no_stream`.

    Raises:
        ImportUsageError: an option is missing or wrong. StoreError: the source or the store is not as it
            must be. Either names what is wrong, where, and what to do.
    """
    show = show or _silent
    _check_options(format, expert, kind, dtype, shard_videos, videos or ())
    writer = StoreWriter(store)  # refuses what can be no store before the source is looked at
    reader = FORMATS[format]
    asked = timing(every, window, untimed, durations is not None)
    source = reader.open([Path(path) for path in paths], key, expert)
    with closing(source):
        asked = asked.known_of(source.every)
        surveyed = survey(source, asked, show)
        stored, notes = stored_dtype(source, surveyed, dtype)
        beside = passed_over([Path(path) for path in paths], source)
        ids = list(videos) if videos is not None else ids_of_store(writer.place, source.ids)
        found = match(ids, source, reader.spellings, skip_unknown)
        _check_durations(durations, ids, found)
        sha256 = digest_files(source, show)
        identity = {
            "kind": kind or _kind(source, key, expert),
            "format": format,
            "key": key,
            "sampling": asked.document(),
            "weights": {"source": f"imported:{format}", "sha256": sha256},
            "dim": surveyed.dim,
            "dtype": str(stored),
        }
        refuse_another(writer.place, expert, identity)
        with all_or_nothing(writer.place, expert), writer:
            plan = plan_of(writer, ids, shard_videos, digest, named=videos is not None)
            about = {"notes": notes, "original": source.identity}
            target = writer.add_expert(expert, identity, about)
            written, statuses = _write(
                target, plan, ids, Importing(source, found, asked, surveyed, durations or {}), show
            )
    states = Counter(status.status for status in statuses)
    return ImportSummary(
        expert=expert,
        format=format,
        videos=len(ids),
        shards=written,
        ok=states["ok"],
        truncated=states["truncated"],
        no_stream=states["no_stream"],
        failed=states["failed"],
        skipped=len(source.ids) - sum(name is not None for name in found),
        rows=sum(status.rows for status in statuses),
        dim=surveyed.dim,
        dtype=str(stored),
        sampling=asked.document(),
        sha256=sha256,
        notes=(*notes, *beside),
    )


@dataclass(frozen=True)
class Importing:
    """A source, checked, and by which id it has each video of the store."""

    source: Source
    found: list[str | None]
    timing: Timing
    surveyed: Surveyed
    durations: Mapping[str, float]

    def video(self, number: int, video: str) -> tuple[Rows, VideoStatus]:
        """A video of the store: its rows with times, and how it went."""
        name = self.found[number]
        if name is None:
            nothing = Rows(np.empty((0, self.surveyed.dim)), np.empty((0, 2)))
            return nothing, VideoStatus(video, "failed", stage="import", reason=NOT_IMPORTED)
        rows = read_rows(self.source, name)
        where = f"{self.source.place(name)}, video {name!r}"
        if len(rows.values) != self.surveyed.rows[name]:
            raise StoreError(f"{where}: changed while it was imported; import it again when nothing writes to it")
        if not len(rows.values) and rows.status is None:
            return rows, VideoStatus(video, "no_stream", reason=rows.absent or "it has no rows")
        self.timing.check(rows, where)
        times = self.timing.of(rows, self.durations.get(video, 0.0))
        end = float(times.max(initial=0.0))
        status = rows.status or VideoStatus(video, "ok")
        status = replace(status, id=video, rows=len(times), seconds=max(status.seconds, end))
        return replace(rows, times=times), status


def _write(
    target: ExpertWriter, plan: ShardPlan, ids: Sequence[str], importing: Importing, show: Show
) -> tuple[int, list[VideoStatus]]:
    """Write the shards that are not complete; return how many those are, and how all videos went."""
    statuses: list[VideoStatus] = []
    written = 0
    for shard in range(len(plan)):
        record = target.complete(shard)
        if record is None:
            record = _write_shard(target, shard, *plan.bounds(shard), ids, importing, show)
            written += 1
        statuses += record.videos
    return written, statuses


def _write_shard(
    target: ExpertWriter, shard: int, first: int, stop: int, ids: Sequence[str], importing: Importing, show: Show
) -> ShardRecord:
    writer = target.begin(shard)
    statuses = []
    for number in range(first, stop):
        rows, status = importing.video(number, ids[number])
        if status.rows:
            assert rows.times is not None
            writer.append(number - first, 0, rows.values.astype(writer.dtype), rows.times)
        statuses.append(status)
        show("writing", number + 1, len(ids))
    run = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname()}
    return writer.finish(statuses, run)


def _kind(source: Source, key: str | None, expert: str) -> str:
    return kind_of_name(key, expert) if source.identity is None else kind_of(expert, source.identity)


def _check_options(
    format: str, expert: str, kind: str | None, dtype: str | None, shard_videos: int, videos: Sequence[str]
) -> None:
    if format not in FORMATS:
        raise ImportUsageError(f"format {format!r}: must be one of {', '.join(FORMATS)}")
    if not expert:
        raise ImportUsageError("--expert NAME: say under which name to store the features")
    if kind is not None and kind not in KINDS:
        raise ImportUsageError(f"--kind {kind}: must be one of {', '.join(KINDS)}")
    if dtype is not None and dtype not in DTYPES:
        raise ImportUsageError(f"dtype {dtype!r}: must be one of {', '.join(DTYPES)}")
    if shard_videos < 1:
        raise ImportUsageError(f"shard_videos {shard_videos}: must be at least 1")
    if len(set(videos)) < len(videos):
        raise ImportUsageError("videos: an id stands twice; every video of a store may stand once")


def _check_durations(durations: Mapping[str, float] | None, ids: Sequence[str], found: Sequence[str | None]) -> None:
    for video, name in zip(ids, found, strict=True):
        if durations is not None and name is not None and not 0 < durations.get(video, 0.0) < math.inf:
            raise ImportUsageError(
                f"--spread: how long video {video!r} is does not stand in the manifest, meta.duration"
            )


def _silent(what: str, done: int, total: int) -> None:
    """Show nothing."""
