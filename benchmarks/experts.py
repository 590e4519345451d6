"""What the seven experts of preset mmt cost in one run, beside seven runs of one expert each.

Claims: one `reelcache extract` with all seven takes at most 0.75 times the processor time of the seven runs
together, which start, read the manifest and decode seven times; and decoding for all seven costs at most 1.1
times one decode of the files, pictures and sound: for s3d, which wants most pictures, and vggish. Networks take the
same time either way, so the first ratio rises with the length of the corpus, towards 1 on a CPU, and falls with
the speed of the device.

Runs are whole commands with random weights, as `python -m pipeline.cli extract`. "networks" and "decoding" are
what the run itself says of its stages, in processor seconds; decoding there includes that frames are resized. The
second claim is about `sample_video` without resizing, as a GPU box runs it.

    python benchmarks/experts.py [FILES...] [--preset mmt] [--seconds 8] [--rounds 1]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is imported

import json
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measure import interleave, ratios, spread, table, total, verdict
from one_pass import serve, tiny
from videos import about, make_video, write_manifest

from extractors import find_preset
from pipeline.sampling import Request

LIMIT, DECODE_LIMIT = 0.75, 1.1
HEIGHTS = (360, 720)
ONE_DECODE = ("s3d", "vggish")


@dataclass(frozen=True)
class Run:
    """A command's elapsed and processor seconds, and what it says of itself."""

    wall: float
    cpu: float
    summary: dict[str, Any]


def extract(manifest: Path, store: Path, experts: list[str]) -> Run:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["extract", str(manifest), str(store), "--experts", ",".join(experts), "--weights", "random", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *command],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary = json.loads(done.stdout)
    return Run(summary["seconds"], cpu, summary)


def main(
    files: Annotated[list[Path] | None, typer.Argument()] = None,
    preset: str = "mmt",
    seconds: int = 8,
    rounds: int = 1,
) -> None:
    files = files or [make_video(height, seconds) for height in HEIGHTS]
    experts = find_preset(preset)
    names = [expert.name for expert in experts]
    alone: dict[str, list[Run]] = {name: [] for name in names}
    together: list[Run] = []
    with tempfile.TemporaryDirectory() as folder:
        manifest = write_manifest(folder, files)
        for number in range(rounds):
            for name in names:
                alone[name].append(extract(manifest, Path(folder) / f"{number}-{names.index(name)}.zarr", [name]))
            together.append(extract(manifest, Path(folder) / f"{number}.zarr", names))
    print(", ".join(map(about, files)))
    rows = [("run", "rows", "extracting s", "CPU s", "networks s", "decoding s")]
    for name, runs in {**alone, "together": together}.items():
        said = [run.summary for run in runs]
        rows.append(
            (
                name,
                str(sum(said[0]["rows"].values())),
                spread([run.wall for run in runs], ".1f"),
                spread([run.cpu for run in runs], ".1f"),
                *(f"{statistics.median(each[stage] for each in said):.1f}" for stage in ("computing", "decoding")),
            )
        )
    table(rows)
    separate = total([[run.cpu for run in runs] for runs in alone.values()])
    share = statistics.median(ratios([run.cpu for run in together], separate))

    torch.set_num_threads(1)  # as decoding workers do
    requests = {expert.name: Request(expert.samples, tiny) for expert in experts}
    one = {name: requests[name] for name in ONE_DECODE}
    decodes: list[tuple[list[float], list[float]]] = []  # of all, and of one, a round
    for path in files:
        timings = interleave({"all": partial(serve, path, requests), "one": partial(serve, path, one)}, rounds=7)
        decodes.append((timings["all"].cpu, timings["one"].cpu))
        print(f"decoding {about(path)}: all {spread(timings['all'].cpu)} s, one {spread(timings['one'].cpu)} s")
    every, once = (total(times) for times in zip(*decodes, strict=True))
    decode = statistics.median(ratios(every, once))
    verdict(
        f"{len(names)} experts in one run: {share:.2f}x the seven runs (claim: at most {LIMIT}x); decoding for all "
        f"{decode:.2f}x that for one (claim: at most {DECODE_LIMIT}x)",
        share <= LIMIT and decode <= DECODE_LIMIT,
    )


if __name__ == "__main__":
    typer.run(main)
