"""What a run on a Dask cluster costs beside its work, and whether it gives the same bytes as a run in one process.

Claims: with 4 workers on this machine all arrays are equal, to the byte, to those of a run in the process that calls;
and bookkeeping takes less than 2 % of the processor time of a run. Bookkeeping is all that the process which was
called and Dask's workers do from the first shard to the last, and in the processes that work the leases, heartbeats
and pulses, which are timed by themselves. It goes by shards, so the share falls with the work in a shard: the script
prints what a shard costs, too.

    python benchmarks/bookkeeping.py [--workers 4] [--videos 48] [--seconds 8] [--shard-videos 4]
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is imported

import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import typer
from kills import arrays_of
from measure import table, verdict
from videos import make_video, write_manifest

from feature_store.leases import Leases, new_holder
from feature_store.places import LocalPlace
from pipeline import extract

LIMIT = 0.02
EXPERTS = ["timm:resnet18.tv_in1k", "s3d"]
PULSES = 1000
LOOK = 5.0  # seconds between looks, which are bookkeeping, too


class Watcher(threading.Thread):
    """Notes the processor time of this process and its descendants between two events of the run."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._first: dict[int, float] = {}
        self._last: dict[int, float] = {}
        self._engines: set[int] = set()
        self.began = False

    def hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "run_started":
            self._look()
            self._first = dict(self._last)
            self.began = True
            self.start()
        elif event["event"] == "run_ended":
            self._look()
            self._ended.set()

    def run(self) -> None:
        while not self._ended.wait(LOOK):
            self._look()

    def _look(self) -> None:
        here = psutil.Process()
        for process in [here, *here.children(recursive=True)]:
            try:
                used = process.cpu_times()
                if "pipeline.engine_process" in process.cmdline():
                    self._engines.add(process.pid)
            except psutil.Error:
                continue
            self._last[process.pid] = used.user + used.system

    def spent(self, engines: bool) -> float:
        """Seconds of those that work, or of all others."""
        return sum(
            used - self._first.get(pid, 0.0) for pid, used in self._last.items() if (pid in self._engines) == engines
        )


def lease_seconds(folder: Path) -> float:
    """Processor time of taking a shard, looking twice whether it is still one's own, giving it back, and a beat."""
    leases = Leases(LocalPlace(folder), new_holder())
    began = time.process_time()
    for shard in range(PULSES):
        leases.beat()
        leases.take(f"{shard:06d}")
        leases.holds(f"{shard:06d}")
        leases.release(f"{shard:06d}")
    return (time.process_time() - began) / PULSES


def main(workers: int = 4, videos: int = 48, seconds: int = 8, shard_videos: int = 4) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        manifest = write_manifest(folder, [make_video(240, seconds + number % 3) for number in range(videos)])
        settings: dict[str, Any] = {"weights": "random", "shard_videos": shard_videos, "decoders": 1}
        extract(manifest, folder / "alone.zarr", EXPERTS, **settings)
        watcher = Watcher()
        summary = extract(
            manifest, folder / "cluster.zarr", EXPERTS, workers=workers, listener=watcher.hear, **settings
        )
        equal = arrays_of(folder / "alone.zarr") == arrays_of(folder / "cluster.zarr")
        lease = lease_seconds(folder / "leases")
    shards = -(-videos // shard_videos)
    aside = watcher.spent(engines=False) + shards * lease
    work = watcher.spent(engines=True)
    table(
        [
            ("processor time", "s"),
            ("processes that work (their start is among it)", f"{work:.1f}"),
            ("the process called, and Dask's workers", f"{watcher.spent(engines=False):.2f}"),
            ("  a shard", f"{watcher.spent(engines=False) / shards:.4f}"),
            ("leases and heartbeats, a shard", f"{lease:.4f}"),
            (f"elapsed, {shards} shards of {summary.video_seconds / shards:.0f} s of video", f"{summary.seconds:.1f}"),
        ]
    )
    share = aside / (work + aside)
    verdict(
        f"the same bytes: {equal}; bookkeeping {share:.1%} of the run (claim: less than {LIMIT:.0%})",
        equal and share < LIMIT,
    )


if __name__ == "__main__":
    typer.run(main)
