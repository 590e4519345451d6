"""Grounding systems in training: killed and resumed runs, stages, moments of splits, what evaluation counts."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import (
    GROUNDING_SYSTEMS,
    assert_same,
    duration_of,
    saved,
    small_recipe,
    videos,
    write_corpus,
    write_moment_split,
    write_moments,
)
from torch import Tensor

from feature_store import FeatureStore
from train import RecipeError, TrainError
from train.annotations import MomentSplit
from train.evaluation import Gallery, open_gallery, open_split
from train.grounding.evaluation import GroundingMetrics, most_frequent_interval
from train.recipe import Recipe
from train.runs import LOGS, load_chosen, open_recipe, open_task
from train.tasks.drn import DRNTask
from train.tasks.fvmr import FVMRTask
from train.tasks.grounding import GroundingTask
from train.tasks.tan2d import MapOptions, TAN2DTask
from train.testing import evaluate_run
from train.training import TrainingModule, train

STEPS = 4  # an epoch: 32 moments in batches of 8
STAGES = [{"epochs": 2, "learning_rate": 1e-2}, {"epochs": 2, "learning_rate": 1e-3}]  # after the first
ALL = list(GROUNDING_SYSTEMS)


class Killed(Exception):
    """What tests stop runs with."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    write_moments(folder)
    return folder


@pytest.fixture(autouse=True)
def drn_answers_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """It begins with places that are likely, and learns of all overlaps: so few steps get it to neither."""
    monkeypatch.setattr("train.grounding.drn.PRIOR", 0.5)
    monkeypatch.setattr("train.grounding.drn.IOU_LEARNS_ABOVE", 0.0)


def recipe_of(corpus: Path, system: str, **changes: Any) -> Recipe:
    stages = {"epochs": 2, "later_stages": STAGES, "clip_norm": 0.5} if system == "drn" else {}
    return small_recipe(corpus, system, **{**stages, **changes})


@pytest.fixture(scope="module")
def unbroken(corpus: Path) -> Callable[[str], tuple[Recipe, Path]]:
    """A run of each system that was never interrupted, made when first asked for."""
    made: dict[str, tuple[Recipe, Path]] = {}

    def of(system: str) -> tuple[Recipe, Path]:
        if system not in made:
            recipe, run = recipe_of(corpus, system, checkpoint_steps=3), corpus / f"unbroken_{system}"
            train(recipe, run)
            made[system] = recipe, run
        return made[system]

    return of


def opened(recipe: Recipe, run: Path, split: str = "val", chosen: bool = True) -> tuple[GroundingTask, Gallery]:
    """The system of a run, and a split."""
    store = FeatureStore(recipe.data.store)
    task = open_task(run, recipe, store)
    assert isinstance(task, GroundingTask)
    if chosen:
        load_chosen(task, run, recipe)
    return task, open_gallery(task, recipe.data, store, open_split(type(task), recipe.data, store, split), "cpu")


def validated(run: Path) -> list[dict[str, float]]:
    """The figures of each epoch."""
    with open(run / LOGS / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["val/mIoU"]]
    return [{name[4:]: float(row[name]) for name in row if name.startswith("val/")} for row in rows]


def evaluated(run: Path, split: str | None = None) -> GroundingMetrics:
    metrics = evaluate_run(run, split)[2]
    assert isinstance(metrics, GroundingMetrics)
    return metrics


