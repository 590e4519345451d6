"""From what training scripts save to the state dict of a network: wrappers and prefixes of names off, then checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

# Under which keys scripts keep the state dict beside the optimiser's, the epoch, ...
WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "ema_state_dict")
# What DataParallel, torch.compile, Lightning and others put in front of every name.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.")
SHOWN = 3  # names of a kind in a message


def state_of(content: Any, names: Collection[str]) -> dict[str, Tensor]:
    """The state dict in a checkpoint, for a network whose parameters are called `names`.

    A prefix that all names carry goes where, with it, none of them is the network's. Raises ValueError if there is no
    state dict in it.
    """
    while isinstance(content, Mapping):
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise ValueError("there is no state dict of a network in it")
    state = {str(name): value for name, value in content.items()}
    while not state.keys() & set(names):
        prefix = next((each for each in PREFIXES if all(name.startswith(each) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def fill(network: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state dict. Raises ValueError, in a line or two, if it is not that of the network."""
    own = network.state_dict()
    optional = {name for name in own if name.endswith("num_batches_tracked")}  # old checkpoints have none
    lacking = [name for name in own if name not in state and name not in optional]
    strange = [name for name in state if name not in own]
    other = [
        f"{name} {tuple(state[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if isinstance(state.get(name), Tensor) and state[name].shape != own[name].shape
    ]
    problems = [
        f"{what} ({_some(names)})"
        for what, names in (
            (f"it lacks {len(lacking)} of the network's {len(own)} parameters", lacking),
            (f"has {len(strange)} that the network does not have", strange),
            (f"has {len(other)} of another shape", other),
        )
        if names
    ]
    if problems:
        raise ValueError(", ".join(problems) + ": it is of another network, or of other options")
    network.load_state_dict({**{name: own[name] for name in optional}, **state})


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
