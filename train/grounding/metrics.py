"""How well ranked segments of videos are where sentences say: R@n at an IoU, and mean IoU.

R@n, IoU=m is the share of queries of which one of the first n segments overlaps the truth by m: by more than m in
2D-TAN's code (`strict`), by m or more in DRN's. All shares are in percent. Where a sentence is about several moments,
the one that a segment overlaps most counts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def interval_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of segments (..., 2) that broadcast: start, end. Equal points have none.

    The union is that of the hull, which is the same wherever segments meet.
    """
    together = torch.minimum(first[..., 1], second[..., 1]) - torch.maximum(first[..., 0], second[..., 0])
    hull = torch.maximum(first[..., 1], second[..., 1]) - torch.minimum(first[..., 0], second[..., 0])
    return together.clamp(min=0) / hull.clamp(min=torch.finfo(hull.dtype).tiny)


def recalls(
    predictions: Tensor, truths: Tensor, ranks: Sequence[int], thresholds: Sequence[float], strict: bool = True
) -> dict[str, float]:
    """R@n for every rank n and threshold m, as {"R1@0.5": percent}.

    Args:
        predictions: (Q, K, 2), the best first; rows of -1 where a query has fewer than K.
        truths: (Q, 2), or (Q, W, 2) of W moments each, [0, 0] where there are fewer; in the same unit.
        ranks: each n; where there are fewer than n predictions, all count.
        thresholds: each m, from 0 to 1.
        strict: IoU > m, as 2D-TAN counts, else IoU >= m, as DRN does.

    Raises ValueError if there is no query.
    """
    overlaps = _overlaps(predictions, truths)
    found = {}
    for threshold in thresholds:
        hits = overlaps > threshold if strict else overlaps >= threshold  # (Q, K)
        for rank in ranks:
            found[f"R{rank}@{threshold:g}"] = 100 * hits[:, :rank].any(dim=1).double().mean().item()
    return found


def mean_iou(predictions: Tensor, truths: Tensor) -> float:
    """The mean IoU of the best predictions (Q, K, 2) with the truths, as `recalls` takes them, in percent.

    2D-TAN's code sorts the first three predictions before, but over an axis of length one: it takes the first, too.
    """
    return 100 * _overlaps(predictions[:, :1], truths).mean().item()


def _overlaps(predictions: Tensor, truths: Tensor) -> Tensor:
    """(Q, K), in double precision: a segment that overlaps by exactly m must not depend on rounding."""
    if not len(truths) or len(truths) != len(predictions):
        raise ValueError(f"{len(predictions)} queries with predictions, {len(truths)} with truths: need as many, not 0")
    windows = truths.double().reshape(len(truths), 1, -1, 2)
    return interval_iou(predictions.double()[:, :, None], windows).amax(dim=2)
