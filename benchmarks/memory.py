"""How much more memory a long video takes than a short one.

Claim: the peak resident memory of `pipeline.extract` over a video of one hour is within 200 MB of the
baseline, the same over its first minute, each in a process of its own. A clip of S3D as float32 is 10 MB
and a decoded hour of 720p is 250 GB, so what grows with the video's length would show at once.

The video is small (212x120 at 10 frames a second) and samples are taken less often than by default, which
leaves every stage in use and ends within minutes: frames every 5 s, clips at one frame a second, all of
the sound. --full takes all that the experts take by default. Memory is what the process itself reports as its peak.

    python benchmarks/memory.py [--minutes 60] [--full]
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import typer
from measure import table, verdict
from videos import about, make_video, write_manifest

LIMIT = 200  # MB
HEIGHT, FPS, GOP = 120, 10, 100
EXPERTS = ("timm:resnet18.tv_in1k", "s3d", "vggish")
SPARSE = {"timm:resnet18.tv_in1k": {"every": 5}, "s3d": {"fps": 1, "resize": 64, "crop": 64}}


def extract_here(manifest: str, store: str, full: bool) -> None:
    """Run in a process of its own: extract, then print the process's peak memory and the rows."""
    from extractors import find_experts
    from pipeline import extract
    from pipeline.tuning import keep_freed_memory

    keep_freed_memory()  # as the command line does

    experts = find_experts(EXPERTS, {} if full else SPARSE)
    summary = extract(manifest, store, experts, weights="random", device="cpu")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # KiB -> MiB
    print(json.dumps({"peak": peak, "seconds": summary.seconds, "rows": sum(summary.rows.values())}))


def measure(file: Path, full: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--manifest", str(write_manifest(folder, [file])), "--store", f"{folder}/corpus.zarr"]
        environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}  # as the command line does
        command = [sys.executable, __file__, *arguments, *(["--full"] if full else [])]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def main(minutes: int = 60, full: bool = False, manifest: str = "", store: str = "") -> None:
    if manifest:
        return extract_here(manifest, store, full)
    rows = [("video", "rows", "seconds", "peak MB")]
    peaks: list[list[float]] = [[], []]
    files = [make_video(HEIGHT, 60 * length, GOP, FPS) for length in (1, minutes)]
    for number in (0, 1, 0):
        found = measure(files[number], full)
        peaks[number].append(found["peak"])
        rows.append((about(files[number]), f"{found['rows']}", f"{found['seconds']:.1f}", f"{found['peak']:.0f}"))
    table(rows)
    more = peaks[1][0] - min(peaks[0])
    verdict(f"{minutes} minutes of video: {more:+.0f} MB over one minute (claim: within {LIMIT} MB)", more <= LIMIT)


if __name__ == "__main__":
    typer.run(main)
