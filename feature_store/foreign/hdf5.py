"""Our own export to HDF5, read back: `<expert>.h5`, a group a video with `features` and `times`.

Layout and attributes are described in `feature_store.export_formats`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from feature_store.foreign.hdf5_files import SUFFIXES, child, has, open_file, read_dataset, reading
from feature_store.foreign.source import Rows, Source, check_ids, choose, find_files
from feature_store.layout import StoreError, VideoStatus

_status = TypeAdapter(VideoStatus)


def open_hdf5(paths: Sequence[Path], key: str | None, expert: str) -> Source:
    """Open an export to HDF5, a file or the folder, of which `key` names the expert if `expert` does not."""
    experts = {}
    for name, path in find_files(paths, SUFFIXES):
        with open_file(path) as file:
            experts[_attribute(file, "expert", path)] = (name, path)
    return _open(*experts[choose(experts, key, expert, str(paths[0]))])


def _open(name: str, path: Path) -> Source:
    file = open_file(path)
    try:
        identity = json.loads(_attribute(file, "provenance", path))
        dim = int(identity["dim"])
        statuses = _statuses(file, path)
        check_ids((video, str(path)) for video in statuses)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        file.close()
        raise StoreError(f"{path}: its attributes are damaged ({error})") from error
    except BaseException:  # whatever it is goes on, but the file is not left open
        file.close()
        raise

    def read(video: str) -> Rows:
        member, status = statuses[video]
        if not status.rows:
            return Rows(np.empty((0, dim), np.float32), np.empty((0, 2)), status=status)
        group = child(file, member, path)
        where = f"{path}, video {video!r}"
        values, times = (_dataset(group, each, where, path) for each in ("features", "times"))
        if len(values) != status.rows:
            raise StoreError(f"{where}: {len(values)} rows; its status says {status.rows}")
        return Rows(values, times, status=status)

    return Source(tuple(statuses), ((name, path),), read, lambda video: str(path), file.close, identity=identity)


def _statuses(file: Any, path: Path) -> Mapping[str, tuple[str, VideoStatus]]:
    """Of every video the name of its group, and how it went."""
    found = {}
    with reading(path):
        names = list(file)
    for name in names:
        text = _attribute(child(file, name, path), "status", path)
        status = _status.validate_python(json.loads(text))
        if status.id in found:
            raise StoreError(f"{path}: video {status.id!r} stands twice")
        found[status.id] = (name, status)
    return found


def _dataset(group: Any, name: str, where: str, path: Path) -> np.ndarray:
    import h5py  # here, since most commands on a store do without it

    if not isinstance(group, h5py.Group) or not has(group, name, path):
        raise StoreError(f"{where}: there is no dataset {name!r}")
    dataset = child(group, name, path)
    if not isinstance(dataset, h5py.Dataset):
        raise StoreError(f"{where}: {name!r} is not a dataset")
    return read_dataset(dataset, f"{where}, {name}", path)


def _attribute(node: Any, name: str, path: Path) -> str:
    with reading(path):
        value = node.attrs.get(name)
    if not isinstance(value, str):
        raise StoreError(f"{path}: no export of Reelcache: it lacks the attribute {name!r}")
    return value
