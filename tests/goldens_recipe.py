"""Parameters that anyone can draw again from their names: the recipe of the goldens of video networks."""

from __future__ import annotations

import zlib

import numpy as np
import torch


def parameter(name: str, shape: list[int]) -> torch.Tensor:
    """A parameter or buffer by the recipe in the goldens' meta/json."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("running_mean"):
        low, high = -0.1, 0.1
    elif name.endswith("running_var") or ("bn" in name and name.endswith("weight")):
        low, high = 0.5, 1.5
    elif len(shape) == 1:
        low, high = -0.05, 0.05
    else:
        high = np.sqrt(6 / np.prod(shape[1:]))
        low = -high
    return torch.from_numpy(random.uniform(low, high, shape).astype(np.float32))
