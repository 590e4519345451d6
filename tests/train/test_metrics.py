"""Retrieval metrics against their definitions, spelt out query by query."""

from __future__ import annotations

import json
from itertools import permutations
from pathlib import Path
from statistics import mean, median
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from train.metrics import PROTOCOLS, DirectionMetrics, Relevance, evaluate_scores
from train.retrieval.hybrid_space import LATENT_SHARE, fused_scores, jaccard
from train.scores import ScoreMatrix, ScoresError, fuse, normalise, score_blocks

MMT, FLOOR = PROTOCOLS["mmt"], PROTOCOLS["dual_encoding"]


def first_rank(scores: list[float], right: set[int]) -> float:
    """The 0-based rank of the best right item: the mean over the places of those that score as it does."""
    best = max(scores[item] for item in right)
    order = sorted(scores, reverse=True)
    return mean(place for place, score in enumerate(order) if score == best)


def average_precision(scores: list[float], right: set[int]) -> float:
    """With a place, and a count of right items up to it, that are means over the places of those that score alike."""

    def place(item: int, items: list[float]) -> float:
        return mean(place for place, score in enumerate(sorted(items, reverse=True), 1) if score == scores[item])

    among = [scores[item] for item in right]
    return mean(place(item, among) / place(item, scores) for item in right)


def by_definition(scores: Tensor, right: list[set[int]]) -> dict[str, float]:
    """Metrics of the rows of `scores`, as MMT's code has them."""
    queries = [(row, items) for row, items in zip(scores.tolist(), right, strict=True) if items]
    ranks = [first_rank(*query) for query in queries]
    recalls = [100 * mean(rank == 0 for rank in ranks), *(100 * mean(rank < k for rank in ranks) for k in (5, 10, 50))]
    return {
        "queries": len(queries),
        **{f"recall_{k}": recall for k, recall in zip((1, 5, 10, 50), recalls, strict=True)},
        "median_rank": median(ranks) + 1,
        "mean_rank": mean(ranks) + 1,
        "mean_ap": mean(average_precision(*query) for query in queries),
        "geometric_mean": (recalls[0] * recalls[1] * recalls[2]) ** (1 / 3),
    }


def same(found: DirectionMetrics, expected: dict[str, float]) -> bool:
    return vars(found) == pytest.approx(expected)


def right_items(relevance: Relevance) -> tuple[list[set[int]], list[set[int]]]:
    """The right videos of each caption, and the right captions of each video."""
    pairs = relevance.pairs.tolist()
    of_captions = [{video for caption, video in pairs if caption == query} for query in range(relevance.texts)]
    of_videos = [{caption for caption, video in pairs if video == query} for query in range(relevance.videos)]
    return of_captions, of_videos


def assert_by_definition(scores: Tensor, relevance: Relevance) -> None:
    found = evaluate_scores(ScoreMatrix(scores), relevance, MMT)
    of_captions, of_videos = right_items(relevance)
    assert same(found.t2v, by_definition(scores.T, of_captions))
    assert same(found.v2t, by_definition(scores, of_videos))


def ties(seed: int, videos: int, texts: int, levels: int = 5) -> Tensor:
    return torch.randint(levels, (videos, texts), generator=torch.Generator().manual_seed(seed)).float()


@st.composite
def galleries(draw: st.DrawFn) -> tuple[Tensor, Tensor, list[str]]:
    """Scores with many ties, the video of each caption, and texts some of which are equal."""
    videos, texts = draw(st.integers(1, 7)), draw(st.integers(1, 12))
    numbers = st.integers(-3, 3).map(float) | st.sampled_from([-np.inf, -0.0, 0.5])
    scores = draw(st.lists(numbers, min_size=videos * texts, max_size=videos * texts))
    owners = draw(st.lists(st.integers(0, videos - 1), min_size=texts, max_size=texts))
    words = draw(st.lists(st.sampled_from("abcde"), min_size=texts, max_size=texts))
    return torch.tensor(scores).reshape(videos, texts), torch.tensor(owners), words


