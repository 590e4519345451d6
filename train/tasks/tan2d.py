"""2D-TAN in training: means of clips, word vectors, how well each candidate overlaps the moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from feature_store import FeatureStore
from train.features import Cache, ExpertFacts, open_rows
from train.grounding.proposals import ProposalMap
from train.grounding.tan2d import TAN2D, TAN2DConfig
from train.tasks.base import SCALES, Assets, Embedding, Inputs, Share
from train.tasks.grounding import Clips, GroundingOptions, GroundingTask


class MapOptions(GroundingOptions):
    """Of a map of moments: its `size` in clips, the lengths it has at every clip, every second one, and so on.

    `clips` are the means that features are made of, a multiple of `size`. Labels rise from 0 to 1 between IoUs `low`
    and `high`; NMS takes away what overlaps by more than `suppress`.
    """

    size: PositiveInt
    scales: tuple[int, ...]
    clips: PositiveInt = 256
    low: Annotated[float, Field(ge=0, lt=1)] = 0.5
    high: Annotated[float, Field(gt=0, le=1)] = 1.0
    suppress: Share = 0.5
    dim: PositiveInt = 512

    @property
    def proposals(self) -> ProposalMap:
        return ProposalMap(self.size, self.scales)

    @model_validator(mode="after")
    def _fits_the_map(self) -> Self:
        if self.clips % self.size:
            raise ValueError(f"clips = {self.clips} is no multiple of size = {self.size}")
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}")
        _ = self.proposals  # raises ValueError for scales that do not fit
        return self


class TAN2DOptions(MapOptions):
    """`kernels` are those of the convolutions over the map, in order."""

    system: Literal["tan2d"]
    kernels: tuple[int, ...]
    convolved: bool = False
    text_units: PositiveInt = 512
    text_layers: PositiveInt = 3

    @model_validator(mode="after")
    def _kernels_have_a_middle(self) -> Self:
        if not self.kernels or not all(kernel > 0 and kernel % 2 for kernel in self.kernels):
            raise ValueError(f"kernels = {list(self.kernels)}: all must be odd, to have a middle")
        return self


class MapTask(GroundingTask):
    """A system that scores the moments of a map, by 2D-TAN's protocol."""

    protocol: ClassVar[str] = "2d-tan"
    options: MapOptions

    def open_videos(
        self, store: FeatureStore, videos: Sequence[str], cache: Cache, device: torch.device | str
    ) -> Clips:
        rows = open_rows(store, self.experts, videos, None, cache, device, self.assets.get(SCALES))
        return Clips(rows, self.options.clips)


class TAN2DTask(MapTask):
    def __init__(self, options: TAN2DOptions, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        super().__init__(options, experts, assets)
        self.embedding = self.embed_words()
        self.model = TAN2D(
            TAN2DConfig(
                video_dim=sum(expert.dim for expert in experts.values()),
                proposals=options.proposals,
                **options.of(TAN2DConfig),
            )
        )

    def encode_video(self, inputs: Inputs) -> Embedding:
        return (self.model.encode_video(inputs[0]),)

    def encode_text(self, inputs: Inputs) -> Embedding:
        tokens, lengths = inputs
        return (self.model.encode_text(self.embedding(tokens), lengths),)

    def loss(self, video: Embedding, text: Embedding, labels: Inputs) -> dict[str, Tensor]:
        truths, durations = labels
        overlaps = self.model.config.proposals.overlaps(truths, durations)
        return {"loss": self.model.loss(self.model.match(video[0], text[0]), overlaps)}

    def answer(self, video: Embedding, text: Embedding, durations: Tensor, iou: float) -> Tensor:
        return self.model.best(self.model.match(video[0], text[0]), durations)
