"""The order of training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import split_of
from torch import Generator, Tensor

from train import TrainError
from train.batches import PairBatches, step_seed
from train.tasks.base import Inputs, NoLabels


class Indices:
    """Gives back what it is asked for."""

    def batch(self, items: Tensor, generator: Generator | None = None) -> Inputs:
        return (items, torch.rand(2, generator=generator) if generator else torch.zeros(0))


def batches(video_of: list[int], **options: Any) -> PairBatches:
    return PairBatches(split_of(video_of), Indices(), Indices(), NoLabels(), **{"size": 3, "seed": 0, **options})


def pairs(made: PairBatches, first: int, stop: int) -> list[list[list[int]]]:
    return [[side.tolist() for side in made.pairs(step)] for step in range(first, stop)]


CAPTIONS = st.lists(st.integers(0, 5), min_size=2, max_size=23)


@given(CAPTIONS, st.integers(2, 5), st.integers(0, 9))
def test_every_caption_comes_once_an_epoch_with_its_video(video_of: list[int], size: int, seed: int) -> None:
    made = batches(video_of, size=size, seed=seed)
    for epoch in range(2):
        drawn = pairs(made, epoch * len(made), (epoch + 1) * len(made))
        captions = [caption for _, chosen in drawn for caption in chosen]
        assert len(set(captions)) == len(captions)
        assert len(video_of) - len(captions) <= (1 if len(video_of) % size == 1 else 0)  # one alone makes no batch
        assert all(video == [video_of[each] for each in chosen] for video, chosen in drawn)


@given(CAPTIONS.filter(lambda each: len(set(each)) > 1), st.integers(2, 9), st.integers(0, 9))
def test_every_video_comes_once_before_any_comes_again(video_of: list[int], size: int, seed: int) -> None:
    made = batches(video_of, size=size, seed=seed, draw="videos", steps=7)
    drawn = pairs(made, 0, 21)
    videos = [video for chosen, _ in drawn for video in chosen]
    captioned = set(video_of)
    for first in range(0, len(videos) - len(captioned) + 1, len(captioned)):
        assert set(videos[first : first + len(captioned)]) == captioned
    assert all(video == [video_of[each] for each in chosen] for video, chosen in drawn)


def test_every_caption_of_a_video_is_drawn() -> None:
    made = batches([0, 0, 0, 1], size=2, draw="videos", steps=50)
    assert {caption for _, chosen in pairs(made, 0, 50) for caption in chosen} == {0, 1, 2, 3}


@given(
    st.lists(st.integers(0, 9), min_size=12, max_size=40), st.sampled_from(["captions", "videos"]), st.integers(2, 3)
)
def test_the_shares_of_several_processes_are_together_the_batch_of_one(
    video_of: list[int], draw: str, ranks: int
) -> None:
    if len(set(video_of)) < 2:
        return
    options = {"draw": draw, "steps": 4 if draw == "videos" else None}
    one = batches(video_of, size=2 * ranks, **options)
    shares = [batches(video_of, size=2, rank=rank, ranks=ranks, **options) for rank in range(ranks)]
    assert len({len(share) for share in shares}) == 1
    for step in range(len(shares[0])):
        whole, parts = one.pairs(step), [share.pairs(step) for share in shares]
        for side in range(2):
            assert all(len(part[side]) == 2 for part in parts)
            assert torch.equal(torch.stack([part[side] for part in parts], dim=1).flatten(), whole[side])


def test_batches_follow_from_the_seed() -> None:
    video_of = list(range(20))
    for draw in ("captions", "videos"):
        runs = [pairs(batches(video_of, seed=seed, draw=draw), 0, 12) for seed in (0, 0, 1)]
        assert runs[0] == runs[1]
        assert runs[0] != runs[2]


def test_epochs_differ() -> None:
    for draw in ("captions", "videos"):
        made = batches(list(range(21)), draw=draw)
        assert pairs(made, 0, 7) != pairs(made, 7, 14)


@pytest.mark.parametrize("draw", ["captions", "videos"])
def test_from_any_step_on_batches_are_the_same_rest(draw: str) -> None:
    """Also what is left to chance within a batch."""
    video_of = [number // 2 for number in range(22)]

    def taken(first: int) -> list[Any]:
        made = batches(video_of, draw=draw)
        made.step = first
        whole = []
        while made.step < 3 * len(made):
            whole += [[each.tolist() for side in batch for each in side] for batch in made]
        return whole

    whole = taken(0)
    assert len(whole) == 3 * len(batches(video_of, draw=draw))
    for first in range(len(whole)):
        assert taken(first) == whole[first:]


def test_where_pairs_are_not_told_apart_one_is_a_batch() -> None:
    made = batches([0, 1, 2, 3], size=3, least=1)
    assert [len(captions) for _, captions in pairs(made, 0, len(made))] == [3, 1]
    assert len(batches([0], size=3, least=1)) == 1
    assert len(batches([0, 1, 2, 3], size=3)) == 1


def test_what_makes_no_batch_is_told() -> None:
    with pytest.raises(TrainError, match="but one of its captions"):
        batches([0])
    with pytest.raises(TrainError, match="3 captions make no batch of 2 for each of 2"):
        batches([0, 1, 2], size=2, ranks=2)


def test_steps_and_processes_have_seeds_of_their_own() -> None:
    seeds = [step_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)]
    assert len(set(seeds)) == len(seeds)
