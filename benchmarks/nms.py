"""What it costs to suppress overlapping moments, on one thread.

Claim: `temporal_nms` picks the best 5 of TACoS's 2,548 candidates in less than 0.3 ms of processor time a query,
alone and in batches of 32. It is compared with what else picks the same: torch, all lists of a batch in step; NumPy,
sorted and then shrinking, as 2D-TAN's official code has it; torchvision's `nms` of boxes of height one, which
suppresses to the end; and a loop over pairs in plain Python. That all pick the same is checked before any is timed.

    python benchmarks/nms.py [--rounds 15]
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import typer
from measure import interleave, spread, table, verdict
from torch import Tensor
from torchvision.ops import nms

from train.grounding.nms import temporal_nms
from train.grounding.proposals import MAPS

LIMIT = 0.3  # ms
BATCHES = {1: 20, 32: 1}  # queries, and calls that are one timing
THRESHOLD, TOP_K = 0.4, 5

Pick = Callable[[Tensor, Tensor], Tensor]  # segments (N, 2) and scores (B, N) -> picks (B, TOP_K)


def in_step(segments: Tensor, scores: Tensor) -> Tensor:
    starts, ends = (segments[:, side].expand_as(scores).contiguous() for side in (0, 1))
    lengths = ends - starts
    picks: list[Tensor] = []
    for _ in range(TOP_K):
        best = scores.argmax(dim=1, keepdim=True)
        picks.append(best)
        shared = torch.minimum(ends, ends.gather(1, best)).sub_(torch.maximum(starts, starts.gather(1, best)))
        union = (lengths + lengths.gather(1, best)).sub_(shared)
        scores = torch.where(shared.div_(union) <= THRESHOLD, scores, -torch.inf)
    return torch.cat(picks, dim=1)


def by_shrinking(segments: Tensor, scores: Tensor) -> Tensor:
    order = np.argsort(-scores.numpy(), kind="stable")
    starts, ends = segments.numpy()[order].T
    picks: list[int] = []
    while len(order) and len(picks) < TOP_K:
        picks.append(order[0])
        shared = np.maximum(np.minimum(ends[0], ends[1:]) - np.maximum(starts[0], starts[1:]), 0)
        stays = shared / (ends[0] - starts[0] + ends[1:] - starts[1:] - shared) <= THRESHOLD
        order, starts, ends = order[1:][stays], starts[1:][stays], ends[1:][stays]
    return torch.tensor(np.array(picks))


def by_torchvision(segments: Tensor, scores: Tensor) -> Tensor:
    starts, ends = segments.T
    boxes = torch.stack([starts, torch.zeros_like(starts), ends, torch.ones_like(ends)], dim=1)
    return nms(boxes, scores.double(), THRESHOLD)[:TOP_K]


def by_pairs(segments: Tensor, scores: Tensor) -> Tensor:
    all_segments, all_scores = segments.tolist(), scores.tolist()
    left = sorted(range(len(all_scores)), key=lambda place: -all_scores[place])
    picks: list[int] = []
    while left and len(picks) < TOP_K:
        start, end = all_segments[left[0]]
        picks.append(left[0])
        stay = []
        for place in left[1:]:
            other_start, other_end = all_segments[place]
            shared = max(0.0, min(end, other_end) - max(start, other_start))
            if shared / (end - start + other_end - other_start - shared) <= THRESHOLD:
                stay.append(place)
        left = stay
    return torch.tensor(picks)


def each(pick: Pick) -> Pick:
    """A query at a time."""
    return lambda segments, scores: torch.stack([pick(segments, of_query) for of_query in scores])


OTHERS: dict[str, Pick] = {
    "in step": in_step,
    "shrinking": each(by_shrinking),
    "torchvision": each(by_torchvision),
    "pairs": each(by_pairs),
}


def make_scores(segments: Tensor, queries: int) -> Tensor:
    """Of neighbours alike, as a network's: each query prefers a place and a length, with some noise."""
    generator = torch.Generator().manual_seed(0)
    whole = segments.max()
    place, length = torch.rand(2, queries, 1, generator=generator) * whole
    lengths = segments[:, 1] - segments[:, 0]
    distance = ((segments.mean(dim=1) - place) / whole) ** 2 + ((lengths - length / 2) / whole) ** 2
    return torch.exp(-8 * distance).float() + 0.01 * torch.rand(queries, len(segments), generator=generator)


def main(rounds: int = 15) -> None:
    torch.set_num_threads(1)
    rows = [("processor ms a query, top 5 of 2,548", "ours", *OTHERS)]
    slowest = 0.0
    cells = MAPS["tacos"].cells
    segments = (cells + torch.tensor([0, 1])).double()
    for queries, passes in BATCHES.items():
        scores = make_scores(segments, queries)
        ours = temporal_nms(segments, scores, THRESHOLD, TOP_K)
        for name, pick in OTHERS.items():
            if not torch.equal(ours, pick(segments, scores)):
                raise SystemExit(f"{name} picks others than temporal_nms: the times of both are worth nothing")
        candidates: dict[str, Callable[[], object]] = {
            "ours": partial(temporal_nms, segments, scores, THRESHOLD, TOP_K)
        }
        for name, pick in OTHERS.items():
            candidates[name] = partial(pick, segments, scores)
        timings = interleave(candidates, rounds, passes)
        times = {name: [1000 * seconds / queries for seconds in timings[name].cpu] for name in candidates}
        rows.append((f"{queries} at a time", *(spread(of_name, ".3f") for of_name in times.values())))
        slowest = max(slowest, statistics.median(times["ours"]))
    table(rows)
    verdict(f"temporal_nms takes {slowest:.3f} ms a query (claimed: less than {LIMIT})", slowest < LIMIT)


if __name__ == "__main__":
    typer.run(main)
