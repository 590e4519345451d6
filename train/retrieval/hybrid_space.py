"""Dual Encoding with a hybrid space (Dong et al., "Dual Encoding for Video Retrieval by Text", TPAMI 2021).

Official code: danieljf24/hybrid_space. The encoders are those of Dual Encoding, with 512 units in the GRU of the
video; beside the latent space there is one of concepts, words that videos were captioned with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from train.losses import triplet_loss
from train.retrieval.dual_encoding import CommonSpace, DualEncodingConfig, Encoders, config_of_official

LATENT_SHARE = 0.6  # of the latent space in the similarity that ranks


class Embedding(NamedTuple):
    """Where something lies in both spaces: (B, common_dim) of length one, and (B, concepts) from 0 to 1."""

    latent: Tensor
    concept: Tensor


class ConceptSpace(nn.Module):
    """How much each concept applies: linear, batch normalisation, sigmoid."""

    def __init__(self, dim: int, concepts: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, concepts)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm = nn.BatchNorm1d(concepts)

    def forward(self, levels: Tensor) -> Tensor:
        """(B, dim) -> (B, concepts)."""
        return torch.sigmoid(self.norm(self.linear(levels)))


class HybridSpace(Encoders):
    """Embeds videos and sentences in a latent space and in one of `concepts` words."""

    OFFICIAL = (
        *Encoders.OFFICIAL,
        *(
            (f"{ours}_{space}.{part}.", f"{theirs}_mapping.{name}.")
            for ours, theirs in (("video", "vid"), ("text", "text"))
            for space, part, name in (
                ("latent", "linear", "mapping.fc1"),
                ("latent", "norm", "mapping.bn_1"),
                ("concept", "linear", "tag_fc"),
                ("concept", "norm", "tag_fc_batch_norm"),
            )
        ),
    )

    def __init__(self, config: DualEncodingConfig, concepts: int = 512, compat: bool = False) -> None:
        super().__init__(config, compat)
        self.video_latent = CommonSpace(self.video_dim, config.common_dim, config.dropout)
        self.video_concept = ConceptSpace(self.video_dim, concepts)
        self.text_latent = CommonSpace(self.text_dim, config.common_dim, config.dropout)
        self.text_concept = ConceptSpace(self.text_dim, concepts)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], compat: bool = False) -> HybridSpace:
        """A model with the parameters and sizes of an official one. Raises ValueError if it is not one."""
        config = config_of_official(state, "{}_mapping.mapping.fc1.weight")
        if "vid_mapping.tag_fc.bias" not in state:
            raise ValueError("not an official model of the hybrid space: vid_mapping.tag_fc.bias is missing")
        model = cls(config, len(state["vid_mapping.tag_fc.bias"]), compat)
        model.load_official(state)
        return model

    def encode_video(self, frames: Tensor, lengths: Tensor, mean: Tensor) -> Embedding:
        levels = self.video_levels(frames, lengths, mean)
        return Embedding(self.video_latent(levels), self.video_concept(levels))

    def encode_text(self, tokens: Tensor, lengths: Tensor, bag: Tensor) -> Embedding:
        levels = self.text_levels(tokens, lengths, bag)
        return Embedding(self.text_latent(levels), self.text_concept(levels))


def jaccard(one: Tensor, other: Tensor) -> Tensor:
    """Generalised Jaccard similarity of (A, K) and (B, K), none negative: sums of minima over sums of maxima.

    A minimum and a maximum add up to both numbers and differ by what these do, so that distances are enough.
    """
    apart = torch.cdist(one, other, p=1)  # (A, B)
    both = one.sum(dim=1)[:, None] + other.sum(dim=1)
    return (both - apart) / (both + apart)


def hybrid_loss(video: Embedding, text: Embedding, labels: Tensor, margin: float = 0.2) -> Tensor:
    """The loss of a batch of pairs; `labels` (B, concepts) says how much each concept applies to each video.

    Sums over the batch: the means of the cross entropies count as often as there are pairs.
    """
    ranking = triplet_loss(video.latent @ text.latent.T, margin) + triplet_loss(
        jaccard(video.concept, text.concept), margin
    )
    with torch.autocast(labels.device.type, enabled=False):  # which refuses probabilities
        concepts = sum(binary_cross_entropy(side.concept.float(), labels) for side in (video, text))
    return ranking + len(labels) * concepts


def fused_scores(latent: Tensor, concept: Tensor) -> Tensor:
    """The similarity that ranks: both, each brought to 0..1 over its whole matrix. So it depends on the gallery."""
    return LATENT_SHARE * _to_unit(latent) + (1 - LATENT_SHARE) * _to_unit(concept)


def _to_unit(scores: Tensor) -> Tensor:
    least, greatest = scores.min(), scores.max()
    return (scores - least) / (greatest - least)
