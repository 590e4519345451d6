"""2D-TAN (Zhang et al., "Learning 2D Temporal Adjacent Networks for Moment Localization", AAAI 2020).

Official code: microsoft/2D-TAN. All candidate moments lie on a map of start and end; the sentence is multiplied in,
and convolutions over the map let each moment see its neighbours before it is scored. Where the official code and
the paper differ or surprise, we follow the code in what changes numbers:

* convolutions see beyond the map's edge: the first pads by so much that the map grows, then shrinks back to its
  size. After each, values are divided by the number of cells with content under the kernel, which become more;
* the last clip of a video only counts in the mean of clips that it starts (`clip_means`).

and differ from it in what does not:

* what is per candidate is computed for candidates only, not for all N x N cells, and convolutions pad as content
  spreads, where the first official one pads for all and computes zeros;
* cells that are no candidates have no score. In the official code theirs is 0, and one can be among the best five
  if suppression leaves fewer. From ten clips and a threshold of 1/3 on, there are always five;
* the loss takes logits, so it is finite for any score.

Not of the model: the official training feeds its scheduler the negative validation loss, and leaves words that
end in punctuation without a vector.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, binary_cross_entropy_with_logits, conv2d, normalize, relu

from train.grounding import official_layers, official_size
from train.grounding.proposals import MAPS, ConvolvedProposals, ProposalMap, soft_labels
from train.official import take_official


@dataclass(frozen=True)
class TAN2DConfig:
    """Sizes. `kernels` are those of the convolutions over the map, in order.

    Labels rise from 0 to 1 between IoUs `low` and `high`; `suppress` is the IoU above which NMS takes away.
    """

    video_dim: int
    proposals: ProposalMap
    kernels: tuple[int, ...]
    convolved: bool = False  # moments by convolution, else the maxima over their clips
    dim: int = 512
    word_dim: int = 300
    text_units: int = 512
    text_layers: int = 3
    clips: int = 256  # features a video, means of what it has (`clip_means`)
    low: float = 0.5
    high: float = 1.0
    suppress: float = 0.5


POINTWISE = ("fusion_layer.vis_conv.weight", "pred_layer.weight")  # over the map officially, over candidates here

PUBLISHED = {
    "charades-sta": TAN2DConfig(4096, MAPS["charades-sta"], (5,) * 8, suppress=0.45),
    "activitynet-captions": TAN2DConfig(500, MAPS["activitynet-captions"], (9,) * 4),
    "tacos": TAN2DConfig(4096, MAPS["tacos"], (5,) * 8, low=0.3, high=0.7, suppress=0.4),
}  # pooled; the convolved ones suppress above 0.5 on all three


class MapConvolutions(nn.Module):
    """Convolutions over a map of which some cells are empty."""

    def __init__(self, proposals: ProposalMap, dim: int, kernels: tuple[int, ...]) -> None:
        super().__init__()
        if not all(kernel % 2 for kernel in kernels):
            raise ValueError(f"kernels {kernels} of the map's convolutions: all must be odd, to have a middle")
        paddings = _paddings(kernels)
        self.convs = nn.ModuleList(
            nn.Conv2d(dim, dim, kernel, padding=padding) for kernel, padding in zip(kernels, paddings, strict=True)
        )
        for place, shares in enumerate(_shares(proposals.mask, kernels, paddings)):
            self.register_buffer(f"shares{place}", shares, persistent=False)

    def forward(self, fused: Tensor) -> Tensor:
        """(B, D, N, N) -> (B, D, N, N)."""
        for place, conv in enumerate(self.convs):
            fused = relu(conv(fused)) * self.get_buffer(f"shares{place}")
        return fused


class TAN2D(nn.Module):
    """Scores every candidate moment of a video against a sentence."""

    OFFICIAL: tuple[tuple[str, str], ...] = (
        ("clip.", "frame_layer.vis_conv."),
        ("moment.", "prop_layer."),
        ("words.", "fusion_layer.textual_encoder."),
        ("sentence.", "fusion_layer.tex_linear."),
        ("fusion.", "fusion_layer.vis_conv."),
        ("context.", "map_layer."),
        ("score.", "pred_layer."),
    )  # how our names of parameters begin, and the official ones

    def __init__(self, config: TAN2DConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.clip = nn.Conv1d(config.video_dim, dim, 1)
        self.moment = ConvolvedProposals(config.proposals, dim) if config.convolved else None
        self.words = nn.LSTM(config.word_dim, config.text_units, config.text_layers, batch_first=True)
        self.sentence = nn.Linear(config.text_units, dim)
        self.fusion = nn.Conv1d(dim, dim, 1)
        self.context = MapConvolutions(config.proposals, dim, config.kernels)
        self.score = nn.Conv1d(dim, 1, 1)

    def forward(self, clips: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """Logits of the candidates, (B, P), of clips (B, T, D) and word vectors (B, W, word_dim) with lengths (B,)."""
        return self.match(self.encode_video(clips), self.encode_text(words, lengths))

    def encode_video(self, clips: Tensor) -> Tensor:
        """Features of the moments, of any sentence: (B, T, D) -> (B, dim, P). N divides T."""
        return self.moments(self.pooled_clips(clips))

    def pooled_clips(self, clips: Tensor) -> Tensor:
        """(B, T, D) -> (B, dim, N). Raises ValueError if T is no multiple of N."""
        window, rest = divmod(clips.shape[1], self.config.proposals.size)
        if rest or not window:
            raise ValueError(f"{clips.shape[1]} clips cannot be pooled to {self.config.proposals.size}: see clip_means")
        return avg_pool1d(relu(self.clip(clips.transpose(1, 2))), window)

    def moments(self, clips: Tensor) -> Tensor:
        """(B, dim, N) -> (B, dim, P)."""
        return self.config.proposals.pool(clips) if self.moment is None else self.moment(clips)

    def encode_text(self, words: Tensor, lengths: Tensor) -> Tensor:
        """The state after the last word: (B, W, word_dim) and lengths (B,), at least 1 -> (B, dim)."""
        states = self.words(words)[0]  # one direction, so what follows a sentence does not change it
        return self.sentence(states[torch.arange(len(states), device=states.device), lengths - 1])

    def match(self, moments: Tensor, sentences: Tensor) -> Tensor:
        """Moments (B, dim, P) and sentences (B, dim) -> logits (B, P)."""
        seen = self.context(self.config.proposals.spread(self.fuse(moments, sentences)))  # (B, dim, N, N)
        return self.score(self.config.proposals.collect(seen)).squeeze(1)

    def fuse(self, moments: Tensor, sentences: Tensor) -> Tensor:
        """Each moment times the sentence, of length one: (B, dim, P)."""
        return normalize(sentences[..., None] * self.fusion(moments), dim=1)

    def loss(self, logits: Tensor, overlaps: Tensor) -> Tensor:
        """Cross-entropy with labels that rise with IoU, the mean over candidates; both are (B, P)."""
        return binary_cross_entropy_with_logits(logits, soft_labels(overlaps, self.config.low, self.config.high))

    def best(self, logits: Tensor, durations: Tensor, top_k: int = 5) -> Tensor:
        """The best moments after suppression, in the unit of the durations (B,): (B, top_k, 2), or rows of -1."""
        return self.config.proposals.best(logits, durations, self.config.suppress, top_k)

    def official_name(self, name: str) -> str:
        """What the official code calls a parameter of ours."""
        ours, theirs = next(pair for pair in self.OFFICIAL if name.startswith(pair[0]))
        return theirs + name.removeprefix(ours)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], proposals: ProposalMap, **options: float) -> TAN2D:
        """An official model. Its parameters do not tell the map, nor `low`, `high` and `suppress` (`options`).

        Raises ValueError if parameters are missing, unexpected, or do not belong to such a map.
        """
        convs = official_layers(state, r"map_layer\.convs\.(\d+)\.")
        text = "fusion_layer.textual_encoder"
        config = TAN2DConfig(
            video_dim=official_size(state, "frame_layer.vis_conv.weight", 1),
            proposals=proposals,
            kernels=tuple(official_size(state, f"map_layer.convs.{layer}.weight", 2) for layer in range(convs)),
            convolved=any(name.startswith("prop_layer.") for name in state),
            dim=official_size(state, "frame_layer.vis_conv.weight"),
            word_dim=official_size(state, f"{text}.weight_ih_l0", 1),
            text_units=official_size(state, f"{text}.weight_hh_l0", 1),
            text_layers=official_layers(state, r"fusion_layer\.textual_encoder\.\w+_l(\d+)$"),
            **options,  # type: ignore[arg-type]  # names are checked by the dataclass
        )
        model = cls(config)
        flat = {name: state[name].squeeze(3) for name in POINTWISE if name in state and state[name].ndim == 4}
        take_official(model, {**state, **flat}, lambda name: [model.official_name(name)])
        return model


def _paddings(kernels: tuple[int, ...]) -> list[int]:
    """By how much each convolution pads, so that it computes what can have content and still be seen at the end.

    Content reaches half a kernel farther beyond the map with each convolution, and the scores see half a kernel
    less far with each that is done.
    """
    halves = [kernel // 2 for kernel in kernels]
    margins = [0, *(min(sum(halves[:done]), sum(halves[done:])) for done in range(1, len(halves) + 1))]
    return [half + after - before for half, (before, after) in zip(halves, pairwise(margins), strict=True)]


def _shares(mask: Tensor, kernels: tuple[int, ...], paddings: list[int]) -> list[Tensor]:
    """Of each convolution's output (1, 1, M, M), one over the cells with content under the kernel, 0 where none."""
    content, shares = mask[None, None].float(), []
    for kernel, padding in zip(kernels, paddings, strict=True):
        under = conv2d(content, torch.ones(1, 1, kernel, kernel), padding=padding)
        content = (under > 0.5).float()  # counts, up to rounding
        shares.append(content / under.round().clamp(min=1))
    return shares
