"""Training: killed and resumed runs, published updates, schedules, several processes."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SYSTEMS, assert_same, saved, small_recipe, write_corpus
from torch import Tensor

from feature_store import FeatureStore
from train import RecipeError, TrainError
from train.batches import PairBatches, step_seed
from train.evaluation import evaluate, open_gallery, open_split
from train.losses import max_margin_loss, triplet_loss
from train.recipe import Recipe, Schedule
from train.retrieval.hanet_scores import hanet_loss
from train.retrieval.hybrid_space import hybrid_loss
from train.runs import BEST, LAST, LOGS, load_chosen, open_recipe, open_task
from train.tasks.base import RetrievalTask
from train.testing import evaluate_run
from train.training import TrainingModule, learning_rate, train

STEPS = 4  # an epoch of the small corpus: 32 captions in batches of 8


OPTIONS = [
    ("dual_encoding", {"video_filters": 0}),
    ("dual_encoding", {"dropout": 1.0}),
    ("dual_encoding", {"margin": float("nan")}),
    ("hybrid_space", {"concepts": 0}),
    ("hybrid_space", {"above": -1}),
    ("mmt", {"layers": 0}),
    ("mmt", {"window": 0.0}),
    ("mmt", {"dim": 9, "heads": 2}),
    ("hanet", {"graph_width": -3}),
    ("hanet", {"max_words": 0}),
]


class Killed(Exception):
    """What tests stop runs with."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.mark.parametrize(("system", "model"), OPTIONS)
def test_sizes_that_no_model_can_have_are_refused_with_the_recipe(
    corpus: Path, system: str, model: dict[str, Any]
) -> None:
    with pytest.raises(RecipeError, match=next(iter(model))):
        small_recipe(corpus, system, model=model)


def break_at(monkeypatch: pytest.MonkeyPatch, step: int, method: str = "training_step") -> None:
    """Let the method raise when the run has made so many steps."""
    whole: Callable[..., Any] = getattr(TrainingModule, method)

    def broken(self: TrainingModule, *arguments: Any) -> Any:
        if self.global_step == step:
            raise Killed
        return whole(self, *arguments)

    monkeypatch.setattr(TrainingModule, method, broken)


def train_broken(recipe: Recipe, run: Path, step: int, method: str = "training_step") -> None:
    """Begin a run that ends at a step, then go on with it."""
    with pytest.MonkeyPatch.context() as patch:
        break_at(patch, step, method)
        with pytest.raises(Killed):
            train(recipe, run)
    train(open_recipe(run), run, resume=True)


@pytest.fixture(scope="module")
def unbroken(corpus: Path) -> tuple[Recipe, dict[str, Any]]:
    recipe = small_recipe(corpus, checkpoint_steps=3, schedule={"decay": 0.9})
    train(recipe, corpus / "unbroken")
    return recipe, saved(corpus / "unbroken")


@pytest.mark.parametrize("step", [0, 1, STEPS - 1, STEPS, 2 * STEPS + 2])
def test_a_run_killed_at_any_step_ends_as_an_unbroken_one(
    unbroken: tuple[Recipe, dict[str, Any]], tmp_path: Path, step: int
) -> None:
    """Before the first checkpoint, within an epoch, at the first step of one: to the bit."""
    train_broken(unbroken[0], tmp_path / "run", step)
    assert_same(saved(tmp_path / "run"), unbroken[1])


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_killed_in_validation_ends_as_an_unbroken_one(
    unbroken: tuple[Recipe, dict[str, Any]], tmp_path: Path, epoch: int
) -> None:
    train_broken(unbroken[0], tmp_path / "run", epoch * STEPS, "validation_step")
    assert_same(saved(tmp_path / "run"), unbroken[1])


