"""Temporal grounding: one file a system; here, how sizes are read from official parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor


def official_size(state: Mapping[str, Tensor], name: str, dim: int = 0) -> int:
    """The length of an official parameter along a dimension. Raises ValueError if there is no such parameter."""
    if name not in state or state[name].ndim <= dim:
        raise ValueError(f"not an official model: {name} is missing, or has no dimension {dim}")
    return state[name].shape[dim]


def official_layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many layers official names count, from 0 on, where the group of the pattern is; at least 1."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=0)
