"""What training takes at the size of MSR-VTT, and how much of it waits for features.

Claim: of the time that steps take, less than 3 % is spent waiting for the next batch, for every system, with features
in memory ("ram") or read from the store as they are wanted ("none").

Videos are 10,000 with 30 rows of each expert of the recipe, 20 captions each, systems and batches of the published
sizes; features are noise, captions made-up words in English order. MMT's BERT has the size of bert-base-cased and
random parameters. A step is a batch, both encoders, the loss, its gradients, clipping and Adam; "waits" is the time
in `next` of the batches over the time of the loop, after two untimed steps. Batches are made on a thread of the same
cores meanwhile; "a batch" is the time to make one with nothing beside it. "prepare" reads vocabularies and tags out
of the captions, and keeps the tags for whoever comes next; "open" is what else comes before the first step.

Each line is a process of its own. Its peak is that of the process, for "none" with what the system caches of the store;
on a GPU that of the GPU stands beside it. The store takes 7 GB of the temporary folder.

    python benchmarks/training.py [--systems mmt,hanet] [--videos 10000] [--captions 20] [--steps 6] [--device cuda]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from measure import table, verdict

from data_manifests import Caption
from data_manifests.jsonl import write_rows
from feature_store import FeatureStore, StoreWriter, VideoStatus
from train.annotations import read_split
from train.batches import PairBatches
from train.evaluation import to_device
from train.features import Cache, ExpertFacts
from train.recipe import Recipe, load_recipe
from train.tasks import TASKS
from train.tasks.base import Assets, RetrievalTask
from train.text.bert import RANDOM, describe

RECIPES = {
    "dual_encoding": "dual_encoding_msrvtt",
    "hybrid_space": "hybrid_space_msrvtt",
    "hanet": "hanet_msrvtt",
    "mmt": "mmt_msrvtt_1k_a",
}
CACHES: tuple[Cache, ...] = ("ram", "none")
DIMS = {"resnet152": 2048, "resnext101": 2048, "senet154": 2048, "densenet161_places365": 2208, "s3d": 1024}
DIMS |= {"vggish": 128, "ocr": 300, "speech": 300, "face": 512}
KINDS = {"ocr": "text", "speech": "text", "face": "face"}
ROWS, ROW_SECONDS, SHARD_VIDEOS = 30, 0.5, 64
NOUNS, VERBS = 5900, 1900  # with these the vocabulary is about that of MSR-VTT, 7,807 words
BERT_BASE_WORDS = 28_996  # of bert-base-cased, whose other sizes are BertConfig's own
MOST_WAITING, UNTIMED = 3.0, 2  # percent, steps


def write_store(folder: Path, experts: list[str], videos: int) -> None:
    """Noise, ROWS rows a video and expert."""
    store, rng = StoreWriter(folder), np.random.default_rng(0)
    plan = store.plan(videos, SHARD_VIDEOS, lambda first, stop: f"{first}-{stop}")
    starts = ROW_SECONDS * np.arange(ROWS)
    times = np.stack([starts, starts + ROW_SECONDS], axis=1)
    for name in experts:
        kind, dim = KINDS.get(name, "appearance"), DIMS[name]
        identity = {"kind": kind, "dim": dim, "dtype": "float16", "weights": {"source": "noise"}, "sampling": {}}
        expert = store.add_expert(name, identity, {})
        for shard in range(len(plan)):
            first, stop = plan.bounds(shard)
            writer = expert.begin(shard)
            noise = rng.standard_normal((stop - first, ROWS, dim), np.float32)
            for number, values in enumerate(noise):
                writer.append(number, 0, values, times)
            seconds = ROWS * ROW_SECONDS
            writer.finish([VideoStatus(f"video{number}", "ok", ROWS, seconds) for number in range(first, stop)], {})


def write_captions(folder: Path, videos: int, captions: int) -> None:
    """Sentences of 9 or 16 words, few of which are frequent."""
    rng = np.random.default_rng(0)

    def words(count: int, ending: str = "") -> np.ndarray:
        letters = [np.array(list(group)) for group in ("bdfgklmnprstv", "aeiou", "bdfgklmnprstv", "aeiou", "dgklmnprt")]
        made = {"".join(rng.choice(group) for group in letters) + ending for _ in range(2 * count)}
        return np.array(sorted(made)[:count])

    nouns, verbs = words(NOUNS), words(VERBS, "ing")

    def sentence() -> str:
        subject, thing, place, colour = nouns[(len(nouns) * rng.random(4) ** 3).astype(int)]
        verb = verbs[int(len(verbs) * rng.random() ** 3)]
        tail = f" of the {colour} while people are talking" * int(rng.random() < 0.4)
        return f"a {subject} is {verb} the {thing} in a {place}{tail}"

    folder.mkdir()
    write_rows(
        folder / "train.jsonl", (Caption(f"video{n}", sentence()) for n in range(videos) for _ in range(captions))
    )
    (folder / "train.videos.txt").write_text("".join(f"video{n}\n" for n in range(videos)))


def assets_of(recipe: Recipe, split: Any, folder: Path) -> Assets:
    if recipe.model.system != "mmt":
        return TASKS[recipe.model.system].prepare(recipe.model, split, folder)
    words = describe(RANDOM, split.texts)["vocabulary"]
    unused = [f"[unused{n}]" for n in range(BERT_BASE_WORDS - len(words))]
    return {"bert": {"config": {"vocab_size": BERT_BASE_WORDS}, "vocabulary": [*words, *unused][:BERT_BASE_WORDS]}}


def run_here(folder: Path, system: str, cache: Cache, steps: int, device: str) -> None:
    """Run in a process of its own, and print seconds and GB."""
    recipe = load_recipe(RECIPES[system])
    begun = time.perf_counter()
    annotations, store = folder / "captions", FeatureStore(folder / "store.zarr")
    split = read_split(annotations, "train")
    assets = assets_of(recipe, split, annotations)
    prepared = time.perf_counter()
    facts = {name: ExpertFacts.of(store.experts[name]) for name in recipe.data.experts}
    torch.manual_seed(0)
    task = TASKS[system](recipe.model, facts, assets).to(device)
    assert isinstance(task, RetrievalTask)
    videos = task.open_videos(store, split.videos, cache, device)
    texts, labels = task.read_texts(split.texts, annotations), task.read_labels(split, annotations)
    options = recipe.training
    batches = PairBatches(split, videos, texts, labels, size=options.batch, seed=0, draw=options.draw)
    opened = time.perf_counter()
    making = []
    for step in range(len(batches) - 5, len(batches)):  # not those that are trained with
        started = time.perf_counter()
        batches.make(step)
        making.append(time.perf_counter() - started)
    waits, whole = zip(*list(timed_steps(task, batches, recipe, steps, device)), strict=True)
    found = {
        "prepare": prepared - begun,
        "open": opened - prepared,
        "batch": statistics.median(making),
        "step": statistics.median(whole),
        "waits": 100 * sum(waits) / sum(whole),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,  # KiB -> GB
        "gpu": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0,
        "parameters": sum(each.numel() for each in task.parameters()) / 1e6,
    }
    print(json.dumps(found))


def timed_steps(
    task: RetrievalTask, batches: PairBatches, recipe: Recipe, steps: int, device: str
) -> Iterator[tuple[float, float]]:
    """Train; yield of each step the seconds that it waited, and all that it took."""
    adam = torch.optim.Adam(task.parameters(), lr=recipe.training.learning_rate)
    task.train()
    coming = iter(batches)
    for number in range(UNTIMED + steps):
        started = time.perf_counter()
        batch = next(coming)
        waited = time.perf_counter() - started
        video, text, labels = (to_device(each, torch.device(device)) for each in batch)
        loss = task.loss(task.encode_video(video), task.encode_text(text), labels)["loss"]
        adam.zero_grad()
        loss.backward()
        if recipe.training.clip_norm:
            torch.nn.utils.clip_grad_norm_(task.parameters(), recipe.training.clip_norm)
        adam.step()
        if device == "cuda":
            torch.cuda.synchronize()
        if number >= UNTIMED:
            yield waited, time.perf_counter() - started


def measure(folder: Path, system: str, cache: Cache, steps: int, device: str) -> dict[str, float]:
    options = [
        f"--systems={system}",
        f"--cache={cache}",
        f"--folder={folder}",
        f"--steps={steps}",
        f"--device={device}",
    ]
    command = [sys.executable, __file__, *options]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return dict(json.loads(printed.splitlines()[-1]))


def main(
    systems: str = ",".join(RECIPES),
    videos: int = 10_000,
    captions: int = 20,
    steps: int = 6,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    folder: str = "",
    cache: str = "",
) -> None:
    if cache:
        return run_here(Path(folder), systems, "ram" if cache == "ram" else "none", steps, device)
    chosen = systems.split(",")
    found: dict[tuple[str, Cache], dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        write_captions(Path(temporary) / "captions", videos, captions)
        experts = dict.fromkeys(name for system in chosen for name in load_recipe(RECIPES[system]).data.experts)
        write_store(Path(temporary) / "store.zarr", list(experts), videos)
        for system in chosen:
            for kind in CACHES:
                found[system, kind] = measure(Path(temporary), system, kind, steps, device)
    heading = ("prepare s", "open s", "a batch ms", "a step s", "steps/s", "waits %", "peak GB", "GPU GB")
    rows = [(f"{videos} videos, {videos * captions} captions, {device}", *heading)]
    for (system, kind), of in found.items():
        times = (f"{of['prepare']:.1f}", f"{of['open']:.1f}", f"{1e3 * of['batch']:.0f}", f"{of['step']:.3f}")
        rest = (f"{1 / of['step']:.2f}", f"{of['waits']:.2f}", f"{of['peak']:.1f}", f"{of['gpu']:.1f}")
        rows.append((f"{system} ({of['parameters']:.1f} M), {kind}", *times, *rest))
    table(rows)
    most = max(of["waits"] for of in found.values())
    verdict(
        f"training: waits at most {most:.2f} % of a step (claim: less than {MOST_WAITING:g} %)", most < MOST_WAITING
    )


if __name__ == "__main__":
    typer.run(main)
