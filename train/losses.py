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
