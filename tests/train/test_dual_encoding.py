"""Dual Encoding against the numbers of the official model, at small size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from official_numbers import close, parameters, read_golden, read_meta, without_dropout
from train.losses import triplet_loss
from train.retrieval.dual_encoding import DualEncoding, Encoders
from train.retrieval.hybrid_space import HybridSpace, fused_scores, hybrid_loss, jaccard


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_golden("dual_encoding")


@pytest.fixture(scope="module")
def hybrid() -> dict[str, Tensor]:
    return read_golden("dual_encoding_hybrid")


@pytest.fixture(scope="module")
def meta(golden: Mapping[str, Tensor]) -> dict[str, Any]:
    return read_meta(golden)


def build(golden: Mapping[str, Tensor], compat: bool) -> DualEncoding:
    return without_dropout(DualEncoding.from_official(parameters(golden), compat))


def build_hybrid(golden: Mapping[str, Tensor], compat: bool) -> HybridSpace:
    return without_dropout(HybridSpace.from_official(parameters(golden), compat))


def embed(model: Any, golden: Mapping[str, Tensor]) -> tuple[Any, Any]:
    video = model.encode_video(*(golden[f"input/video_{name}"] for name in ("frames", "lengths", "mean")))
    text = model.encode_text(*(golden[f"input/text_{name}"] for name in ("ids", "lengths", "bow")))
    return video, text


@pytest.mark.parametrize("compat", [True, False])
@torch.no_grad()
def test_embeddings_are_those_of_the_official_model(
    golden: dict[str, Tensor], meta: dict[str, Any], compat: bool
) -> None:
    """Padded as it does, and, by default, as it gives for each item alone."""
    tolerance = meta["tolerance"]["embedding"]
    for ours, side in zip(embed(build(golden, compat).eval(), golden), ("video", "text"), strict=True):
        close(ours, golden[f"output/eval/{side}_embedding{'' if compat else '_alone'}"], tolerance)


@torch.no_grad()
def test_scores_and_losses_are_those_of_the_official_model(golden: dict[str, Tensor], meta: dict[str, Any]) -> None:
    video, text = embed(build(golden, compat=True).eval(), golden)
    scores = video @ text.T
    close(scores, golden["output/eval/scores"], meta["tolerance"]["scores"])
    for name, options in {
        "loss": {},
        "loss_mean_hardest": {"mean": True},
        "loss_sum_allneg": {"hardest": False},
        "loss_mean_allneg": {"hardest": False, "mean": True},
    }.items():
        close(triplet_loss(scores, **options), golden[f"output/eval/{name}"], meta["tolerance"]["loss"])


def test_a_training_step_is_that_of_the_official_model(golden: dict[str, Tensor], meta: dict[str, Any]) -> None:
    model = build(golden, compat=True).train()
    video, text = embed(model, golden)
    loss = triplet_loss(video @ text.T)
    loss.backward()
    close(loss, golden["output/train/loss"], meta["tolerance"]["train"])
    close(video, golden["output/train/video_embedding"], meta["tolerance"]["train"])
    close(text, golden["output/train/text_embedding"], meta["tolerance"]["train"])
    for side, space in (("video", model.video_space), ("text", model.text_space)):
        for name in ("mean", "var"):
            after = golden[f"output/train/{side}_bn_running_{name}_after"]
            close(getattr(space.norm, f"running_{name}"), after, meta["tolerance"]["train"])
    check_gradients(model, golden, meta)


def check_gradients(model: Encoders, golden: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    norms = {
        model.official_name(name): parameter.grad.norm()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    ours = torch.stack([norms[name] for name in meta["grad_keys"]])
    relative = meta["tolerance"]["grad_norm_relative"]
    torch.testing.assert_close(ours, golden["output/train/grad_norm"], rtol=relative, atol=1e-5)


@torch.no_grad()
def test_an_embedding_does_not_depend_on_the_longest_of_its_batch(golden: dict[str, Tensor]) -> None:
    model = build(golden, compat=False).eval()
    frames, lengths, mean = (golden[f"input/video_{name}"] for name in ("frames", "lengths", "mean"))
    together = model.encode_video(frames, lengths, mean)
    for number, length in enumerate(lengths.tolist()):
        one = slice(number, number + 1)
        alone = model.encode_video(frames[one, :length], lengths[one], mean[one])
        torch.testing.assert_close(alone, together[one], atol=1e-6, rtol=0)


@pytest.mark.parametrize("compat", [True, False])
@torch.no_grad()
def test_both_spaces_are_those_of_the_official_hybrid_model(hybrid: dict[str, Tensor], compat: bool) -> None:
    tolerance = read_meta(hybrid)["tolerance"]["embedding"]
    for ours, side in zip(embed(build_hybrid(hybrid, compat).eval(), hybrid), ("video", "text"), strict=True):
        for space in ("latent", "concept"):
            close(getattr(ours, space), hybrid[f"output/eval/{side}_{space}{'' if compat else '_alone'}"], tolerance)


@torch.no_grad()
def test_hybrid_scores_and_loss_are_the_official_ones(hybrid: dict[str, Tensor]) -> None:
    tolerance = read_meta(hybrid)["tolerance"]
    video, text = embed(build_hybrid(hybrid, compat=True).eval(), hybrid)
    latent, concept = video.latent @ text.latent.T, jaccard(video.concept, text.concept)
    close(latent, hybrid["output/eval/latent_scores"], tolerance["scores"])
    close(concept, hybrid["output/eval/concept_scores"], tolerance["scores"])
    close(fused_scores(latent, concept).T, hybrid["output/eval/fused_scores"], tolerance["scores"])
    loss = hybrid_loss(video, text, hybrid["input/concept_label"])
    close(loss, hybrid["output/eval/loss"], tolerance["loss"])


def test_a_training_step_of_the_hybrid_model_is_the_official_one(hybrid: dict[str, Tensor]) -> None:
    model = build_hybrid(hybrid, compat=True).train()
    video, text = embed(model, hybrid)
    loss = hybrid_loss(video, text, hybrid["input/concept_label"])
    loss.backward()
    meta = read_meta(hybrid)
    close(loss, hybrid["output/train/loss"], meta["tolerance"]["train"])
    check_gradients(model, hybrid, meta)


def test_what_is_no_official_model_is_told_by_name(golden: dict[str, Tensor], hybrid: dict[str, Tensor]) -> None:
    state = parameters(golden)
    with pytest.raises(ValueError, match="not an official"):
        DualEncoding.from_official(parameters(hybrid))
    with pytest.raises(ValueError, match="not an official"):
        HybridSpace.from_official(state)
    with pytest.raises(ValueError, match=r"bn_1\.bias"):
        DualEncoding.from_official({name: tensor for name, tensor in state.items() if "bn_1.bias" not in name})
    with pytest.raises(ValueError, match="unexpected something"):
        DualEncoding.from_official({**state, "something": torch.zeros(1)})