@pytest.mark.parametrize(
    ("system", "step"),
    [
        ("tan2d", STEPS + 2),
        ("fvmr", STEPS + 2),
        ("drn", STEPS + 1),  # within stage 1
        ("drn", 2 * STEPS),  # at the first step of stage 2
        ("drn", 2 * STEPS + 2),  # where going on begins before stage 2
        ("drn", 4 * STEPS),
        ("drn", 4 * STEPS + 3),  # where it begins within the first epoch of stage 3
        ("drn", 5 * STEPS + 2),
    ],
)
def test_a_killed_run_ends_as_an_unbroken_one(
    unbroken: Callable[[str], tuple[Recipe, Path]], tmp_path: Path, system: str, step: int
) -> None:
    recipe, whole = unbroken(system)
    run, forward = tmp_path / "run", TrainingModule.training_step

    def broken(self: TrainingModule, *arguments: Any) -> Any:
        if self.global_step == step:
            raise Killed
        return forward(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", broken)
        with pytest.raises(Killed):
            train(recipe, run)
    train(open_recipe(run), run, resume=True)
    assert_same(saved(run), saved(whole))


def test_each_stage_of_drn_changes_only_what_it_trains_and_has_a_fresh_optimiser(corpus: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, dict[str, Tensor], int, float]] = []  # before each step, and at the end
    step = TrainingModule.training_step

    def noted(self: TrainingModule, *arguments: Any) -> Any:
        optimiser: Any = self.optimizers()
        state = {name: tensor.clone() for name, tensor in self.task.state_dict().items()}
        seen.append((self.stage, state, len(optimiser.state), optimiser.param_groups[0]["lr"]))
        return step(self, *arguments)

    recipe = recipe_of(corpus, "drn")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", noted)
        train(recipe, tmp_path / "run")
    last = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    states = [*(state for _, state, _, _ in seen), {name.removeprefix("task."): last[name] for name in last}]
    stages = [stage for stage, _, _, _ in seen]
    assert stages == [1] * 2 * STEPS + [2] * 2 * STEPS + [3] * 2 * STEPS
    for number, rate in ((1, 1e-2), (2, 1e-2), (3, 1e-3)):
        first = stages.index(number)
        assert seen[first][2] == 0, "the optimiser remembers nothing of the stage before"
        assert seen[first + 1][2] > 0
        assert {each[3] for each in seen if each[0] == number} == {rate}
        before, after = states[first], states[first + 2 * STEPS]
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        of_iou = {name for name in before if name.startswith("model.heads.iou.")}
        assert of_iou
        if number == 1:
            assert not changed & of_iou, "nor do its batch norms see anything"
            assert {"model.heads.class_logits.weight", "model.backbone.0.1.running_mean"} <= changed
        elif number == 2:
            assert changed <= of_iou
            assert "model.heads.iou.0.0.weight" in changed
            assert "model.heads.iou.0.1.running_mean" in changed
        else:
            assert {"model.heads.iou.0.0.weight", "model.backbone.0.1.running_mean"} <= changed


@pytest.mark.parametrize("system", ALL)
def test_a_run_measures_as_its_validation_did(
    unbroken: Callable[[str], tuple[Recipe, Path]], tmp_path: Path, system: str
) -> None:
    """Of the epoch that was best, and in the stage that this was in; DRN's batch norms as they were learnt."""
    run = unbroken(system)[1]
    figures = validated(run)
    scores = [sum(value for name, value in each.items() if name.startswith("R1@")) for each in figures]
    metrics = evaluated(run)
    assert metrics.figures() == pytest.approx(figures[scores.index(max(scores))])
    assert metrics.queries == 16


@pytest.mark.parametrize("select", ["best", "last"])
@pytest.mark.parametrize("stages", [0, 1, 2])
def test_a_checkpoint_of_drn_answers_as_in_its_stage(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, select: str, stages: int
) -> None:
    better = itertools.count()  # of each epoch, so that the best is in the last stage
    monkeypatch.setattr(GroundingMetrics, "score", property(lambda _: next(better)))
    recipe = recipe_of(corpus, "drn", epochs=1, later_stages=STAGES[:stages], select=select)
    train(recipe, tmp_path / "run")
    task = opened(recipe, tmp_path / "run")[0]
    assert isinstance(task, DRNTask)
    assert task.model.stage == 1 + stages
    assert evaluated(tmp_path / "run").figures() == pytest.approx(validated(tmp_path / "run")[-1])


def test_before_its_first_stage_all_of_drn_learns(unbroken: Callable[[str], tuple[Recipe, Path]]) -> None:
    """Several processes agree, before the first step, on whose gradients they share, in all stages."""
    task, _ = opened(*unbroken("drn"), chosen=False)
    assert all(parameter.requires_grad for parameter in task.parameters())


