"""The features of DRN and others: `<video>.pt`, a file a video, each a tensor (n, dim) saved by torch.save.

Files are read as plain tensors: whatever else a file wants to be is refused, and runs nothing.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from feature_store.foreign.source import VIDEO_BYTES, ImportUsageError, Rows, Source, one_file_a_video
from feature_store.layout import StoreError


def open_drn_pt(paths: Sequence[Path], key: str | None, expert: str) -> Source:
    """Open a folder of such files."""
    if key is not None:
        raise ImportUsageError(f"--key {key}: a .pt file holds one feature")
    return one_file_a_video(paths, (".pt", ".pth"), _read)


def _read(path: Path) -> Rows:
    import torch  # here, since most commands on a store do without it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns of, it also refuses
            tensor = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise anything
        # PyTorch's own message says how to run what the file carries
        raise StoreError(
            f"{path}: not a tensor: it is damaged, or carries other things ({type(error).__name__})"
        ) from error
    if not isinstance(tensor, torch.Tensor):
        raise StoreError(f"{path}: holds a {type(tensor).__name__}, not one tensor")
    if not tensor.is_floating_point() or (tensor.layout, tensor.device.type) != (torch.strided, "cpu"):
        raise StoreError(f"{path}: holds a tensor of {tensor.layout} {tensor.dtype}, not a plain one of floats")
    if math.prod(tensor.shape) * tensor.itemsize > VIDEO_BYTES:  # strides of zero make large ones of small files
        raise StoreError(f"{path}: claims the shape {tuple(tensor.shape)}, which no video has; the file is damaged")
    tensor = tensor.detach()
    wider = tensor if tensor.dtype in (torch.float16, torch.float32, torch.float64) else tensor.float()
    return Rows(np.ascontiguousarray(wider.numpy()))
