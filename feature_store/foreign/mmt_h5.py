"""The features of MMT: `mult_h5/<v0>/<v1>/<v2>/<video>.h5`, a file a video, all its experts in it.

    features.<expert>     (n, dim)
    features_t.<expert>   (n, 2) seconds, of which MMT uses those of s3d and vggish

A video lacks an expert if the key is not there, or the array is empty or begins with NaN. Of other experts
MMT makes the times up from fixed widths, or takes them for unknown.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from feature_store.foreign.hdf5_files import SUFFIXES, child, has, open_file, read_dataset, reading
from feature_store.foreign.source import Rows, Source, no_rows, one_file_a_video
from feature_store.layout import StoreError

WIDTHS = MappingProxyType({"rgb": 0.2, "scene": 1.0})  # seconds a row, one after the other
UNTIMED = ("face", "ocr", "speech")  # their rows have no times in MMT


def open_mmt_h5(paths: Sequence[Path], key: str | None, expert: str) -> Source:
    """Open a folder of such files; `key` is the expert's name in them, where it is not `expert`."""
    name = key or expert

    def read(path: Path) -> Rows:
        with open_file(path) as file:
            return _read(file, path, name)

    return one_file_a_video(paths, SUFFIXES, read, WIDTHS.get(name))


def _read(file: Any, path: Path, key: str) -> Rows:
    import h5py  # here, since most commands on a store do without it

    name = f"features.{key}"
    if not has(file, name, path):
        return no_rows(f"its file has no {name}")
    dataset = child(file, name, path)
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"{path}: {name} is not a dataset")
    where = f"{path}, {name}"
    if dataset.size is not None and dataset.size <= 1 and not (dataset.is_virtual or dataset.external):
        with reading(path):
            if not dataset.size or np.isnan(dataset[()]).all():
                return no_rows(f"{name} is empty")
    values = read_dataset(dataset, where, path)
    if np.isnan(values.flat[0]):
        return no_rows(f"{name} is NaN")
    return Rows(values, _times(file, path, key))


def _times(file: Any, path: Path, key: str) -> np.ndarray | None:
    """The times of rows, where MMT uses what is stored of them."""
    name = f"features_t.{key}"
    if key in WIDTHS or key in UNTIMED or not has(file, name, path):
        return None
    return read_dataset(child(file, name, path), f"{path}, {name}", path)