def answers_of_map(task: TAN2DTask | FVMRTask, gallery: Gallery, caption: int) -> list[tuple[float, float]]:
    """Of one sentence: candidates by score, each kept unless it overlaps a better one too much."""
    split, options = gallery.split, task.options
    assert isinstance(split, MomentSplit)
    assert isinstance(options, MapOptions)
    video = split.video_of[caption : caption + 1]
    clips = gallery.videos.batch(video, None)[0]
    tokens, lengths = gallery.texts.batch(torch.tensor([caption]))
    logits = task.model(clips, task.embedding(tokens), lengths)[0]
    second = float(split.durations[video]) / options.size
    cells = options.proposals.cells.tolist()
    ranked = sorted(range(len(cells)), key=lambda cell: -float(logits[cell]))
    kept: list[tuple[float, float]] = []
    for first, last in (cells[cell] for cell in ranked):
        if all(overlap((first, last + 1), each) <= options.suppress for each in kept):
            kept.append((first, last + 1))
    return [(start * second, end * second) for start, end in kept[:5]]


def answers_of_drn(task: DRNTask, gallery: Gallery, caption: int, iou: float) -> list[tuple[float, float]]:
    """Of one sentence: places that are likely within the moment, by their score, after suppression."""
    split = gallery.split
    assert isinstance(split, MomentSplit)
    video = split.video_of[caption : caption + 1]
    tokens, lengths = gallery.texts.batch(torch.tensor([caption]))
    said = task.model(tokens, lengths, *gallery.videos.batch(video, None))
    duration = float(split.durations[video])
    classes = said.class_logits[0].sigmoid().tolist()
    ious = [1.0] * len(classes) if said.iou_logits is None else said.iou_logits[0].sigmoid().tolist()
    boxes = [
        (max(0.0, float(place - left)) / 32, min(32.0, float(place + right)) / 32)
        for place, (left, right) in zip(said.places, said.distances[0], strict=True)
    ]
    likely = [place for place, share in enumerate(classes) if share > 0.05]
    if not likely:
        return [(0.0, duration)]
    kept: list[tuple[float, float]] = []
    for box in (boxes[place] for place in sorted(likely, key=lambda place: -classes[place] * ious[place])):
        if all(overlap(box, each) <= iou - 0.05 for each in kept):
            kept.append(box)
    return [(start * duration, end * duration) for start, end in kept[:5]]


def overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    shared = max(0.0, min(one[1], other[1]) - max(one[0], other[0]))
    return shared / (one[1] - one[0] + other[1] - other[0] - shared)


@pytest.mark.parametrize("system", ALL)
@torch.no_grad()
def test_evaluation_is_what_the_protocol_says_sentence_by_sentence(
    unbroken: Callable[[str], tuple[Recipe, Path]], system: str
) -> None:
    task, gallery = opened(*unbroken(system))
    if isinstance(task, DRNTask):
        task.model.heads.class_logits.bias.sub_(2.5)  # type: ignore[union-attr]  # so that some places are likely, and some are not
    metrics = task.measure(gallery)
    assert isinstance(metrics, GroundingMetrics)
    assert task.training, "as it was before"
    task.eval()
    truths = gallery.split.spans.tolist()  # type: ignore[attr-defined]
    best, several = [], 0
    for iou in task.options.ious:
        hits = {1: 0, 5: 0}
        for caption, truth in enumerate(truths):
            if isinstance(task, DRNTask):
                answers = answers_of_drn(task, gallery, caption, iou)
            else:
                assert isinstance(task, TAN2DTask | FVMRTask)
                answers = answers_of_map(task, gallery, caption)
            several += len(answers) > 1
            overlaps = [overlap(answer, truth) for answer in answers]
            best.append(overlaps[0])
            for rank in hits:
                hits[rank] += any(each >= iou if system == "drn" else each > iou for each in overlaps[:rank])
        for rank, count in hits.items():
            assert metrics.recalls[f"R{rank}@{iou:g}"] == pytest.approx(100 * count / len(truths))
    assert metrics.mean_iou == pytest.approx(100 * sum(best[: len(truths)]) / len(truths), rel=1e-4)
    assert several