def test_a_run_killed_in_validation_after_a_checkpoint_of_its_last_step_still_validates(
    corpus: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(corpus, checkpoint_steps=1)
    train(recipe, tmp_path / "unbroken")
    train_broken(recipe, tmp_path / "run", STEPS, "validation_step")
    assert_same(saved(tmp_path / "run"), saved(tmp_path / "unbroken"))


@pytest.mark.parametrize("system", ["hybrid_space", "mmt", "hanet"])
def test_a_killed_run_of_each_system_ends_as_an_unbroken_one(corpus: Path, tmp_path: Path, system: str) -> None:
    """Those that draw videos, rows and captions at random as well."""
    draw = {"draw": "videos", "steps": 3} if system == "mmt" else {}
    recipe = small_recipe(corpus, system, epochs=2, checkpoint_steps=2, **draw)
    train(recipe, tmp_path / "unbroken")
    train_broken(recipe, tmp_path / "run", 5)
    assert_same(saved(tmp_path / "run"), saved(tmp_path / "unbroken"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda how: how.name)
def test_a_run_ended_from_outside_ends_as_an_unbroken_one_once_resumed(
    unbroken: tuple[Recipe, dict[str, Any]], corpus: Path, tmp_path: Path, how: signal.Signals
) -> None:
    """SIGKILL, which no program can answer, or SIGTERM, while `reelcache train` is in the middle of its steps."""
    recipe, whole = unbroken
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    script = tmp_path / "slow.py"
    script.write_text(  # so that there is time to kill it
        "import sys, time\nfrom pipeline.cli import app\nfrom train.training import TrainingModule\n"
        "step = TrainingModule.training_step\n"
        "def slow(self, *arguments):\n    time.sleep(0.2)\n    return step(self, *arguments)\n"
        "TrainingModule.training_step = slow\napp()\n"
    )
    recipe_file = tmp_path / "small.toml"
    recipe_file.write_text(to_toml(recipe))
    process = subprocess.Popen(
        [sys.executable, str(script), "train", str(recipe_file), "-o", str(run)],
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 300
    while not (run / LAST).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.3)
    process.send_signal(how)
    printed = process.communicate(timeout=300)[1]
    assert process.returncode == (-signal.SIGKILL if how == signal.SIGKILL else 1), printed
    assert how == signal.SIGKILL or ("--resume` goes on" in printed and "Traceback" not in printed)
    assert saved(run)["step"] < 3 * STEPS
    train(open_recipe(run), run, resume=True)
    assert_same(saved(run), whole)


def test_a_run_that_was_moved_keeps_its_best_epoch(corpus: Path, tmp_path: Path) -> None:
    recipe = small_recipe(corpus, epochs=6, learning_rate=0.05)
    train(recipe, tmp_path / "unbroken")
    whole = saved(tmp_path / "unbroken")
    with pytest.MonkeyPatch.context() as patch:
        break_at(patch, 3 * STEPS)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "run")
    shutil.move(tmp_path / "run", tmp_path / "moved")
    train(open_recipe(tmp_path / "moved"), tmp_path / "moved", resume=True)
    assert_same(saved(tmp_path / "moved"), whole)


def test_going_on_with_a_run_that_has_ended_changes_nothing(corpus: Path, tmp_path: Path) -> None:
    """Neither where all epochs are done, nor where patience ended it."""
    recipe = small_recipe(corpus, epochs=40, patience=1, learning_rate=0.05)
    run = tmp_path / "run"
    train(recipe, run)
    before = saved(run)
    assert before["step"] < 40 * STEPS
    train(recipe, run, resume=True)
    assert_same(saved(run), before)


def test_early_stopping_ends_a_run_after_more_than_patience_epochs_without_a_better_one(
    corpus: Path, tmp_path: Path
) -> None:
    recipe = small_recipe(corpus, epochs=40, patience=2, learning_rate=0.05)
    train(recipe, tmp_path / "run")
    rsums = validated(tmp_path / "run")
    best = rsums.index(max(rsums))
    assert len(rsums) == best + 1 + 3
    for epoch in range(1, len(rsums)):  # and not before
        assert epoch - 1 - rsums.index(max(rsums[:epoch])) <= 2


def test_the_best_or_the_last_epoch_is_the_model(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    recipe = small_recipe(corpus, epochs=8, learning_rate=0.05, select="best")
    train(recipe, run)
    rsums = validated(run)
    assert rsums.index(max(rsums)) < len(rsums) - 1, "of this seed the last epoch is not the best"
    assert evaluate_run(run, "val")[2].rsum == max(rsums)
    last = recipe.model_copy(update={"training": recipe.training.model_copy(update={"select": "last"})})
    store = FeatureStore(recipe.data.store)
    task = open_task(run, last, store)
    load_chosen(task, run, last)
    split = open_split(type(task), recipe.data, store, "val")
    assert evaluate(task, open_gallery(task, recipe.data, store, split, "cpu")).rsum == rsums[-1]


def test_a_run_without_validation_ends_with_its_last_epoch(corpus: Path, tmp_path: Path) -> None:
    recipe = small_recipe(corpus, data={"val": ""}, select="last", epochs=1)
    train(recipe, tmp_path / "run")
    assert not (tmp_path / "run" / BEST).exists()
    assert evaluate_run(tmp_path / "run")[2].texts == 16
    with pytest.raises(RecipeError, match=r'select = "last"'):
        train(small_recipe(corpus, data={"val": ""}), tmp_path / "other")
    with pytest.raises(RecipeError, match="patience"):
        train(small_recipe(corpus, data={"val": ""}, select="last", patience=3), tmp_path / "other")


def test_the_rate_in_the_optimizer_is_that_of_the_schedule(corpus: Path, tmp_path: Path) -> None:
    rates: list[tuple[int, float]] = []
    step = TrainingModule.training_step

    def noted(self: TrainingModule, *arguments: Any) -> Tensor:
        rates.append((self.current_epoch, self.optimizers().param_groups[0]["lr"]))  # type: ignore[union-attr]
        return step(self, *arguments)

    schedule = {"decay": 0.9, "halve": 0.5, "wait": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", noted)
        train(small_recipe(corpus, schedule=schedule, epochs=12, learning_rate=0.05), tmp_path / "run")
    rsums = validated(tmp_path / "run")
    assert rates == [
        (epoch, learning_rate(0.05, Schedule(**schedule), epoch, rsums[:epoch]))  # type: ignore[arg-type]
        for epoch in range(12)
        for _ in range(STEPS)
    ]
    assert rates[-1][1] < 0.05 * 0.9**11, "validation of this seed fails to improve at times"


def published_loss(task: RetrievalTask, video: Any, text: Any, labels: Any) -> Tensor:
    """Each system's loss as its paper has it, from functions that the official numbers hold."""
    match type(task).__name__:
        case "DualEncodingTask":
            return triplet_loss(video[0] @ text[0].T, margin=0.2)
        case "HybridSpaceTask":
            return hybrid_loss(video, text, labels[0], margin=0.2)
        case "MMTTask":
            return max_margin_loss(task.model.similarity(text, video), margin=0.05)  # type: ignore[operator, union-attr]
        case _:
            return hanet_loss(video, text, *labels, 0.2).total


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_ten_steps_are_those_of_the_published_update(corpus: Path, tmp_path: Path, system: str) -> None:
    """Adam at the rate of the epoch, for Dual Encoding with gradients clipped to a norm of 2."""
    clip = 2.0 if system in ("dual_encoding", "hybrid_space") else None
    dropout = {"dropout": 0.0, **({"graph_dropout": 0.0} if system == "hanet" else {})}
    recipe = small_recipe(
        corpus, system, model=dropout, epochs=5, batch=16, learning_rate=1e-3, clip_norm=clip, select="last",
        schedule={"decay": 0.99},
    )  # fmt: skip
    run = tmp_path / "run"
    train(recipe, run)

    store = FeatureStore(recipe.data.store)
    task = open_task(run, recipe, store).train()
    task.start()
    split = open_split(type(task), recipe.data, store, "train")
    gallery = open_gallery(task, recipe.data, store, split, "cpu")
    labels = task.read_labels(split, Path(recipe.data.annotations))
    batches = PairBatches(split, gallery.videos, gallery.texts, labels, size=16, seed=0)
    first = {name: torch.zeros_like(parameter) for name, parameter in task.named_parameters()}
    second = {name: torch.zeros_like(parameter) for name, parameter in task.named_parameters()}
    losses = []
    for step in range(10):
        torch.manual_seed(step_seed(0, step))  # BERT has a dropout of its own, which recipes leave as it is
        video, text, label = batches.make(step)
        loss = published_loss(task, task.encode_video(video), task.encode_text(text), label)
        task.zero_grad()
        loss.backward()
        gradients = {name: p.grad for name, p in task.named_parameters() if p.grad is not None}
        norm = torch.stack([gradient.norm() for gradient in gradients.values()]).norm()
        shrink = min(1.0, clip / (float(norm) + 1e-6)) if clip else 1.0  # as torch's clip_grad_norm_
        rate = 1e-3 * 0.99 ** (step // 2)
        with torch.no_grad():
            for name, parameter in task.named_parameters():
                if name not in gradients:
                    continue
                gradient = gradients[name] * shrink
                first[name] = 0.9 * first[name] + 0.1 * gradient
                second[name] = 0.999 * second[name] + 0.001 * gradient**2
                correct = (1 - 0.9 ** (step + 1)), (1 - 0.999 ** (step + 1))
                parameter -= rate * (first[name] / correct[0]) / ((second[name] / correct[1]).sqrt() + 1e-8)
        losses.append(float(loss.detach()))
    assert trained_losses(run) == pytest.approx(losses, rel=2e-5, abs=1e-6)


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_bf16_gives_finite_losses(corpus: Path, tmp_path: Path, system: str) -> None:
    train(small_recipe(corpus, system, precision="bf16", epochs=1), tmp_path / "run")
    losses = trained_losses(tmp_path / "run")
    assert len(losses) == STEPS
    assert torch.isfinite(torch.tensor(losses)).all()


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_every_parameter_of_a_system_has_a_gradient(corpus: Path, tmp_path: Path, system: str) -> None:
    """Several processes wait for each other's gradients, so that one without would end training."""
    recipe = small_recipe(corpus, system, epochs=1)
    run = tmp_path / "run"
    train(recipe, run)
    store = FeatureStore(recipe.data.store)
    task = open_task(run, recipe, store).train()
    split = open_split(type(task), recipe.data, store, "train")
    gallery = open_gallery(task, recipe.data, store, split, "cpu")
    labels = task.read_labels(split, Path(recipe.data.annotations))
    video, text, label = PairBatches(split, gallery.videos, gallery.texts, labels, size=16, seed=0).make(0)
    task.loss(task.encode_video(video), task.encode_text(text), label)["loss"].backward()
    assert not [
        name for name, parameter in task.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]


@pytest.mark.parametrize(("system", "draw"), [("dual_encoding", "captions"), ("hanet", "videos")])
def test_two_processes_train_as_one_with_twice_the_batch(corpus: Path, tmp_path: Path, system: str, draw: str) -> None:
    """With negatives, and batch normalisation, over both; a rate so small that rounding does not grow."""
    still = {"dropout": 0.0, **({"graph_dropout": 0.0} if system == "hanet" else {})}
    options = {
        "draw": draw,
        "steps": 4 if draw == "videos" else None,
        "learning_rate": 1e-5,
        "epochs": 1,
        "clip_norm": 2.0,
    }
    train(small_recipe(corpus, system, model=still, batch=8, **options), tmp_path / "one")
    recipe_file = tmp_path / "two.toml"
    recipe_file.write_text(to_toml(small_recipe(corpus, system, model=still, batch=4, devices=2, **options)))
    told = reelcache("train", str(recipe_file), "-o", str(tmp_path / "two"))
    assert told.count("evaluate") == 1, "one of the processes speaks"
    assert trained_losses(tmp_path / "two") == pytest.approx(trained_losses(tmp_path / "one"), rel=1e-4)
    assert validated(tmp_path / "two") == validated(tmp_path / "one")
    one, two = (saved(tmp_path / name)["tensors"] for name in ("one", "two"))
    for name in one:
        if "running" in name:
            torch.testing.assert_close(two[name], one[name], rtol=1e-3, atol=1e-4)


def test_a_folder_with_a_run_is_refused(unbroken: tuple[Recipe, dict[str, Any]], corpus: Path) -> None:
    with pytest.raises(RecipeError, match="--resume goes on with it"):
        train(unbroken[0], corpus / "unbroken")


def test_what_the_recipe_asks_and_is_not_there_is_told_before_training(corpus: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(TrainError, match="lacks smells; it has looks, sounds"):
        train(small_recipe(corpus, data={"experts": ["looks", "smells"]}), run)
    with pytest.raises(TrainError, match=r"there is no split 'dev'"):
        train(small_recipe(corpus, data={"val": "dev"}), run)
    with pytest.raises(TrainError, match="no feature store; name another with --store PATH"):
        train(small_recipe(corpus, data={"store": str(tmp_path / "none.zarr")}), run)
    assert not run.exists()


def validated(run: Path) -> list[float]:
    """The rsum of each epoch."""
    return [float(row["val/rsum"]) for row in rows(run) if row["val/rsum"]]


def trained_losses(run: Path) -> list[float]:
    return [float(row["train/loss"]) for row in rows(run) if row["train/loss"]]


def rows(run: Path) -> list[dict[str, str]]:
    with open(run / LOGS / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


def to_toml(recipe: Recipe) -> str:
    """A recipe as a file has it."""
    import json

    lines = []
    for section, values in recipe.model_dump(mode="json", exclude={"about", "published"}).items():
        lines.append(f"[{section}]")
        for key, value in values.items():
            if value is not None:
                table = isinstance(value, dict)
                inline = ", ".join(f"{name} = {json.dumps(each)}" for name, each in value.items()) if table else ""
                lines.append(f"{key} = {{ {inline} }}" if table else f"{key} = {json.dumps(value)}")
    return "\n".join(lines)


def environment() -> dict[str, str]:
    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}


def reelcache(*arguments: str) -> str:
    """What the command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
