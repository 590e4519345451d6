"""HANet against the numbers of the official model, at small size."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

from official_numbers import close, parameters, read_golden, read_meta
from train.losses import triplet_loss
from train.retrieval.hanet import (
    HANet,
    HANetConfig,
    HANetText,
    HANetVideo,
)
from train.retrieval.hanet_scores import HANetLoss, hanet_loss, hanet_scores

VIDEO = {
    "event": "vid_global",
    "verb_clips": "vid_verb_clips",
    "noun_clips": "vid_noun_clips",
    "verb_concepts": "vid_verb_concepts",
    "noun_concepts": "vid_noun_concepts",
}  # what the golden calls them
TEXT = {
    "event": "txt_global",
    "verb_nodes": "txt_verb_nodes",
    "noun_nodes": "txt_noun_nodes",
    "verb_phrases": "txt_verb_phrases",
    "noun_phrases": "txt_noun_phrases",
    "verb_concepts": "txt_verb_concepts",
    "noun_concepts": "txt_noun_concepts",
}
SCORES = {
    "event": "sent",
    "local_verb": "verb",
    "local_noun": "noun",
    "individual_verb": "ind_verb",
    "individual_noun": "ind_noun",
    "concept_verb": "concept_verb",
    "concept_noun": "concept_noun",
}
LOSSES = {
    "total": "loss",
    "alignment": "loss_fusion_triplet",
    "concept": "loss_concept_triplet",
    "video_verb": "loss_bce_video_verb",
    "video_noun": "loss_bce_video_noun",
    "text_verb": "loss_bce_text_verb",
    "text_noun": "loss_bce_text_noun",
}


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_golden("hanet")


@pytest.fixture(scope="module")
def tolerance(golden: Mapping[str, Tensor]) -> dict[str, float]:
    return read_meta(golden)["tolerance"]


def build(golden: Mapping[str, Tensor], compat: bool) -> HANet:
    return HANet.from_official(parameters(golden), compat)


def inputs(golden: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    return [golden[f"input/{name}"] for name in names]


def videos(model: HANet, golden: Mapping[str, Tensor]) -> HANetVideo:
    return model.encode_video(*inputs(golden, "attn_fts", "attn_lens"))


def captions(model: HANet, golden: Mapping[str, Tensor]) -> HANetText:
    names = ("sent_ids", "sent_lens", "verb_masks", "noun_masks", "node_roles", "rel_edges")
    return model.encode_text(*inputs(golden, *names))


def loss_of(video: HANetVideo, text: HANetText, golden: Mapping[str, Tensor]) -> HANetLoss:
    verbs, nouns = inputs(golden, "verb_concept_label", "noun_concept_label")
    verb_mask, noun_mask = inputs(golden, "verb_concept_mask", "noun_concept_mask")
    return hanet_loss(video, text, verbs, nouns, verb_mask, noun_mask)


def check_tops(video: HANetVideo, golden: Mapping[str, Tensor], where: str) -> None:
    assert torch.equal(video.verb_concepts.topk(10).indices, golden[f"output/{where}/top_idx_verb"])
    assert torch.equal(video.noun_concepts.topk(20).indices, golden[f"output/{where}/top_idx_noun"])


@torch.no_grad()
def test_videos_are_those_of_the_official_model(golden: dict[str, Tensor], tolerance: dict[str, float]) -> None:
    video = videos(build(golden, compat=True).eval(), golden)
    for name, theirs in (VIDEO | {"actions": "vid_action_frames", "entities": "vid_entity_frames"}).items():
        limit = tolerance["concepts" if "concepts" in name else "embedding"]
        close(getattr(video, name), golden[f"output/eval/{theirs}"], limit)
    check_tops(video, golden, "eval")


@torch.no_grad()
def test_by_default_videos_are_what_the_official_model_gives_for_each_alone(
    golden: dict[str, Tensor], tolerance: dict[str, float]
) -> None:
    model = build(golden, compat=False).eval()
    video = videos(model, golden)
    for name, theirs in VIDEO.items():
        limit = tolerance["concepts" if "concepts" in name else "embedding"]
        close(getattr(video, name), golden[f"output/eval/{theirs}_alone"], limit)
    scores = hanet_scores(video, captions(model, golden))
    close(scores.local_verb, golden["output/eval/scores_verb_alone"], tolerance["scores"])
    close(scores.local_noun, golden["output/eval/scores_noun_alone"], tolerance["scores"])


@pytest.mark.parametrize("compat", [True, False])
@torch.no_grad()
def test_captions_are_those_of_the_official_model(
    golden: dict[str, Tensor], tolerance: dict[str, float], compat: bool
) -> None:
    text = captions(build(golden, compat).eval(), golden)
    for name, theirs in TEXT.items():
        limit = tolerance["concepts" if "concepts" in name else "embedding"]
        close(getattr(text, name), golden[f"output/eval/{theirs}"], limit)


@torch.no_grad()
def test_scores_and_losses_are_those_of_the_official_model(
    golden: dict[str, Tensor], tolerance: dict[str, float]
) -> None:
    model = build(golden, compat=True).eval()
    video, text = videos(model, golden), captions(model, golden)
    check_scores_and_losses(video, text, golden, "eval", tolerance["scores"], tolerance["loss"])
    close(hanet_scores(video, text).ranking(), golden["output/eval/scores_fused"], tolerance["scores"])


def test_a_training_step_is_that_of_the_official_model(golden: dict[str, Tensor], tolerance: dict[str, float]) -> None:
    model = without_dropout(build(golden, compat=True))
    video, text = videos(model, golden), captions(model, golden)
    loss_of(video, text, golden).total.backward()
    check_tops(video, golden, "train")
    for ours, names in ((video, VIDEO), (text, {name: TEXT[name] for name in ("verb_concepts", "noun_concepts")})):
        for name, theirs in names.items():
            close(getattr(ours, name), golden[f"output/train/{theirs}"], tolerance["train"])
    check_scores_and_losses(video, text, golden, "train", tolerance["train"], tolerance["train"])
    check_gradients(model, golden, tolerance["grad_norm_relative"])


def check_gradients(model: HANet, golden: Mapping[str, Tensor], relative: float) -> None:
    norms = {
        HANet.official_name(name): parameter.grad.norm()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    keys = read_meta(golden)["grad_keys"]
    assert norms.keys() == set(keys)
    ours = torch.stack([norms[name] for name in keys])
    torch.testing.assert_close(ours, golden["output/train/grad_norm"], rtol=relative, atol=1e-5)


def check_scores_and_losses(
    video: HANetVideo, text: HANetText, golden: Mapping[str, Tensor], where: str, scores_limit: float, loss_limit: float
) -> None:
    scores = hanet_scores(video, text)
    for name, theirs in SCORES.items():
        close(getattr(scores, name), golden[f"output/{where}/scores_{theirs}"], scores_limit)
    loss = loss_of(video, text, golden)
    for name, theirs in LOSSES.items():
        close(getattr(loss, name), golden[f"output/{where}/{theirs}"], loss_limit)
    for ours, theirs in ((scores.event, "sent"), (scores.local_verb, "verb"), (scores.local_noun, "noun")):
        close(triplet_loss(ours, mean=True), golden[f"output/{where}/loss_individual_{theirs}"], loss_limit)


def without_dropout(model: HANet) -> HANet:
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


@torch.no_grad()
def test_an_embedding_does_not_depend_on_the_longest_of_its_batch(golden: dict[str, Tensor]) -> None:
    model = build(golden, compat=False).eval()
    frames, lengths = inputs(golden, "attn_fts", "attn_lens")
    together = model.encode_video(frames, lengths)
    for number, length in enumerate(lengths.tolist()):
        one = slice(number, number + 1)
        alone = model.encode_video(frames[one, :length], lengths[one])
        for name in VIDEO:
            torch.testing.assert_close(getattr(alone, name), getattr(together, name)[one], atol=2e-6, rtol=0)


@torch.no_grad()
def test_what_stands_in_padding_does_not_count_even_in_training(golden: dict[str, Tensor]) -> None:
    model = without_dropout(build(golden, compat=False))
    frames, lengths = inputs(golden, "attn_fts", "attn_lens")
    beyond = torch.arange(frames.shape[1]) >= lengths[:, None]
    longer = torch.cat([frames.masked_fill(beyond[..., None], 9.0), torch.full_like(frames[:, :3], -9.0)], dim=1)
    for ours, theirs in zip(model.encode_video(longer, lengths), model.encode_video(frames, lengths), strict=True):
        same = ours[:, : frames.shape[1]] if ours.shape != theirs.shape else ours
        torch.testing.assert_close(same, theirs, atol=5e-6, rtol=0)

    tokens, lengths, verbs, nouns, roles, edges = inputs(
        golden, "sent_ids", "sent_lens", "verb_masks", "noun_masks", "node_roles", "rel_edges"
    )
    beyond = torch.arange(tokens.shape[1]) >= lengths[:, None]
    text = model.encode_text(tokens, lengths, verbs, nouns, roles, edges)
    tokens, verbs, nouns = (pad(each, (0, 4)) for each in (tokens.masked_fill(beyond, 3), verbs, nouns))
    longer_text = model.encode_text(tokens, lengths, verbs, nouns, roles, edges)
    for ours, theirs in zip(longer_text, text, strict=True):
        torch.testing.assert_close(ours, theirs, atol=5e-6, rtol=0)


SMALL = HANetConfig(
    video_dim=5, words=9, word_dim=4, dim=16, verb_concepts=12, noun_concepts=24, graph_width=8, gate_reduction=4
)


def small_captions(model: HANet, verbs: int, nouns: int) -> HANetText:
    """Two captions of six words, whose first verbs and nouns are there, a word each."""
    verb_spans, noun_spans = torch.zeros(2, 4, 6, dtype=torch.bool), torch.zeros(2, 6, 6, dtype=torch.bool)
    verb_spans[:, range(verbs), range(verbs)] = True
    noun_spans[:, range(nouns), range(nouns)] = True
    edges = torch.zeros(2, 11, 11)
    edges[:, 1 : 1 + verbs, 5 : 5 + nouns] = 1
    roles = torch.zeros(2, 10, dtype=torch.long)
    return model.encode_text(torch.full((2, 6), 3), torch.tensor([6, 4]), verb_spans, noun_spans, roles, edges)


@pytest.mark.parametrize(("verbs", "nouns"), [(0, 0), (0, 6), (4, 0), (1, 2)])
def test_what_a_caption_lacks_scores_zero_and_harms_no_gradient(verbs: int, nouns: int) -> None:
    model = HANet(SMALL).train()
    video = model.encode_video(torch.randn(3, 4, 5), torch.tensor([1, 2, 4]))
    text = small_captions(model, verbs, nouns)
    scores = hanet_scores(video, text)
    for score, there in ((scores.local_verb, verbs), (scores.individual_noun, nouns)):
        assert (score != 0).all() if there else (score == 0).all()
    hanet_scores(video, text).ranking().sum().backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())


@torch.no_grad()
def test_all_clips_of_a_video_of_one_frame_are_that_frame() -> None:
    video = HANet(SMALL).eval().encode_video(torch.randn(1, 1, 5), torch.tensor([1]))
    for clips, count in ((video.verb_clips, 10), (video.noun_clips, 20)):
        assert clips.shape == (1, count, 16) and clips.isfinite().all()
        torch.testing.assert_close(clips, clips[:, :1].expand_as(clips))


@torch.no_grad()
def test_scores_of_many_are_those_of_each_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("train.retrieval.hanet_scores.BETWEEN", 150)  # a few videos at a time
    model = HANet(SMALL).eval()
    video = model.encode_video(torch.randn(19, 6, 5), torch.arange(19) % 6 + 1)
    text = small_captions(model, 2, 3)
    together = hanet_scores(video, text).ranking()
    for row in range(19):
        one = HANetVideo(*(tensor[row : row + 1] for tensor in video))
        torch.testing.assert_close(hanet_scores(one, text).ranking()[0], together[row])


def test_it_trains_under_autocast_on_scores_in_full_precision() -> None:
    model = HANet(SMALL).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        video = model.encode_video(torch.randn(2, 4, 5), torch.tensor([2, 4]))
        text = small_captions(model, 1, 0)
        scores = hanet_scores(video, text)
        loss = hanet_loss(video, text, torch.ones(2, 12), torch.ones(2, 24), torch.ones(2, 12), torch.zeros(2, 24))
    assert all(score.dtype == torch.float32 for score in scores)
    loss.total.backward()
    assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())


@torch.no_grad()
def test_it_runs_in_bfloat16() -> None:
    model = HANet(SMALL).eval().bfloat16()
    video = model.encode_video(torch.randn(3, 4, 5).bfloat16(), torch.tensor([1, 2, 4]))
    assert all(score.isfinite().all() for score in hanet_scores(video, small_captions(model, 1, 0)))


def test_the_parameters_of_another_model_are_refused_by_name(golden: dict[str, Tensor]) -> None:
    state = parameters(golden)
    lacking = {name: tensor for name, tensor in state.items() if name != "text_encoder.ft_attn.bias"}
    with pytest.raises(ValueError, match=r"missing text_encoder\.ft_attn\.bias; unexpected nothing"):
        HANet.from_official(lacking)
    with pytest.raises(ValueError, match=r"unexpected module\.weight"):
        HANet.from_official({**state, "module.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"level_embeds\.0\.weight' is missing"):
        HANet.from_official({"module.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"do not fit the others: text_encoder\.ft_attn\.weight"):
        HANet.from_official({**state, "text_encoder.ft_attn.weight": torch.zeros(1, 3)})


def test_what_the_official_model_has_beside_is_ignored(golden: dict[str, Tensor]) -> None:
    unused = read_meta(golden)["unused_official_keys"]
    HANet.from_official({**parameters(golden), **{name: torch.zeros(shape) for name, shape in unused.items()}})


def test_it_has_as_many_parameters_as_the_official_model() -> None:
    """28.38 million, without the 3.15 that no output of the official model depends on."""
    with torch.device("meta"):
        model = HANet(HANetConfig(video_dim=2048, words=10_510))
    assert 25.2e6 < sum(each.numel() for each in model.parameters()) < 25.3e6
