"""What serving several experts in one decode costs beside serving the most expensive of them alone.

Claim: `sample_video` serves the frames of timm:resnet18 (one every 0.5 s), the clips of S3D (16 frames a
second) and the sound of VGGish together in at most 1.25 times the processor time of the baseline, the
same function serving only the one of them that costs most. That is decoding, conversion to RGB, gathering
of clips and resampling of sound.

"resized" is the same with the experts' own resizing and cropping of every frame, which extraction on a CPU
does in the same pass (on a GPU box the GPU does it); no claim is made of it. "sum" is what tools pay that
decode once an expert: all three alone. The claim is about the time for all files. Ratios are medians over
rounds, with the least and the greatest.

    python benchmarks/one_pass.py [FILES...] [--rounds 7] [--seconds 10]
"""

from __future__ import annotations

import statistics
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from measure import interleave, ratios, spread, table, total, verdict
from torch import Tensor
from videos import about, make_video

from data_manifests import Video
from extractors import find_experts, load_expert
from pipeline.sampling import Ended, Request, sample_video

LIMIT = 1.25
EXPERTS = ("timm:resnet18.tv_in1k", "s3d", "vggish")
HEIGHTS = (240, 480, 720)
CPU = torch.device("cpu")


def request(name: str, resized: bool) -> Request:
    expert = find_experts([name])[0]
    network = load_expert(expert, "random").network
    return Request(expert.samples, (lambda frame: network.prepare(frame, CPU)) if resized else tiny)


def tiny(frame: np.ndarray) -> Tensor:
    """A few pixels of a frame, so that a clip of them costs nothing to gather."""
    return torch.from_numpy(frame[::64, ::64].copy())


def serve(path: Path, requests: dict[str, Request]) -> None:
    for item in sample_video(Video("video", str(path)), requests):
        if isinstance(item, Ended) and item.status.status != "ok":
            raise SystemExit(f"{path}: {item.expert}: {item.status.status}: {item.status.reason}")


def main(files: Annotated[list[Path] | None, typer.Argument()] = None, rounds: int = 7, seconds: int = 10) -> None:
    torch.set_num_threads(1)  # as decoding workers do
    rows = [("CPU time", *(f"{name} s" for name in EXPERTS), "together s", "together / dearest", "sum / dearest")]
    overall = {}
    for case in ("served", "resized"):
        requests = {name: request(name, case == "resized") for name in EXPERTS}
        of_files: list[tuple[list[float], list[float]]] = []  # the dearest alone and all together, a round
        for path in files or [make_video(height, seconds) for height in HEIGHTS]:
            candidates = {name: partial(serve, path, {name: requests[name]}) for name in EXPERTS}
            timings = interleave({**candidates, "together": partial(serve, path, requests)}, rounds)
            medians = {name: statistics.median(timing.cpu) for name, timing in timings.items()}
            dearest = timings[max(EXPERTS, key=medians.__getitem__)].cpu
            together = ratios(timings["together"].cpu, dearest)
            separate = ratios(total([timings[name].cpu for name in EXPERTS]), dearest)
            seconds_each = (f"{median:.3f}" for median in medians.values())
            rows.append((f"{about(path)}, {case}", *seconds_each, spread(together), spread(separate)))
            of_files.append((dearest, timings["together"].cpu))
        alone, all_together = (total(times) for times in zip(*of_files, strict=True))
        overall[case] = statistics.median(ratios(all_together, alone))
    table(rows)
    verdict(
        f"one pass for three experts: {overall['served']:.2f}x the most expensive of them alone (claim: at most "
        f"{LIMIT}x; {overall['resized']:.2f}x with every frame resized on the CPU)",
        overall["served"] <= LIMIT,
    )


if __name__ == "__main__":
    typer.run(main)
