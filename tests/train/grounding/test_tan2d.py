"""2D-TAN against the numbers of the official model, at small size, pooled and convolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, relu

from official_numbers import close, parameters, read_golden, read_meta
from train.grounding.proposals import ProposalMap, clip_means
from train.grounding.tan2d import PUBLISHED, TAN2D, MapConvolutions, TAN2DConfig

SMALL = TAN2DConfig(
    6, ProposalMap(8, (4, 2)), (3, 3), dim=8, word_dim=5, text_units=7, text_layers=2, clips=16, suppress=0.4
)


@pytest.fixture(scope="module", params=["tan2d", "tan2d_conv"])
def golden(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    return read_golden(request.param)


@pytest.fixture(scope="module")
def tolerance(golden: Mapping[str, Tensor]) -> dict[str, float]:
    return read_meta(golden)["tolerance"]


@pytest.fixture(scope="module")
def model(golden: Mapping[str, Tensor]) -> TAN2D:
    hyper = read_meta(golden)["hyper"]
    proposals = ProposalMap(hyper["N"], tuple(hyper["NUM_SCALE_LAYERS"]))
    labels = {"low": hyper["MIN_IOU"], "high": hyper["MAX_IOU"], "suppress": hyper["NMS_THRESH"]}
    return TAN2D.from_official(parameters(golden), proposals, **labels).eval()


def score(model: TAN2D, golden: Mapping[str, Tensor]) -> Tensor:
    return model(*(golden[f"input/{name}"] for name in ("visual", "words", "word_lengths")))


def overlaps(model: TAN2D, golden: Mapping[str, Tensor]) -> Tensor:
    return model.config.proposals.overlaps(golden["input/times"], golden["input/duration"])


def inputs(config: TAN2DConfig, batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn(batch, config.clips, config.video_dim, generator=generator)
    return clips, torch.randn(batch, 4, config.word_dim, generator=generator), torch.tensor([4, 1][:batch])


def test_sizes_of_an_official_model_are_read_from_its_parameters(golden: dict[str, Tensor], model: TAN2D) -> None:
    hyper, config = read_meta(golden)["hyper"], model.config
    assert (config.video_dim, config.dim) == (hyper["INPUT_SIZE"], hyper["HIDDEN_SIZE"])
    text = (config.word_dim, config.text_units, config.text_layers)
    assert text == (hyper["TXT_INPUT_SIZE"], hyper["TXT_HIDDEN_SIZE"], hyper["LSTM_LAYERS"])
    assert list(config.kernels) == hyper["KERNEL_SIZES"]
    assert config.convolved == (hyper["prop_module"] == "SparsePropConv")
    assert len(config.proposals.cells) == hyper["valid_cells"]


def test_features_are_resampled_as_by_the_official_loader(
    golden: dict[str, Tensor], tolerance: dict[str, float]
) -> None:
    raw = golden["input/raw_features"].split(golden["input/raw_lengths"].tolist())
    count = read_meta(golden)["hyper"]["NUM_SAMPLE_CLIPS"]
    for features, official in zip(raw, golden["input/visual"], strict=True):
        close(torch.from_numpy(clip_means(features.numpy(), count)), official, tolerance["map"])


@torch.no_grad()
def test_what_is_computed_on_the_way_is_that_of_the_official_model(
    golden: dict[str, Tensor], model: TAN2D, tolerance: dict[str, float]
) -> None:
    proposals = model.config.proposals
    clips = model.pooled_clips(golden["input/visual"])
    moments = model.moments(clips)
    text = model.encode_text(golden["input/words"], golden["input/word_lengths"])
    fused = proposals.spread(model.fuse(moments, text))
    close(clips, golden["output/eval/frame"], tolerance["map"])
    close(proposals.spread(moments), golden["output/eval/map"], tolerance["map"])
    assert (golden["output/eval/map_mask"] == proposals.mask).all()
    close(text, golden["output/eval/text"], tolerance["text"])
    close(fused[0], golden["output/eval/fused_item0"], tolerance["map_conv"])
    close(model.context(fused)[0], golden["output/eval/map_conv_item0"], tolerance["map_conv"])


@torch.no_grad()
def test_scores_and_the_best_moments_are_those_of_the_official_model(
    golden: dict[str, Tensor], model: TAN2D, tolerance: dict[str, float]
) -> None:
    logits, spread = score(model, golden), model.config.proposals.spread
    close(spread(logits)[:, None], golden["output/eval/logits"], tolerance["logits"])
    close(spread(logits.sigmoid())[:, None], golden["output/eval/prob"], tolerance["prob"])
    best = model.best(logits, golden["input/duration"])
    close(best, golden["output/eval/nms_top5"], tolerance["nms"])
    assert ((best[..., 0] >= 0).sum(dim=1) == golden["output/eval/nms_count"]).all()


@torch.no_grad()
def test_overlaps_and_loss_are_those_of_the_official_model(
    golden: dict[str, Tensor], model: TAN2D, tolerance: dict[str, float]
) -> None:
    ours = overlaps(model, golden)
    close(ours, model.config.proposals.collect(golden["input/map_gt"]).squeeze(1), tolerance["map"])
    close(model.loss(score(model, golden), ours), golden["output/eval/loss"], tolerance["loss"])


def test_a_training_step_is_that_of_the_official_model(
    golden: dict[str, Tensor], model: TAN2D, tolerance: dict[str, float]
) -> None:
    model.zero_grad()
    loss = model.loss(score(model, golden), overlaps(model, golden))
    loss.backward()
    close(loss, golden["output/train/loss"], tolerance["loss"])
    norms = {model.official_name(name): value.grad.norm() for name, value in model.named_parameters()}  # type: ignore[union-attr]
    ours = torch.stack([norms[name] for name in read_meta(golden)["grad_keys"]])
    relative = tolerance["grad_norm_relative"]
    torch.testing.assert_close(ours, golden["output/train/grad_norm"], rtol=relative, atol=1e-5)


@torch.no_grad()
def test_a_query_alone_scores_as_in_its_batch(golden: dict[str, Tensor], model: TAN2D) -> None:
    together = score(model, golden)
    for number, length in enumerate(golden["input/word_lengths"].tolist()):
        one = slice(number, number + 1)
        alone = model(golden["input/visual"][one], golden["input/words"][one, :length], torch.tensor([length]))
        torch.testing.assert_close(alone, together[one], atol=1e-5, rtol=0)


@pytest.mark.parametrize("convolved", [False, True])
def test_one_seed_trains_one_model(convolved: bool) -> None:
    def train() -> Tensor:
        torch.manual_seed(3)
        model = TAN2D(replace(SMALL, convolved=convolved))
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(3):
            logits = model(*inputs(SMALL))
            overlaps = SMALL.proposals.overlaps(torch.tensor([[1.0, 3.0], [0.0, 8.0]]), torch.tensor([8.0, 9.0]))
            optimiser.zero_grad()
            model.loss(logits, overlaps).backward()
            optimiser.step()
        return model(*inputs(SMALL))

    assert torch.equal(train(), train())


def test_training_raises_the_scores_of_the_moments_that_overlap_the_truth() -> None:
    torch.manual_seed(0)
    model = TAN2D(SMALL)
    truths, durations = torch.tensor([[1.0, 3.0], [4.0, 8.0]]), torch.tensor([8.0, 8.0])
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(100):
        optimiser.zero_grad()
        model.loss(model(*inputs(SMALL)), SMALL.proposals.overlaps(truths, durations)).backward()
        optimiser.step()
    assert torch.equal(model.best(model(*inputs(SMALL)), durations)[:, 0], truths)


@torch.no_grad()
def test_a_video_of_one_clip_can_be_scored() -> None:
    clips, words, lengths = inputs(SMALL, batch=1)
    one = torch.from_numpy(clip_means(clips[0, :1].numpy(), SMALL.clips))[None]
    model = TAN2D(SMALL)
    logits = model(one, words, lengths)
    assert torch.isfinite(logits).all()
    assert model.best(logits, torch.tensor([0.5])).amax() <= 0.5


def test_a_loss_stays_finite_for_scores_that_are_sure_and_wrong() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = TAN2D(SMALL).loss(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert torch.isfinite(loss) and logits.grad is not None and (logits.grad.abs() > 0.1).all()


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_convolutions_give_back_a_map_of_the_size_they_were_given(name: str) -> None:
    config = PUBLISHED[name]
    narrow = MapConvolutions(config.proposals, 1, config.kernels)
    assert narrow(torch.ones(1, 1, *config.proposals.mask.shape)).shape[2:] == config.proposals.mask.shape


def test_padding_as_content_spreads_gives_what_padding_once_gives() -> None:
    """Once is how the official code pads: by 16, in all published configurations."""
    for config in PUBLISHED.values():
        torch.manual_seed(0)
        layers = MapConvolutions(config.proposals, 2, config.kernels).double()
        mask = config.proposals.mask[None, None].double()
        seen, content = torch.rand_like(mask.expand(1, 2, -1, -1)) * mask, mask
        ours = layers(seen)
        for place, conv in enumerate(layers.convs):
            padding = 0 if place else 16
            under = conv2d(content, torch.ones(1, 1, *conv.kernel_size).double(), padding=padding).round()
            content = (under > 0).double()
            seen = relu(conv2d(seen, conv.weight, conv.bias, padding=padding)) * content / under.clamp(min=1)
        torch.testing.assert_close(ours, seen)


def test_cells_without_content_count_for_nothing_in_the_convolutions() -> None:
    """With weights of one and no bias, a map of ones stays one wherever there is content: sums are made means."""
    layers = MapConvolutions(ProposalMap(8, (4, 2)), 1, (3, 3))
    for conv in layers.convs:
        torch.nn.init.ones_(conv.weight)
        torch.nn.init.zeros_(conv.bias)
    mask = ProposalMap(8, (4, 2)).mask
    torch.testing.assert_close(layers(mask[None, None].float())[0, 0][mask], torch.ones(int(mask.sum())))


def test_clips_that_the_map_cannot_pool_are_refused() -> None:
    clips, words, lengths = inputs(SMALL)
    with pytest.raises(ValueError, match="13 clips cannot be pooled to 8"):
        TAN2D(SMALL)(clips[:, :13], words, lengths)


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(4, 3\).*must be odd"):
        TAN2D(replace(SMALL, kernels=(4, 3)))


def change(state: dict[str, Tensor], drop: str = "", **more: Any) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in state.items() if name != drop} | more


def test_parameters_that_are_not_those_of_the_model_are_refused_by_name(golden: dict[str, Tensor]) -> None:
    proposals, state = ProposalMap(16, (8, 4)), parameters(golden)
    counted = change(state, num_batches_tracked=torch.tensor(1))
    assert TAN2D.from_official(counted, proposals).config == TAN2D.from_official(state, proposals).config
    for name in state:
        with pytest.raises(ValueError, match=name.replace(".", r"\.")):
            TAN2D.from_official(change(state, drop=name), proposals)
    with pytest.raises(ValueError, match=r"unexpected.*stray"):
        TAN2D.from_official(change(state, stray=torch.ones(1)), proposals)
    with pytest.raises(ValueError, match=r"pred_layer\.weight is \(1, 3\)"):
        TAN2D.from_official(change(state) | {"pred_layer.weight": torch.ones(1, 3)}, proposals)


def test_a_convolved_model_is_refused_for_another_map() -> None:
    with pytest.raises(ValueError, match=r"prop_layer\.layers\.0\.7"):
        TAN2D.from_official(parameters(read_golden("tan2d_conv")), ProposalMap(16, (7, 4)))