@given(galleries())
def test_metrics_are_as_defined_with_ties_and_several_captions_of_a_video(
    gallery: tuple[Tensor, Tensor, list[str]],
) -> None:
    scores, caption_video, _ = gallery
    assert_by_definition(scores, Relevance.of_captions(caption_video, len(scores)))


@given(galleries())
def test_metrics_are_as_defined_where_a_caption_is_right_for_several_videos(
    gallery: tuple[Tensor, Tensor, list[str]],
) -> None:
    scores, caption_video, texts = gallery
    kept, relevance = Relevance.of_captions(caption_video, len(scores)).merge_equal(texts)
    assert_by_definition(scores[:, kept], relevance)


@pytest.mark.parametrize(("videos", "texts"), [(600, 40), (3, 9000)])
def test_metrics_are_as_defined_beyond_one_tile(videos: int, texts: int) -> None:
    scores, caption_video = ties(0, videos, texts), torch.arange(texts) * 7 % videos
    found = evaluate_scores(ScoreMatrix(scores), Relevance.of_captions(caption_video, videos), MMT)
    matched = scores[caption_video, torch.arange(texts)]
    t2v = (scores > matched).sum(0) + ((scores == matched).sum(0) - 1) / 2
    assert found.t2v.mean_rank == pytest.approx(float(t2v.mean()) + 1)
    assert found.t2v.mean_ap == pytest.approx(float((1 / (t2v + 1)).mean()))
    best = torch.stack([scores[video, caption_video == video].amax() for video in caption_video.unique()])[:, None]
    rows = scores[caption_video.unique()]
    v2t = (rows > best).sum(1) + ((rows == best).sum(1) - 1) / 2
    assert found.v2t.mean_rank == pytest.approx(float(v2t.mean()) + 1)


def test_all_that_score_alike_beyond_the_reach_of_a_byte_are_counted() -> None:
    relevance = Relevance.of_captions(torch.zeros(1, dtype=torch.long), 1001)
    assert evaluate_scores(ScoreMatrix(torch.zeros(1001, 1)), relevance, MMT).t2v.mean_rank == 501


def test_a_merged_caption_right_for_videos_far_apart_is_ranked_by_the_better_one() -> None:
    scores = ties(1, 300, 50)
    _, relevance = Relevance.of_captions(torch.arange(50) * 6, 300).merge_equal([f"{n % 45}" for n in range(50)])
    assert_by_definition(scores[:, :45], relevance)


def test_without_ties_average_precision_is_the_usual_one() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4]])
    relevance = Relevance.of_captions(torch.tensor([0, 1, 1, 0]), 2)
    found = evaluate_scores(ScoreMatrix(scores), relevance, MMT)
    assert found.v2t.mean_ap == pytest.approx(mean([(1 / 1 + 2 / 4) / 2, (1 / 2 + 2 / 3) / 2]))
    assert found.t2v.mean_ap == pytest.approx(mean([1, 1 / 2, 1 / 2, 1]))


def test_a_tie_is_ranked_as_the_mean_over_all_orders() -> None:
    scores = [2.0, 1.0, 1.0, 1.0, 0.0]
    orders = [sorted(order, key=lambda item: -scores[item]).index(1) for order in permutations(range(5))]
    relevance = Relevance.of_captions(torch.tensor([1]), 5)
    found = evaluate_scores(ScoreMatrix(torch.tensor(scores)[:, None]), relevance, MMT)
    assert found.t2v.mean_rank == pytest.approx(mean(orders) + 1)


def test_a_shared_first_place_is_missed_at_1_and_a_shared_fifth_counts_at_5() -> None:
    scores = torch.tensor([[1.0, 0], [1, 1], [0, 1], [0, 1], [0, 1], [0, 0]])  # ranks from 0: 0.5 and 4.5
    found = evaluate_scores(ScoreMatrix(scores), Relevance.of_captions(torch.tensor([0, 0]), 6), MMT).t2v
    assert (found.recall_1, found.recall_5, found.geometric_mean) == (0, 100, 0)


