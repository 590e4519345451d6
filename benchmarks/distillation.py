"""What its teacher is worth to FVMR: the student alone, the teacher alone, and the student that the teacher taught.

No claim. The paper says that distillation makes up for much of what a dot product misses of a sentence and a video
seen together. This prints what it does on the moments of the demo corpus, where sentences are short and the roles in
them few: recalls of the best answer on the test split, the median over seeds with the least and the greatest.

Beside them stands what needs no model: for every sentence the same share of its video, once all of it, once the one
that most moments of the training split overlap by more than half.

    reelcache demo demo --videos 480
    python benchmarks/distillation.py demo [--epochs 12] [--seeds 3] [--weight 0.1] [--weight 1]
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from measure import spread, table
from torch import Tensor

from train.annotations import read_moments
from train.grounding.evaluation import GroundingMetrics, most_frequent_interval, summarise
from train.recipe import load_recipe
from train.testing import evaluate_run
from train.training import train

RECIPE = "demo_fvmr"
IOUS = (0.3, 0.5, 0.7)
FIGURES = [f"R1@{iou:g}" for iou in IOUS]


def recalls(corpus: Path, run: Path, epochs: int, seed: int, objective: str, weight: float) -> list[float]:
    """Train, then the FIGURES on the test split, in percent."""
    settings = {
        "data.store": str(corpus / "corpus.zarr"),
        "data.annotations": str(corpus / "moments"),
        "model.objective": objective,
        "model.distill_weight": weight,
        "model.ious": IOUS,
        "training.epochs": epochs,
        "training.seed": seed,
    }
    train(load_recipe(RECIPE, [f"{key}={json.dumps(value)}" for key, value in settings.items()]), run)
    metrics = evaluate_run(run)[2]
    assert isinstance(metrics, GroundingMetrics)
    return [metrics.recalls[name] for name in FIGURES]


def blind_recalls(folder: Path, interval: Tensor) -> list[float]:
    """The FIGURES of the same share (2,) of each video, whatever the sentence."""
    test = read_moments(folder, "test")
    answers = (interval * test.durations[test.video_of, None])[:, None]  # (queries, 1, 2)
    found = summarise("2d-tan", len(test.videos), dict.fromkeys(IOUS, answers), test.spans, strict=True)
    return [found.recalls[name] for name in FIGURES]


def main(
    corpus: Path, epochs: int = 12, seeds: int = 3, weight: Annotated[list[float] | None, typer.Option()] = None
) -> None:
    choices = {"student alone": ("student", 0.0), "teacher alone": ("teacher", 0.0)}
    choices |= {f"distilled, weight {each:g}": ("distilled", each) for each in weight or [0.1]}
    rows = [("", *FIGURES)]
    with tempfile.TemporaryDirectory() as temporary:
        for name, (objective, of_teacher) in choices.items():
            runs = [Path(temporary) / f"{name} {seed}" for seed in range(seeds)]
            found = [recalls(corpus, run, epochs, seed, objective, of_teacher) for seed, run in enumerate(runs)]
            rows.append((name, *(spread(list(column), ".1f") for column in zip(*found, strict=True))))
    moments = read_moments(corpus / "moments", "train")
    frequent = most_frequent_interval(moments.spans, moments.durations[moments.video_of])
    start, end = frequent.tolist()
    for name, interval in (("all of it", torch.tensor([0.0, 1.0])), (f"{start:.0%} to {end:.0%} of it", frequent)):
        rows.append((name, *(f"{value:.1f}" for value in blind_recalls(corpus / "moments", interval))))
    table(rows)


if __name__ == "__main__":
    typer.run(main)
