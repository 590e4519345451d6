"""Parameters of the authors' released models, taken by their official names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

COUNTER = "num_batches_tracked"  # of batch normalisation, which uses no such count here


def take_official(
    model: nn.Module,
    state: Mapping[str, Tensor],
    names: Callable[[str], Sequence[str]],
    left_out: Collection[str] = (),
) -> None:
    """Load an official state dict.

    Args:
        names: what the official code calls a parameter of ours: one tensor, or several that are one here.
        left_out: how the official names begin that no output depends on, or that stand twice.

    Raises ValueError naming what is missing, unexpected, or of a size that does not fit.
    """
    given = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(left_out))}
    given = {name: tensor for name, tensor in given.items() if not name.endswith(COUNTER)}
    own = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(COUNTER)}
    expected = {official for name in own for official in names(name)}
    missing, unexpected = sorted(expected - given.keys()), sorted(given.keys() - expected)
    if missing or unexpected:
        raise ValueError(
            f"not an official {type(model).__name__} model: missing {_few(missing)}; unexpected {_few(unexpected)}"
        )
    taken = {name: torch.cat([given[official] for official in names(name)]) for name in own}
    wrong = [f"{names(name)[0]} is {tuple(taken[name].shape)}" for name in own if taken[name].shape != own[name].shape]
    if wrong:
        raise ValueError(
            f"not an official {type(model).__name__} model: sizes that do not fit the others: {_few(wrong)}"
        )
    model.load_state_dict(taken, strict=False)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "nothing") + more
