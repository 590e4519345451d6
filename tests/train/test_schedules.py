"""How the learning rate falls."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import MultiStepLR, ReduceLROnPlateau

from train.recipe import Schedule
from train.training import learning_rate


@pytest.mark.parametrize(
    ("rsums", "cuts"),
    [
        ([], 0),
        ([100.0], 0),
        ([100.0, 101.0, 102.0, 103.0, 104.0], 0),
        ([100.0, 90.0], 0),  # two epochs since the beginning
        ([100.0, 90.0, 90.0], 1),  # three, and no better
        ([100.0, 90.0, 101.0], 0),  # three, but better
        ([100.0, 101.0, 102.0, 102.0], 1),  # as good is not better
        ([100.0, 90.0, 90.0, 90.0, 90.0], 1),  # the next no sooner than three epochs later
        ([100.0, 90.0, 90.0, 90.0, 90.0, 90.0], 2),
        ([100.0, 90.0, 90.0, 101.0, 102.0, 103.0, 90.0], 2),
    ],
)
def test_the_rate_falls_each_epoch_and_is_halved_when_validation_does_not_improve(
    rsums: list[float], cuts: int
) -> None:
    schedule = Schedule(decay=0.99, halve=0.5, wait=3)
    assert learning_rate(1e-4, schedule, len(rsums), rsums) == pytest.approx(1e-4 * 0.99 ** len(rsums) * 0.5**cuts)


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 4))
def test_a_plateau_cuts_as_pytorch_does(rsums: list[int], patience: int) -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    plateau = ReduceLROnPlateau(optimizer, mode="max", factor=0.8, patience=patience, threshold=0)
    for rsum in rsums:
        plateau.step(rsum)
    schedule = Schedule(halve=0.8, patience=patience, wait=1)
    assert learning_rate(0.1, schedule, 0, rsums) == pytest.approx(optimizer.param_groups[0]["lr"])


def test_milestones_drop_as_pytorch_does() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    steps = MultiStepLR(optimizer, [2, 5], gamma=0.1)
    for epoch in range(8):
        schedule = Schedule(milestones=(2, 5))
        assert learning_rate(0.1, schedule, epoch, [0.0] * epoch) == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        steps.step()
