"""Greedy temporal non-maximum suppression: the best segment stays and takes away those that overlap it too much.

As in the code of 2D-TAN and DRN, a segment goes if its IoU is above the threshold, not at it. Their order among
equal scores is whatever their sort gives; here the first comes first.
"""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def temporal_nms(segments: Tensor, scores: Tensor, threshold: float, top_k: int) -> Tensor:
    """The best segments of each list, best first.

    Args:
        segments: (N, 2) or (B, N, 2), start and end, in any unit.
        scores: (B, N); -inf for what must not be picked.
        threshold: from 0 to 1; greater overlap with a better segment takes a segment away.
        top_k: how many to pick.

    Returns (B, top_k) of int64, places among the N, and -1 where fewer remain.

    All lists go in step: a pick is a few operations over all B * N, whatever overlaps. IoU is in double precision,
    so that one of exactly the threshold stays.
    """
    starts, ends = (segments.double().expand(*scores.shape, 2)[..., side].contiguous() for side in (0, 1))  # (B, N)
    lengths = ends - starts
    left = scores.clone()
    picks = []
    for number in range(top_k):
        best_score, best = left.max(dim=1, keepdim=True)  # (B, 1), the first of equals
        picks.append(best.masked_fill(best_score == -torch.inf, -1))
        if number == top_k - 1:
            break
        shared = torch.minimum(ends, ends.gather(1, best))
        shared -= torch.maximum(starts, starts.gather(1, best))  # negative where they do not meet: never too much
        union = lengths + lengths.gather(1, best)
        left.masked_fill_(shared / union.sub_(shared) > threshold, -torch.inf)
        left.scatter_(1, best, -torch.inf)  # a point does not overlap itself
    return torch.cat(picks, dim=1) if picks else scores.new_empty(len(scores), 0, dtype=torch.long)