def test_dual_encoding_rounds_the_median_down() -> None:
    scores, relevance = torch.tensor([[1.0, 0], [0, 1]]), Relevance.of_captions(torch.tensor([0, 0]), 2)
    medians = {name: evaluate_scores(ScoreMatrix(scores), relevance, PROTOCOLS[name]).t2v for name in PROTOCOLS}
    expected = {"dual_encoding": 1, "hybrid_space": 1.5, "mmt": 1.5, "hanet": 1.5}
    assert {name: found.median_rank for name, found in medians.items()} == expected
    assert [name for name, protocol in PROTOCOLS.items() if protocol.merges_captions] == ["hanet"]


def test_a_video_without_captions_is_a_distractor_for_t2v_and_no_query_for_v2t() -> None:
    scores = torch.tensor([[1.0, 3, 0], [0, 0, 1]])
    relevance = Relevance.of_captions(torch.tensor([0, 0, 1]), 2)
    without = evaluate_scores(ScoreMatrix(scores), relevance, MMT)
    more = torch.cat([scores, torch.full((1, 3), 2.0)])
    found = evaluate_scores(ScoreMatrix(more), Relevance.of_captions(torch.tensor([0, 0, 1]), 3), MMT)
    assert found.v2t == without.v2t and found.v2t.queries == 2
    assert (without.t2v.mean_rank, found.t2v.mean_rank) == (1, pytest.approx(5 / 3))


def test_merged_captions_are_right_for_the_videos_of_all() -> None:
    relevance = Relevance.of_captions(torch.tensor([0, 0, 1, 2, 2]), 3)
    kept, merged = relevance.merge_equal(["a dog", "a cat", "a dog", "a dog", "a man"])
    assert kept.tolist() == [0, 1, 4]
    assert (merged.texts, merged.pairs.tolist()) == (3, [[0, 0], [0, 1], [0, 2], [1, 0], [2, 2]])


def test_rsum_json_and_csv_tell_both_directions() -> None:
    found = evaluate_scores(ScoreMatrix(torch.eye(3)), Relevance.of_captions(torch.arange(3), 3), FLOOR)
    assert found.rsum == 600
    told = json.loads(json.dumps(found.to_dict()))
    assert (told["protocol"], told["rsum"], told["v2t"]["mean_rank"]) == ("dual_encoding", 600, 1)
    rows = found.csv_rows()
    assert [row["direction"] for row in rows] == ["t2v", "v2t"]
    assert rows[0] == {**rows[1], "direction": "t2v"}


class Pair(NamedTuple):
    latent: Tensor
    parts: tuple[Tensor, Tensor]


def pairs(seed: int, count: int) -> Pair:
    numbers = torch.Generator().manual_seed(seed)
    one, two, three = (torch.rand(count, size, generator=numbers) for size in (4, 3, 2))
    return Pair(one, (two, three))


def similarity(videos: Pair, texts: Pair) -> Tensor:
    """Small sums, which are the same in blocks of any size."""
    scores = (videos.latent[:, None] - texts.latent[None]).abs().amax(dim=2)
    for video, text in zip(videos.parts, texts.parts, strict=True):
        scores = torch.maximum(scores, jaccard(video, text))
    return scores


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("block", [(1, 1), (4, 3), (100, 100), (11, 17)])
def test_scores_are_the_same_for_any_block_in_memory_and_in_a_file(
    block: tuple[int, int], mapped: bool, tmp_path: Path
) -> None:
    videos, texts = pairs(0, 11), pairs(1, 17)
    scores = score_blocks(similarity, videos, texts, *block, in_memory=0 if mapped else 10_000, folder=tmp_path)
    assert torch.equal(scores.values, similarity(videos, texts))
    assert not list(tmp_path.iterdir()), "the file has no name"
    relevance = Relevance.of_captions(torch.arange(17) % 11, 11)
    assert evaluate_scores(scores, relevance, MMT) == evaluate_scores(
        ScoreMatrix(similarity(videos, texts)), relevance, MMT
    )


