"""Metrics of grounding against plain loops."""

from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.grounding.metrics import interval_iou, mean_iou, recalls

Segment = tuple[int, int]

segments = st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda p: p[0] != p[1]).map(sorted).map(tuple)
rows = st.lists(st.one_of(segments, st.just((-1, -1))), min_size=5, max_size=5)
queries = st.lists(st.tuples(rows, segments), min_size=1, max_size=12)


def exact_iou(one: Segment, other: Segment) -> Fraction:
    shared = max(0, min(one[1], other[1]) - max(one[0], other[0]))
    return Fraction(shared, one[1] - one[0] + other[1] - other[0] - shared)


@given(queries, st.booleans())
def test_recalls_and_mean_iou_are_those_of_plain_loops(
    queries: list[tuple[list[Segment], Segment]], strict: bool
) -> None:
    predictions = torch.tensor([rows for rows, _ in queries], dtype=torch.float32)
    truths = torch.tensor([truth for _, truth in queries], dtype=torch.float32)
    found = recalls(predictions, truths, [1, 5], [0.3, 0.5, 0.7], strict)
    for rank in (1, 5):
        for threshold in (Fraction(3, 10), Fraction(5, 10), Fraction(7, 10)):
            hits = 0
            for rows, truth in queries:
                overlaps = [exact_iou(row, truth) for row in rows[:rank]]
                hits += any(value > threshold or (value == threshold and not strict) for value in overlaps)
            assert found[f"R{rank}@{float(threshold)}"] == pytest.approx(100 * hits / len(queries))
    best = [float(exact_iou(rows[0], truth)) for rows, truth in queries]
    assert mean_iou(predictions, truths) == pytest.approx(100 * sum(best) / len(best))


@given(segments, segments)
def test_overlap_does_not_depend_on_the_order_and_is_one_with_itself(one: Segment, other: Segment) -> None:
    first, second = torch.tensor(one, dtype=torch.float64), torch.tensor(other, dtype=torch.float64)
    assert interval_iou(first, second) == interval_iou(second, first) == float(exact_iou(one, other))
    assert interval_iou(first, first) == 1


def test_points_overlap_nothing() -> None:
    point = torch.tensor([2.0, 2.0])
    assert interval_iou(point, point) == interval_iou(point, torch.tensor([0.0, 4.0])) == 0


def test_an_overlap_of_exactly_the_threshold_counts_for_drn_and_not_for_2d_tan() -> None:
    prediction, truth = torch.tensor([[[0.0, 7.0]]]), torch.tensor([[0.0, 10.0]])
    assert recalls(prediction, truth, [1], [0.7], strict=True) == {"R1@0.7": 0}
    assert recalls(prediction, truth, [1], [0.7], strict=False) == {"R1@0.7": 100}


def test_there_must_be_a_query_and_a_truth_for_each() -> None:
    with pytest.raises(ValueError, match="0 queries"):
        recalls(torch.empty(0, 5, 2), torch.empty(0, 2), [1], [0.5])
    with pytest.raises(ValueError, match="2 queries with predictions, 1 with truths"):
        mean_iou(torch.rand(2, 5, 2), torch.rand(1, 2))
