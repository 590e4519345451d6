"""What decoding and sampling cost beside decoding alone.

Claim: `sample_video`, asked for a frame every 0.5 s as RGB, takes at most 1.15 times the processor time
of the baseline, a bare PyAV loop on one thread that looks at no frame: `for frame in container.decode(video=0)`.

The claim is about the time for all files that give nothing to skip: those with key frames 10 s apart.
The table also shows, without a claim, what skipping saves where key frames are 0.2 s and 0.48 s apart,
and the same with the real resizing of timm:resnet18 (to 256, crop 224) on top. Ratios are medians over
rounds, with the least and the greatest; below 1 is faster than decoding all.

    python benchmarks/decode.py [FILES...] [--rounds 7] [--seconds 10]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is imported

import math
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import av
import numpy as np
import torch
import typer
from measure import interleave, ratios, spread, table, total, verdict
from torch import Tensor
from videos import about, make_video

from data_manifests import Video
from extractors import Frames, find_expert, load_expert
from pipeline.sampling import Ended, Request, sample_video

LIMIT = 1.15
LEAST = 0.3  # seconds that a timing takes: short files are decoded several times
HEIGHTS, LONG_GOP, SHORT_GOPS = (240, 480, 720), 250, (5, 12)  # frames, at 25 a second
CPU = torch.device("cpu")


def passes(path: Path) -> int:
    """How often a file is decoded in one timing."""
    began = time.process_time()
    bare(path)
    return math.ceil(LEAST / (time.process_time() - began))


def bare(path: Path) -> None:
    with av.open(str(path)) as container:
        container.streams.video[0].thread_count = 1
        for _ in container.decode(video=0):
            pass


def sample(path: Path, prepare: Callable[[np.ndarray], Tensor]) -> None:
    for item in sample_video(Video("video", str(path)), {"frames": Request(Frames(0.5), prepare)}):
        if isinstance(item, Ended) and item.status.status != "ok":
            raise SystemExit(f"{path}: {item.status.status}: {item.status.reason}")


def tiny(frame: np.ndarray) -> Tensor:
    """Next to nothing of an RGB frame."""
    return torch.from_numpy(frame[::64, ::64].copy())


def main(files: Annotated[list[Path] | None, typer.Argument()] = None, rounds: int = 7, seconds: int = 10) -> None:
    resnet = load_expert(find_expert("timm:resnet18.tv_in1k"), "random").network
    made = {(height, gop): make_video(height, seconds, gop) for height in HEIGHTS for gop in (LONG_GOP, *SHORT_GOPS)}
    cases = {f"{about(path)}, GOP {gop}": (path, gop == LONG_GOP) for (_, gop), path in made.items()}
    if files:
        cases = {f"{path.name[-30:]}, {about(path)}": (path, True) for path in files}
    rows = [("CPU time, times a bare PyAV loop", "bare s", "sampling", "elapsed", "with resizing")]
    rounds_of: dict[str, list[list[float]]] = {"bare": [], "sampling": []}  # seconds, of each file that counts
    for case, (path, claimed) in cases.items():
        candidates = {
            "bare": partial(bare, path),
            "sampling": partial(sample, path, tiny),
            "resizing": partial(sample, path, lambda frame: resnet.prepare(frame, CPU)),
        }
        timings = interleave(candidates, rounds, passes(path))
        cpu = {name: ratios(timing.cpu, timings["bare"].cpu) for name, timing in timings.items()}
        elapsed = ratios(timings["sampling"].wall, timings["bare"].wall)
        rows.append(
            (case, f"{min(timings['bare'].cpu):.3f}", spread(cpu["sampling"]), spread(elapsed), spread(cpu["resizing"]))
        )
        if claimed:
            for name, times in rounds_of.items():
                times.append(timings[name].cpu)
    table(rows)
    bare_total, sampling_total = (total(times) for times in rounds_of.values())
    overall = statistics.median(ratios(sampling_total, bare_total))
    verdict(f"decode + sampling: {overall:.2f}x a bare PyAV decode loop (claim: at most {LIMIT}x)", overall <= LIMIT)


if __name__ == "__main__":
    typer.run(main)
