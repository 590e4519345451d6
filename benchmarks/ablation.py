"""What each expert is worth on videos whose sights and sounds are known.

Claim: a model without the audio expert finds videos by their sounds worse than one with all experts. For motion, and
for shapes without the appearance expert, the same is printed and not claimed: frames one after the other tell of
motion too, and clips of shapes.

A caption of the demo corpus tells of several things at once, so that what one expert lacks another makes up for.
Hence sentences are made of the corpus's own plan that tell of one thing alone, event after event: its sounds ("a bell
rings, then rain falls"), its motions ("something spins, then something moves left"), or its shapes ("a red star, then
a blue circle"). Training has these beside the captions, so that they are no foreign language; a test measures the
captions and each kind by itself. Of the 80 test videos of a corpus of 480 never more than five share a sentence, so
that a perfect model has 100 %, and one that guesses 6.25 %.

For each choice of experts `demo_dual_encoding` is trained with several seeds; recall at 5 is of sentences among the
test videos, the median over seeds with the least and the greatest.

    reelcache demo demo --videos 480
    python benchmarks/ablation.py demo [--epochs 6] [--seeds 2]
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import typer
from measure import spread, table, verdict

from data_manifests import Caption, Video, read_rows
from data_manifests.jsonl import write_rows
from pipeline.demo_corpus import MOTIONS, SOUNDS
from train.metrics import RetrievalMetrics
from train.recipe import load_recipe
from train.testing import evaluate_run
from train.training import train

RECIPE = "demo_dual_encoding"
HEARD, TOP = "vggish", 5
JOIN = ", then "

Tell = Callable[[dict[str, Any], np.random.Generator], str]
KINDS: dict[str, Tell] = {  # what a sentence says of an event
    "sounds": lambda event, rng: str(rng.choice(SOUNDS[event["sound"]])),
    "motions": lambda event, rng: f"something {rng.choice(MOTIONS[event['motion']])}",
    "shapes": lambda event, rng: f"a {event['colour']} {event['shape']}",
}
SPLITS = ("test", *KINDS)


def write_annotations(corpus: Path, folder: Path) -> None:
    """The corpus's splits. Train and val have all sentences; those of the test are splits of their own."""
    videos = list(read_rows(corpus / "corpus.jsonl", Video))
    for split in ("train", "val", "test"):
        of_split = [video for video in videos if video.meta["split"] == split]
        captions = list(read_rows(corpus / "captions" / f"{split}.jsonl", Caption))
        by_kind = {kind: list(_sentences(of_split, kind)) for kind in KINDS}
        if split == "test":
            for kind, sentences in by_kind.items():
                _write_split(folder, kind, of_split, sentences)
            _write_split(folder, split, of_split, captions)
        else:
            _write_split(folder, split, of_split, [*captions, *(row for rows in by_kind.values() for row in rows)])


def _sentences(videos: list[Video], kind: str) -> Iterator[Caption]:
    for number, video in enumerate(videos):
        rng = np.random.default_rng((number, len(videos)))
        yield Caption(video.id, JOIN.join(KINDS[kind](event, rng) for event in video.meta["events"]))


def _write_split(folder: Path, name: str, videos: list[Video], captions: list[Caption]) -> None:
    write_rows(folder / f"{name}.jsonl", captions)
    (folder / f"{name}.videos.txt").write_text("".join(f"{video.id}\n" for video in videos), encoding="utf-8")


def recalls(corpus: Path, annotations: Path, run: Path, experts: list[str], epochs: int, seed: int) -> list[float]:
    """Train, then recall in percent on each of SPLITS."""
    settings = {
        "data.store": str(corpus / "corpus.zarr"),
        "data.annotations": str(annotations),
        "data.experts": experts,
        "training.epochs": epochs,
        "training.seed": seed,
    }
    train(load_recipe(RECIPE, [f"{key}={json.dumps(value)}" for key, value in settings.items()]), run)
    return [_recall(run, split) for split in SPLITS]


def _recall(run: Path, split: str) -> float:
    metrics = evaluate_run(run, split)[2]
    assert isinstance(metrics, RetrievalMetrics)
    return metrics.t2v.recall_5


def main(corpus: Path, epochs: int = 6, seeds: int = 2) -> None:
    every = list(load_recipe(RECIPE).data.experts)
    choices = {"all experts": every}
    choices |= {f"without {left_out}": [name for name in every if name != left_out] for left_out in every}
    found: dict[str, list[list[float]]] = {choice: [] for choice in choices}
    with tempfile.TemporaryDirectory() as temporary:
        annotations = Path(temporary) / "annotations"
        annotations.mkdir()
        write_annotations(corpus, annotations)
        for seed in range(seeds):
            for number, (choice, experts) in enumerate(choices.items()):
                run = Path(temporary) / f"{seed}-{number}"
                found[choice].append(recalls(corpus, annotations, run, experts, epochs, seed))
    rows = [(f"R@{TOP} of", "captions", *KINDS)]
    for choice, of_seeds in found.items():
        rows.append((choice, *(spread(list(column), ".1f") for column in zip(*of_seeds, strict=True))))
    table(rows)
    place = SPLITS.index("sounds")
    heard, unheard = ([of_seed[place] for of_seed in found[name]] for name in ("all experts", f"without {HEARD}"))
    text = f"sounds with {HEARD} {statistics.median(heard):.1f} %, without {statistics.median(unheard):.1f} %"
    verdict(f"{text} (claim: more with it, seed by seed)", all(a > b for a, b in zip(heard, unheard, strict=True)))


if __name__ == "__main__":
    typer.run(main)
