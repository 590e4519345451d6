"""MMT against the numbers of the official model, at small size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from official_numbers import close, parameters, read_golden, read_meta, without_dropout
from train.losses import max_margin_loss
from train.retrieval.mmt import INITIAL_DEVIATION, MMT, ExpertBatch, ExpertTokens, MMTConfig, official_names


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_golden("mmt")


@pytest.fixture(scope="module")
def meta(golden: dict[str, Tensor]) -> dict[str, Any]:
    return read_meta(golden)


def build(golden: dict[str, Tensor], meta: dict[str, Any], keep_missing: bool) -> MMT:
    hyper = meta["hyper"]
    types = {each["name"]: each["token_type_id"] for each in hyper["experts"]}
    heads = hyper["vid_bert_params"]["num_attention_heads"]
    return without_dropout(MMT.from_official(parameters(golden), types, heads, keep_missing))


def batch(golden: dict[str, Tensor], meta: dict[str, Any]) -> dict[str, ExpertBatch]:
    names = [each["name"] for each in meta["hyper"]["experts"]]
    kinds = ("features", "features_t", "features_ind", "features_maxpool")
    return {name: ExpertBatch(*(golden[f"input/{kind}/{name}"] for kind in kinds)) for name in names}


@pytest.mark.parametrize(("keep", "case"), [(True, "keep_missing"), (False, "drop_missing")])
@torch.no_grad()
def test_similarities_are_those_of_the_official_model(
    golden: dict[str, Tensor], meta: dict[str, Any], keep: bool, case: str
) -> None:
    model, tolerance = build(golden, meta, keep).eval(), meta["tolerance"]
    close(model.video.tokens(batch(golden, meta))[0], golden["output/eval/vid_tokens_in"], tolerance["embedding"])
    text, video = model.encode_text(golden["input/text_cls"]), model.encode_video(batch(golden, meta))
    close(text[0], golden["output/eval/text_embds"], tolerance["embedding"])
    close(text[1], golden["output/eval/text_weights"], tolerance["embedding"])
    close(video[0], golden["output/eval/vid_embds"], tolerance["embedding"])
    close(video[1], golden[f"output/eval/{case}/vid_weights"], tolerance["embedding"])
    sims = model.similarity(text, video)
    close(sims, golden[f"output/eval/{case}/sims"], tolerance["sims"])
    margin = meta["hyper"]["margin"]
    close(max_margin_loss(sims, margin), golden[f"output/eval/{case}/loss"], tolerance["loss"])
    counted = max_margin_loss(sims, margin, count_matches=True)
    close(counted, golden[f"output/eval/{case}/loss_no_fix_norm"], tolerance["loss"])


@pytest.mark.parametrize(("keep", "case"), [(True, "keep_missing"), (False, "drop_missing")])
def test_a_training_step_is_that_of_the_official_model(
    golden: dict[str, Tensor], meta: dict[str, Any], keep: bool, case: str
) -> None:
    model, tolerance = build(golden, meta, keep).train(), meta["tolerance"]
    texts = golden["input/text_cls"].clone().requires_grad_()
    sims = model.similarity(model.encode_text(texts), model.encode_video(batch(golden, meta)))
    loss = max_margin_loss(sims, meta["hyper"]["margin"])
    loss.backward()
    close(sims, golden[f"output/train/{case}/sims"], tolerance["train"])
    close(loss, golden[f"output/train/{case}/loss"], tolerance["train"])
    assert texts.grad is not None
    norms = {"input/text_cls": texts.grad.norm()}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        official = official_names(model.config.experts, name)
        norms |= zip(official, (part.norm() for part in parameter.grad.chunk(len(official))), strict=True)
    ours = torch.stack([norms[name] for name in meta["grad_keys"]])
    expected = golden[f"output/train/{case}/grad_norm"]
    torch.testing.assert_close(ours, expected, rtol=tolerance["grad_norm_relative"], atol=1e-5)


def test_a_new_model_begins_as_the_official_one_does() -> None:
    """Embeddings of positions and experts are small beside features of length one, or nothing else would be seen."""
    video = MMT(MMTConfig((ExpertTokens("s3d", 1024, 1),))).video
    for table in (video.position, video.expert):
        assert table.weight.std().item() == pytest.approx(INITIAL_DEVIATION, rel=0.1)
    for name, parameter in video.layers.named_parameters():
        if parameter.ndim > 1:
            assert parameter.std().item() == pytest.approx(INITIAL_DEVIATION, rel=0.1), name
        elif name.endswith("bias"):
            assert not parameter.any(), name
