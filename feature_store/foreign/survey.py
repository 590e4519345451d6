"""Looking at all of a source before anything is done with it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from feature_store.foreign.source import ImportUsageError, Source, read_rows
from feature_store.foreign.timing import Timing
from feature_store.layout import StoreError, file_digest

IDS_SHOWN = 3

Show = Callable[[str, int, int], None]  # told of what is done, how many of it, of how many


@dataclass(frozen=True)
class Surveyed:
    """What a source holds: the rows of every video, and what is common to them."""

    rows: dict[str, int]
    dim: int
    dtype: np.dtype  # wide enough for all
    largest: float  # absolute value


def survey(source: Source, timing: Timing, show: Show) -> Surveyed:
    """Read and check every row. Raises StoreError at the first that cannot be imported."""
    counts: dict[str, int] = {}
    dim, of = 0, ""
    dtype, largest = np.dtype(np.float16), 0.0
    for number, video in enumerate(source.ids, 1):
        rows = read_rows(source, video)
        values = rows.values
        counts[video] = len(values)
        if not rows.absent:
            where = f"{source.place(video)}, video {video!r}"
            if dim and values.shape[1] != dim:
                raise StoreError(
                    f"{where}: {values.shape[1]} dimensions, but video {of!r} has {dim}; one expert has one size"
                )
            dim, of = values.shape[1], of or video
            timing.check(rows, where)
        if len(values):
            dtype = np.result_type(dtype, values.dtype)
            largest = max(largest, float(np.abs(values).max()))
        show("checking", number, len(source.ids))
    if not dim:
        raise StoreError(f"{source.files[0][1]}: none of the {len(counts)} videos has these features")
    return Surveyed(counts, dim, dtype, largest)


def stored_dtype(source: Source, surveyed: Surveyed, dtype: str | None) -> tuple[np.dtype, list[str]]:
    """In which type to store a source, and what is to be said of it. Raises StoreError if it does not fit.

    By default float16 if all of the source is that, else float32.
    """
    stored = np.dtype(dtype or ("float16" if surveyed.dtype == np.float16 else "float32"))
    if surveyed.largest > float(np.finfo(stored).max):
        raise StoreError(
            f"{source.files[0][1]}: holds values up to {surveyed.largest:.4g}, more than {stored} can; "
            f"{'import them as float32: --dtype float32' if stored == np.float16 else 'scale the features'}"
        )
    narrower = np.result_type(stored, surveyed.dtype) != stored
    return stored, [f"the source's {surveyed.dtype} values are stored as {stored}"] * narrower


def match(
    ids: Sequence[str], source: Source, spellings: Callable[[str], Iterator[str]], skip_unknown: bool
) -> list[str | None]:
    """Of each of a store's videos the id that the source has for it, None where it has none.

    Raises StoreError if none matches, if an id may mean two videos, or, without `skip_unknown`, if the
    source has other videos.
    """
    there = set(source.ids)
    found = [next((name for name in spellings(video) if name in there), None) for video in ids]
    where = source.files[0][1]
    meant: dict[str, str] = {}
    for video, name in zip(ids, found, strict=True):
        if name is not None and meant.setdefault(name, video) != video:
            raise StoreError(f"{where}: {name!r} may mean {meant[name]!r} or {video!r}; rename one of them")
    unknown = [name for name in source.ids if name not in meant]
    if not meant:
        raise StoreError(
            f"{where}: has none of the store's videos; its ids are like {_some(source.ids)}, "
            f"the store's like {_some(ids)}"
        )
    if unknown and not skip_unknown:
        raise ImportUsageError(
            f"{where}: has {len(unknown)} videos that the store does not know, e.g. {_some(unknown)}; "
            "--skip-unknown leaves them out"
        )
    return found


def _some(ids: Sequence[str]) -> str:
    return ", ".join(map(repr, ids[:IDS_SHOWN]))


def digest_files(source: Source, show: Show) -> str:
    """SHA-256 of a source: of its file, or of what `sha256sum` prints of its files in order of their names."""
    lines = []
    for number, (name, path) in enumerate(sorted(source.files), 1):
        lines.append((file_digest(path), name))
        show("digesting", number, len(source.files))
    if len(lines) == 1:
        return lines[0][0]
    return hashlib.sha256("".join(f"{digest}  {name}\n" for digest, name in lines).encode()).hexdigest()
