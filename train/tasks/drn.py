"""DRN in training: maxima over segments, words, three stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor

from feature_store import FeatureStore
from train import TrainError
from train.features import Cache, ExpertFacts, VideoRows, open_rows
from train.grounding.drn import DRN, DRNConfig, Predictions, segment_maxima
from train.tasks.base import SCALES, Assets, Embedding, Inputs
from train.tasks.grounding import ALL_ROWS, GroundingOptions, GroundingTask, Ious

STAGES = 3
TICKS = 1000  # a second, when units are laid out in whole numbers


class DRNOptions(GroundingOptions):
    """`segments` are what a video is cut into, a multiple of 4. Words are learnt also where they begin published.

    `window` is of features imported with --spread, which do not tell how long they are: so many times as long as it is
    from one to the next, 8 of such as span 64 frames every 8. A segment no longer than that takes one of them.
    """

    system: Literal["drn"]
    segments: Annotated[int, Field(ge=8, multiple_of=4)] = 32
    window: PositiveInt | None = None
    text_units: PositiveInt = 512
    position_dim: PositiveInt = 256
    channels: tuple[PositiveInt, PositiveInt, PositiveInt] = (256, 512, 1024)
    pyramid_dim: PositiveInt = 512
    iou_dim: PositiveInt = 256
    ious: Ious = (0.5, 0.7)


class Segments:
    """The maxima over equal segments of videos, and where these are as shares of them.

    Rows are units as their times tell, or, with a `window`, lie side by side where units overlapped, that many times as
    long as it is from one to the next.
    """

    def __init__(self, rows: VideoRows, segments: int, window: int | None = None) -> None:
        self._rows, self._segments, self._window = rows, segments, window

    def batch(self, videos: Tensor, generator: Generator | None) -> Inputs:
        given = self._rows.batch(videos, ALL_ROWS)
        made = [
            self._maxima(values[:length], times[:length])
            for values, times, length in zip(
                given.values.cpu().numpy(), given.times.cpu().numpy(), given.lengths.tolist(), strict=True
            )
        ]
        maxima, spans = zip(*made, strict=True)
        return torch.from_numpy(np.stack(maxima)), torch.from_numpy(np.stack(spans))

    def _maxima(self, units: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if times[-1, 1] <= 0:
            raise TrainError(
                "DRN cuts videos into segments by when features are, which these do not tell: import them with "
                "--spread or --every in place of --untimed"
            )
        duration = float(times[-1, 1])
        if self._window:
            stride = duration / (len(times) - 1 + self._window)  # the last unit ends with the video
            window = self._window * stride
        else:
            window = float(times[0, 1] - times[0, 0])
            stride = float(times[1, 0] - times[0, 0]) if len(times) > 1 else window
        frames, stride, window = (max(1, round(TICKS * length)) for length in (duration, stride, window))
        return segment_maxima(units, frames, self._segments, stride, window)


class DRNTask(GroundingTask):
    protocol: ClassVar[str] = "drn"
    strict: ClassVar[bool] = False
    answers_by_iou: ClassVar[bool] = True
    options: DRNOptions

    def __init__(self, options: DRNOptions, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        super().__init__(options, experts, assets)
        self.model = DRN(
            DRNConfig(
                words=1 + len(assets["words"]),
                video_dim=sum(expert.dim for expert in experts.values()),
                **options.of(DRNConfig),
            )
        )
        self.embedding = self.model.query.embedding
        self.requires_grad_()  # of each stage, for several processes share what learns at their start; stages freeze

    def enter_stage(self, stage: int) -> None:
        self.model.enter(stage)

    def open_videos(
        self, store: FeatureStore, videos: Sequence[str], cache: Cache, device: torch.device | str
    ) -> Segments:
        rows = open_rows(store, self.experts, videos, None, cache, device, self.assets.get(SCALES))
        spread = store.experts[self.experts[0]].sampling.get("times") == "spread"
        return Segments(rows, self.options.segments, self.options.window if spread else None)

    def encode_video(self, inputs: Inputs) -> Embedding:
        return self.model.encode_video(*inputs)

    def encode_text(self, inputs: Inputs) -> Embedding:
        return tuple(self.model.query(*inputs))

    def loss(self, video: Embedding, text: Embedding, labels: Inputs) -> dict[str, Tensor]:
        truths, durations = labels
        terms = self.model.losses(self._predict(video, text), truths / durations[:, None])
        return {"loss": torch.stack(list(terms.values())).sum(), **terms}

    def answer(self, video: Embedding, text: Embedding, durations: Tensor, iou: float) -> Tensor:
        predictions = self._predict(video, text)
        if any(each.isnan().any() for each in (predictions.class_logits, predictions.distances)):
            raise TrainError("what DRN says of moments is not finite: its training has diverged")
        best = self.model.detect(predictions).best(iou)
        return torch.where(best < 0, best, best * durations[:, None, None])

    def _predict(self, video: Embedding, text: Embedding) -> Predictions:
        return self.model.predict(self.model.pyramid(self.model.interact(list(text), video[0], video[1])))
