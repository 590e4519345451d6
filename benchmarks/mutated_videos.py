"""Whether a corpus full of spoilt files is extracted to its end, and its good videos as if they were alone.

Claim: over 500 spoilt videos with good ones between them `reelcache extract` ends with exit code 0; each video has
rows, or lacks the stream, or has failed with a stage and a reason; the good videos' rows, times and statuses equal
those of a run over them alone, to the byte; `reelcache verify` finds the store sound; no temporary file is left; and
the processes of the run together never hold more than 5 GB. Of the spoilt videos, the one that takes longest to
sample is named, with its seconds.

Sources are files or folders, of which what PyAV opens and is short enough is taken; without any, nineteen small files
of as many formats are made. They are spoilt in the ways of mutations.py, the same ones for the same seed. In one of
fifty a valid file of huge pictures stands in, and one in twenty keeps its bytes but gets another extension.

    python benchmarks/mutated_videos.py [SOURCES...] [--count 500] [--seed 0] [--decoder av] [--keep FOLDER]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Annotated, Any

import psutil
import typer
from measure import table, verdict
from mutation_sources import make_large, make_sources
from mutations import MUTATIONS

from data_manifests import Video, write_rows
from feature_store import FeatureStore
from pipeline.media import MediaError, probe

# GB: two processes hold two without any video, and MTCNN takes two for a single picture of 35 million pixels.
MEMORY = 5.0
LONGEST = 12.0  # seconds of a source
ENDLESS = 1800.0  # seconds, after which a run counts as hung
NEIGHBOURS = 5  # spoilt videos to a good one
LARGE = {"8K square": 8192, "the largest": 5904}  # pixels a side: beyond the limit of pixels, and just within it
OPTIONS = ("s3d.resize=40", "s3d.crop=32", "face.every=1")
SHOWN = 40  # reasons


@dataclass(frozen=True)
class Spoilt:
    """A spoilt video: its id, its file, and what was done to it."""

    id: str
    path: Path
    how: str


@dataclass(frozen=True)
class Run:
    """How a command ended: exit code (None: hung), what it printed, seconds, and the most memory held in GB."""

    code: int | None
    printed: str
    seconds: float
    memory: float


def gather(sources: list[Path], folder: Path, longest: float) -> list[Path]:
    """The files to spoil: all that can be probed and are short."""
    if not sources:
        return make_sources(folder)
    files = [file for source in sources for file in (sorted(source.rglob("*")) if source.is_dir() else [source])]
    return [file for file in files if file.is_file() and _short(file, longest)]


def _short(file: Path, longest: float) -> bool:
    try:
        return (probe(str(file)).duration or 0.0) <= longest
    except MediaError:
        return False


def spoil(sources: list[Path], folder: Path, count: int, seed: int) -> Iterator[Spoilt]:
    """Write `count` spoilt files into a folder, every way of spoiling in turn."""
    random = Random(seed)
    large = {how: make_large(folder / f"large-{side}.mp4", side) for how, side in LARGE.items()}
    ways = list(MUTATIONS.items())
    for number in range(count):
        source, other = random.choice(sources), random.choice(sources)
        path = folder / f"{number:04d}{source.suffix}"
        if number % 50 == 49:
            how = list(large)[number // 50 % len(large)]
            path.write_bytes(large[how].read_bytes())
        elif number % 20 == 19:
            how, path = "wrong extension", path.with_suffix(random.choice([".jpg", ".wav", ".m3u8", ".txt", ".mkv"]))
            path.write_bytes(source.read_bytes())
        else:
            how, mutate = ways[number % len(ways)]
            while (content := mutate(random, source.read_bytes(), other.read_bytes())) is None:
                source = random.choice(sources)
                path = path.with_suffix(source.suffix)
                if not any(mutate(Random(0), one.read_bytes(), one.read_bytes()) for one in sources):
                    how, mutate = "few bit flips", MUTATIONS["few bit flips"]  # no source has what this one spoils
            path.write_bytes(content)
        yield Spoilt(f"spoilt {number}: {how}, {source.name}", path, how)


def extract(manifest: Path, store: Path, experts: str, decoder: str, temporary: Path) -> Run:
    """Run `reelcache extract`, and watch the memory of all its processes."""
    options = [word for option in OPTIONS if option.split(".")[0] in experts for word in ("--set", option)]
    chosen = ["--experts", experts, "--weights", "random", "--decoder", decoder, *options]
    return reelcache("extract", str(manifest), str(store), *chosen, temporary=temporary)


def reelcache(*arguments: str, temporary: Path) -> Run:
    """Run a command of the command line."""
    began, peak = time.perf_counter(), 0
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary), "COLUMNS": "120"}
    with tempfile.TemporaryFile("w+") as printed:
        command = [sys.executable, "-m", "pipeline.cli", *arguments]
        process = psutil.Popen(command, env=environment, stdout=printed, stderr=subprocess.STDOUT)
        while process.poll() is None and time.perf_counter() - began < ENDLESS:
            peak = max(peak, _memory(process))
            time.sleep(0.05)
        hung = process.poll() is None
        if hung:
            _end(process)
        printed.seek(0)
        code = None if hung else process.returncode
        return Run(code, printed.read(), time.perf_counter() - began, peak / 1e9)


def _memory(process: psutil.Process) -> int:
    """Bytes resident in a process and all that it started."""
    held = 0
    try:
        for one in (process, *process.children(recursive=True)):
            held += one.memory_info().rss
    except psutil.NoSuchProcess:
        pass  # it ended just now; the next look counts the others
    return held


def _end(process: psutil.Popen) -> None:
    for one in (*process.children(recursive=True), process):
        one.kill()
    process.wait()


@dataclass
class Outcome:
    """What is wrong with a finished run, and how its videos went by how they were spoilt."""

    faults: list[str]
    statuses: dict[str, Counter[str]]
    reasons: Counter[str]


def judge(store: FeatureStore, spoilt: list[Spoilt]) -> Outcome:
    """Whether every spoilt video is accounted for."""
    outcome = Outcome([], {}, Counter())
    for video in spoilt:
        worst = "no_stream"
        for name in store.experts:
            status = store[name].status(video.id)
            if status.status == "failed" and not (status.stage and status.reason and status.reason.strip()):
                outcome.faults.append(f"{video.id}: {name} failed without a reason")
            if status.status == "truncated" and not status.reason:
                outcome.faults.append(f"{video.id}: {name} is truncated without a reason")
            if status.reason and status.status in ("failed", "truncated"):
                outcome.reasons[_without_numbers(f"{status.stage or 'truncated'}: {status.reason}")] += 1
            worst = min(worst, status.status, key=("failed", "truncated", "ok", "no_stream").index)
        outcome.statuses.setdefault(video.how, Counter())[worst] += 1
    return outcome


def _without_numbers(reason: str) -> str:
    return "".join("#" if char.isdigit() else char for char in reason).replace("##", "#").replace("##", "#")


def differences(alone: FeatureStore, among: FeatureStore, ids: list[str]) -> list[str]:
    """Good videos that went otherwise among spoilt ones than alone."""
    return [
        f"{video}: {name} differs" for video in ids for name in alone.experts if not _equal(alone, among, name, video)
    ]


def _equal(a: FeatureStore, b: FeatureStore, expert: str, video: str) -> bool:
    one, other = a[expert].read(video), b[expert].read(video)
    same = one.values.tobytes() == other.values.tobytes() and one.times.tobytes() == other.times.tobytes()
    records = not a.experts[expert].has_records or a[expert].records(video) == b[expert].records(video)
    return same and records and one.status == other.status


def leftovers(*folders: Path) -> list[str]:
    """Files that only an unfinished write has, and whatever lies in the folder of temporary files (the last one)."""
    parts = [path for folder in folders for path in folder.rglob("*.part")]
    return [
        f"{path} was left behind" for path in (*parts, *(path for path in folders[-1].rglob("*") if path.is_file()))
    ]


def slowest(spoilt: list[Spoilt]) -> tuple[float, str]:
    """The seconds and the id of the spoilt video that takes longest to decode for frames and sound."""
    from extractors import Audio, Frames
    from pipeline.sampling import Request, sample_video

    requests = {
        "frames": Request(Frames(0.5), _first_pixel),
        "sound": Request(Audio(16_000, 0.96, 0.96, 0.015), _first_pixel),
    }
    found = []
    for video in spoilt:
        began = time.perf_counter()
        for _ in sample_video(Video(video.id, str(video.path)), requests):
            pass
        found.append((time.perf_counter() - began, video.id))
    return max(found)


def _first_pixel(frame: Any) -> Any:
    import torch

    return torch.from_numpy(frame[:1, :1].copy())


def unexplained_deaths(store: Path) -> list[str]:
    """Processes that died, and nobody knows of which video; how many died of one is printed."""
    log = [json.loads(line) for line in (store / ".run/log.jsonl").read_text().splitlines()]
    deaths = [event for event in log if event["event"] == "process_died"]
    print(
        f"\n{len(deaths)} processes died of a video",
        *(f"  {event['video']}: {event['why']}" for event in deaths),
        sep="\n",
    )
    return [f"a process died, of no video: {event['why']}" for event in deaths if not event["video"]]


def measure(sources: list[Path], folder: Path, experts: str, decoder: str, count: int, seed: int) -> list[str]:
    """Do all that the claim says, print what was found, and return what breaks the claim."""
    (folder / "spoilt").mkdir()
    spoilt = list(spoil(sources, folder / "spoilt", count, seed))
    good = [Video(f"good {n}", str(sources[n % len(sources)].resolve())) for n in range(-(-count // NEIGHBOURS))]
    rows = []
    for number, video in enumerate(spoilt):
        rows += good[number // NEIGHBOURS : number // NEIGHBOURS + 1] if number % NEIGHBOURS == 0 else []
        rows.append(Video(video.id, str(video.path.resolve())))
    write_rows(folder / "good.jsonl", good)
    write_rows(folder / "all.jsonl", rows)

    temporary = folder / "temporary"
    alone = extract(folder / "good.jsonl", folder / "good.zarr", experts, decoder, temporary)
    run = extract(folder / "all.jsonl", folder / "all.zarr", experts, decoder, temporary)
    print(run.printed)
    print(f"{len(rows)} videos in {run.seconds:.0f} s, {run.memory:.2f} GB at most ({alone.memory:.2f} GB without)")
    if run.code or run.code is None or alone.code:
        return [f"extract ended with {alone.code} over the good videos, with {run.code} over all (None: it hung)"]
    store = FeatureStore(folder / "all.zarr")
    outcome = judge(store, spoilt)
    checked = reelcache("verify", str(folder / "all.zarr"), temporary=temporary)
    faults = [*outcome.faults, *leftovers(folder / "good.zarr", folder / "all.zarr", temporary)]
    faults += differences(FeatureStore(folder / "good.zarr"), store, [video.id for video in good])
    faults += unexplained_deaths(folder / "all.zarr")
    faults += [f"verify ended with {checked.code}: {checked.printed}"] if checked.code else []
    faults += [f"{run.memory:.2f} GB of memory"] if run.memory > MEMORY else []
    show(outcome)
    if decoder == "av":
        print("longest to sample: {:.1f} s: {}".format(*slowest(spoilt)))
    return faults


def show(outcome: Outcome) -> None:
    """How each way of spoiling went, and what was said of it."""
    states = ("ok", "truncated", "failed", "no_stream")
    rows: list[tuple[str, ...]] = [("spoilt by", *states)]
    for how, counts in sorted(outcome.statuses.items()):
        rows.append((how, *(str(counts[state]) for state in states)))
    total = sum(outcome.statuses.values(), Counter())
    table([*rows, ("in all", *(str(total[state]) for state in states))])
    print()
    for reason, number in outcome.reasons.most_common(SHOWN):
        print(f"{number:5d}  {ascii(reason)[1:-1]}")
    print()


def main(
    sources: Annotated[list[Path] | None, typer.Argument(help="Files and folders.", show_default=False)] = None,
    count: int = 500,
    seed: int = 0,
    decoder: str = "av",
    experts: str = "timm:test_resnet,s3d,vggish,face",
    longest: Annotated[float, typer.Option(help="Seconds; longer sources are left out.")] = LONGEST,
    keep: Annotated[Path | None, typer.Option(help="A new folder that is kept.")] = None,
) -> None:
    if keep:
        keep.mkdir(parents=True)
    with nullcontext(str(keep)) if keep else tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "sources").mkdir()
        files = gather(sources or [], folder / "sources", longest)
        print(f"{len(files)} sources")
        faults = measure(files, folder, experts, decoder, count, seed)
    for fault in faults:
        print(fault)
    claim = f"{count} spoilt videos: each failed with a reason or has rows, good ones unchanged, at most {MEMORY:g} GB"
    verdict(claim, not faults)


if __name__ == "__main__":
    typer.run(main)