def test_one_tensor_a_side_is_scored_too() -> None:
    videos, texts = torch.rand(5, 3), torch.rand(7, 3)
    scores = score_blocks(lambda video, text: (video @ text.T).half(), videos, texts, 2, 3)
    assert torch.allclose(scores.values, videos @ texts.T, atol=1e-2)


@pytest.mark.parametrize("mapped", [False, True])
def test_fused_scores_are_those_of_the_hybrid_space(
    mapped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.scores.BLOCK", 40)
    latent, concept = torch.randn(9, 13), torch.rand(9, 13)
    expected = fused_scores(latent, concept)
    limit = 0 if mapped else 10_000
    one, other = (ScoreMatrix.empty(9, 13, limit, tmp_path) for _ in range(2))
    one.values.copy_(latent)
    other.values.copy_(concept)
    fused = fuse(one, other, LATENT_SHARE)
    assert torch.equal(fused.values, expected)
    assert torch.equal(other.values, concept)
    assert torch.equal(normalise(other).values, (concept - concept.min()) / (concept.max() - concept.min()))


def test_nan_is_refused_with_its_number_and_place() -> None:
    scores = ties(2, 300, 40)
    scores[270, 3] = scores[270, 7] = scores[299, 0] = float("nan")
    with pytest.raises(ScoresError, match=r"3 of 12000 .* in 2 of 300 rows.* video 270 and caption 3"):
        evaluate_scores(ScoreMatrix(scores), Relevance.of_captions(torch.zeros(40).long(), 300), MMT)


@pytest.mark.parametrize("value", [0.5, float("nan"), float("inf")])
def test_scores_that_cannot_be_brought_to_0_and_1_are_refused(value: float) -> None:
    scores = torch.full((2, 2), 0.5)
    scores[1, 1] = value
    with pytest.raises(ScoresError, match=r"cannot be brought to 0\.\.1"):
        normalise(ScoreMatrix(scores))


def test_what_does_not_fit_together_is_refused() -> None:
    relevance = Relevance.of_captions(torch.tensor([0, 1]), 2)
    with pytest.raises(ScoresError, match=r"\(2, 3\) videos and captions, but \(2, 2\)"):
        evaluate_scores(ScoreMatrix(torch.zeros(2, 3)), relevance, MMT)
    with pytest.raises(ScoresError, match="caption 1 is of video 2"):
        Relevance.of_captions(torch.tensor([0, 2]), 2)
    with pytest.raises(ScoresError, match="1 texts were given for 2 captions"):
        relevance.merge_equal(["a"])
    nothing = Relevance(2, 2, torch.empty(0, 2, dtype=torch.long))
    with pytest.raises(ScoresError, match="nothing to evaluate"):
        evaluate_scores(ScoreMatrix(torch.zeros(2, 2)), nothing, MMT)
    with pytest.raises(ScoresError, match="cannot be fused"):
        fuse(ScoreMatrix(torch.rand(2, 3)), ScoreMatrix(torch.rand(3, 2)), 0.5)
    with pytest.raises(ScoresError, match=r"shape \(3, 2\), not \(videos, captions\) = \(2, 3\)"):
        score_blocks(lambda video, text: text @ video.T, torch.rand(2, 4), torch.rand(3, 4))
    with pytest.raises(ScoresError, match=r"embeddings of captions hold tensors of \[3, 4\] items"):
        score_blocks(lambda video, text: video, torch.rand(2, 4), (torch.rand(3, 4), torch.rand(4, 4)))
    with pytest.raises(ScoresError, match="float32 on the CPU"):
        ScoreMatrix(torch.zeros(2, 2, dtype=torch.float64))


def test_no_room_for_the_file_is_said_before_anything_is_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(ScoresError, match=r"no room for 0.0 GB of scores in .*No space left"):
        ScoreMatrix.empty(10, 10, in_memory=0, folder=tmp_path)
