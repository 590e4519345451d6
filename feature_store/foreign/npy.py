"""NumPy files, one a video: `<video>.npy`, as LGI, VSLNet and VATEX publish I3D, and our own export to npy;
`<video>.npz` with an array "features", as moment_detr and those after it publish SlowFast and CLIP.

Arrays are (n, dim); those of VATEX are (1, n, dim). Our own exports also tell times, statuses and
provenance: see `feature_store.export_formats`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from feature_store.foreign.names import safe_name
from feature_store.foreign.source import (
    VIDEO_BYTES,
    ImportUsageError,
    Rows,
    Source,
    check_ids,
    choose,
    find_files,
    one_file_a_video,
)
from feature_store.layout import StoreError, VideoStatus

INDEX = "index.json"
TIMES = ".times.npy"
NPZ = ".npz"
FEATURES = "features"  # the array of moment_detr, QD-DETR, UniVTG and Lighthouse

_statuses = TypeAdapter(dict[str, VideoStatus])


def open_npy(paths: Sequence[Path], key: str | None, expert: str) -> Source:
    """Open a folder of such files, or an export to npy, of which `key` names the expert if `expert` does not."""
    if len(paths) == 1 and (paths[0] / INDEX).is_file():
        return _open_export(paths[0], key, expert)
    if key is not None and not any(path.suffix.lower() == NPZ for _, path in find_files(paths, (".npy", NPZ))):
        raise ImportUsageError(f"--key {key}: is for exports of Reelcache and .npz; these files hold one feature")

    def read(path: Path) -> Rows:
        return Rows(_without_batch(load_npz(path, key) if path.suffix.lower() == NPZ else load_array(path)))

    return one_file_a_video(paths, (".npy", NPZ), read)


def load_array(path: Path) -> np.ndarray:
    """An array, mapped. Raises StoreError if it is damaged, or holds objects."""
    try:
        return np.lib.format.open_memmap(path, mode="r")  # np.load would take other formats, too
    except FileNotFoundError:
        raise StoreError(f"{path}: is gone, or was never there; bring it back, or export again") from None
    except Exception as error:  # whatever a damaged or hostile header sets off
        raise StoreError(f"{path}: not a NumPy array of numbers ({error}); it may be cut off") from error


def load_npz(path: Path, key: str | None) -> np.ndarray:
    """The array `key` of a .npz file, by default "features" or the only one.

    Raises StoreError if it is damaged, or holds objects; ImportUsageError where it does not tell which one is meant.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = arrays.files
            name = choose(names, key or (FEATURES if FEATURES in names else None), FEATURES, str(path))
            if arrays.zip.getinfo(f"{name}.npy").file_size > VIDEO_BYTES:
                raise StoreError(f"{path}: {name} is larger than any video's features; the file is damaged")
            array: np.ndarray = arrays[name]
            return array
    except StoreError:
        raise
    except Exception as error:  # whatever a damaged or hostile file sets off
        raise StoreError(f"{path}: not a .npz file of NumPy arrays of numbers ({error})") from error


def _without_batch(values: np.ndarray) -> np.ndarray:
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def _open_export(folder: Path, key: str | None, expert: str) -> Source:
    experts = _experts(folder / INDEX)
    key = choose(experts, key, expert, str(folder))
    statuses = _checked(experts[key], folder / INDEX)
    check_ids((video, str(folder / INDEX)) for video in statuses)
    below = folder / safe_name(key)  # by our own rule: what an index says never becomes a path
    files = [(INDEX, folder / INDEX)]
    for video, status in statuses.items():
        if status.rows:
            files += [(path.name, path) for path in (below / f"{safe_name(video)}.npy", below / _times_name(video))]

    def read(video: str) -> Rows:
        status = statuses[video]
        if not status.rows:
            return Rows(np.empty((0, int(experts[key]["dim"])), np.float32), np.empty((0, 2)), status=status)
        values = load_array(below / f"{safe_name(video)}.npy")
        if len(values) != status.rows:
            raise StoreError(f"{below}, video {video!r}: {len(values)} rows; {INDEX} says {status.rows}")
        return Rows(values, load_array(below / _times_name(video)), status=status)

    return Source(
        ids=tuple(statuses),
        files=tuple(files),
        read=read,
        place=lambda video: str(below / f"{safe_name(video)}.npy"),
        identity=experts[key]["identity"],
    )


def _times_name(video: str) -> str:
    return f"{safe_name(video)}{TIMES}"


def _experts(index: Path) -> dict[str, Any]:
    try:
        document = json.loads(index.read_bytes())
        if document["format"] == "npy" and document["complete"]:
            experts = document["experts"]
            if experts and all(isinstance(each["identity"], dict) and each["dim"] > 0 for each in experts.values()):
                return dict(experts)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"{index}: not the index of an export ({error})") from error
    raise StoreError(f"{index}: not the index of a finished export to npy; export again")


def _checked(expert: Mapping[str, Any], index: Path) -> dict[str, VideoStatus]:
    try:
        return _statuses.validate_python({video["id"]: video for video in expert["videos"]})
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{index}: its videos are damaged ({error})") from error
