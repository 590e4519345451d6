"""Greedy temporal non-maximum suppression: the best segment stays and takes away those that overlap it too much.

As in the code of 2D-TAN and DRN, a segment goes if its IoU is above the threshold, not at it. Their order among
equal scores is whatever their sort gives; here the first comes first.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from train import TrainError


def temporal_nms(segments: Tensor, scores: Tensor, threshold: float, top_k: int) -> Tensor:
    """The best segments of each list, best first.

    Args:
        segments: (N, 2) or (B, N, 2), start and end, in any unit.
        scores: (B, N); -inf for what must not be picked.
        threshold: from 0 to 1; greater overlap with a better segment takes a segment away.
        top_k: how many to pick.

    Returns (B, top_k) of int64 on the device of the scores: places among the N, and -1 where fewer remain.

    Raises TrainError for scores that are NaN. On the CPU, in NumPy, whose calls cost less than torch's at this size
    (benchmarks/nms.py), and in double precision, so that an overlap of exactly the threshold is one.
    """
    left = scores.detach().double().cpu().numpy().copy()
    if np.isnan(left).any():
        raise TrainError("scores to rank segments by are NaN: the training of the model has diverged")
    edges = segments.detach().double().cpu().numpy()
    starts, ends = (np.broadcast_to(np.ascontiguousarray(edges[..., side]), left.shape) for side in (0, 1))
    picks = np.full((len(left), top_k), -1)
    with np.errstate(invalid="ignore"):  # two points: 0 / 0, which is above no threshold
        for row, of_list in enumerate(left):
            _pick(starts[row], ends[row], of_list, threshold, picks[row])
    return torch.from_numpy(picks).to(scores.device)


def picked(segments: Tensor, picks: Tensor) -> Tensor:
    """The segments (B, N, 2) at places (B, K): (B, K, 2), rows of -1 where a place is -1."""
    found = segments.gather(1, picks.clamp(min=0)[..., None].expand(-1, -1, 2))
    return found.masked_fill(picks[..., None] < 0, -1)


def _pick(starts: np.ndarray, ends: np.ndarray, left: np.ndarray, threshold: float, picks: np.ndarray) -> None:
    """Fill `picks` with the best places of one list, (N,), and take from `left` the scores of all that is gone."""
    lengths = ends - starts
    for number in range(len(picks)):
        best = left.argmax()
        if left[best] == -np.inf:
            return
        picks[number] = best
        shared = np.minimum(ends, ends[best]) - np.maximum(starts, starts[best])  # negative where they do not meet
        left[shared / (lengths + lengths[best] - shared) > threshold] = -np.inf
        left[best] = -np.inf  # also if it is a point
