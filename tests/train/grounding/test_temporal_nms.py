"""Suppression against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from official_numbers import read_golden
from train import TrainError
from train.grounding.nms import temporal_nms

Segment = tuple[float, float]


def greedy(segments: list[Segment], scores: list[float], threshold: float, top_k: int) -> list[int]:
    """One list at a time, one pair at a time."""
    left = sorted((place for place in range(len(scores)) if scores[place] > -math.inf), key=lambda p: -scores[p])
    picks: list[int] = []
    while left and len(picks) < top_k:
        best = left.pop(0)
        picks.append(best)
        left = [place for place in left if not overlap(segments[best], segments[place]) > threshold]
    return picks + [-1] * (top_k - len(picks))


def overlap(one: Segment, other: Segment) -> float:
    shared = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    union = one[1] - one[0] + other[1] - other[0] - shared
    return shared / union if union else 0


ends = st.tuples(st.integers(0, 12), st.integers(0, 12)).map(lambda pair: (float(min(pair)), float(max(pair))))
scores = st.one_of(st.integers(0, 4).map(float), st.just(-math.inf))


@given(st.lists(st.tuples(ends, scores), min_size=1, max_size=30), st.sampled_from([0, 0.25, 0.4, 0.5, 1]))
def test_picks_are_those_of_a_plain_loop(items: list[tuple[Segment, float]], threshold: float) -> None:
    """Also with equal scores, points, overlaps of exactly the threshold, and places that must not be picked."""
    segments, given_scores = map(list, zip(*items, strict=True))
    picks = temporal_nms(torch.tensor(segments), torch.tensor([given_scores]), threshold, 6)
    assert picks.tolist() == [greedy(segments, given_scores, threshold, 6)]


@given(st.integers(0, 99), st.booleans())
def test_lists_of_a_batch_do_not_change_one_another(seed: int, shared: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    segments = torch.rand(20, 2, generator=generator) if shared else torch.rand(4, 20, 2, generator=generator)
    segments = segments.sort(dim=-1).values
    scores = torch.rand(4, 20, generator=generator)
    together = temporal_nms(segments, scores, 0.3, 8)
    for number in range(4):
        alone = temporal_nms(segments if shared else segments[number], scores[number : number + 1], 0.3, 8)
        assert torch.equal(together[number], alone[0])
        one = segments if shared else segments[number]
        pairs = [(start, end) for start, end in one.tolist()]
        assert together[number].tolist() == greedy(pairs, scores[number].tolist(), 0.3, 8)


@pytest.mark.parametrize(("threshold", "picks"), [(0.45, [0, 1]), (0.4499, [0, -1]), (0.4501, [0, 1])])
def test_an_overlap_of_exactly_the_threshold_stays(threshold: float, picks: list[int]) -> None:
    segments = torch.tensor([[0.0, 20.0], [0.0, 9.0]])  # 9 / 20, which float32 rounds
    assert temporal_nms(segments, torch.tensor([[2.0, 1.0]]), threshold, 2).tolist() == [picks]


def test_of_equal_scores_the_first_is_picked() -> None:
    segments = torch.tensor([[0.0, 1.0], [0.0, 1.0], [2.0, 3.0]])
    assert temporal_nms(segments, torch.ones(1, 3), 0.5, 3).tolist() == [[0, 2, -1]]


def test_nothing_is_asked_or_there_to_pick() -> None:
    assert temporal_nms(torch.rand(3, 2), torch.ones(2, 3), 0.5, 0).shape == (2, 0)
    nothing = temporal_nms(torch.rand(3, 2), torch.full((2, 3), -math.inf), 0.5, 2)
    assert nothing.tolist() == [[-1, -1], [-1, -1]]


def test_scores_that_are_not_a_number_are_refused() -> None:
    with pytest.raises(TrainError, match="NaN"):
        temporal_nms(torch.rand(2, 2), torch.tensor([[1.0, math.nan]]), 0.5, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scores_of_any_precision_that_a_model_gives_can_be_ranked(dtype: torch.dtype) -> None:
    scores = torch.tensor([[1, 3, 2]], dtype=dtype, requires_grad=True)
    segments = torch.tensor([[0.0, 1.0], [2.0, 4.0], [2.0, 3.0]])
    assert temporal_nms(segments, scores, 0.4, 3).tolist() == [[1, 0, -1]]


def test_scores_are_left_as_they_were() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64)
    temporal_nms(torch.tensor([[0.0, 2.0], [0.0, 2.0], [1.0, 2.0]]), scores, 0.1, 3)
    assert scores.tolist() == [[3, 2, 1]]


@pytest.mark.parametrize("stage", [1, 3])
def test_picks_are_those_of_the_official_evaluation(stage: int) -> None:
    """On the official model's own detections, which are padded with -1."""
    golden = read_golden("drn")
    boxes, scores, levels, picks = (
        golden[f"output/eval/stage{stage}/{name}"] for name in ("detections", "scores", "levels", "nms_pick")
    )
    there = torch.arange(scores.shape[1]) < golden[f"output/eval/stage{stage}/num_detections"][:, None]
    assert (there | (levels == -1)).all()
    assert torch.equal(temporal_nms(boxes, scores.masked_fill(~there, -math.inf), 0.5 - 0.05, picks.shape[1]), picks)
