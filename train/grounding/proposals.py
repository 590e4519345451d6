"""The map of 2D-TAN: which moments of a video are candidates, when they are, what they look like.

A video is N clips of equal length; cell (i, j) of an N x N map is the moment from the start of clip i to the end of
clip j (Zhang et al., "Learning 2D Temporal Adjacent Networks for Moment Localization with Natural Language", AAAI
2020; official code: microsoft/2D-TAN). Short moments are all candidates, longer ones at every second clip, still
longer ones at every fourth, and so on. Values of candidates are kept flat, in order of length; a map of them is made
where a network looks at neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool1d

from train.grounding.metrics import interval_iou
from train.grounding.nms import picked, temporal_nms


@dataclass(frozen=True)
class ProposalMap:
    """Candidates of a video of `size` clips; `scales[s]` lengths have a candidate at every 2**s-th clip.

    P below is how many candidates there are. Raises ValueError if the scales ask for moments longer than the video.
    """

    size: int
    scales: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.scales or min(self.scales) < 1:
            raise ValueError(f"scales {self.scales}: each needs at least one length")
        if (longest := sum(count << scale for scale, count in enumerate(self.scales))) > self.size:
            raise ValueError(f"scales {self.scales} reach {longest} clips, but the video has {self.size}")

    @cached_property
    def steps(self) -> list[tuple[int, int]]:
        """Kernel and stride by which the moments of one length come from those one shorter."""
        return [step for scale, count in enumerate(self.scales) for step in _steps(scale, count)]

    @cached_property
    def _table(self) -> np.ndarray:
        """As `cells`; kept without torch, whose tensors would remember an inference mode they were made in."""
        cells, reach, apart = [], 0, 1
        for kernel, stride in self.steps:
            reach += (kernel - 1) * apart
            apart *= stride
            first = np.arange(0, self.size - reach, apart, dtype=np.int64)
            cells.append(np.stack([first, first + reach], axis=1))
        return np.concatenate(cells)

    @property
    def cells(self) -> Tensor:
        """First and last clip of each candidate, (P, 2)."""
        return torch.from_numpy(self._table)

    @property
    def mask(self) -> Tensor:
        """Where candidates are, (N, N)."""
        return self.spread(torch.ones(len(self.cells), dtype=torch.bool))

    def spread(self, flat: Tensor) -> Tensor:
        """Values of candidates (..., P) on the map (..., N, N), 0 elsewhere."""
        whole = flat.new_zeros(*flat.shape[:-1], self.size * self.size)
        whole[..., self.cells[:, 0] * self.size + self.cells[:, 1]] = flat
        return whole.unflatten(-1, (self.size, self.size))

    def collect(self, whole: Tensor) -> Tensor:
        """Values of candidates (..., P) from the map (..., N, N)."""
        return whole[..., self.cells[:, 0], self.cells[:, 1]]

    def pool(self, clips: Tensor) -> Tensor:
        """The maxima over the clips of each candidate: (B, D, N) -> (B, D, P)."""
        moments = []
        for kernel, stride in self.steps:
            clips = max_pool1d(clips, kernel, stride)
            moments.append(clips)
        return torch.cat(moments, dim=2)

    def segments(self, durations: Tensor) -> Tensor:
        """Start and end of each candidate, in the unit of the durations (B,): (B, P, 2)."""
        return self._edges.to(durations) * durations[:, None, None] / self.size

    def overlaps(self, truths: Tensor, durations: Tensor) -> Tensor:
        """IoU of each candidate with the true moment (B, 2): (B, P)."""
        return interval_iou(self.segments(durations), truths[:, None])

    def best(self, scores: Tensor, durations: Tensor, threshold: float, top_k: int = 5) -> Tensor:
        """The best candidates after suppression of IoU above the threshold: (B, P) -> (B, top_k, 2), or rows of -1."""
        picks = temporal_nms(self._edges.to(scores.device), scores, threshold, top_k)  # in clips, which are exact
        return picked(self.segments(durations), picks)

    @property
    def _edges(self) -> Tensor:
        """Start and end of each candidate, in clips, (P, 2)."""
        return self.cells + torch.tensor([0, 1])


MAPS = {
    "charades-sta": ProposalMap(16, (16,)),
    "activitynet-captions": ProposalMap(64, (16, 8, 8)),
    "tacos": ProposalMap(128, (16, 8, 8, 8)),
}  # as published, by dataset: 136, 1,104 and 2,548 candidates


class ConvolvedProposals(nn.Module):
    """The paper's other way to make moments: a convolution, without activation, in place of each maximum."""

    def __init__(self, proposals: ProposalMap, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(nn.Conv1d(dim, dim, kernel, stride) for kernel, stride in _steps(scale, count))
            for scale, count in enumerate(proposals.scales)
        )

    def forward(self, clips: Tensor) -> Tensor:
        """(B, D, N) -> (B, D, P)."""
        moments = []
        for conv in (conv for scale in self.layers for conv in scale.children()):
            clips = conv(clips)
            moments.append(clips)
        return torch.cat(moments, dim=2)


def clip_means(features: np.ndarray, count: int) -> np.ndarray:
    """Features of a video's clips (n, D), n at least 1, made `count` ones, each of length one before its mean.

    As 2D-TAN's loader does it: the k-th mean is over clips round(k n / count) up to round((k+1) n / count), or of the
    first of them where that is none; both at most n - 1, so that the last clip only counts where it starts a mean.
    Raises ValueError if there is no clip.
    """
    if not len(features):
        raise ValueError("a video without any clip has no features to average")
    features = features.astype(np.float32)
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    share = np.arange(count + 1, dtype=np.float32) / np.float32(count)
    edges = np.minimum(np.round(share * np.float32(len(features))).astype(np.int64), len(features) - 1)
    sums = np.add.reduceat(features, edges, axis=0)[:-1]  # the first alone where two edges are one
    return sums / np.maximum(np.diff(edges), 1)[:, None].astype(np.float32)


def soft_labels(overlaps: Tensor, low: float, high: float) -> Tensor:
    """How right each candidate is, 2D-TAN's scaled IoU: 0 up to an IoU of `low`, 1 from `high` on, linear between."""
    return ((overlaps - low) / (high - low)).clamp(0, 1)


def _steps(scale: int, count: int) -> list[tuple[int, int]]:
    first = (3, 2) if scale else (1, 1)  # a longer scale begins by leaving out every second moment
    return [first, *[(2, 1)] * (count - 1)]
