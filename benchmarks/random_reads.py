"""What reading a video's rows at random costs beside zarr-python.

Claim: `FeatureStore[expert].read(video)`, which gives 40 rows of 2048 numbers as float32 with their times,
is at least 50 times faster than the baseline: zarr-python slicing the same 40 rows out of the same array,
which is open already, as stored and without times. It counts for float16 and float32, the worse of them.

Zarr reads the whole chunk that rows lie in (4 MB) and checks its CRC; `read` maps the file. Times are
elapsed milliseconds a read: "warm" from an open store; "opened" with opening the store each time, for Zarr
no more of it than one read needs; "evicted" the same after the system was made to forget the files.

    python benchmarks/random_reads.py [--videos 512] [--reads 200] [--rounds 15]
"""

from __future__ import annotations

import os
import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import typer
import zarr
from measure import interleave, ratios, spread, table, verdict

from feature_store import FeatureStore, StoreWriter, VideoStatus
from feature_store.layout import node_name, shard_name

LIMIT = 50
ROWS, DIM, SHARD_VIDEOS = 40, 2048, 64
EXPERT = "resnet152"


def write(folder: Path, videos: int, dtype: str) -> None:
    """A store of `videos` videos of ROWS rows."""
    store = StoreWriter(folder)
    plan = store.plan(videos, SHARD_VIDEOS, lambda first, stop: f"{first}-{stop}")
    identity = {"kind": "appearance", "dim": DIM, "dtype": dtype, "weights": {"source": "noise"}, "sampling": {}}
    expert, rng = store.add_expert(EXPERT, identity, {}), np.random.default_rng(0)
    times = np.stack([np.arange(ROWS), np.arange(1, ROWS + 1)], axis=1) / 2
    for shard in range(len(plan)):
        first, stop = plan.bounds(shard)
        writer = expert.begin(shard)
        for number in range(stop - first):
            writer.append(number, 0, rng.normal(size=(ROWS, DIM)).astype(np.float32), times)
        writer.finish([VideoStatus(str(number), "ok", ROWS, ROWS / 2) for number in range(first, stop)], {})


def open_zarr(folder: Path, shard: int) -> tuple[zarr.Array, np.ndarray]:
    """A shard's features and offsets."""
    group = zarr.open_group(folder / node_name(EXPERT) / shard_name(shard), mode="r")
    return group["features"], group["offsets"][:]


def evict(folder: Path) -> None:
    """Have the system forget what it holds of the files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cases(folder: Path, videos: int, reads: int) -> dict[str, tuple[int, Callable[[], object], Callable[[], object]]]:
    """How many reads a timing has, and `read` and Zarr each reading one video at random."""
    store = FeatureStore(folder)[EXPERT]
    shards = [open_zarr(folder, shard) for shard in range(-(-videos // SHARD_VIDEOS))]
    ours, theirs = random.Random(0), random.Random(0)

    def place() -> tuple[int, int]:
        return divmod(theirs.randrange(videos), SHARD_VIDEOS)

    def rows(array: zarr.Array, offsets: np.ndarray, number: int) -> np.ndarray:
        return array[offsets[number] : offsets[number + 1]]

    def warm_zarr() -> np.ndarray:
        shard, number = place()
        return rows(*shards[shard], number)

    def opened() -> np.ndarray:
        return FeatureStore(folder)[EXPERT].read(str(ours.randrange(videos))).values

    def opened_zarr() -> np.ndarray:
        shard, number = place()
        return rows(*open_zarr(folder, shard), number)

    for number, video in enumerate(store):  # brings all pages into memory
        shard, place_in_shard = divmod(number, SHARD_VIDEOS)
        assert np.array_equal(store.read(video).values, rows(*shards[shard], place_in_shard).astype(np.float32))
    return {
        "warm": (reads, lambda: store.read(str(ours.randrange(videos))), warm_zarr),
        "opened": (10, opened, opened_zarr),
        "evicted": (1, lambda: (evict(folder), opened()), lambda: (evict(folder), opened_zarr())),
    }


def main(videos: int = 512, reads: int = 200, rounds: int = 15) -> None:
    table_rows = [(f"a read of {ROWS} x {DIM}", "read ms", "zarr ms", "zarr / read")]
    least = float("inf")
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in ("float16", "float32"):
            folder = Path(temporary) / dtype
            write(folder, videos, dtype)
            evicting = interleave({"evict": lambda folder=folder: evict(folder)}, rounds)["evict"].wall
            for case, (passes, ours, theirs) in cases(folder, videos, reads).items():
                timings = interleave({"read": ours, "zarr": theirs}, rounds, passes)
                read, other = timings["read"].wall, timings["zarr"].wall
                if case == "evicted":
                    spent = statistics.median(evicting)
                    read, other = [time - spent for time in read], [time - spent for time in other]
                faster = ratios(other, read)
                milliseconds = (spread([1e3 * time for time in times], ".3f") for times in (read, other))
                table_rows.append((f"{dtype}, {case}", *milliseconds, spread(faster, ".3g")))
                if case == "warm":
                    least = min(least, statistics.median(faster))
    table(table_rows)
    verdict(f"random reads: {least:.0f}x as fast as zarr-python (claim: at least {LIMIT}x)", least >= LIMIT)


if __name__ == "__main__":
    typer.run(main)
