"""What it costs to find a sentence's moments in a corpus, beside reading the embeddings at all.

Claim: on as many threads, `MomentIndex.search` among 1,000,000 moments of 512 dimensions, suppression included, takes
at most 1.5 times as long as one bare matrix-vector product over the same bytes: torch's, of a float16 matrix in memory
and a float16 query. The search is of an index on disk whose pages the system holds; it ranks as float32 would, which
the bare product does not. The product of as many numbers in float32, twice the bytes, is shown beside it. Times are
elapsed milliseconds. Where other programs keep the cores busy, a search can take less: the bare product gives each
thread its half at once, and waits for the slower one.

    python benchmarks/moment_search.py [--rounds 15] [--threads 2]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import typer
from measure import interleave, ratios, spread, table, verdict
from torch.nn.functional import normalize

from train.grounding.moments import MomentIndex, write_index
from train.grounding.proposals import MAPS

LIMIT = 1.5
MOMENTS, DIM = 1_000_000, 512
TOP_K = 10


def make(folder: Path) -> torch.Tensor:
    """An index of noise of length one, the moments of a video alike; the same as a matrix in memory."""
    proposals = MAPS["activitynet-captions"]
    count = len(proposals.cells)
    videos = -(-MOMENTS // count)
    generator = torch.Generator().manual_seed(0)
    matrix = torch.empty(videos, count, DIM, dtype=torch.float16)
    for video in matrix:
        own, whole = torch.randn(count, DIM, generator=generator), torch.randn(DIM, generator=generator)
        video.copy_(normalize(own + whole, dim=1))
    names = [str(number) for number in range(videos)]
    write_index(folder, {}, proposals, names, [120.0] * videos, matrix.split(16))
    return matrix.flatten(0, 1)


def main(rounds: int = 15, threads: int = 2) -> None:
    torch.set_num_threads(threads)
    query = 10 * normalize(torch.randn(DIM, generator=torch.Generator().manual_seed(1)), dim=0)
    with tempfile.TemporaryDirectory() as temporary:
        matrix = make(Path(temporary) / "moments.zarr")
        index, halved = MomentIndex(Path(temporary) / "moments.zarr"), query.half()
        candidates: dict[str, Callable[[], object]] = {
            "search": lambda: index.search(query, TOP_K),
            "bare float16": lambda: torch.mv(matrix, halved),
        }
        timings = {name: timing.wall for name, timing in interleave(candidates, rounds).items()}
        whole = matrix.float()
        assert abs(index.search(query, 1)[0].score - float((whole @ query).max())) < 1e-4
        timings["bare float32"] = interleave({"": lambda: torch.mv(whole, query)}, rounds)[""].wall
    slower = ratios(timings["search"], timings["bare float16"])
    rows = [(f"{len(index):,} moments of {DIM}", "ms", "of the bare float16")]
    for name, walls in timings.items():
        share = ratios(walls, timings["bare float16"])
        rows.append((name, spread([1000 * seconds for seconds in walls], ".1f"), spread(share)))
    table(rows)
    found = statistics.median(slower)
    verdict(f"search: {found:.2f} of a bare product over its bytes (claim: at most {LIMIT})", found <= LIMIT)


if __name__ == "__main__":
    typer.run(main)