@pytest.mark.parametrize("system", ALL)
def test_an_overlap_of_exactly_the_iou_counts_for_drn_alone(
    unbroken: Callable[[str], tuple[Recipe, Path]], monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """2D-TAN's code, which FVMR is measured by, asks for more; DRN's for as much."""
    task, gallery = opened(*unbroken(system))
    split = gallery.split
    assert isinstance(split, MomentSplit)
    exact = torch.tensor([[0.0, 1.0]] * len(split.texts))
    half = torch.tensor([[[0.0, 0.5]]])
    monkeypatch.setattr(task, "answer", lambda video, text, durations, iou: half.expand(len(durations), -1, -1))
    metrics = task.measure(
        Gallery(MomentSplit(**{**vars(split), "windows": exact[:, None]}), gallery.videos, gallery.texts)
    )
    assert isinstance(metrics, GroundingMetrics)
    assert metrics.recalls["R1@0.5"] == (100 if system == "drn" else 0)
    assert metrics.mean_iou == pytest.approx(50)


@pytest.mark.parametrize("system", ALL)
def test_one_sentence_alone_and_one_said_twice_are_answered(
    unbroken: Callable[[str], tuple[Recipe, Path]], corpus: Path, system: str
) -> None:
    """Sentences of the same text are queries by themselves, which have the same answers."""
    recipe, run = unbroken(system)
    length = {"v20": duration_of("v20")}
    text = "a red dog chases a ball"
    folder = corpus / "moments"
    write_moment_split(folder, "one", [("v20", text, 0.0, 0.5)], length, listed=False)
    write_moment_split(folder, "twice", [("v20", text, 0.0, 0.5), ("v20", text, 0.5, length["v20"])], length)
    assert evaluated(run, "one").queries == 1
    assert evaluated(run, "twice").queries == 2
    task, gallery = opened(recipe, run, "one")
    labels = task.read_labels(gallery.split, Path(recipe.data.annotations))
    first = torch.tensor([0])
    for stage in (1, 2, 3) if system == "drn" else (1,):
        task.enter_stage(stage)
        task.train()
        video = task.encode_video(gallery.videos.batch(first, None))
        losses = task.loss(video, task.encode_text(gallery.texts.batch(first)), labels.batch(first, first))
        assert torch.isfinite(losses["loss"])
    task.eval()
    video = task.encode_video(gallery.videos.batch(first, None))
    found = task.answer(video, task.encode_text(gallery.texts.batch(first)), torch.tensor([2.0]), 0.5)
    assert found.shape == (1, 5, 2)
    assert 0 <= float(found[0, 0, 0]) < float(found[0, 0, 1]) <= 2


@pytest.mark.parametrize("system", ALL)
def test_batches_of_one_train_and_the_last_moment_of_an_epoch_counts(corpus: Path, tmp_path: Path, system: str) -> None:
    """Nothing in them is held against anything else."""
    train(recipe_of(corpus, system, epochs=1, batch=1), tmp_path / "one")
    assert saved(tmp_path / "one")["step"] == 32 * (
        5 if system == "drn" else 1
    )  # DRN has two stages of two epochs more
    train(recipe_of(corpus, system, epochs=1, batch=31), tmp_path / "rest")
    assert saved(tmp_path / "rest")["step"] == 2 * (5 if system == "drn" else 1)


@pytest.mark.parametrize("system", ALL)
def test_a_loss_that_is_no_number_ends_a_run_naming_epoch_and_step(corpus: Path, tmp_path: Path, system: str) -> None:
    with pytest.raises(TrainError, match=r"epoch 1, step \d: .*(nan|inf|not finite)\. Training has diverged"):
        train(
            recipe_of(corpus, system, learning_rate=1e30, clip_norm=None, epochs=1, later_stages=[]), tmp_path / "run"
        )


@pytest.mark.parametrize("system", ALL)
def test_bf16_gives_finite_losses(corpus: Path, tmp_path: Path, system: str) -> None:
    train(recipe_of(corpus, system, precision="bf16", epochs=1), tmp_path / "run")
    with open(tmp_path / "run" / LOGS / "metrics.csv", newline="") as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert losses
    assert torch.isfinite(torch.tensor(losses)).all()


@pytest.mark.parametrize("system", ALL)
def test_an_expert_that_the_store_lacks_is_told_before_training(corpus: Path, tmp_path: Path, system: str) -> None:
    with pytest.raises(TrainError, match="lacks smells; it has looks, sounds"):
        train(recipe_of(corpus, system, data={"experts": ["smells"]}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_drn_refuses_features_that_do_not_tell_when_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as were imported with --untimed: it would take all of a video for its first row."""
    monkeypatch.setattr("small_runs.times_of", lambda count, every: np.zeros((count, 2)))
    write_corpus(tmp_path)
    write_moments(tmp_path)
    with pytest.raises(TrainError, match="import them with --spread"):
        train(recipe_of(tmp_path, "drn"), tmp_path / "run")


def fail(*arguments: Any) -> None:
    raise AssertionError("a caption was parsed")


def test_fvmr_answers_without_role_graphs(
    unbroken: Callable[[str], tuple[Recipe, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run = unbroken("fvmr")
    monkeypatch.setattr("train.tasks.fvmr.parse_captions", fail)
    assert evaluated(run).queries == 16
    task = opened(recipe, run)[0]
    assert len(task.eval().encode_text(task.read_texts(["a dog"], None).batch(torch.tensor([0])))) == 1


def test_a_student_alone_needs_no_role_graphs_and_a_teacher_always(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = recipe_of(corpus, "fvmr", model={"objective": "teacher"}, epochs=1)
    train(teacher, tmp_path / "teacher")
    assert evaluated(tmp_path / "teacher").figures() == pytest.approx(validated(tmp_path / "teacher")[0])
    monkeypatch.setattr("train.tasks.fvmr.parse_captions", fail)
    with pytest.raises(AssertionError, match="was parsed"):
        evaluated(tmp_path / "teacher")
    train(recipe_of(corpus, "fvmr", model={"objective": "student"}, epochs=1), tmp_path / "student")
    assert evaluated(tmp_path / "student").queries == 16


@pytest.mark.parametrize("system", ALL)
def test_published_vectors_are_those_of_the_words_of_all_splits(corpus: Path, tmp_path: Path, system: str) -> None:
    """Fixed, but for DRN; a word without a vector is zeros. A split counts also without a list of its videos."""
    known = {"dog": [1.0] * 8, "unicorn": [2.0] * 8, "gnu": [3.0] * 8, "zebra": [4.0] * 8}
    lines = [f"{word} {' '.join(map(str, vector))}\n" for word, vector in known.items()]
    (tmp_path / "vectors.txt").write_text("".join(lines))
    folder = tmp_path / "moments"
    lengths = {video: duration_of(video) for video in videos(24)}
    rows = [(video, "a dog eats.", 0.0, 0.5) for video in videos(4)]
    write_moment_split(folder, "train", rows, lengths)
    write_moment_split(folder, "val", [("v05", "a unicorn eats", 0.0, 0.5)], lengths)
    write_moment_split(folder, "test", [("v06", "the gnu eats", 0.0, 0.5)], lengths, listed=False)
    options = {"word_vectors": str(tmp_path / "vectors.txt")}
    recipe = recipe_of(corpus, system, data={"annotations": str(folder)}, model=options, batch=2)
    train(recipe, tmp_path / "run")
    (tmp_path / "vectors.txt").unlink()  # answering needs it no more
    task = opened(recipe, tmp_path / "run", "test")[0]
    assert sorted(task.assets["words"]) == ["dog", "gnu", "unicorn"]
    tokens = task.read_texts(["Dog gnu unicorn zebra eats"], None).batch(torch.tensor([0]))[0]
    vectors = task.embedding(tokens)[0]
    assert torch.equal(vectors[1:], torch.tensor([[3.0], [2.0], [0.0], [0.0]]).expand(-1, 8))
    assert torch.equal(vectors[0], torch.ones(8)) == (system != "drn")
    assert task.embedding.weight.requires_grad == (system == "drn")
    (tmp_path / "vectors.txt").write_text(lines[-1])
    with pytest.raises(TrainError, match="has none of the words of"):
        train(recipe, tmp_path / "other")


def test_the_official_tokenizer_leaves_punctuation_at_words(corpus: Path) -> None:
    for tokenizer, words in (("official", ["the", "room."]), ("clean", ["the", "room"])):
        recipe = small_recipe(corpus, "tan2d", model={"tokenizer": tokenizer})
        assert recipe.model.words("The room.") == words  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("system", "model", "training", "told"),
    [
        ("tan2d", {"clips": 9}, {}, "clips = 9 is no multiple of size = 4"),
        ("fvmr", {"scales": [4, 2]}, {}, "reach 8 clips, but the video has 4"),
        ("fvmr", {"low": 0.9, "high": 0.5}, {}, "low = 0.9 is not below high = 0.5"),
        ("fvmr", {"tokenizer": "official"}, {}, "model.tokenizer"),
        ("tan2d", {"kernels": [4]}, {}, "all must be odd"),
        ("tan2d", {"ious": []}, {}, "model.ious"),
        ("tan2d", {"ious": [50]}, {}, "model.ious"),
        ("drn", {"segments": 30}, {}, "multiple of 4"),
        ("drn", {"segments": 4}, {}, "model.segments"),
        ("drn", {"window": 0}, {}, "model.window"),
        ("drn", {"channels": [8, 0, 8]}, {}, "model.channels"),
        ("drn", {"pyramid_dim": -1}, {}, "model.pyramid_dim"),
        ("fvmr", {"temperature": 0}, {}, "model.temperature"),
        ("fvmr", {"temperature": float("inf")}, {}, "model.temperature"),
        ("fvmr", {"distill_weight": -1}, {}, "model.distill_weight"),
        ("fvmr", {"distill_weight": float("nan")}, {}, "model.distill_weight"),
        ("fvmr", {"text_layers": 0}, {}, "model.text_layers"),
        ("fvmr", {"word_dim": 0}, {}, "model.word_dim"),
        ("fvmr", {"dim": 0}, {}, "model.dim"),
        ("fvmr", {"suppress": 1.5}, {}, "model.suppress"),
        ("tan2d", {"low": -0.1}, {}, "model.low"),
        ("tan2d", {"high": 1.5}, {}, "model.high"),
        ("tan2d", {"min_count": 0}, {}, "model.min_count"),
        ("drn", {}, {"later_stages": [*STAGES, *STAGES]}, "later_stages: drn has 2"),
        ("fvmr", {}, {"later_stages": STAGES}, "later_stages: fvmr has none"),
        ("drn", {}, {"later_stages": STAGES, "patience": 3}, "patience would end a run before its later_stages"),
    ],
)
def test_what_cannot_be_is_refused_with_the_recipe(
    corpus: Path, system: str, model: dict[str, Any], training: dict[str, Any], told: str
) -> None:
    with pytest.raises(RecipeError, match=told):
        small_recipe(corpus, system, model=model, **training)


def test_the_most_frequent_interval_is_what_most_moments_overlap_by_half() -> None:
    first_fifth, last_half = [[0.0, 2.0], [0.0, 4.0], [0.0, 20.0]], [[5.0, 10.0], [10.0, 20.0]]
    durations = torch.tensor([10.0, 20.0, 100.0, 10.0, 20.0])
    start, end = most_frequent_interval(torch.tensor(first_fifth + last_half), durations).tolist()
    assert start == 0
    assert 0.1 < end < 0.4  # any that the three of a fifth overlap by more than half
    start, end = most_frequent_interval(torch.tensor([[2.0, 4.0]]), torch.tensor([8.0]), grid=4).tolist()
    assert (start, end) == (0.25, 0.5)
