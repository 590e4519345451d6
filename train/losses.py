"""Losses over similarities of a batch, each as its paper defines it."""

from __future__ import annotations

import torch
from torch import Tensor


def triplet_loss(scores: Tensor, margin: float = 0.2, hardest: bool = True, mean: bool = False) -> Tensor:
    """Max-margin ranking loss in both directions (Faghri et al., "VSE++", BMVC 2018, eq. 6 and 5).

    Args:
        scores: (B, B), similarity of video i (row) and caption j (column); those of one index belong together.
        margin: by which a match must beat what does not match.
        hardest: only the hardest negative of each row and column counts (eq. 6), else all do (eq. 5).
        mean: the mean over what counts, else the sum.

    Other captions of the same video in the batch count as negatives, as in the official code.
    """
    matches = scores.diag()
    itself = torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    of_captions = (margin + scores - matches[:, None]).clamp(min=0).masked_fill(itself, 0)  # for each video
    of_videos = (margin + scores - matches[None, :]).clamp(min=0).masked_fill(itself, 0)  # for each caption
    if hardest:
        of_captions, of_videos = of_captions.amax(dim=1), of_videos.amax(dim=0)
    return of_captions.mean() + of_videos.mean() if mean else of_captions.sum() + of_videos.sum()


def max_margin_loss(scores: Tensor, margin: float = 0.05, count_matches: bool = False) -> Tensor:
    """Max-margin ranking loss over all negatives, in both directions (MMT, eq. 4), the mean over its terms.

    `scores` is (B, B), rows and columns of one index belonging together. With `count_matches` a match is also held
    against itself, as in CE's first version: that adds a constant and changes the mean.
    """
    terms = 2 * len(scores) * (len(scores) - (not count_matches))
    constant = 2 * len(scores) * max(margin, 0.0) if count_matches else 0.0
    return (triplet_loss(scores, margin, hardest=False) + constant) / terms
