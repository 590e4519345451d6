"""What extraction costs beside its networks alone.

Claim: `pipeline.extract` on a CPU gives its features at most 15 % slower than the baseline: the same
networks, channels last and float32, with as many torch threads, fed as many samples in batches as large
that lie ready in memory. The difference is decoding, conversion, resizing and resampling, gathering of
batches, queues, and writing the store. Building the networks counts for neither.

The default experts are resnet152, s3d and vggish, whose networks take most of the time on a CPU; cheaper
experts have more overhead. Elapsed time counts where the networks alone get the processors they ask for.
Where neighbours take them away, elapsed times say nothing, and processor time counts instead; the last
line says which. "decoding" is the decoding workers' share of extract's processor time.

    python benchmarks/engine.py [FILES...] [--experts resnet152,s3d,vggish] [--rounds 5] [--seconds 8]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is imported

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import typer
from measure import ratios, spread, table, verdict
from torch import Tensor
from videos import about, make_video, write_manifest

from data_manifests import Manifest
from extractors import Clips, Expert, Network, find_experts, load_expert
from pipeline.extraction import extract
from pipeline.sampling import Ended, Request, sample_video
from pipeline.tuning import keep_freed_memory
from pipeline.worker import CPU_BATCH, CPU_CLIPS, default_decoders, torch_settings

LIMIT = 0.15
UNDISTURBED = 0.85  # of the processors asked for
HEIGHTS = (240, 360)
CPU = torch.device("cpu")


class Stopwatch:
    """Elapsed and processor seconds of what runs in `with stopwatch.running():`, an entry each time."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


def ready_batches(manifest: Manifest, experts: list[Expert], networks: list[Network]) -> list[list[Tensor]]:
    """What extract would feed each network; no batch is filled up."""
    requests = {
        expert.name: Request(expert.samples, lambda frame, network=network: network.prepare(frame, CPU))
        for expert, network in zip(experts, networks, strict=True)
    }
    samples: dict[str, list[Tensor]] = {name: [] for name in requests}
    for item in (item for video in manifest for item in sample_video(video, requests)):
        if not isinstance(item, Ended):
            samples[item.expert].append(item.data)
        elif item.status.status != "ok":
            raise SystemExit(f"{item.status.id}: {item.expert}: {item.status.status}: {item.status.reason}")
    sizes = [CPU_CLIPS if isinstance(expert.samples, Clips) else CPU_BATCH for expert in experts]
    return [
        [torch.stack(of_expert[first : first + size]) for first in range(0, len(of_expert), size)]
        for of_expert, size in zip(samples.values(), sizes, strict=True)
    ]


@torch.inference_mode()
def bare(networks: list[Network], batches: list[list[Tensor]]) -> int:
    """Compute all features and return how many."""
    return sum(len(network(batch)) for network, own in zip(networks, batches, strict=True) for batch in own)


def main(
    files: Annotated[list[Path] | None, typer.Argument()] = None,
    experts: str = "resnet152,s3d,vggish",
    rounds: int = 5,
    seconds: int = 8,
) -> None:
    keep_freed_memory()  # as the command line does
    files = files or [make_video(height, seconds) for height in HEIGHTS]
    chosen = find_experts(experts.split(","))
    networks = [load_expert(expert, "random").network for expert in chosen]
    cores = os.cpu_count() or 1
    alone, extracting, shares = Stopwatch(), Stopwatch(), []
    with tempfile.TemporaryDirectory() as folder:
        manifest = Manifest(write_manifest(folder, files))
        batches = ready_batches(manifest, chosen, networks)
        bare(networks, [own[:1] for own in batches])  # oneDNN writes its code at the first call
        for number in range(rounds):
            with torch_settings(CPU, cores, default_decoders(CPU, cores)), alone.running():
                threads, features = torch.get_num_threads(), bare(networks, batches)
            store = Path(folder) / f"{number}.zarr"
            summary = extract(
                manifest, store, chosen, weights="random", device="cpu", show=lambda *_: extracting.running()
            )
            if sum(summary.rows.values()) != features:
                raise SystemExit(f"extract made {dict(summary.rows)}, not the {features} features of the baseline")
            shares.append(100 * summary.decoding / extracting.cpu[-1])
    print(", ".join(map(about, files)), f"- {features} features of {experts}")
    rows = [("", "elapsed s", "CPU s", "features/s", "decoding, % of CPU")]
    for name, watch in (("networks alone", alone), ("pipeline.extract", extracting)):
        speed = spread([features / wall for wall in watch.wall])
        rows.append(
            (name, spread(watch.wall), spread(watch.cpu), speed, spread(shares, ".1f") if watch is extracting else "")
        )
    elapsed, cpu = (
        [ratio - 1 for ratio in ratios(*both)] for both in ((extracting.wall, alone.wall), (extracting.cpu, alone.cpu))
    )
    rows.append(("overhead", spread(elapsed), spread(cpu), "", ""))
    table(rows)
    had = statistics.median(ratios(alone.cpu, alone.wall)) / threads
    overhead, judged = statistics.median(elapsed), "elapsed"
    if had < UNDISTURBED:
        overhead, judged = statistics.median(cpu), f"processor time; neighbours took {1 - had:.0%} of the machine"
    claim = f"(claim: at most {LIMIT:.0%}; {judged})"
    verdict(f"extract: {overhead:+.0%} time over its networks alone {claim}", overhead <= LIMIT)


if __name__ == "__main__":
    typer.run(main)
