"""Candidate moments: which there are, when they are, what their features are."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from train.grounding.metrics import mean_iou, recalls
from train.grounding.proposals import MAPS, ConvolvedProposals, ProposalMap, clip_means, soft_labels

ANNOTATIONS = os.environ.get("REELCACHE_ANNOTATIONS")
Queries = tuple[Tensor, Tensor]  # truths (Q, 2) and durations (Q,), in seconds


@st.composite
def maps(draw: st.DrawFn) -> ProposalMap:
    scales = tuple(draw(st.lists(st.integers(1, 6), min_size=1, max_size=3)))
    longest = sum(count << scale for scale, count in enumerate(scales))
    return ProposalMap(longest + draw(st.integers(0, 9)), scales)


@pytest.mark.parametrize(("name", "count"), [("charades-sta", 136), ("activitynet-captions", 1104), ("tacos", 2548)])
def test_the_published_maps_have_as_many_candidates_as_the_official_ones(name: str, count: int) -> None:
    proposals = MAPS[name]
    assert len(proposals.cells) == proposals.mask.sum() == count
    assert len(proposals.cells.unique(dim=0)) == count
    assert (proposals.cells[:, 0] <= proposals.cells[:, 1]).all()
    assert [0, proposals.size - 1] in proposals.cells.tolist()


@given(maps())
def test_a_pooled_moment_is_the_maximum_over_its_clips(proposals: ProposalMap) -> None:
    clips = torch.randn(2, 3, proposals.size, generator=torch.Generator().manual_seed(0))
    pooled = proposals.pool(clips)
    assert pooled.shape[2] == len(proposals.cells)
    for place, (first, last) in enumerate(proposals.cells.tolist()):
        assert torch.equal(pooled[..., place], clips[..., first : last + 1].amax(dim=2))


@given(maps())
def test_a_convolved_moment_sees_its_clips_and_no_other(proposals: ProposalMap) -> None:
    layers = ConvolvedProposals(proposals, 1)
    for parameter in layers.parameters():
        torch.nn.init.constant_(parameter, float(parameter.ndim == 3))
    seen = layers(torch.eye(proposals.size)[:, None]).squeeze(1).T > 0  # (P, N): which clip changes which moment
    clips = torch.arange(proposals.size)
    assert torch.equal(seen, (clips >= proposals.cells[:, :1]) & (clips <= proposals.cells[:, 1:]))


@given(maps())
def test_what_is_spread_over_the_map_can_be_collected_from_it(proposals: ProposalMap) -> None:
    flat = torch.rand(2, len(proposals.cells)) + 1
    whole = proposals.spread(flat)
    assert torch.equal(proposals.collect(whole), flat)
    assert torch.equal(whole[0] > 0, proposals.mask)


def test_a_map_first_used_in_inference_mode_can_be_trained_with() -> None:
    proposals = ProposalMap(8, (4, 2))
    with torch.inference_mode():
        proposals.spread(proposals.pool(torch.rand(1, 2, 8)))
        proposals.best(torch.rand(1, len(proposals.cells)), torch.tensor([8.0]), 0.5)
    clips = torch.rand(1, 2, 8, requires_grad=True)
    proposals.collect(proposals.spread(proposals.pool(clips))).sum().backward()
    assert clips.grad is not None and clips.grad.sum() == 2 * len(proposals.cells)


def test_a_moment_begins_with_its_first_clip_and_ends_with_its_last() -> None:
    proposals = ProposalMap(4, (2, 1))
    assert proposals.segments(torch.tensor([8.0]))[0].tolist() == [
        [0, 2], [2, 4], [4, 6], [6, 8], [0, 4], [2, 6], [4, 8], [0, 8]
    ]  # fmt: skip


def test_the_best_are_suppressed_by_overlap_and_missing_ones_are_minus_one() -> None:
    proposals = ProposalMap(4, (2, 1))
    scores = torch.tensor([[0.0, 0.9, 0.1, 0.2, 0.8, 0.7, 0.3, 0.6]])
    best = proposals.best(scores, torch.tensor([8.0]), threshold=0.49, top_k=6)
    assert best[0].tolist() == [[2, 4], [0, 8], [6, 8], [4, 6], [0, 2], [-1, -1]]


@given(st.integers(1, 70), st.integers(1, 40), st.integers(0, 9))
def test_resampling_takes_means_between_rounded_boundaries(clips: int, count: int, seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(clips, 3)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    edges = [min(round(float(np.float32(k) / np.float32(count) * np.float32(clips))), clips - 1) for k in range(count)]
    edges.append(clips - 1)
    expected = [unit[start:end].mean(axis=0) if start < end else unit[start] for start, end in pairwise(edges)]
    ours = clip_means(features, count)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_one_clip_stands_for_the_whole_video_and_an_empty_one_stays_zero() -> None:
    one = clip_means(np.array([[3, 4]], dtype=np.float16), 4)
    np.testing.assert_allclose(one, [[0.6, 0.8]] * 4, rtol=1e-6)
    assert not clip_means(np.zeros((5, 2), dtype=np.float32), 4).any()


def test_resampling_leaves_what_it_is_given_as_it_was() -> None:
    features = np.full((3, 2), 2, dtype=np.float32)
    clip_means(features, 2)
    assert (features == 2).all()


def test_a_video_without_clips_is_refused() -> None:
    with pytest.raises(ValueError, match="without any clip"):
        clip_means(np.empty((0, 4), dtype=np.float32), 8)


def test_labels_rise_between_two_overlaps() -> None:
    labels = soft_labels(torch.tensor([0.0, 0.3, 0.5, 0.7, 1.0]), 0.3, 0.7)
    torch.testing.assert_close(labels, torch.tensor([0.0, 0.0, 0.5, 1.0, 1.0]))


def test_scales_that_outgrow_the_video_are_refused() -> None:
    with pytest.raises(ValueError, match="reach 18 clips, but the video has 16"):
        ProposalMap(16, (8, 5))
    with pytest.raises(ValueError, match="at least one length"):
        ProposalMap(16, (8, 0))


def charades(folder: Path) -> Queries:
    with (folder / "charades-sta/Charades_v1_test.csv").open(newline="") as file:
        lengths = {row["id"]: float(row["length"]) for row in csv.DictReader(file)}
    rows = []
    for line in (folder / "charades-sta/charades_sta_test.txt").read_text().splitlines():
        video, start, end = line.split("##")[0].split()
        rows.append((float(start), min(float(end), lengths[video]), lengths[video]))
    return _queries(rows)


def activitynet(folder: Path) -> Queries:
    videos = json.loads((folder / "activitynet-captions/val_2.json").read_text()).values()
    return _queries(
        [(max(start, 0), min(end, v["duration"]), v["duration"]) for v in videos for start, end in v["timestamps"]]
    )


def tacos(folder: Path) -> Queries:
    videos = json.loads((folder / "tacos/test.json").read_text()).values()
    return _queries(
        [
            (start / v["fps"], end / v["fps"], v["num_frames"] / v["fps"])
            for v in videos
            for start, end in v["timestamps"]
        ]
    )


def _queries(rows: list[tuple[float, float, float]]) -> Queries:
    table = torch.tensor([row for row in rows if row[0] < row[1]], dtype=torch.float64)
    return table[:, :2], table[:, 2]


@pytest.mark.skipif(ANNOTATIONS is None, reason="REELCACHE_ANNOTATIONS does not name a folder of annotations")
@pytest.mark.parametrize(
    ("name", "read", "queries", "recall", "iou"),
    [
        ("charades-sta", charades, 3720, [100, 100, 99.54], 90.0),
        ("activitynet-captions", activitynet, 17031, [99.84, 98.94, 97.34], 94.6),
        ("tacos", tacos, 4001, [99.48, 97.23, 90.10], 87.4),
    ],
)
def test_the_best_candidates_reach_the_known_upper_bounds(
    name: str, read: Callable[[Path], Queries], queries: int, recall: list[float], iou: float
) -> None:
    truths, durations = read(Path(str(ANNOTATIONS)))
    assert len(truths) == queries
    overlaps = MAPS[name].overlaps(truths, durations)
    best = overlaps.argmax(dim=1, keepdim=True)[..., None].expand(-1, -1, 2)
    predictions = MAPS[name].segments(durations).gather(1, best)
    found = recalls(predictions, truths, [1], [0.3, 0.5, 0.7])
    assert [round(value, 2) for value in found.values()] == recall
    assert mean_iou(predictions, truths) == pytest.approx(iou, abs=0.1)
