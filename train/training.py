"""A recipe followed with Lightning, resumable to the last bit.

Whatever is left to chance in a step follows from the seed and the step's number alone, and the learning rate from the
validation metrics so far. So a run that was killed and goes on ends as one that was not.
"""

from __future__ import annotations

import csv
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, Checkpoint, EarlyStopping, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from feature_store import FeatureStore
from train import RecipeError
from train.batches import PairBatch, PairBatches, step_seed
from train.evaluation import Gallery, evaluate, open_gallery, open_split
from train.recipe import Recipe, Schedule, Training
from train.runs import BEST, LAST, LOGS, begin_run, open_task
from train.tasks import TASKS
from train.tasks.base import RetrievalTask

RSUM = "val/rsum"


def train(recipe: Recipe, run: Path, resume: bool = False) -> tuple[str, ...]:
    """Follow a recipe in the folder `run`, or, with `resume`, go on where it was left.

    Returns what of the annotations was left out, for people. Raises TrainError, before training starts, for whatever
    the recipe asks that the store or the annotations do not have.
    """
    _quiet()
    store, data, options = FeatureStore(recipe.data.store), recipe.data, recipe.training
    if options.select == "best" and not data.val:
        raise RecipeError('training.select is "best", but data.val names no split to tell by; select = "last"')
    any_expert = TASKS[recipe.model.system].any_expert
    split = open_split(data, store, data.train, any_expert)
    val = open_split(data, store, data.val, any_expert) if data.val else None
    if not (resume or int(os.environ.get("LOCAL_RANK", "0"))):  # further ranks find what the first one made
        begin_run(run, recipe, store, split)
    task = open_task(run, recipe, store)
    last = run / LAST if resume and (run / LAST).exists() else None
    if last is None:
        task.start()

    module = RetrievalModule(task, options)
    trainer = _trainer(recipe, run, resume)
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
    )
    trainer.fit(module, train_dataloaders=module.batches, ckpt_path=last, weights_only=True)
    return (*split.left_out, *(val.left_out if val else ()))


class RetrievalModule(LightningModule):
    """A task under training. Pairs of all ranks are held against each other."""

    batches: PairBatches
    validation: Gallery | None = None

    def __init__(self, task: RetrievalTask, options: Training) -> None:
        super().__init__()
        self.task, self.options = task, options
        self.rsums: list[float] = []  # of each epoch that was validated

    def on_train_start(self) -> None:
        self.batches.step = self.global_step  # of a run that goes on, where it was left

    def on_train_batch_start(self, batch: PairBatch, batch_idx: int) -> None:
        torch.manual_seed(step_seed(self.options.seed, self.global_step, self.global_rank))
        rate = learning_rate(self.options.learning_rate, self.options.schedule, self.current_epoch, self.rsums)
        for group in self.optimizers().param_groups:  # type: ignore[union-attr]
            group["lr"] = rate

    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        video, text = self.task.encode_video(batch.video), self.task.encode_text(batch.text)
        losses = self.task.loss(self._of_all(video), self._of_all(text), self._of_all(batch.labels))
        self.log_dict({f"train/{name}": loss for name, loss in losses.items()}, prog_bar=True)
        return losses["loss"]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """The whole split at once; every rank comes to the same."""
        assert self.validation is not None
        metrics = evaluate(self.task, self.validation)
        sides = (("t2v", metrics.t2v), ("v2t", metrics.v2t))
        shown = {
            f"val/{name}_{side}": float(getattr(values, name))
            for side, values in sides
            for name in ("recall_1", "recall_5", "recall_10", "median_rank")
        }
        self.log_dict({**shown, RSUM: metrics.rsum}, batch_size=1)
        if not self.trainer.sanity_checking:
            self.rsums.append(metrics.rsum)

    def val_dataloader(self) -> Sequence[int]:
        return [0] if self.validation else []  # one step, which takes all

    def configure_optimizers(self) -> torch.optim.Optimizer:
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.Adam(trained, lr=self.options.learning_rate)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["rsums"] = self.rsums

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rsums = list(checkpoint["rsums"])

    def _of_all(self, tensors: tuple[Any, ...]) -> Any:
        """The tensors of all ranks one after the other, with their gradients."""
        if self.trainer.world_size == 1:
            return tensors
        gathered = [torch.flatten(self.all_gather(tensor, sync_grads=True), 0, 1) for tensor in tensors]
        return type(tensors)(*gathered) if hasattr(tensors, "_fields") else tuple(gathered)


