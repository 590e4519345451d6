"""A recipe followed with Lightning, resumable to the last bit.

Whatever is left to chance in a step follows from the seed and the step's number alone, and the learning rate from the
validation metrics so far. So a run that was killed and goes on ends as one that was not.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, RichProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from train import RecipeError, TrainError
from train.batches import PairBatch, PairBatches, step_seed
from train.devices import enough_memory
from train.distributed import of_all_ranks, share_batch_norms
from train.evaluation import Gallery, open_gallery, open_split
from train.finite import check_parameters
from train.paths import absolute_paths
from train.recipe import Recipe, Schedule, Stage, Training
from train.run_log import MetricsTable
from train.runs import (
    BEST,
    LAST,
    LOGS,
    MEND,
    begin_run,
    check_captions,
    open_store,
    open_task,
    read_checkpoint,
)
from train.tasks import TASKS
from train.tasks.base import Task


def train(recipe: Recipe, run: Path, resume: bool = False) -> tuple[str, ...]:
    """Follow a recipe in the folder `run`, or, with `resume`, go on where it was left.

    Returns what of the annotations was left out, for people. Raises TrainError, before training starts, for whatever
    the recipe asks that the store or the annotations do not have, and KeyboardInterrupt after Ctrl-C.
    """
    _quiet()
    recipe = absolute_paths(recipe)
    data, options = recipe.data, recipe.training
    if not data.val and (options.select == "best" or options.patience):
        raise RecipeError('data.val names no split to tell the best epoch by: take select = "last" and no patience')
    if options.accelerator == "gpu" and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise RecipeError("training.accelerator: torch finds no GPU here; take cpu, or auto")
    store = open_store(data.store)
    system = TASKS[recipe.model.system]
    split = open_split(system, data, store, data.train)
    val = open_split(system, data, store, data.val) if data.val else None
    if resume:
        check_captions(run, [split, *([val] if val else [])])
    elif not int(os.environ.get("LOCAL_RANK", "0")):  # further ranks find what the first one made
        begin_run(run, recipe, store, split, val)
    task = open_task(run, recipe, store)
    last = run / LAST if resume and (run / LAST).exists() else None
    if last is None:
        task.start()
        check_parameters(task.state_dict(), "what the model begins with")
    step = _resumed_step(run, task) if last else 0
    if options.devices > 1:
        share_batch_norms(task)

    module = TrainingModule(task, options)
    trainer = _trainer(recipe, run, step)
    device = trainer.strategy.root_device
    module.validation = open_gallery(task, data, store, val, device) if val else None
    gallery = open_gallery(task, data, store, split, device)
    module.batches = PairBatches(
        split,
        gallery.videos,
        gallery.texts,
        task.read_labels(split, Path(data.annotations)),
        size=options.batch,
        seed=options.seed,
        draw=options.draw,
        steps=options.steps,
        rank=trainer.global_rank,
        ranks=trainer.world_size,
        least=2 if task.compares_pairs else 1,
    )
    _fit(trainer, module, run, last)
    return (*split.left_out, *(val.left_out if val else ()))


class TrainingModule(LightningModule):
    """A task under training. Pairs of all ranks are held against each other, where it compares them."""

    batches: PairBatches
    validation: Gallery | None = None

    def __init__(self, task: Task, options: Training) -> None:
        super().__init__()
        self.task, self.options = task, options
        self.stage = 0  # of training, from 1 on
        self.began = False  # to train, with what a checkpoint held
        self.validated: list[float] = []  # of each epoch that was validated

    def on_train_start(self) -> None:
        self.began = True
        self.batches.step = self.global_step  # of a run that goes on, where it was left

    def on_train_batch_start(self, batch: PairBatch, batch_idx: int) -> None:
        torch.manual_seed(step_seed(self.options.seed, self.global_step, self.global_rank))
        optimiser: Any = self.optimizers()
        stage, first_epoch = stage_of(self.options.all_stages, self.current_epoch)
        if stage != self.stage:
            self.stage = stage
            self.task.enter_stage(stage)
            if (self.current_epoch, batch_idx) == (first_epoch, 0):
                optimiser.state.clear()
        base = self.options.all_stages[stage - 1].learning_rate
        rate = learning_rate(base, self.options.schedule, self.current_epoch, self.validated)
        for group in optimiser.param_groups:
            group["lr"] = rate

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        video, text = self.task.encode_video(batch.video), self.task.encode_text(batch.text)
        pairs = (video, text, batch.labels)
        if self.task.compares_pairs:
            pairs = tuple(map(of_all_ranks, pairs))  # so that all ranks come to the same
        embeddings = [each for each in (*pairs[0], *pairs[1]) if each.is_floating_point()]
        if not torch.stack([each.isfinite().all() for each in embeddings]).all():  # which some losses cannot take
            raise self._diverged("embeddings are not finite")
        losses = self.task.loss(*pairs)
        if not torch.isfinite(losses["loss"]):
            raise self._diverged(f"the loss is {losses['loss'].item()}")
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, prog_bar=True)
        return losses["loss"]

    def check_parameters(self) -> None:
        """Raises TrainError if parameters are no longer finite, before anything is made of them."""
        if not all(bool(tensor.isfinite().all()) for tensor in self.state_dict().values()):
            raise self._diverged("parameters are not finite")

    def _diverged(self, what: str) -> TrainError:
        """The error of a run whose numbers are no longer finite. What it had saved stays as it is."""
        return TrainError(
            f"epoch {self.current_epoch + 1}, step {self.global_step + 1}: {what}. Training has diverged; the "
            "checkpoints that were saved before stay. Begin another run with a lower training.learning_rate, or with "
            "training.clip_norm, and data.scale = 'standard' for features of very large numbers"
        )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The whole split at once; every rank comes to the same."""
        self.check_parameters()
        assert self.validation is not None
        metrics = self.task.measure(self.validation)
        self.log_dict({f"val/{name}": value for name, value in metrics.figures().items()}, batch_size=1)
        self.validated.append(self.trainer.strategy.broadcast(metrics.score))  # ranks must agree to the last bit

    def val_dataloader(self) -> Sequence[int]:
        return [0] if self.validation else []  # one step, which takes all

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=self.options.learning_rate)  # what is frozen has no gradients

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["validated"], checkpoint["stage"] = self.validated, self.stage

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.validated = [float(score) for score in checkpoint["validated"]]


