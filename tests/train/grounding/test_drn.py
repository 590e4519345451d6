"""DRN against the numbers of the official model, at small size, and what its stages may change."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from official_numbers import close, parameters, read_golden, read_meta
from train.grounding.drn import (
    DRN,
    UNUSED,
    DRNConfig,
    Predictions,
    class_loss,
    distance_loss,
    iou_loss,
    segment_maxima,
    targets,
)

SMALL = DRNConfig(9, 6, 5, 4, position_dim=2, channels=(3, 4, 5), pyramid_dim=6, iou_dim=3)
LOSSES = {"class": "loss_cls", "distances": "loss_reg", "iou": "loss_iou"}
INPUTS = ("query_tokens", "query_length", "props_features", "props_start_end")


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_golden("drn")


@pytest.fixture(scope="module")
def meta(golden: Mapping[str, Tensor]) -> dict[str, Any]:
    return read_meta(golden)


@pytest.fixture
def model(golden: Mapping[str, Tensor]) -> DRN:
    return DRN.from_official(parameters(golden)).eval()


def predict(model: DRN, golden: Mapping[str, Tensor]) -> Predictions:
    return model(*(golden[f"input/{name}"] for name in INPUTS))


def batch(count: int = 3, segments: int = 8) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    edges = torch.linspace(0, 1, segments + 1)
    spans = torch.stack([edges[:-1], edges[1:]], dim=1).expand(count, -1, -1)
    tokens = torch.randint(1, SMALL.words, (count, 4), generator=generator)
    lengths = torch.tensor([2, 4, 1])[:count]  # in no order
    tokens = tokens * (torch.arange(4) < lengths[:, None])
    return tokens, lengths, torch.randn(count, segments, SMALL.video_dim, generator=generator), spans


def test_sizes_of_an_official_model_are_read_from_its_parameters(model: DRN, meta: dict[str, Any]) -> None:
    config, hyper = model.config, meta["hyper"]
    assert list(config.channels) == hyper["backbone_channels"]
    assert (config.words, config.word_dim) == (hyper["embedding_rows"], hyper["embed_dim"])
    assert (config.text_units, config.text_layers) == (hyper["hidden_dim"], hyper["lstm_layers"])
    assert (config.video_dim, config.position_dim) == (hyper["feature_dim"], hyper["position_dim"])
    assert (config.pyramid_dim, config.tower_layers) == (hyper["fpn_feature_dim"], hyper["fcos_conv_layers"])
    assert (config.least, config.per_level) == (hyper["inference_thr"], hyper["pre_nms_top_n"])


@torch.no_grad()
def test_maps_of_all_levels_are_those_of_the_official_model(
    golden: dict[str, Tensor], meta: dict[str, Any], model: DRN
) -> None:
    tokens, lengths, segments, spans = (golden[f"input/{name}"] for name in INPUTS)
    queries = model.query(tokens, lengths)
    maps = model.interact(queries, *model.encode_video(segments, spans))
    for level, (query, seen, merged) in enumerate(zip(queries, maps, model.pyramid(maps), strict=True)):
        close(query, golden[f"output/eval/query_{level}"], meta["tolerance"]["query"])
        close(seen, golden[f"output/eval/backbone_{level}"], meta["tolerance"]["heads"])
        close(merged, golden[f"output/eval/fpn_{level}"], meta["tolerance"]["heads"])


def check_heads(golden: Mapping[str, Tensor], ours: Predictions, mode: str, tolerance: float) -> None:
    sizes = [golden[f"output/{mode}/cls_logits_{level}"].shape[2] for level in range(3)]
    assert ours.iou_logits is not None
    for name, values in (
        ("cls_logits", ours.class_logits[:, None]),
        ("box_reg", ours.distances.transpose(1, 2)),
        ("iou_logits", ours.iou_logits[:, None]),
    ):
        for level, part in enumerate(values.split(sizes, dim=2)):
            close(part, golden[f"output/{mode}/{name}_{level}"], tolerance)


@torch.no_grad()
def test_heads_and_targets_are_those_of_the_official_model(
    golden: dict[str, Tensor], meta: dict[str, Any], model: DRN
) -> None:
    predictions = predict(model, golden)
    check_heads(golden, predictions, "eval", meta["tolerance"]["heads"])
    assert torch.equal(predictions.places, golden["output/eval/locations"])
    positive, distances = targets(predictions, golden["input/gt_start_end"])
    assert torch.equal(positive.long(), golden["output/eval/target_labels"])
    close(distances, golden["output/eval/target_ltrb"], meta["tolerance"]["heads"])


@pytest.mark.parametrize("stage", [1, 3])
@torch.no_grad()
def test_detections_and_losses_are_those_of_the_official_model(
    golden: dict[str, Tensor], meta: dict[str, Any], model: DRN, stage: int
) -> None:
    official = {name: golden[f"output/eval/stage{stage}/{name}"] for name in ("detections", "scores", "levels")}
    predictions = predict(model.enter(stage), golden)
    found = model.detect(predictions)
    kept = found.scores > -torch.inf
    assert torch.equal(kept.sum(dim=1), golden[f"output/eval/stage{stage}/num_detections"])
    for query, mask in enumerate(kept):
        count = int(mask.sum())
        close(found.boxes[query, mask], official["detections"][query, :count], meta["tolerance"]["boxes"])
        close(found.scores[query, mask], official["scores"][query, :count], meta["tolerance"]["scores"])
        assert torch.equal(found.levels[query, mask], official["levels"][query, :count])
        candidate = official["levels"][query, :count] >= 0
        places = (predictions.places / predictions.segments)[mask][candidate]
        theirs = golden[f"output/eval/stage{stage}/detection_locations"][query, :count][candidate]
        close(places, theirs, meta["tolerance"]["boxes"])
    best = found.best(iou=0.5)
    picks = golden[f"output/eval/stage{stage}/nms_pick"]
    expected = official["detections"].gather(1, picks.clamp(min=0)[..., None].expand(-1, -1, 2))
    close(best, expected.masked_fill(picks[..., None] < 0, -1), meta["tolerance"]["boxes"])
    losses = model.losses(predictions, golden["input/gt_start_end"])
    assert losses.keys() == ({"class", "distances"} if stage == 1 else {"class", "distances", "iou"})
    for name, value in losses.items():
        close(value, golden[f"output/eval/stage{stage}/{LOSSES[name]}"], meta["tolerance"]["loss"])


@torch.no_grad()
def test_stage_2_scores_as_stage_3_and_has_the_iou_loss_alone(golden: dict[str, Tensor], model: DRN) -> None:
    third = model.detect(predict(model, golden))
    predictions = predict(model.enter(2), golden)
    assert torch.equal(model.detect(predictions).scores, third.scores)
    losses = model.losses(predictions, golden["input/gt_start_end"])
    assert losses.keys() == {"iou"}
    close(losses["iou"], golden["output/eval/stage3/loss_iou"], 1e-5)


@pytest.mark.parametrize("stage", [1, 3])
def test_a_training_step_is_that_of_the_official_model(
    golden: dict[str, Tensor], meta: dict[str, Any], model: DRN, stage: int
) -> None:
    model.enter(stage).train()
    predictions = predict(model, golden)
    if stage == 3:
        check_heads(golden, predictions, "train", meta["tolerance"]["train"])
    losses = model.losses(predictions, golden["input/gt_start_end"])
    for name, value in losses.items():
        close(value, golden[f"output/train/stage{stage}/{LOSSES[name]}"], meta["tolerance"]["train"])
    loss = torch.stack(list(losses.values())).sum()
    close(loss, golden[f"output/train/stage{stage}/loss"], meta["tolerance"]["train"])
    loss.backward()
    keys = meta["grad_keys"][f"stage{stage}"]
    norms = {
        model.official_name(name): value.grad.norm()
        for name, value in model.named_parameters()
        if value.grad is not None
    }
    assert norms.keys() == set(keys)
    ours, relative = torch.stack([norms[name] for name in keys]), meta["tolerance"]["grad_norm_relative"]
    torch.testing.assert_close(ours, golden[f"output/train/stage{stage}/grad_norm"], rtol=relative, atol=1e-5)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_changes_what_learns_in_it_and_nothing_else(golden: dict[str, Tensor], model: DRN, stage: int) -> None:
    """Neither parameters nor the statistics of batch normalisation."""
    model.train().enter(stage).eval().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimiser = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], 0.1)
    losses = model.losses(predict(model, golden), golden["input/gt_start_end"])
    torch.stack(list(losses.values())).sum().backward()
    optimiser.step()
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    learns = {name for name in before if stage == 3 or name.startswith("heads.iou.") == (stage == 2)}
    assert changed <= learns
    in_front_of_batch_norm = {name for name in learns if name.endswith(".0.bias") and name.startswith("heads.")}
    in_front_of_softmax = {"query.weight.bias"}  # whose gradient is zero but for rounding, as that of the others
    without = in_front_of_batch_norm | in_front_of_softmax | {name for name in learns if name.endswith("bias_hh_l0")}
    assert learns - changed <= without


def test_a_frozen_part_stays_in_eval_mode_and_comes_back() -> None:
    model = DRN(SMALL).enter(2).train()
    assert model.training and model.heads.iou.training and not model.backbone.training and not model.heads.training
    assert not any(module.training for module in model.enter(2).eval().modules())
    assert all(module.training for module in model.train().enter(3).modules())
    assert not model.enter(1).heads.iou.training and model.backbone.training


@torch.no_grad()
def test_sentences_need_not_be_sorted_and_score_alone_as_together() -> None:
    torch.manual_seed(0)
    model = DRN(SMALL).enter(3).eval()
    tokens, lengths, segments, spans = batch()
    together = model(tokens, lengths, segments, spans)
    for number, length in enumerate(lengths.tolist()):
        one = slice(number, number + 1)
        alone = model(tokens[one, :length], lengths[one], segments[one], spans[one])
        torch.testing.assert_close(alone.class_logits, together.class_logits[one], atol=1e-6, rtol=0)
        torch.testing.assert_close(alone.iou_logits, together.iou_logits[one], atol=1e-6, rtol=0)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_one_sentence_can_be_learned_from_and_answered(stage: int) -> None:
    torch.manual_seed(0)
    model = DRN(SMALL).enter(stage).train()
    predictions = model(*batch(1))
    loss = torch.stack(list(model.losses(predictions, torch.tensor([[0.2, 0.6]])).values())).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert model.detect(model.eval()(*batch(1))).best(0.5).shape == (1, 5, 2)


def test_one_seed_trains_one_model() -> None:
    def train() -> Tensor:
        torch.manual_seed(2)
        model = DRN(SMALL).enter(3).train()
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(3):
            optimiser.zero_grad()
            losses = model.losses(model(*batch()), torch.tensor([[0.2, 0.6], [0.0, 1.0], [0.5, 0.7]]))
            torch.stack(list(losses.values())).sum().backward()
            optimiser.step()
        return model(*batch()).class_logits

    assert torch.equal(train(), train())


def test_a_new_model_calls_one_place_in_a_hundred_positive() -> None:
    assert DRN(SMALL).heads.class_logits.bias.sigmoid().item() == pytest.approx(0.01)  # type: ignore[union-attr]


def some_predictions(class_logits: Tensor, distances: Tensor, iou_logits: Tensor | None = None) -> Predictions:
    """Of a video of 8 segments, 14 places."""
    places = torch.cat([2**level * (torch.arange(8 >> level) + 0.5) for level in range(3)])
    levels = torch.tensor([0] * 8 + [1] * 4 + [2] * 2)
    return Predictions(class_logits, distances, iou_logits, places, levels, 8)


def test_without_a_candidate_the_answer_is_the_whole_video() -> None:
    found = DRN(SMALL).detect(some_predictions(torch.full((1, 14), -9.0), torch.ones(1, 14, 2)))
    assert found.best(0.5).tolist() == [[[0, 1]] + [[-1, -1]] * 4]
    assert (found.levels == -1).all()


def test_a_level_gives_no_more_candidates_than_allowed() -> None:
    model = DRN(DRNConfig(9, 6, 5, 4, 1, 2, (3, 4, 5), 6, iou_dim=3, per_level=3))
    logits = torch.rand(2, 14, generator=torch.Generator().manual_seed(0))
    found = model.detect(some_predictions(logits, torch.ones(2, 14, 2)))
    assert [(found.levels == level).sum(dim=1).tolist() for level in range(3)] == [[3, 3], [3, 3], [2, 2]]
    least_kept = found.scores[:, :8].masked_fill(found.levels[:, :8] < 0, 1).amin(dim=1)
    dropped = logits[:, :8].sigmoid().sqrt().masked_fill(found.levels[:, :8] == 0, 0).amax(dim=1)
    assert (dropped <= least_kept).all()


def test_losses_without_a_positive_are_finite_and_teach_nothing_to_distances() -> None:
    distances = torch.ones(1, 14, 2, requires_grad=True)
    predictions = some_predictions(torch.zeros(1, 14), distances, torch.zeros(1, 14, requires_grad=True))
    positive, true = targets(predictions, torch.tensor([[0.51, 0.52]]))
    assert not positive.any()
    loss = distance_loss(distances, true, positive) + iou_loss(predictions, torch.tensor([[0.51, 0.52]]))
    loss.backward()
    assert loss == 0 and not distances.grad.any()  # type: ignore[union-attr]
    assert torch.isfinite(class_loss(predictions.class_logits, positive))


def test_stage_1_has_no_iou_to_learn_from() -> None:
    with pytest.raises(ValueError, match="enter stage 2 or 3"):
        iou_loss(some_predictions(torch.zeros(1, 14), torch.ones(1, 14, 2)), torch.tensor([[0.0, 1.0]]))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="no stage 4"):
        DRN(SMALL).enter(4)
    with pytest.raises(ValueError, match="10 segments cannot be halved 2 times"):
        DRN(SMALL)(*batch(segments=10))


def test_segments_are_those_of_the_published_proposals() -> None:
    """Boundaries of two videos of Charades, as the authors list them by frames; units that say their number."""
    units = np.arange(17, dtype=np.float32)[:, None]
    for frames, edges in ((144, [1, 5, 9, 14, 18, 23, 27, 32]), (732, [1, 23, 46, 69, 92, 115, 138, 160])):
        features, spans = segment_maxima(units, frames)
        np.testing.assert_allclose(spans[:7] * frames, list(pairwise(edges)), rtol=1e-6)
        assert features.shape == (32, 1) and spans[-1, 1] == 1
    assert features[:4, 0].tolist() == [2, 5, 8, 11]  # the greatest of 0..2, 2..5, 5..8, 8..11
    assert features[-1] == 16  # the last unit, where the video goes on
    assert segment_maxima(units, 144)[0][:5, 0].tolist() == [0, 0, 1, 1, 2]  # one unit a segment of 16 frames at most
    with pytest.raises(ValueError, match="without any unit"):
        segment_maxima(units[:0], 144)


def test_parameters_that_are_not_those_of_the_model_are_refused_by_name(golden: dict[str, Tensor]) -> None:
    state = parameters(golden)
    official = DRN.from_official(state | {f"{name}more": torch.ones(1) for name in UNUSED})
    assert official.config == DRN.from_official(state).config
    for name in state:
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            DRN.from_official({other: tensor for other, tensor in state.items() if other != name})
    with pytest.raises(ValueError, match=r"unexpected.*stray"):
        DRN.from_official(state | {"stray": torch.ones(1)})
