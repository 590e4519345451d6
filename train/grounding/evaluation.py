"""How good a grounding system is on a split, by the rule of its paper."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from train.grounding.metrics import interval_iou, mean_iou, recalls
from train.metrics import FiguresRow

RANKS = (1, 5)


@dataclass(frozen=True)
class GroundingMetrics:
    """R@n at IoUs and mean IoU of the best answers, in percent."""

    protocol: str
    videos: int
    queries: int
    recalls: dict[str, float]  # {"R1@0.5": ...}
    mean_iou: float
    several: int = 0  # queries about several moments, of which the best counts

    @property
    def score(self) -> float:
        """The sum of recalls at rank 1: what the best epoch is told by."""
        return sum(value for name, value in self.recalls.items() if name.startswith("R1@"))

    def figures(self) -> dict[str, float]:
        """What is logged of each validation."""
        return {**self.recalls, "mIoU": self.mean_iou}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return asdict(self)

    def csv_rows(self) -> list[dict[str, str | float]]:
        """One row."""
        return [{"protocol": self.protocol, "videos": self.videos, "queries": self.queries, **self.figures()}]

    def rows(self) -> list[FiguresRow]:
        """Figures for people."""
        return [FiguresRow("moments by text", "", self.figures())]

    def told(self) -> str:
        """What was measured, in a line for people."""
        best = (
            f"; of the moments of {self.several} sentences that have several, the best counts" if self.several else ""
        )
        return f"{self.queries} sentences about {self.videos} videos, protocol of {self.protocol}{best}"


def summarise(
    protocol: str,
    videos: int,
    predictions: dict[float, Tensor],
    truths: Tensor,
    strict: bool,
) -> GroundingMetrics:
    """Metrics of ranked segments (queries, K, 2), given for each IoU that is asked for, and of the true ones.

    The true ones are (queries, 2), or (queries, W, 2) as `MomentSplit.windows`.
    Mean IoU is that of the answers for the first of the IoUs.
    """
    found: dict[str, float] = {}
    for threshold, ranked in predictions.items():
        found |= recalls(ranked, truths, RANKS, (threshold,), strict)
    first = next(iter(predictions.values()))
    several = int(((truths.reshape(len(truths), -1, 2).diff(dim=2) > 0).sum(dim=1) > 1).sum())
    return GroundingMetrics(protocol, videos, len(truths), found, mean_iou(first, truths), several)


def most_frequent_interval(truths: Tensor, durations: Tensor, grid: int = 20) -> Tensor:
    """The interval, as shares of a video, that the most moments overlap by more than half: what a guess that reads
    no sentence is best at. `truths` (N, 2) and `durations` (N,) in seconds; ends lie on a grid of so many steps: (2,).
    """
    shares = truths / durations[:, None]
    steps = torch.arange(grid + 1) / grid
    candidates = torch.stack([torch.stack([a, b]) for a in steps for b in steps if b > a])  # (C, 2)
    hits = (interval_iou(candidates[:, None], shares) > 0.5).sum(dim=1)
    return candidates[hits.argmax()]
