"""Published features, written from the descriptions of their formats, with made-up values."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

Corpus = dict[str, np.ndarray]


def corpus(dim: int = 4, dtype: str = "float32") -> Corpus:
    """Three videos, with ids that formats stumble over."""
    random = np.random.default_rng(7)
    lengths = {"video7": 3, "-4wsuPCjDBc_5_15": 12, "video10": 1}
    return {video: random.normal(size=(rows, dim)).astype(dtype) for video, rows in lengths.items()}


def write_bigfile(folder: Path, videos: Corpus) -> Path:
    """Rows of all videos in any order, each with the id <video>_<frame number>."""
    rows = [(f"{video}_{5 * frame}", row) for video, values in videos.items() for frame, row in enumerate(values)]
    order = np.random.default_rng(1).permutation(len(rows))
    folder.mkdir(parents=True)
    with open(folder / "feature.bin", "wb") as file:
        for place in order:
            for value in rows[place][1].tolist():
                file.write(np.float32(value).tobytes())
    dim = next(iter(videos.values())).shape[1]
    (folder / "shape.txt").write_text(f"{len(rows)} {dim}\n")
    (folder / "id.txt").write_text(" ".join(rows[place][0] for place in order), encoding="iso-8859-1")
    return folder


def write_mmt(folder: Path, videos: Corpus, expert: str = "s3d", times: Mapping[str, np.ndarray] | None = None) -> Path:
    """A file a video, three folders deep, captions beside the features."""
    for video, values in videos.items():
        below = folder / video[0] / video[1] / video[2]
        below.mkdir(parents=True, exist_ok=True)
        with h5py.File(below / f"{video}.h5", "w") as file:
            file["raw_captions.0"] = np.array([b"a", b"dog"])
            file[f"features.{expert}"] = values
            if times is not None:
                file[f"features_t.{expert}"] = times[video]
    return folder


def write_pickle(path: Path, content: Any, protocol: int = 2) -> Path:
    path.write_bytes(pickle.dumps(content, protocol))
    return path


def write_hdf5(path: Path, videos: Mapping[str, Any], inner: str | None = None) -> Path:
    """A dataset a video, or a group with the dataset `inner`."""
    with h5py.File(path, "w") as file:
        for video, values in videos.items():
            if inner:
                file.create_group(video)[inner] = values
            else:
                file[video] = values
    return path


def write_tensors(folder: Path, videos: Mapping[str, Any]) -> Path:
    folder.mkdir()
    for video, values in videos.items():
        torch.save(torch.from_numpy(values) if isinstance(values, np.ndarray) else values, folder / f"{video}.pt")
    return folder


def write_npy(folder: Path, videos: Corpus) -> Path:
    folder.mkdir()
    for video, values in videos.items():
        np.save(folder / f"{video}.npy", values)
    return folder
