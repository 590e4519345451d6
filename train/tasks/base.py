"""What training, evaluation and search need of a system."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor, nn

from feature_store import FeatureStore
from train.annotations import Split, read_split
from train.evaluation import Gallery, evaluate
from train.features import Cache, ExpertFacts
from train.metrics import FiguresRow, RetrievalMetrics

Inputs = tuple[Any, ...]  # tensors, or tuples of tensors
Embedding = tuple[Tensor, ...]  # the first dimension of each counts the items
Assets = dict[str, Any]  # plain data
SCALES = "scales"  # among the assets, where the recipe says so: what features are brought to one scale by
Similarity = Callable[[Embedding, Embedding], Tensor]  # of V videos and T sentences: (V, T)


Share = Annotated[float, Field(ge=0, le=1)]
Dropout = Annotated[float, Field(ge=0, lt=1)]


class Options(BaseModel):
    """The section [model] of a recipe. Numbers must be finite, and such as a model can be made of."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def of(self, config: type) -> dict[str, Any]:
        """Those values that a config, a dataclass, has by the same name."""
        return {
            field.name: getattr(self, field.name) for field in fields(config) if field.name in type(self).model_fields
        }


class Videos(Protocol):
    """Inputs of the videos of a split."""

    def batch(self, videos: Tensor, generator: Generator | None) -> Inputs:
        """Of the videos of these indices (B,). What is left to chance follows `generator`; without it, to nothing."""


class Texts(Protocol):
    """Inputs of sentences."""

    def batch(self, captions: Tensor) -> Inputs:
        """Of the sentences of these indices (B,)."""


class Labels(Protocol):
    """What a loss is told about pairs beside that they are pairs."""

    def batch(self, videos: Tensor, captions: Tensor) -> Inputs:
        """Of the pairs of video and caption of these indices, each (B,)."""


class NoLabels:
    """Nothing."""

    def batch(self, videos: Tensor, captions: Tensor) -> Inputs:
        return ()


class Metrics(Protocol):
    """What a system is measured by."""

    @property
    def protocol(self) -> str:
        """Whose rules it was measured by."""

    @property
    def score(self) -> float:
        """What the best epoch is told by; the greater, the better."""

    def figures(self) -> dict[str, float]:
        """What is logged of each validation."""

    def rows(self) -> list[FiguresRow]:
        """Figures for people, the same columns in each row."""

    def told(self) -> str:
        """What was measured, in a line for people."""

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""

    def csv_rows(self) -> list[dict[str, str | float]]:
        """Everything, as rows of a table."""


class Task(nn.Module, ABC):
    """A system with what it reads from videos and sentences, and what it minimises.

    `assets` are what it learnt of the training captions before training: vocabularies and the like, as plain data.
    """

    protocol: ClassVar[str]
    compares_pairs: ClassVar[bool] = False
    """Whether pairs of a batch are held against each other, so that a loss needs those of all ranks."""
    any_expert: ClassVar[bool] = False
    """Whether a video is of use that has rows of any expert; else it must have rows of the first."""

    def __init__(self, options: Any, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        """The system, its parameters drawn at random."""
        super().__init__()
        self.options, self.experts, self.assets = options, tuple(experts), assets

    @classmethod
    def read_split(cls, folder: Path, name: str) -> Split:
        """A split of the annotations; raises as `train.annotations.read_split` does."""
        return read_split(folder, name)

    @classmethod
    @abstractmethod
    def prepare(cls, options: Any, split: Split, folder: Path) -> Assets:
        """Read the training split; parses of its captions are kept in `folder`."""

    def start(self) -> None:
        """Take what is published of its parameters, at the beginning of a new run."""

    @abstractmethod
    def open_videos(
        self, store: FeatureStore, videos: Sequence[str], cache: Cache, device: torch.device | str
    ) -> Videos:
        """The inputs of these videos."""

    @abstractmethod
    def read_texts(self, texts: Sequence[str], folder: Path | None) -> Texts:
        """The inputs of these sentences; parses are kept in `folder`, if there is one."""

    def known_words(self, text: str) -> dict[str, bool] | None:
        """Of each word of a sentence whether it is in the vocabulary; none for a system that knows parts of words."""
        return None

    def read_labels(self, split: Split, folder: Path) -> Labels:
        """The labels of a split."""
        return NoLabels()

    @abstractmethod
    def encode_video(self, inputs: Inputs) -> Embedding:
        """Of B videos."""

    @abstractmethod
    def encode_text(self, inputs: Inputs) -> Embedding:
        """Of B sentences."""

    @abstractmethod
    def loss(self, video: Embedding, text: Embedding, labels: Inputs) -> dict[str, Tensor]:
        """{"loss": what is minimised, further parts to log}, of B pairs."""

    def enter_stage(self, stage: int) -> None:
        """Begin a stage of training, counted from 1."""

    @abstractmethod
    def measure(self, gallery: Gallery) -> Metrics:
        """How good it is on a split."""


class RetrievalTask(Task):
    """A system that compares videos with sentences; `protocol` is one of train.metrics.PROTOCOLS."""

    compares_pairs: ClassVar[bool] = True
    share: ClassVar[float] = 1.0
    """How much the first of two similarities counts, both brought to 0..1 over the whole gallery."""

    @abstractmethod
    def similarities(self) -> tuple[Similarity, ...]:
        """How videos and sentences compare: one way, or two that `share` weighs."""

    def measure(self, gallery: Gallery) -> RetrievalMetrics:
        return evaluate(self, gallery)
