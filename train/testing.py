"""A run measured on a split."""

from __future__ import annotations

from pathlib import Path

import torch

from feature_store import FeatureStore
from train.evaluation import evaluate, open_gallery, open_split
from train.metrics import RetrievalMetrics
from train.recipe import Recipe
from train.runs import load_chosen, open_recipe, open_task


def evaluate_run(
    run: Path, split: str | None = None, store_path: str | None = None
) -> tuple[Recipe, str, RetrievalMetrics]:
    """Metrics of a run's model on a split, by default the recipe's test split.

    Raises TrainError if the run has no model yet, the split is not there, or the store's features are of another kind.
    """
    recipe = open_recipe(run)
    name = split or recipe.data.test
    store = FeatureStore(store_path or recipe.data.store)
    task = open_task(run, recipe, store)
    chosen = open_split(recipe.data, store, name, task.any_expert)
    load_chosen(task, run, recipe)
    device = "cuda" if torch.cuda.is_available() and recipe.training.accelerator != "cpu" else "cpu"
    task.to(device)
    return recipe, name, evaluate(task, open_gallery(task, recipe.data, store, chosen, device))
