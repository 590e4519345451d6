"""What its teacher is worth to FVMR, and what reading the sentence is worth to FVMR and DRN.

Claim: FVMR, distilled with any of the weights, and DRN each find at least twice as many moments as the best guess that
reads no sentence, by R1@0.5 on the moments of the demo corpus. A guess is the same share of every video: all of it, or
that which most moments of the training split overlap by more than half.

No claim of the teacher. The paper says that distillation makes up for much of what a dot product misses of a sentence
and a video seen together. This prints what it does here, where sentences are short and the roles in them few: the
student alone, the student that the teacher taught, with each weight, and the teacher alone. Figures are recalls of the
best answer on the test split in percent, the median over seeds with the least and the greatest.

    reelcache demo demo --videos 480
    python benchmarks/distillation.py demo
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from measure import spread, table, verdict
from torch import Tensor

from train.annotations import read_moments
from train.grounding.evaluation import GroundingMetrics, most_frequent_interval, summarise
from train.recipe import load_recipe
from train.tasks.fvmr import FVMROptions
from train.testing import evaluate_run
from train.training import train

FVMR, DRN = "demo_fvmr", "demo_drn"
IOUS = (0.3, 0.5, 0.7)
FIGURES = [f"R1@{iou:g}" for iou in IOUS]
CLAIMED, TIMES = FIGURES.index("R1@0.5"), 2
WEIGHTS = (0.03, 0.1, 0.3)


def recalls(recipe: str, corpus: Path, run: Path, settings: Mapping[str, Any]) -> list[float]:
    """Train, then the FIGURES on the test split, in percent."""
    places = {"data.store": str(corpus / "corpus.zarr"), "data.annotations": str(corpus / "moments")}
    told = {**places, "model.ious": IOUS, **settings}
    train(load_recipe(recipe, [f"{key}={json.dumps(value)}" for key, value in told.items()]), run)
    metrics = evaluate_run(run).metrics
    assert isinstance(metrics, GroundingMetrics)
    return [metrics.recalls[name] for name in FIGURES]


def blind_recalls(folder: Path) -> dict[str, list[float]]:
    """The FIGURES of guesses, which may overlap a moment by just the IoU, as DRN's may."""
    known, test = read_moments(folder, "train"), read_moments(folder, "test")
    frequent = most_frequent_interval(known.spans, known.durations[known.video_of])
    start, end = frequent.tolist()
    guesses = {"all of a video": torch.tensor([0.0, 1.0]), f"{start:.0%} to {end:.0%} of it": frequent}
    return {
        name: _recalls_of(guess * test.durations[test.video_of, None], test.spans) for name, guess in guesses.items()
    }


def _recalls_of(answers: Tensor, truths: Tensor) -> list[float]:
    """Of one answer a sentence: both (queries, 2), in seconds."""
    found = summarise("blind", 0, dict.fromkeys(IOUS, answers[:, None]), truths, strict=False)
    return [found.recalls[name] for name in FIGURES]


def main(
    corpus: Path,
    epochs: Annotated[int, typer.Option(help="Of FVMR; DRN has those of its recipe.")] = 20,
    seeds: int = 3,
    weight: Annotated[list[float] | None, typer.Option(help="Of the teacher; may be repeated.")] = None,
    temperature: Annotated[float | None, typer.Option(help="[default: the recipe's]")] = None,
) -> None:
    options = load_recipe(FVMR).model
    assert isinstance(options, FVMROptions)
    of_fvmr = {"training.epochs": epochs, "model.temperature": temperature or options.temperature}
    choices: dict[str, tuple[str, dict[str, Any]]] = {
        "DRN": (DRN, {}),
        "FVMR, the student alone": (FVMR, {**of_fvmr, "model.objective": "student"}),
    }
    for each in weight or WEIGHTS:
        choices[f"FVMR, distilled with weight {each:g}"] = FVMR, {**of_fvmr, "model.distill_weight": each}
    choices["FVMR, the teacher alone"] = FVMR, {**of_fvmr, "model.objective": "teacher"}
    found: dict[str, list[list[float]]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, (recipe, settings) in choices.items():
            runs = [Path(temporary) / f"{name} {seed}" for seed in range(seeds)]
            of_seeds = [{**settings, "training.seed": seed} for seed in range(seeds)]
            found[name] = [recalls(recipe, corpus, *each) for each in zip(runs, of_seeds, strict=True)]
            print(
                f"{name}: {' '.join(spread(column, '.1f') for column in zip(*found[name], strict=True))}",
                file=sys.stderr,
            )
    blind = blind_recalls(corpus / "moments")
    rows = [("", *FIGURES)]
    rows += [(name, *(spread(column, ".1f") for column in zip(*each, strict=True))) for name, each in found.items()]
    rows += [(name, *(f"{value:.1f}" for value in each)) for name, each in blind.items()]
    table(rows)
    guessed = max(each[CLAIMED] for each in blind.values())
    medians = {name: statistics.median(each[CLAIMED] for each in figures) for name, figures in found.items()}
    claimed = {name: value / guessed for name, value in medians.items() if " alone" not in name}
    told = ", ".join(f"{name} {times:.2f}" for name, times in claimed.items())
    holds = min(claimed.values()) >= TIMES
    verdict(f"{FIGURES[CLAIMED]} over the best blind guess: {told} (claim: at least {TIMES})", holds)


if __name__ == "__main__":
    typer.run(main)
