"""Numbers of official models: read from REELCACHE_GOLDENS, by default from the copies beside the tests."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Model = TypeVar("Model", bound=nn.Module)

GOLDENS = Path(os.environ.get("REELCACHE_GOLDENS", Path(__file__).parent / "goldens"))


def read_golden(name: str) -> dict[str, Tensor]:
    with np.load(GOLDENS / f"{name}.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def read_meta(golden: Mapping[str, Tensor]) -> dict[str, Any]:
    return json.loads(golden["meta/json"].numpy().tobytes())


def parameters(golden: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The official state dict."""
    return {name.removeprefix("param/"): tensor for name, tensor in golden.items() if name.startswith("param/")}


def without_dropout(model: Model) -> Model:
    """The model with every dropout at 0, as the numbers of training were made."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.MultiheadAttention):
            module.dropout = 0.0
    return model


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> None:
    assert ((ours - theirs).abs() <= tolerance * theirs.abs().clamp(min=1)).all(), (ours - theirs).abs().max()