def learning_rate(base: float, schedule: Schedule, epoch: int, rsums: Sequence[float]) -> float:
    """The rate in an epoch (from 0) after validations that gave `rsums`, one an epoch.

    As Dual Encoding has it: `decay` after every epoch, and `halve` when an epoch was no better than the best before,
    if `wait` epochs have passed since the last such cut.
    """
    best, since, cuts = float("-inf"), 0, 0
    for rsum in rsums:
        since += 1
        if rsum > best:
            best = rsum
        elif since >= schedule.wait:
            cuts, since = cuts + 1, 0
    return base * schedule.decay**epoch * schedule.halve**cuts


class KeepLast(Checkpoint):
    """Writes last.ckpt at the end of each epoch, and each so many steps: what going on needs."""

    def __init__(self, path: Path, steps: int | None) -> None:
        self._path, self._steps = path, steps

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self._steps and trainer.global_step % self._steps == 0:
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, module: Any) -> None:
        self._save(trainer)

    def _save(self, trainer: Trainer) -> None:
        for logger in trainer.loggers:
            logger.save()
        trainer.save_checkpoint(self._path)


def _trainer(recipe: Recipe, run: Path, resume: bool) -> Trainer:
    options = recipe.training
    callbacks: list[Callback] = [KeepLast(run / LAST, options.checkpoint_steps)]
    if recipe.data.val:
        best = run / BEST
        callbacks.append(
            ModelCheckpoint(best.parent, best.stem, RSUM, mode="max", save_weights_only=True, enable_version_counter=False)
        )
        if options.patience:
            callbacks.append(EarlyStopping(RSUM, patience=options.patience + 1, mode="max"))
    if sys.stdout.isatty():
        callbacks.append(RichProgressBar())
    step = _resumed_step(run) if resume else None
    return Trainer(
        accelerator=options.accelerator,
        devices=options.devices,
        strategy="ddp" if options.devices > 1 else "auto",
        sync_batchnorm=options.devices > 1,
        precision={"fp32": "32-true", "bf16": "bf16-mixed"}[options.precision],  # type: ignore[arg-type]
        max_epochs=options.epochs,
        gradient_clip_val=options.clip_norm,
        num_sanity_val_steps=0,
        log_every_n_steps=options.log_steps,
        logger=_loggers(run, step),
        callbacks=callbacks,
        enable_progress_bar=sys.stdout.isatty(),
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def _loggers(run: Path, resumed_step: int | None) -> list[Any]:
    """CSV and TensorBoard; of what they hold from before, what came after the checkpoint goes."""
    kept = _rows_before(run / LOGS / "metrics.csv", resumed_step)
    table = CSVLogger(run, name=LOGS.name, version="")
    table.experiment.metrics.extend(kept)
    table.save()
    return [table, TensorBoardLogger(run, name=LOGS.name, version="", purge_step=resumed_step)]


def _rows_before(path: Path, step: int | None) -> list[dict[str, Any]]:
    if step is None or not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if int(row["step"]) < step]


def _resumed_step(run: Path) -> int:
    """How many steps the checkpoint has seen."""
    if not (run / LAST).exists():
        return 0
    return int(torch.load(run / LAST, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def _quiet() -> None:
    """Lightning speaks of its own affairs."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
