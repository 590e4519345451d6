"""Runs that are killed again and again: what is in the store in the end, and how much was done twice.

Claims: after 100 SIGKILLs at random moments, of the process that was called or of the one that works, the arrays are
those of a run that nobody killed, to the byte; no video is lost or double; and what is done twice is, a kill, at most
one shard. Each kill falls while the run works; the same call then goes on. A store that is finished is put by, and the
next one begun. Every frame that is prepared for a network is counted, over all processes, in a file.

    python benchmarks/kills.py [--kills 100] [--videos 48] [--shard-videos 4] [--workers 0]

With --workers N the runs are on a Dask cluster, and its workers are killed, too.
"""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import typer
from measure import spread, table, verdict
from torch import Tensor, nn
from videos import make_video, write_manifest

from extractors import Frames, Network, WeightsError
from extractors.spec import Weights
from feature_store import FeatureStore, verify

EVERY = 0.5  # seconds a frame
RUN = """
import sys
from kills import Counting
from pipeline import extract
manifest, store, shard_videos, workers = sys.argv[1:]
extract(manifest, store, [Counting()], weights="random", shard_videos=int(shard_videos), decoders=1,
        watched=True, workers=int(workers) or None)
"""


@dataclass(frozen=True)
class Counting:
    """Notes in a file that a frame was prepared."""

    kind = "appearance"
    name = "counting"
    weights = Weights((), "none", "none")
    samples = Frames(EVERY)

    def preprocessing(self) -> dict[str, Any]:
        return {}

    def random(self) -> Network:
        return CountingNetwork()

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        raise WeightsError("it has no published parameters: say weights random")


class CountingNetwork(Network):
    dim = 64

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 64, 7, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self._count = os.open(os.environ["COUNT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        os.write(self._count, b".")
        return torch.from_numpy(frame).permute(2, 0, 1).contiguous()

    def forward(self, samples: Tensor) -> Tensor:
        features: Tensor = self.layers(samples.float() / 255)
        return features


def arrays_of(store: Path) -> dict[str, bytes]:
    """Every file of every shard but its record, which tells of the run."""
    files = [path for path in store.glob("[!.]*/*/**/*") if path.is_file() and path.name != "complete.json"]
    return {str(path.relative_to(store)): path.read_bytes() for path in files}


def processes(run: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Those of a run that may be killed, by what they are for."""
    found: dict[str, list[psutil.Process]] = {"caller": [run], "engine": [], "dask": []}
    for process in run.children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "pipeline.engine_process" in command:
            found["engine"].append(process)
        elif "spawn_main" in command:
            found["dask"].append(process)
    return found


def kill_once(run: subprocess.Popen[bytes], count: Path, moments: random.Random, longest: float) -> str | None:
    """Kill a process of a run once it works, and say which kind; None if the run ended first."""
    before = size(count)
    while size(count) == before:
        if run.poll() is not None:
            return None
        time.sleep(0.005)
    time.sleep(moments.uniform(0, longest))
    if run.poll() is not None:
        return None
    try:
        there = {kind: some for kind, some in processes(psutil.Process(run.pid)).items() if some}
        kind = moments.choice(sorted(there))
        moments.choice(there[kind]).kill()
    except psutil.Error:
        return None
    if kind == "caller":
        run.wait()
    return kind


def working_time(run: subprocess.Popen[bytes], count: Path) -> float:
    """Wait for a run; the seconds from the first frame that was prepared to the last."""
    seen, moments = 0, []
    while run.poll() is None:
        if size(count) > seen:
            seen = size(count)
            moments.append(time.monotonic())
        time.sleep(0.005)
    assert run.returncode == 0
    return moments[-1] - moments[0]


def size(count: Path) -> int:
    """How many frames were prepared so far."""
    return count.stat().st_size if count.exists() else 0


def main(kills: int = 100, videos: int = 48, shard_videos: int = 4, workers: int = 0, seed: int = 0) -> None:
    moments = random.Random(seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = write_manifest(folder, [make_video(240, 2 + number % 3) for number in range(videos)])
        count = folder / "count"
        environment = {**os.environ, "COUNT": str(count), "PYTHONPATH": str(Path(__file__).parent)}

        def begin(store: Path) -> subprocess.Popen[bytes]:
            words = [str(manifest), str(store), str(shard_videos), str(workers)]
            return subprocess.Popen([sys.executable, "-c", RUN, *words], env=environment, stderr=subprocess.DEVNULL)

        unbroken, run = folder / "unbroken.zarr", begin(folder / "unbroken.zarr")
        whole, frames, truth = working_time(run, count), size(count), arrays_of(unbroken)
        shard_frames = frames * shard_videos / videos
        kinds, sound = Counter[str](), True
        again: list[float] = []  # shards' worth of frames that were prepared again, a kill, of each store
        while kinds.total() < kills:
            store = folder / f"killed{len(again)}.zarr"
            count.unlink(missing_ok=True)
            before = kinds.total()
            while True:
                run = begin(store)
                while run.poll() is None and kinds.total() < kills:
                    kind = kill_once(run, count, moments, whole)
                    kinds.update([kind] if kind else [])
                if run.wait() == 0:
                    break
            sound &= arrays_of(store) == truth and verify(store).damaged == ()
            sound &= list(FeatureStore(store)["counting"]) == list(FeatureStore(unbroken)["counting"])
            killed = max(1, kinds.total() - before)
            again.append((size(count) - frames) / shard_frames / killed)
            print(f"{kinds.total()} kills, {len(again)} stores, {again[-1]:.2f} shards again a kill", flush=True)
    table(
        [
            ("killed", "times"),
            *((kind, str(times)) for kind, times in sorted(kinds.items())),
            ("stores finished", str(len(again))),
            ("shards done again, a kill, by store", spread(again)),
        ]
    )
    mean = statistics.mean(again)
    verdict(
        f"arrays equal those of an unbroken run: {sound}; done again {mean:.2f} shards a kill (claim: at most 1)",
        sound and mean <= 1,
    )


if __name__ == "__main__":
    typer.run(main)
