"""Recipes: those that come along, wrong ones, and values set from outside."""

from __future__ import annotations

from pathlib import Path

import pytest

from train import RecipeError
from train.recipe import load_recipe, recipe_names

SMALL = """
about = "small"
[data]
store = "a.zarr"
annotations = "a"
experts = ["looks"]
[model]
system = "dual_encoding"
[training]
epochs = 2
batch = 4
learning_rate = 1e-3
"""


def write(folder: Path, text: str) -> str:
    (folder / "small.toml").write_text(text)
    return str(folder / "small.toml")


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_that_comes_along_is_one(name: str) -> None:
    assert load_recipe(name).about


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("epochs = 2", "epochs = 2\nlr = 3", "training.lr: there is no such key"),
        ("epochs = 2", "", "training.epochs: is missing"),
        ("epochs = 2", "epochs = 0", "training.epochs: Input should be greater than 0"),
        ("batch = 4", "batch = 0", "training.batch: Input should be greater than 0"),
        ("batch = 4", "batch = 1", "training.batch: dual_encoding tells the pairs of a batch from one another"),
        ("batch = 4", 'batch = "many"', "training.batch: Input should be a valid integer"),
        ('["looks"]', "[]", "data.experts: "),
        ('["looks"]', '"looks"', "data.experts: must be a list"),
        ('"dual_encoding"', '"dual_encoding"\nheads = 3', "model.heads: there is no such key"),
        ('"dual_encoding"', '"w2vv"', "model: "),
        ("[training]", "[training]\nsteps = 5", 'steps is for draw = "videos"'),
        ("[training]", "[trainig]", "trainig: there is no such key"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(tmp_path: Path, old: str, new: str, told: str) -> None:
    path = write(tmp_path, SMALL.replace(old, new))
    with pytest.raises(RecipeError) as error:
        load_recipe(path)
    assert any(line.startswith(path) and told in line for line in str(error.value).splitlines()), error.value


def test_what_is_no_recipe_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no such recipe; there are .*demo_dual_encoding"):
        load_recipe("nothing")
    with pytest.raises(RecipeError, match=r"small\.toml: .*at line 1"):
        load_recipe(write(tmp_path, "about = = 1"))


def test_settings_replace_values(tmp_path: Path) -> None:
    path = write(tmp_path, SMALL)
    settings = ["training.batch=64", "data.store=/other place/b.zarr", 'data.experts=["s3d", "ocr"]', "data.val="]
    recipe = load_recipe(path, [*settings, "training.schedule.decay=0.5", "model.reduced=true"])
    assert recipe.training.batch == 64
    assert recipe.data.store == "/other place/b.zarr"
    assert recipe.data.experts == ("s3d", "ocr")
    assert recipe.data.val == ""
    assert recipe.training.schedule.decay == 0.5
    assert recipe.model.reduced  # type: ignore[union-attr]
    assert load_recipe(path).training.batch == 4


@pytest.mark.parametrize("setting", ["training.batch", "=3", "training..batch=3", "about.text=3"])
def test_a_setting_that_is_none_is_told(tmp_path: Path, setting: str) -> None:
    with pytest.raises(RecipeError, match=f"--set {setting}"):
        load_recipe(write(tmp_path, SMALL), [setting])


def test_a_setting_of_no_key_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"training\.bach: there is no such key"):
        load_recipe(write(tmp_path, SMALL), ["training.bach=3"])
