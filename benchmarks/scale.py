"""What a store of a million videos costs to plan, to resume and to look at, and how that grows.

Claim: at 1,000,000 videos and 7 experts, 109,375 shards of 64 videos, each of these takes under 20 s of
processor time, which is all it takes on a machine that does nothing else, and under 500 MB: opening the
manifest; planning the shards; finding out which are complete for all experts, as a run does that goes on;
`reelcache status --json`; `reelcache status`. And from 10,000 videos to 100,000 to 1,000,000 the time a
shard, beyond what a store of one shard an expert takes, does not grow by more than half from one size to
the next, where the smaller one takes long enough to tell.

The simulated store has the plan, the experts' metadata and the shards' records, byte for byte as they
would be written, a hundredth of them not there yet; of its videos 1 % failed, 1 % are cut off and 1 % lack
the stream. It has no arrays, which nothing here opens. Every step runs in a process of its own, which is
timed from its start to its end, imports and all; memory is the process's peak. Records were written
just before, so that they come from memory; with --cold they come from the disk, and elapsed time tells more.

    python benchmarks/scale.py [--videos 10000 --videos 100000 --videos 1000000] [--cold]
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from measure import table, verdict

from data_manifests import Manifest
from feature_store import ExpertWriter, ShardRecord, StoreWriter, VideoStatus
from feature_store.layout import COMPLETE, digest_of, dump_record, load_record, node_name, shard_name
from feature_store.writer import complete_shards

EXPERTS = {"clip": 512, "densenet161": 2208, "i3d": 1024, "ocr": 300, "s3d": 1024, "scene": 365, "vggish": 128}
SHARD_VIDEOS = 64
PENDING = 100  # one shard in so many is not there yet
PATTERNS = 16  # of statuses in a shard
FAULTS = {"open": "moov atom not found", "decode": "Invalid data found when processing input", "time": "took 600 s"}
ARRAYS = ("features", "offsets", "times")
REPEATS = {10_000: 7, 100_000: 3, sys.maxsize: 1}  # by videos; what little costs is easily lost in noise
NOISE = 0.2  # seconds beyond the start, of which no time a shard is told to compare with
LIMIT_SECONDS, LIMIT_MB, LIMIT_GROWTH = 20.0, 500.0, 1.5
HERE, NUMBER = "######", 987_654_321  # stand for a shard's number where text and where a number is meant


def video_id(shard: str, number: int) -> str:
    return f"video{shard}{number:02d}"


def write_manifest(path: Path, videos: int) -> None:
    """Every other video is cut from a longer file."""
    with open(path, "w") as file:
        for number in range(videos):
            name = video_id(shard_name(number // SHARD_VIDEOS), number % SHARD_VIDEOS)
            row = {"id": name, "path": f"videos/{number % 1000:03d}/{name}.mp4"}
            cut = {"start": number / 8, "end": number / 8 + 30.5} if number % 2 else {}
            file.write(json.dumps(row | cut) + "\n")


def status(video: str, chance: random.Random) -> VideoStatus:
    draw, length = chance.random(), round(chance.uniform(5, 60), 3)
    if draw < 0.01:
        stage = chance.choice(sorted(FAULTS))
        return VideoStatus(video, "failed", stage=stage, reason=FAULTS[stage])
    if draw < 0.02:
        return VideoStatus(video, "truncated", int(length), length, at=length, stage="decode", reason="cut off")
    return VideoStatus(video, "no_stream") if draw < 0.03 else VideoStatus(video, "ok", int(length), length)


def patterns(expert: ExpertWriter, videos: int, chance: random.Random) -> Iterator[tuple[str, str]]:
    """Records of shards to be numbered: as they are written, and the form that their digest is of."""
    for _ in range(PATTERNS):
        statuses = tuple(status(video_id(HERE, number), chance) for number in range(videos))
        names = ("zarr.json", *(f"{array}/{file}" for array in ARRAYS for file in ("zarr.json", "c/0")))
        run = {
            "when": "2026-01-01T00:00:00+00:00",
            "host": "gpu1",
            "device": "NVIDIA H200",
            "decoder": "av",
            "passes": [{"pass": f"{HERE:0>16}", "videos": videos}],
            "bytes": sum(status.rows for status in statuses) * (2 * expert.dim + 16) + 2500,
        }
        files = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
        record = dump_record(ShardRecord(expert.name, NUMBER, expert.provenance, statuses, files, run)).decode()
        content = json.loads(record)
        seal = content.pop("sha256")
        digested = json.dumps(content, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(digested.encode()).hexdigest() == digest_of(content) == seal
        yield record.replace(seal, "{seal}"), digested


def write_records(expert: ExpertWriter, folder: Path, shards: range, videos: int) -> None:
    """The records of shards of `videos` videos."""
    chance = random.Random(f"{expert.name} {videos}")
    ready = list(patterns(expert, videos, chance))
    for shard in shards:
        if shard % PENDING == PENDING - 1:
            continue
        pattern = chance.choice(ready)
        record, digested = (text.replace(HERE, shard_name(shard)).replace(str(NUMBER), str(shard)) for text in pattern)
        os.mkdir(folder / shard_name(shard))
        with open(folder / shard_name(shard) / COMPLETE, "w") as file:
            file.write(record.replace("{seal}", hashlib.sha256(digested.encode()).hexdigest()))


def write_store(manifest: Path, store: Path) -> None:
    writer = StoreWriter(store)
    rows = Manifest(manifest)
    shards, last = divmod(len(rows), SHARD_VIDEOS)
    writer.plan(len(rows), SHARD_VIDEOS, rows.digest)
    for expert in add_experts(writer):
        folder = store / node_name(expert.name)
        write_records(expert, folder, range(shards), SHARD_VIDEOS)
        if last:
            write_records(expert, folder, range(shards, shards + 1), last)
        load_record(next(folder.glob(f"*/{COMPLETE}")))  # what was filled in is a record still


def add_experts(writer: StoreWriter) -> list[ExpertWriter]:
    fixed = {"kind": "appearance", "dtype": "float16", "weights": {"source": "none"}, "sampling": {}}
    return [writer.add_expert(name, fixed | {"dim": dim}, {}) for name, dim in EXPERTS.items()]


def opening(manifest: str, store: str) -> None:
    Manifest(manifest)


def planning(manifest: str, store: str) -> None:
    rows = Manifest(manifest)
    StoreWriter(store).plan(len(rows), SHARD_VIDEOS, rows.digest)


def resuming(manifest: str, store: str) -> None:
    """Planning, and what is left to do."""
    rows, writer = Manifest(manifest), StoreWriter(store)
    plan = writer.plan(len(rows), SHARD_VIDEOS, rows.digest)
    done = set.intersection(
        *({shard for shard, _ in complete_shards(writer.place, expert.node)} for expert in add_experts(writer))
    )
    assert 0 < len(done) <= len(plan)


STEPS = {"open the manifest": opening, "plan": planning, "resume": resuming}


@dataclass(frozen=True)
class Cost:
    """What a process took: elapsed and processor seconds, and its peak in MB."""

    seconds: float
    cpu: float
    peak: float


def measure(command: list[str]) -> Cost:
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed")
    seconds = time.perf_counter() - began
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)  # KiB -> MiB


def evict(folder: Path) -> None:
    """Have the system forget what it holds of the files."""
    os.sync()
    for parent, _, names in os.walk(folder):
        for name in names:
            handle = os.open(f"{parent}/{name}", os.O_RDONLY)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def measure_store(videos: int, cold: bool) -> dict[str, Cost]:
    """The cost of every step on a store of `videos` videos; of small ones the least of several."""
    with tempfile.TemporaryDirectory() as temporary:
        manifest, store = Path(temporary) / "corpus.jsonl", Path(temporary) / "corpus.zarr"
        write_manifest(manifest, videos)
        write_store(manifest, store)
        commands = {
            step: [sys.executable, __file__, "--step", step, "--manifest", str(manifest), "--store", str(store)]
            for step in STEPS
        }
        for options in (["--json"], []):
            name = " ".join(["status", *options])
            commands[name] = [sys.executable, "-m", "pipeline.cli", "status", str(store), *options]
        found = {}
        for name, command in commands.items():
            if cold:
                evict(Path(temporary))
            times = next(times for limit, times in REPEATS.items() if videos <= limit)
            found[name] = min((measure(command) for _ in range(1 if cold else times)), key=lambda cost: cost.cpu)
            print(f"{videos} videos, {name}: {found[name]}", file=sys.stderr, flush=True)  # the rest takes minutes
        return found


def main(
    videos: Annotated[list[int], typer.Option()] = [10_000, 100_000, 1_000_000],  # noqa: B006
    cold: bool = False,
    step: str = "",
    manifest: str = "",
    store: str = "",
) -> None:
    if step:
        return STEPS[step](manifest, store)
    rows = [("step", "videos", "shards", "seconds", "peak MB", "CPU s", "CPU s / 1000 shards", "growth")]
    start = measure_store(SHARD_VIDEOS, cold)
    rows += [(name, f"{SHARD_VIDEOS}", f"{len(EXPERTS)}", *figures(cost), "", "") for name, cost in start.items()]
    costs: dict[str, Cost] = {}
    slopes: dict[str, float] = {}  # of the size before, where it can be told
    growth = [1.0]
    for size in sorted(videos):
        shards = -(-size // SHARD_VIDEOS) * len(EXPERTS)
        costs = measure_store(size, cold)
        for name, cost in costs.items():
            more = cost.cpu - start[name].cpu
            slope = 1e3 * more / (shards - len(EXPERTS))
            grown = ""
            if name in slopes:
                growth.append(slope / slopes[name])
                grown = f"x {growth[-1]:.2f}"
            if more > NOISE:
                slopes[name] = slope
            rows.append((name, f"{size}", f"{shards}", *figures(cost), f"{slope:.3f}", grown))
    table(rows)
    slowest = max(cost.cpu for cost in costs.values())
    largest = max(cost.peak for cost in costs.values())
    verdict(
        f"{max(videos)} videos: at most {slowest:.1f} s of processor time and {largest:.0f} MB (claim: under "
        f"{LIMIT_SECONDS:.0f} s and {LIMIT_MB:.0f} MB); from one size to the next a shard takes at most "
        f"{max(growth):.2f}x as long (claim: {LIMIT_GROWTH}x)",
        slowest < LIMIT_SECONDS and largest < LIMIT_MB and max(growth) <= LIMIT_GROWTH,
    )


def figures(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.seconds:.2f}", f"{cost.peak:.0f}", f"{cost.cpu:.2f}"


if __name__ == "__main__":
    typer.run(main)
