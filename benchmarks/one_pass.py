"""What serving several experts in one decode costs beside serving the most expensive of them alone.

Claim: `sample_video` serves the frames of timm:resnet18 (one every 0.5 s), the clips of S3D (16 frames a
second) and the sound of VGGish together in at most 1.25 times the processor time of the baseline, the
same function serving only the one of them that costs most. Their networks do not run, but all that comes
before them does: decoding, conversion to RGB, resizing, cropping, resampling of the sound.

The claim is about the time for all files. The last column is what tools pay that decode once an expert:
the sum of the three alone. Ratios are medians over rounds, with the least and the greatest.

    python benchmarks/one_pass.py [FILES...] [--rounds 7] [--seconds 10]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is imported

import statistics
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from measure import interleave, ratios, spread, table, total, verdict
from videos import about, make_video

from data_manifests import Video
from extractors import find_experts, load_expert
from pipeline.sampling import Ended, Request, sample_video

LIMIT = 1.25
EXPERTS = ("timm:resnet18.tv_in1k", "s3d", "vggish")
HEIGHTS = (240, 480, 720)
CPU = torch.device("cpu")


def request(name: str) -> Request:
    expert = find_experts([name])[0]
    network = load_expert(expert, "random").network
    return Request(expert.samples, lambda frame: network.prepare(frame, CPU))


def serve(path: Path, requests: dict[str, Request]) -> None:
    for item in sample_video(Video("video", str(path)), requests):
        if isinstance(item, Ended) and item.status.status != "ok":
            raise SystemExit(f"{path}: {item.expert}: {item.status.status}: {item.status.reason}")


def main(files: Annotated[list[Path] | None, typer.Argument()] = None, rounds: int = 7, seconds: int = 10) -> None:
    requests = {name: request(name) for name in EXPERTS}
    rows = [("CPU time", *(f"{name} s" for name in EXPERTS), "together s", "together / dearest", "sum / dearest")]
    of_files: list[tuple[list[float], list[float]]] = []  # the dearest alone and all together, a round
    for path in files or [make_video(height, seconds) for height in HEIGHTS]:
        candidates = {name: partial(serve, path, {name: requests[name]}) for name in EXPERTS}
        timings = interleave({**candidates, "together": partial(serve, path, requests)}, rounds)
        medians = {name: statistics.median(timing.cpu) for name, timing in timings.items()}
        dearest = timings[max(EXPERTS, key=medians.__getitem__)].cpu
        together = ratios(timings["together"].cpu, dearest)
        separate = ratios(total([timings[name].cpu for name in EXPERTS]), dearest)
        seconds_each = (f"{median:.3f}" for median in medians.values())
        rows.append((about(path), *seconds_each, spread(together), spread(separate)))
        of_files.append((dearest, timings["together"].cpu))
    table(rows)
    alone, all_together = (total(times) for times in zip(*of_files, strict=True))
    overall = statistics.median(ratios(all_together, alone))
    text = f"one pass for three experts: {overall:.2f}x the most expensive of them alone (claim: at most {LIMIT}x)"
    verdict(text, overall <= LIMIT)


if __name__ == "__main__":
    typer.run(main)
