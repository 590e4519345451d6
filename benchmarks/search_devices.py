"""What a search costs on a GPU beside the CPU, and whether both find the same.

Claim: among 50,000 videos (embeddings of Dual Encoding and of its hybrid space at their published sizes) and 500,000
moments of 512 dimensions, all of noise, a query on the GPU finds what it finds on the CPU: the same ten, but where
their scores differ by less than 1e-4, in no more time. A query is the whole of `Index.search`, with the network that
reads the sentence, or of `MomentIndex.search`. Times are elapsed milliseconds. Takes about a minute; without a CUDA
device it says so and compares nothing.

    python benchmarks/search_devices.py [--videos 50000] [--moments 500000] [--rounds 5]
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import typer
from measure import interleave, spread, verdict
from torch.nn.functional import normalize

from train.devices import CPU
from train.evaluation import to_device
from train.features import ExpertFacts
from train.grounding.moments import MomentIndex, write_index
from train.grounding.proposals import MAPS
from train.search import Index
from train.tasks.base import RetrievalTask
from train.tasks.dual_encoding import DualEncodingOptions, DualEncodingTask
from train.tasks.hybrid_space import HybridSpaceOptions, HybridSpaceTask

GPU = torch.device("cuda")
WORDS = [f"word{number}" for number in range(7000)]
QUERY = " ".join(WORDS[::700])
TOP_K, DIM = 10, 512
CLOSE = 1e-4  # of scores about 1
Found = Sequence[tuple[str, float]]  # ids and scores, best first


def of_videos(system: type[RetrievalTask], options: DualEncodingOptions, count: int) -> dict[str, Callable[[], Found]]:
    """A search of noise on each device, by a network with random parameters."""
    torch.manual_seed(0)
    experts = {"resnet152": ExpertFacts("resnet152", "image", 2048, "random:0", "")}
    task = system(options, experts, {"words": WORDS, "concepts": WORDS[:DIM]}).eval()
    sizes = (options.common_dim,) if system is DualEncodingTask else (options.common_dim, DIM)
    embeddings = tuple(normalize(torch.rand(count, size), dim=1) for size in sizes)
    limits, ids = torch.tensor([[0.0, 1.0]] * 2), tuple(map(str, range(count)))

    def on(device: torch.device) -> Callable[[], Found]:
        index = Index(task, ids, to_device(embeddings, device), limits)

        def search() -> Found:
            task.to(device)  # no work where it lies there already
            return [(hit.video, hit.score) for hit in index.search(QUERY, TOP_K)]

        return search

    return {"cpu": on(CPU), "cuda": on(GPU)}


def of_moments(folder: Path, count: int) -> dict[str, Callable[[], Found]]:
    proposals = MAPS["activitynet-captions"]
    videos = -(-count // len(proposals.cells))
    batches = (torch.randn(videos, len(proposals.cells), DIM) / DIM**0.5 for videos in [16] * (videos // 16))
    names = [str(number) for number in range(videos // 16 * 16)]
    write_index(folder, {}, proposals, names, [120.0] * len(names), batches)
    query = normalize(torch.randn(DIM), dim=0)

    def on(device: torch.device) -> Callable[[], Found]:
        index = MomentIndex(folder, device=device)
        return lambda: [(f"{hit.video} {hit.start} {hit.end}", hit.score) for hit in index.search(query, TOP_K)]

    return {"cpu": on(CPU), "cuda": on(GPU)}


def compare(name: str, searches: dict[str, Callable[[], Found]], rounds: int) -> bool:
    """Print times and differences at once; whether the GPU finds the same, in no more time."""
    one, other = searches["cpu"](), searches["cuda"]()
    apart = max(abs(here[1] - there[1]) for here, there in zip(one, other, strict=True))
    same = [here[0] for here in one] == [there[0] for there in other]
    times = {}
    for device, search in searches.items():  # one after the other: the network is moved from device to device
        times[device] = [1000 * wall for wall in interleave({"": search}, rounds)[""].wall]
    told = ", ".join(f"{device} {spread(walls, '.2f')} ms" for device, walls in times.items())
    print(f"{name}: {told}; {'the same' if same else 'another order of'} {TOP_K}, apart {apart:.1e}", flush=True)
    return apart < CLOSE and statistics.median(times["cuda"]) <= statistics.median(times["cpu"])


def main(videos: int = 50_000, moments: int = 500_000, rounds: int = 5) -> None:
    if not torch.cuda.is_available():
        print("there is no CUDA device here: nothing to compare")
        return
    print(f"{torch.cuda.get_device_name()}, {torch.get_num_threads()} threads of the CPU", flush=True)
    dual, hybrid = DualEncodingOptions(system="dual_encoding"), HybridSpaceOptions(system="hybrid_space")
    holds = [
        compare(f"{videos:,} videos, dual_encoding", of_videos(DualEncodingTask, dual, videos), rounds),
        compare(f"{videos:,} videos, hybrid_space", of_videos(HybridSpaceTask, hybrid, videos), rounds),
    ]
    with tempfile.TemporaryDirectory() as temporary:
        holds.append(compare(f"{moments:,} moments", of_moments(Path(temporary) / "moments.zarr", moments), rounds))
    verdict(f"{sum(holds)} of {len(holds)} searches are no slower on the GPU and agree (claim: all)", all(holds))


if __name__ == "__main__":
    typer.run(main)
