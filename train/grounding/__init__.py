"""Temporal grounding: one file a system; here, how the parameters of an official model become ours."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping

from torch import Tensor, nn


def take_official(
    model: nn.Module, state: Mapping[str, Tensor], official_name: Callable[[str], str], unused: Collection[str] = ()
) -> None:
    """Give a model the parameters of an official one.

    Args:
        model: of the sizes that `state` has. Kernels of one step may have fewer dimensions than the official ones.
        state: the official state dict.
        official_name: what the official code calls a parameter of ours.
        unused: beginnings of official names that no output depends on.

    Raises ValueError, with official names, if some are missing, unexpected or of another size.
    """
    own = {official_name(name): name for name in model.state_dict() if not _is_counter(name)}
    given = {name for name in state if not _is_counter(name) and not name.startswith(tuple(unused))}
    missing, unexpected = sorted(own.keys() - given), sorted(given - own.keys())
    if missing or unexpected:
        raise ValueError(
            f"these are not the parameters of an official {type(model).__name__}: "
            f"missing {missing or 'none'}, unexpected {unexpected or 'none'}"
        )
    ours = model.state_dict()
    for official, name in own.items():
        shape = ours[name].shape
        if state[official].numel() != shape.numel():
            raise ValueError(f"{official} is {tuple(state[official].shape)}, where the other sizes ask {tuple(shape)}")
        ours[name] = state[official].reshape(shape)
    model.load_state_dict(ours)


def size(state: Mapping[str, Tensor], name: str, dim: int = 0) -> int:
    """The length of an official parameter along a dimension. Raises ValueError if there is no such parameter."""
    if name not in state or state[name].ndim <= dim:
        raise ValueError(f"missing {name} among the official parameters: {sorted(state)[:5]}, ...")
    return state[name].shape[dim]


def layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many layers official names count, from 0 on, where the group of the pattern is; at least 1."""
    return 1 + max((int(found[1]) for name in state if (found := re.match(pattern, name))), default=0)


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")
