"""The features of Collaborative Experts and of the CVPR 2020 challenge: a pickle {video: array} an expert.

    aggregated_imagenet_25fps_256px_stride1_offset0/senet154-avg.pickle   (2048,) a video, averaged
    aggregated_ocr_feats/ocr-raw.pickle                                   (n, 300) a video

A video lacks the expert where its value is NaN, or an array of NaN. An average becomes one row. Pickles
are read by `unpickling`, which runs nothing; a whole pickle is in memory while it is read from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from feature_store.foreign.source import ImportUsageError, Rows, Source, check_ids, find_files, no_rows
from feature_store.foreign.unpickling import PickledArray, load_arrays
from feature_store.layout import StoreError


def open_ce_pickle(paths: Sequence[Path], key: str | None, expert: str) -> Source:
    """Open such pickles; several, e.g. of the splits of a corpus, hold different videos."""
    if key is not None:
        raise ImportUsageError(f"--key {key}: a pickle holds one feature")
    files = find_files(paths, (".pickle", ".pkl"))
    values: dict[str, tuple[Any, Path]] = {}
    ids: list[tuple[str, str]] = []
    for _, path in files:
        content = _load(path)
        ids += [(video, str(path)) for video in content]
        values |= {video: (value, path) for video, value in content.items()}
    check_ids(ids)

    def read(video: str) -> Rows:
        value, path = values[video]
        return _rows(value, f"{path}, video {video!r}")

    return Source(tuple(values), tuple(files), read, lambda video: str(values[video][1]))


def _load(path: Path) -> dict[str, Any]:
    content = load_arrays(path)
    if not isinstance(content, dict):
        raise StoreError(f"{path}: holds a {type(content).__name__}, not a dict of videos")
    if not content:
        raise StoreError(f"{path}: holds no videos")
    for video in content:
        if type(video) is not str:
            raise StoreError(f"{path}: {video!r:.80} is no video id: keys must be text")
    return content


def _rows(value: Any, where: str) -> Rows:
    if isinstance(value, float | np.floating) and np.isnan(value):
        return no_rows("its value is NaN")
    if not isinstance(value, PickledArray):
        raise StoreError(f"{where}: a {type(value).__name__}, not an array; this pickle holds no features")
    array = value.array
    if array.dtype.kind == "f" and np.isnan(array).all():
        return no_rows("its array is NaN" if array.size else "its array is empty")
    return Rows(array[None] if array.ndim == 1 else array)  # (dim,) -> (1, dim)
