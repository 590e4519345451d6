"""What a reader of foreign features gives, and the checks that all readers share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_manifests.folder_walk import below
from data_manifests.folder_walk import find_files as walk
from feature_store.layout import StoreError, VideoStatus

FLOATS = ("float16", "float32", "float64")
VIDEO_BYTES = 4 << 30  # of one video's features: beyond it stands a damaged or hostile header
ID_LENGTH = 4096  # as in manifests


class ImportUsageError(StoreError, ValueError):
    """An import or export that is asked for in a way that cannot be done; the message says how it can."""

    exit_code = 2


@dataclass(frozen=True)
class Rows:
    """The features of one video, as found.

    `values` is (T, dim) of float16, float32 or float64; `times` (T, 2) seconds, or None if the format
    has none. `absent` says why there are no rows, where the source itself says that there are none.
    `status` is how the video went where the features come from, which only our own exports tell.
    """

    values: np.ndarray
    times: np.ndarray | None = None
    absent: str = ""
    status: VideoStatus | None = None


def no_rows(reason: str) -> Rows:
    """A video for which the source says that it has no such features."""
    return Rows(np.empty((0, 0), np.float32), absent=reason)


@dataclass(frozen=True)
class Source:
    """Foreign features, opened: nothing is read before it is asked for.

    `read` gives one video's rows, unchecked (see `read_rows`); `place` names the file that it comes from,
    for messages. `files` are all files the features come from, each with a name that stays when the
    source is moved. `every` is the seconds from row to row that the format is known to have.
    `identity` is the provenance that a source may carry.
    """

    ids: tuple[str, ...]
    files: tuple[tuple[str, Path], ...]
    read: Callable[[str], Rows]
    place: Callable[[str], str]
    close: Callable[[], None] = lambda: None
    every: float | None = None
    identity: Mapping[str, Any] | None = None


def read_rows(source: Source, video: str) -> Rows:
    """One video's rows, checked, in this machine's byte order. Raises StoreError naming file and video."""
    where = f"{source.place(video)}, video {video!r}"
    rows = source.read(video)
    if rows.absent:
        return rows
    values = rows.values
    check_shape(where, values.shape, values.dtype)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise StoreError(
            f"{where}: row {bad[0]} holds NaN or infinite values ({len(bad)} of {len(values)} rows do); "
            "features must be finite: mend the file, or leave the video out"
        )
    times = None if rows.times is None else _checked_times(where, np.asarray(rows.times), len(values))
    return replace(rows, values=values.astype(values.dtype.newbyteorder("="), copy=False), times=times)


def check_shape(where: str, shape: Sequence[int], dtype: np.dtype) -> None:
    """Raise StoreError unless this is (rows, dim) of floats, and of a size that a video can have."""
    if len(shape) != 2 or shape[1] < 1:
        raise StoreError(f"{where}: an array of shape {tuple(shape)}; features must be (rows, dim)")
    if dtype.newbyteorder("=").name not in FLOATS:
        raise StoreError(f"{where}: values of type {dtype}; features must be {', '.join(FLOATS)}")
    if shape[0] * shape[1] * dtype.itemsize > VIDEO_BYTES:
        raise StoreError(f"{where}: claims the shape {tuple(shape)}, which no video has; the file is damaged")


def _checked_times(where: str, times: np.ndarray, rows: int) -> np.ndarray:
    if times.shape != (rows, 2) or times.dtype.kind not in "fiu":
        raise StoreError(f"{where}: times {times.shape} {times.dtype}; {rows} rows need ({rows}, 2) numbers of seconds")
    times = times.astype(np.float64)
    wrong = ~(np.isfinite(times).all(axis=1) & (times[:, 0] >= 0) & (times[:, 0] <= times[:, 1]))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise StoreError(
            f"{where}: row {row} is said to last from {times[row, 0]} s to {times[row, 1]} s; "
            "tell when rows are with --every SECONDS, or that it is not known with --untimed"
        )
    return times


def check_ids(files: Iterable[tuple[str, str]]) -> None:
    """Raise StoreError unless every (id, where it stands) is an id that a store can hold, and stands once."""
    seen: dict[str, str] = {}
    for video, where in files:
        if not 0 < len(video) <= ID_LENGTH:
            raise StoreError(f"{where}: a video id of {len(video)} characters; ids have 1 to {ID_LENGTH}")
        try:
            video.encode()
        except UnicodeEncodeError:
            raise StoreError(f"{where}: video id {video!r} is not Unicode text; rename it") from None
        if video in seen:
            raise StoreError(
                f"{where}: video {video!r} stands already in {seen[video]}; every video may stand once. "
                "Two features of the same videos are two experts: import each under a name of its own"
            )
        seen[video] = where


def choose(names: Collection[str], key: str | None, expert: str, where: str) -> str:
    """Which of several features is meant: `key`, or the one called like the expert, or the only one."""
    if key is None:
        key = next(iter(names)) if len(names) == 1 else expert
    if key not in names:
        raise ImportUsageError(f"{where}: it holds {', '.join(names) or 'nothing'}: say which with --key NAME")
    return key


def find_files(paths: Sequence[Path], suffixes: tuple[str, ...]) -> list[tuple[str, Path]]:
    """Files of these suffixes that are named or lie below a named folder, sorted, each with its name there."""
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.is_dir():
            found += below(path, walk(path, suffixes)[0])
        elif path.is_file():
            found.append((path.name, path))
        else:
            raise StoreError(f"{path}: there is no such file or folder")
    if not found:
        raise StoreError(f"{', '.join(map(str, paths))}: holds no {' or '.join(suffixes)} files")
    return found


def passed_over(paths: Sequence[Path], source: Source) -> list[str]:
    """What lies in the named folders beside the files of a source, a sentence a folder."""
    suffixes = {path.suffix.lower() for _, path in source.files}
    sentences = [(path, str(walk(path, suffixes)[1])) for path in paths if path.is_dir()]
    return [f"{path}: {sentence}" for path, sentence in sentences if sentence]


def one_file_a_video(
    paths: Sequence[Path], suffixes: tuple[str, ...], read: Callable[[Path], Rows], every: float | None = None
) -> Source:
    """A source of which each file is a video, named by its id."""
    files = find_files(paths, suffixes)
    check_ids((path.stem, str(path)) for _, path in files)
    places = {path.stem: path for _, path in files}
    return Source(
        ids=tuple(places),
        files=tuple(files),
        read=lambda video: read(places[video]),
        place=lambda video: str(places[video]),
        every=every,
    )
