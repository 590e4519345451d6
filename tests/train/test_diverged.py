"""Training whose numbers are no longer finite ends in a sentence, and what it had saved stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from small_runs import SYSTEMS, rows_of, small_recipe, videos, write_corpus, write_features

from train import RecipeError, TrainError
from train.runs import BEST, LAST
from train.testing import evaluate_run
from train.training import TrainingModule, train

STEPS = 4  # an epoch of the small corpus: 32 captions in batches of 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.mark.parametrize("options", [{}, {"data": {"val": ""}, "select": "last"}, {"checkpoint_steps": 2}])
def test_parameters_that_are_not_finite_are_neither_measured_nor_saved(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    """They are spoilt by the last step of the second epoch, or by one that is saved within it."""
    spoilt = 2 * STEPS if "checkpoint_steps" not in options else 2 * STEPS - 2

    steps = iter(range(1, 100))

    def step(self: TrainingModule, *given: Any, **named: Any) -> None:
        LightningModule.optimizer_step(self, *given, **named)
        if next(steps) == spoilt:
            with torch.no_grad():
                next(self.task.parameters()).view(-1)[0] = float("nan")

    monkeypatch.setattr(TrainingModule, "optimizer_step", step)
    run = tmp_path / "run"
    with pytest.raises(TrainError, match=r"epoch 2, step \d+: .*not finite\. Training has diverged.*saved before stay"):
        train(small_recipe(corpus, epochs=3, **options), run)
    saved = torch.load(run / LAST, weights_only=True)
    assert saved["global_step"] < spoilt
    assert all(bool(tensor.isfinite().all()) for tensor in saved["state_dict"].values())
    if (run / BEST).exists():
        evaluate_run(run)


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_a_rate_that_is_far_too_high_ends_a_run_of_each_system(corpus: Path, tmp_path: Path, system: str) -> None:
    """Losses of concepts refuse probabilities that are not numbers, on a GPU for good."""
    with pytest.raises(TrainError, match=r"epoch 1, step \d: .*Training has diverged"):
        train(small_recipe(corpus, system, epochs=1, learning_rate=1e30), tmp_path / "run")
    assert not (tmp_path / "run" / LAST).exists()


@pytest.mark.parametrize("system", ["hybrid_space", "hanet"])
def test_features_of_huge_numbers_end_a_run(tmp_path: Path, system: str) -> None:
    write_corpus(tmp_path)
    looks = {video: rows_of(video, "looks") for video in videos(24)}
    looks["v03"][1] = 3e38
    sounds = {video: rows_of(video, "sounds") for video in videos(24)}
    write_features(tmp_path / "huge.zarr", {"looks": looks, "sounds": sounds})
    recipe = small_recipe(tmp_path, system, data={"store": str(tmp_path / "huge.zarr")}, epochs=1)
    with pytest.raises(TrainError, match=r"embeddings are not finite.*data\.scale"):
        train(recipe, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"data": {"experts": ["looks", "looks"]}}, "data.experts: .*names looks twice"),
        ({"seed": 2**70}, "training.seed: "),
    ],
)
def test_values_that_no_run_can_have_are_refused_with_the_recipe(
    corpus: Path, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        small_recipe(corpus, **changes)


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_refused_before_a_run_is_made(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="finds no GPU here"):
        train(small_recipe(corpus, accelerator="gpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()
