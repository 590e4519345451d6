"""BigFile, the format of Dual Encoding, W2VV++ and their kin: one matrix of all frames of a corpus.

    <feature>/feature.bin   float32, little-endian, row after row, no header
    <feature>/shape.txt     "N D"
    <feature>/id.txt        N ids, white space between, ISO-8859-1, in the order of rows

An id is `<video>_<frame number>`; video ids may hold underscores, too. Rows of a video stand wherever they
like; their order is that of the frame numbers. Where no id ends in a number, each row is a whole video.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from feature_store.foreign.source import ImportUsageError, Rows, Source, check_ids
from feature_store.layout import StoreError

FILES = ("feature.bin", "shape.txt", "id.txt")
NUMBER = np.dtype("<f4")
PER_VIDEO = "video"  # the key that says: each row is a whole video, whatever its id looks like

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_FRAME = re.compile(r"(.+)_(\d{1,18})", re.DOTALL)


def open_bigfile(paths: Sequence[Path], key: str | None, expert: str) -> Source:
    """Open BigFile folders; several, e.g. of the splits of a corpus, hold different videos.

    `key` "video" tells that ids are those of videos even where they end in `_<number>`.
    """
    if key not in (None, PER_VIDEO):
        raise ImportUsageError(
            f"--key {key}: a BigFile holds one feature; --key {PER_VIDEO} says that a row is a video"
        )
    places: dict[str, tuple[np.ndarray, np.ndarray, Path]] = {}
    ids: list[tuple[str, str]] = []
    files: list[tuple[str, Path]] = []
    for folder in paths:
        matrix, names = open_matrix(folder)
        for video, rows in _rows_by_video(names, folder / "id.txt", key == PER_VIDEO).items():
            ids.append((video, str(folder / "id.txt")))
            places[video] = matrix, rows, folder
        files += [(name if len(paths) == 1 else f"{folder.name}/{name}", folder / name) for name in FILES]
    check_ids(ids)

    def read(video: str) -> Rows:
        matrix, rows, _ = places[video]
        return Rows(matrix[rows])

    return Source(tuple(places), tuple(files), read, lambda video: str(places[video][2] / "feature.bin"))


def open_matrix(folder: Path) -> tuple[np.ndarray, list[str]]:
    """The mapped (N, D) matrix and the ids of its rows."""
    for name in FILES:
        if not (folder / name).is_file():
            raise StoreError(f"{folder / name}: is missing; a BigFile is a folder of {', '.join(FILES)}")
    rows, dim = _shape(folder / "shape.txt")
    size = (folder / "feature.bin").stat().st_size
    if size != rows * dim * NUMBER.itemsize:
        raise StoreError(
            f"{folder / 'feature.bin'}: {size} bytes, but shape.txt says {rows} x {dim} float32, which is "
            f"{rows * dim * NUMBER.itemsize}; it was cut off, or shape.txt is of another feature"
        )
    ids = [name.decode("iso-8859-1") for name in (folder / "id.txt").read_bytes().split()]  # at ASCII's white space
    if len(ids) != rows:
        raise StoreError(f"{folder / 'id.txt'}: {len(ids)} ids for the {rows} rows that shape.txt says")
    if any(_CONTROL.search(name) for name in ids):
        raise StoreError(f"{folder / 'id.txt'}: holds control characters; it is damaged")
    return np.memmap(folder / "feature.bin", NUMBER, "r", shape=(rows, dim)).view(np.ndarray), ids


def _shape(path: Path) -> tuple[int, int]:
    words = path.read_bytes()[:100].split()
    if len(words) != 2 or not all(word.isdigit() for word in words) or not all(map(int, words)):
        raise StoreError(f"{path}: must hold two numbers, rows and dimensions, e.g. '305462 2048'")
    return int(words[0]), int(words[1])


def _rows_by_video(names: list[str], where: Path, per_video: bool) -> dict[str, np.ndarray]:
    """Which rows are a video's, in order of frames; videos in the order of their first row."""
    frames = [None if per_video else _FRAME.fullmatch(name) for name in names]
    without = [name for name, frame in zip(names, frames, strict=True) if frame is None]
    if without and len(without) < len(names):
        raise StoreError(
            f"{where}: {without[0]!r} does not end in _<frame number>, as others do; "
            f"if each row is a whole video, say so: --key {PER_VIDEO}"
        )
    found: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, (name, frame) in enumerate(zip(names, frames, strict=True)):
        video, number = (frame[1], int(frame[2])) if frame else (name, 0)
        found[video].append((number, row))
    for video, rows in found.items():
        numbers = [number for number, _ in rows]
        if len(set(numbers)) < len(numbers):
            raise StoreError(f"{where}: video {video!r} has two rows of the same frame; a frame may stand once")
    return {video: np.array([row for _, row in sorted(rows)]) for video, rows in found.items()}
