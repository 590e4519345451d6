"""How HANet compares videos with captions, and what it minimises (see `train.retrieval.hanet`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy, normalize, relu

from train.losses import triplet_loss
from train.retrieval.hanet import HANetText, HANetVideo
from train.retrieval.hybrid_space import jaccard

SHARPNESS = 4.0  # of attention over frames
CONCEPT_WEIGHT, LABEL_WEIGHT = 0.1, 0.01  # in the loss: of the scores of concepts, and of how well they are told
BETWEEN = 2**21  # numbers that a comparison holds at once, about what fits the cache of a CPU


class HANetScores(NamedTuple):
    """Similarities, each (videos, captions)."""

    event: Tensor
    local_verb: Tensor
    local_noun: Tensor
    individual_verb: Tensor
    individual_noun: Tensor
    concept_verb: Tensor
    concept_noun: Tensor

    def alignment(self) -> Tensor:
        """The mean of all but those of concepts."""
        return torch.stack(self[:5]).mean(dim=0)

    def concept(self) -> Tensor:
        """The mean of those of concepts."""
        return torch.stack(self[5:]).mean(dim=0)

    def ranking(self) -> Tensor:
        """What ranks in the test: half of alignment and half of concepts."""
        return (self.alignment() + self.concept()) / 2


class HANetLoss(NamedTuple):
    """The loss, and its parts before they are weighted."""

    total: Tensor
    alignment: Tensor
    concept: Tensor
    video_verb: Tensor
    video_noun: Tensor
    text_verb: Tensor
    text_noun: Tensor


def hanet_scores(video: HANetVideo, text: HANetText) -> HANetScores:
    """The seven similarities of all videos with all captions, in float32 also under autocast."""
    with torch.autocast(video.event.device.type, enabled=False):
        video, text = HANetVideo(*map(_float32, video)), HANetText(*map(_float32, text))
        return HANetScores(
            event=normalize(video.event, dim=1) @ normalize(text.event, dim=1).T,
            local_verb=phrase_scores(video.verb_clips, None, text.verb_nodes, text.has_verb),
            local_noun=phrase_scores(video.noun_clips, None, text.noun_nodes, text.has_noun),
            individual_verb=phrase_scores(video.actions, video.valid, text.verb_phrases, text.has_verb),
            individual_noun=phrase_scores(video.entities, video.valid, text.noun_phrases, text.has_noun),
            concept_verb=concept_scores(video.verb_concepts, text.verb_concepts),
            concept_noun=concept_scores(video.noun_concepts, text.noun_concepts),
        )


def concept_scores(video: Tensor, text: Tensor) -> Tensor:
    """Jaccard similarity of concepts (V, C) and (T, C) -> (V, T)."""
    return _in_blocks(lambda some: jaccard(some, text), text.numel(), video)


def phrase_scores(frames: Tensor, valid: Tensor | None, phrases: Tensor, present: Tensor) -> Tensor:
    """How well videos show the phrases of captions (SCAN, Lee et al. 2018): (videos, captions).

    Args:
        frames: (V, F, dim).
        valid: (V, F), false where padded; None if nothing is.
        phrases: (T, K, dim).
        present: (T, K). A caption without phrases scores 0.
    """
    units = normalize(phrases, dim=2).flatten(0, 1)  # (T K, dim)
    valid = torch.ones_like(frames[..., 0], dtype=torch.bool) if valid is None else valid
    each = frames.shape[1] * len(units)
    cosines = _in_blocks(lambda some, seen: _attended_cosines(some, seen, units), each, frames, valid)
    cosines = cosines.unflatten(1, present.shape).masked_fill(~present, 0)  # (V, T, K)
    return cosines.sum(dim=2) / present.sum(dim=1).clamp(min=1)


def _attended_cosines(frames: Tensor, valid: Tensor, units: Tensor) -> Tensor:
    """The cosine of each phrase (P, dim), of length one, and the mean of frames weighted for it: (V, P).

    The means are never formed: their products and lengths follow from those of the frames.
    """
    outside = ~valid[..., None]
    products = frames @ units.T  # (V, F, P)
    cosines = relu(products / frames.norm(dim=2, keepdim=True).clamp(min=1e-12)).masked_fill(outside, 0)
    weights = (SHARPNESS * normalize(cosines, dim=1)).masked_fill(outside, -torch.inf).softmax(dim=1)
    squared = (weights * (frames @ frames.transpose(1, 2) @ weights)).sum(dim=1)  # length of the mean
    return (weights * products).sum(dim=1) / squared.clamp(min=torch.finfo(squared.dtype).tiny).sqrt()


def hanet_loss(
    video: HANetVideo,
    text: HANetText,
    verb_labels: Tensor,
    noun_labels: Tensor,
    verb_mask: Tensor,
    noun_mask: Tensor,
    margin: float = 0.2,
) -> HANetLoss:
    """The loss of a batch of pairs.

    `verb_labels` (B, verb_concepts) says which concepts the caption has, 0 or 1; where `verb_mask` is 0 it does not
    count, that is where only other captions of the video have the concept. Nouns likewise.
    """
    scores = hanet_scores(video, text)
    ranking = [triplet_loss(one, margin, mean=True) for one in (scores.alignment(), scores.concept())]
    labels = [
        _masked_cross_entropy(predicted, truth, mask)
        for side in (video, text)
        for predicted, truth, mask in (
            (side.verb_concepts, verb_labels, verb_mask),
            (side.noun_concepts, noun_labels, noun_mask),
        )
    ]
    total = ranking[0] + CONCEPT_WEIGHT * ranking[1] + LABEL_WEIGHT * torch.stack(labels).sum()
    return HANetLoss(total, *ranking, *labels)


def _masked_cross_entropy(predicted: Tensor, labels: Tensor, mask: Tensor) -> Tensor:
    """The mean over what counts of each row, then over rows."""
    with torch.autocast(predicted.device.type, enabled=False):  # which refuses probabilities
        terms = binary_cross_entropy(_float32(predicted), labels, reduction="none") * mask
    return (terms.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).mean()


def _in_blocks(compare: Callable[..., Tensor], each: int, *videos: Tensor) -> Tensor:
    """What `compare` gives for as many videos at a time as BETWEEN allows, if one takes `each` numbers."""
    block = max(1, BETWEEN // max(1, each))
    return torch.cat([compare(*some) for some in zip(*(one.split(block) for one in videos), strict=True)])


def _float32(tensor: Tensor) -> Tensor:
    """Masks stay masks."""
    return tensor.float() if tensor.is_floating_point() else tensor