def stage_of(stages: Sequence[Stage], epoch: int) -> tuple[int, int]:
    """Which stage, from 1 on, an epoch is in, and the first epoch of that stage. What is beyond is in the last."""
    first = 0
    for number, stage in enumerate(stages[:-1], 1):
        if epoch < first + stage.epochs:
            return number, first
        first += stage.epochs
    return len(stages), first


def learning_rate(base: float, schedule: Schedule, epoch: int, rsums: Sequence[float]) -> float:
    """The rate in an epoch (from 0) after validations that gave `rsums`, one an epoch.

    With a `patience` of 0 it is halved as Dual Encoding does, else as PyTorch's ReduceLROnPlateau.
    """
    best, since, worse, cuts = float("-inf"), 0, 0, 0
    for rsum in rsums:
        since += 1
        worse = 0 if rsum > best else worse + 1
        best = max(best, rsum)
        if worse > schedule.patience and since >= schedule.wait:
            cuts, since, worse = cuts + 1, 0, 0
    dropped = sum(milestone <= epoch for milestone in schedule.milestones)
    return base * schedule.decay**epoch * schedule.drop**dropped * schedule.halve**cuts


class KeepCheckpoints(Checkpoint):
    """Writes last.ckpt, what going on needs, each epoch and each so many steps, and best.ckpt; ends runs by patience.

    What is best follows from the module's `validated` alone, wherever the run's folder lies when it goes on.
    """

    def __init__(self, run: Path, options: Training) -> None:
        self._last, self._best = run / LAST, run / BEST
        self._steps, self._patience = options.checkpoint_steps, options.patience

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        trainer.should_stop = self._out_of_patience(module.validated)  # a run that has ended stays so

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Not after an epoch's last step: a run that went on from there would not validate that epoch.
        if self._steps and trainer.global_step % self._steps == 0 and batch_idx + 1 < len(module.batches):
            self._save(trainer, module)

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        if module.validated[-1] > max(module.validated[:-1], default=float("-inf")):
            trainer.save_checkpoint(self._best, weights_only=True)
        trainer.should_stop = self._out_of_patience(module.validated)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self._save(trainer, module)

    def _save(self, trainer: Trainer, module: Any) -> None:
        module.check_parameters()
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self._last)

    def _out_of_patience(self, rsums: Sequence[float]) -> bool:
        if self._patience is None or not rsums:
            return False
        return len(rsums) - 1 - rsums.index(max(rsums)) > self._patience


def _fit(trainer: Trainer, module: TrainingModule, run: Path, last: Path | None) -> None:
    """Train, from the checkpoint `last` if there is one; what Lightning raises of these is made ours."""
    try:
        with enough_memory("take a smaller training.batch, or data.cache = 'ram'"):
            trainer.fit(module, train_dataloaders=module.batches, ckpt_path=last, weights_only=True)
    except SystemExit:  # what Lightning makes of Ctrl-C
        raise KeyboardInterrupt(f"stopped; `reelcache train {run} --resume` goes on") from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        if last is None or module.began:
            raise
        raise TrainError(f"{last}: damaged ({type(error).__name__}: {error}); {MEND}") from error


def _trainer(recipe: Recipe, run: Path, step: int) -> Trainer:
    options = recipe.training
    callbacks: list[Callback] = [KeepCheckpoints(run, options)]
    if sys.stdout.isatty():
        callbacks.append(RichProgressBar())
    return Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        strategy=_strategy(recipe),
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}[options.precision],  # type: ignore[arg-type]
        max_epochs=sum(stage.epochs for stage in options.all_stages),
        gradient_clip_val=options.clip_norm,
        num_sanity_val_steps=0,
        log_every_n_steps=options.log_steps,
        logger=_loggers(run, step),
        callbacks=callbacks,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _strategy(recipe: Recipe) -> str:
    """Of grounding systems not every part learns in each stage, which processes must be prepared for."""
    if recipe.training.devices == 1:
        return "auto"
    return "ddp" if TASKS[recipe.model.system].compares_pairs else "ddp_find_unused_parameters_true"


def _loggers(run: Path, step: int) -> list[Any]:
    """A table and TensorBoard; of what they hold from before, what came after the checkpoint's step goes."""
    table = MetricsTable(run / LOGS / "metrics.csv", step)
    return [table, TensorBoardLogger(run, name=LOGS.name, version="", purge_step=step)]


def _resumed_step(run: Path, task: Task) -> int:
    """How many steps the last checkpoint has seen."""
    checkpoint = read_checkpoint(run / LAST, task)
    if checkpoint.keys() == {"state_dict"}:
        raise TrainError(
            f"{run}: is a released model that was imported without its vocabulary, so it cannot be trained further; "
            "import it anew with --vocabulary"
        )
    step = checkpoint.get("global_step")
    if not isinstance(step, int):
        raise TrainError(f"{run / LAST}: does not say what step it is of; {MEND}")
    return step


def _quiet() -> None:
    """Lightning speaks of its own affairs."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
