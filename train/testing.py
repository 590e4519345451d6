"""A run measured on a split."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch

from train.evaluation import open_gallery, open_split
from train.recipe import Recipe
from train.runs import load_chosen, open_recipe, open_store, open_task
from train.tasks.base import Metrics


class Measured(NamedTuple):
    """A run's recipe, the split that it was measured on, how good it is there, and what of the split was left out."""

    recipe: Recipe
    split: str
    metrics: Metrics
    left_out: tuple[str, ...]


def evaluate_run(run: Path, split: str | None = None, store_path: str | None = None) -> Measured:
    """Metrics of a run's model on a split, by default the recipe's test split.

    Raises TrainError if the run has no model yet, the split is not there, or the store's features are of another kind.
    """
    recipe = open_recipe(run)
    name = split or recipe.data.test
    store = open_store(store_path or recipe.data.store, "--store PATH")
    task = open_task(run, recipe, store)
    chosen = open_split(type(task), recipe.data, store, name)
    load_chosen(task, run, recipe)
    device = "cuda" if torch.cuda.is_available() and recipe.training.accelerator != "cpu" else "cpu"
    task.to(device)
    metrics = task.measure(open_gallery(task, recipe.data, store, chosen, device))
    return Measured(recipe, name, metrics, chosen.left_out)
