"""What training scripts save around a state dict comes off; what is of another network is told in a line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from extractors import find_expert, load_expert
from extractors.checkpoints import fill, state_of
from extractors.weights import WeightsError

State = dict[str, Tensor]


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "as it is": lambda state: state,
    "DataParallel": prefixed("module."),
    "torch.compile": prefixed("_orig_mod."),
    "DataParallel of torch.compile": prefixed("module._orig_mod."),
    "Lightning": lambda state: {"state_dict": prefixed("model.")(state), "epoch": 3, "optimizer_states": []},
    "timm": lambda state: {"model": state, "args": {"lr": 0.1}},
    "torchvision's references": lambda state: {"model": prefixed("module.")(state), "optimizer": {}, "epoch": 2},
    "pytorchvideo": lambda state: {"model_state": state, "cfg": "..."},
    "beside a tensor": lambda state: {"state_dict": prefixed("module.")(state), "best": torch.tensor(71.0)},
    "twice": lambda state: {"model": {"state_dict": state}},
}


@pytest.mark.parametrize("how", WRAPPED)
def test_wrappers_and_prefixes_come_off(how: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    saved, network = small().state_dict(), small()
    torch.save(WRAPPED[how](saved), tmp_path / "w.pth")
    content = torch.load(tmp_path / "w.pth", weights_only=True)
    fill(network, state_of(content, network.state_dict().keys()))
    assert all(torch.equal(network.state_dict()[name], tensor) for name, tensor in saved.items())


def test_a_network_whose_own_names_begin_like_a_prefix_keeps_them() -> None:
    network = nn.ModuleDict({"model": small(), "net": nn.Linear(2, 2)})
    assert state_of(network.state_dict(), network.state_dict().keys()).keys() == network.state_dict().keys()


def test_a_prefix_that_only_some_names_carry_stays() -> None:
    state = {"module.0.weight": torch.zeros(1), "1.weight": torch.zeros(1)}
    assert state_of(state, ["0.weight"]) == state


def test_counts_of_batches_may_be_missing() -> None:
    network = small()
    state = {name: value for name, value in network.state_dict().items() if "num_batches" not in name}
    fill(network, state)


@pytest.mark.parametrize("content", [{}, [], {"epoch": 3}, {"state_dict": {}}, {"state_dict": {"a": 3}}, 7, None])
def test_what_holds_no_state_dict_is_refused(content: Any) -> None:
    with pytest.raises(ValueError, match="there is no state dict of a network in it"):
        state_of(content, ["a"])


def test_another_networks_parameters_are_told_in_short() -> None:
    network = small()
    state = {**network.state_dict(), "0.weight": torch.zeros(9, 3, 1, 1), "extra": torch.zeros(1)}
    del state["2.bias"], state["1.weight"]
    with pytest.raises(ValueError, match="it lacks 2") as error:
        fill(network, state)
    assert str(error.value) == (
        "it lacks 2 of the network's 9 parameters (1.weight, 2.bias), has 1 that the network does not have (extra), "
        "has 1 of another shape (0.weight (9, 3, 1, 1) for (4, 3, 1, 1)): it is of another network, or of other options"
    )


def test_weights_of_a_data_parallel_model_load_and_those_of_another_are_told_in_short(tmp_path: Path) -> None:
    (expert,) = [find_expert("vggish")]
    state = load_expert(expert, "random").network.state_dict()
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, tmp_path / "vggish-10086976.pth")
    loaded = load_expert(expert, str(tmp_path)).network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in state.items())
    torch.save({f"other.{name}": tensor for name, tensor in state.items()}, tmp_path / "vggish-10086976.pth")
    with pytest.raises(WeightsError) as error:
        load_expert(expert, str(tmp_path))
    assert "it lacks" in str(error.value) and len(str(error.value)) < 700
