"""A run measured on a split."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from train import RecipeError
from train.devices import choose_device, enough_memory
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


def evaluate_run(
    run: Path, split: str | None = None, moved: Mapping[str, str] | None = None, device: str = "auto"
) -> Measured:
    """Metrics of a run's model on a split.

    Args:
        run: its folder.
        split: by default the recipe's test split.
        moved: paths named anew, by their keys, e.g. {"data.store": "other.zarr"}; see `train.runs.open_recipe`.
        device: see `train.devices.choose_device`.

    Raises TrainError if the run has no model yet, the split is not there, the store's features are of another kind, or
    numbers are not finite.
    """
    recipe = open_recipe(run, moved)
    chosen_device = choose_device(device, recipe.training.accelerator)
    name = split or recipe.data.test
    if "/" in name:
        raise RecipeError(f"split {name!r}: a name, not a path; --annotations names another folder")
    store = open_store(recipe.data.store)
    task = open_task(run, recipe, store)
    chosen = open_split(type(task), recipe.data, store, name)
    load_chosen(task, run, recipe)
    with enough_memory("measure with --device cpu"):
        task.to(chosen_device)
        metrics = task.measure(open_gallery(task, recipe.data, store, chosen, chosen_device))
    return Measured(recipe, name, metrics, chosen.left_out)
