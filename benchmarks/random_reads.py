"""What reading a video's rows at random costs beside zarr-python.

Claim: `FeatureStore[expert].read(video)`, which gives 40 rows of 2048 numbers as float32 with their times,
is at least 50 times faster than the baseline: zarr-python slicing the same rows and the same times out of the
same arrays, which are open already, and NumPy making them float32. It counts for float16 and float32, the
worse of them. "rows alone" is against one slice as it is stored, without times; no claim is made of it.

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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

Calls = Mapping[str, Callable[[], object]]


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


@dataclass(frozen=True)
class OpenShard:
    """A shard as zarr-python opens it."""

    features: zarr.Array
    times: zarr.Array
    offsets: np.ndarray

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """What `read` gives of a video."""
        rows = slice(self.offsets[number], self.offsets[number + 1])
        return self.features[rows].astype(np.float32), self.times[rows]

    def rows(self, number: int) -> np.ndarray:
        """The features alone, as they are stored."""
        return self.features[self.offsets[number] : self.offsets[number + 1]]


def open_zarr(folder: Path, shard: int) -> OpenShard:
    group = zarr.open_group(folder / node_name(EXPERT) / shard_name(shard), mode="r")
    return OpenShard(group["features"], group["times"], group["offsets"][:])


def evict(folder: Path) -> None:
    """Have the system forget what it holds of the files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cases(folder: Path, videos: int, reads: int) -> dict[str, tuple[int, Calls]]:
    """How many reads a timing has, and `read` and Zarr each reading one video at random."""
    store = FeatureStore(folder)[EXPERT]
    shards = [open_zarr(folder, shard) for shard in range(-(-videos // SHARD_VIDEOS))]
    chance = random.Random(0)

    def place() -> tuple[int, int]:
        return divmod(chance.randrange(videos), SHARD_VIDEOS)

    def opened() -> object:
        return FeatureStore(folder)[EXPERT].read(str(chance.randrange(videos)))

    def opened_zarr() -> object:
        shard, number = place()
        return open_zarr(folder, shard).read(number)

    def warm_zarr(read: Callable[[OpenShard, int], object]) -> object:
        shard, number = place()
        return read(shards[shard], number)

    for number, video in enumerate(store):  # brings all pages into memory
        shard, place_in_shard = divmod(number, SHARD_VIDEOS)
        features, values = store.read(video), shards[shard].read(place_in_shard)
        assert np.array_equal(features.values, values[0]) and np.array_equal(features.times, values[1])
    return {
        "warm": (
            reads,
            {
                "read": lambda: store.read(str(chance.randrange(videos))),
                "zarr": lambda: warm_zarr(OpenShard.read),
                "rows": lambda: warm_zarr(OpenShard.rows),
            },
        ),
        "opened": (10, {"read": opened, "zarr": opened_zarr}),
        "evicted": (
            1,
            {"read": lambda: (evict(folder), opened()), "zarr": lambda: (evict(folder), opened_zarr())},
        ),
    }


def main(videos: int = 512, reads: int = 200, rounds: int = 15) -> None:
    table_rows = [(f"a read of {ROWS} x {DIM}", "read ms", "zarr ms", "zarr / read", "rows alone / read")]
    least = float("inf")
    with tempfile.TemporaryDirectory() as temporary:
        for dtype in ("float16", "float32"):
            folder = Path(temporary) / dtype
            write(folder, videos, dtype)
            evicting = interleave({"evict": lambda folder=folder: evict(folder)}, rounds)["evict"].wall
            for case, (passes, calls) in cases(folder, videos, reads).items():
                walls = {name: timing.wall for name, timing in interleave(calls, rounds, passes).items()}
                if case == "evicted":
                    spent = statistics.median(evicting)
                    walls = {name: [time - spent for time in times] for name, times in walls.items()}
                faster = ratios(walls["zarr"], walls["read"])
                milliseconds = (spread([1e3 * time for time in walls[name]], ".3f") for name in ("read", "zarr"))
                alone = spread(ratios(walls["rows"], walls["read"]), ".3g") if "rows" in walls else ""
                table_rows.append((f"{dtype}, {case}", *milliseconds, spread(faster, ".3g"), alone))
                if case == "warm":
                    least = min(least, statistics.median(faster))
    table(table_rows)
    verdict(f"random reads: {least:.0f}x as fast as zarr-python (claim: at least {LIMIT}x)", least >= LIMIT)


if __name__ == "__main__":
    typer.run(main)
