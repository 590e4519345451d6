"""Recipes: the public annotation files of datasets, as their authors publish them, become rows.

A file here is a dataset, and its docstring introduces it: splits, pitfalls, counts, and where each file is published.
"""

from data_manifests.recipes import (
    activitynet_captions,
    charades_sta,
    lsmdc,
    msrvtt,
    msvd,
    qvhighlights,
    tacos,
    tgif,
    vatex,
)
from data_manifests.recipes.importing import import_dataset, read_durations
from data_manifests.recipes.recipe import Dataset, Expected, Recipe, Source, Split

_DATASETS = (msrvtt, msvd, vatex, activitynet_captions, lsmdc, tgif, charades_sta, tacos, qvhighlights)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for dataset in _DATASETS for recipe in dataset.RECIPES}

__all__ = ["RECIPES", "Dataset", "Expected", "Recipe", "Source", "Split", "import_dataset", "read_durations"]
