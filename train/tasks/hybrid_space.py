"""Dual Encoding's hybrid space in training: its inputs, and the concepts that videos were captioned with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import NonNegativeInt, PositiveInt
from torch import Tensor

from train.annotations import Split
from train.features import ExpertFacts
from train.retrieval import hybrid_space
from train.retrieval.hybrid_space import LATENT_SHARE, HybridSpace, hybrid_loss, jaccard
from train.tasks.base import Assets, Embedding, Inputs, Similarity
from train.tasks.dual_encoding import DualEncodingOptions, EncodersTask, cosines
from train.text.concepts import VideoConcepts, hybrid_vocabulary, video_lemmas
from train.text.parses import tag_captions
from train.text.vocabulary import lower_words


class HybridSpaceOptions(DualEncodingOptions):
    """`concepts` are the most frequent lemmas; a video's own count from more than `above` mentions on."""

    system: Literal["hybrid_space"]  # type: ignore[assignment]
    video_units: PositiveInt = 512
    common_dim: PositiveInt = 1536
    concepts: PositiveInt = 512
    above: NonNegativeInt = 1


class ConceptLabels:
    """How much each concept applies to a pair's video."""

    def __init__(self, lemmas: Sequence[dict[str, int]], vocabulary: Sequence[str]) -> None:
        self._concepts = VideoConcepts(lemmas, vocabulary)

    def batch(self, videos: Tensor, captions: Tensor) -> Inputs:
        return (self._concepts.batch(videos),)


class HybridSpaceTask(EncodersTask):
    protocol: ClassVar[str] = "hybrid_space"
    share: ClassVar[float] = LATENT_SHARE
    model: HybridSpace
    options: HybridSpaceOptions

    def __init__(self, options: HybridSpaceOptions, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        super().__init__(options, experts, assets)
        self.model = HybridSpace(self.config, len(assets["concepts"]), options.compat)

    @classmethod
    def prepare(cls, options: DualEncodingOptions, split: Split, folder: Path) -> Assets:
        assert isinstance(options, HybridSpaceOptions)
        concepts = hybrid_vocabulary(_lemmas(options, split, folder), options.concepts)
        return {**super().prepare(options, split, folder), "concepts": concepts}

    def read_labels(self, split: Split, folder: Path) -> ConceptLabels:
        return ConceptLabels(_lemmas(self.options, split, folder), self.assets["concepts"])

    def encode_video(self, inputs: Inputs) -> Embedding:
        return self.model.encode_video(*inputs)

    def encode_text(self, inputs: Inputs) -> Embedding:
        return self.model.encode_text(*inputs)

    def loss(self, video: Embedding, text: Embedding, labels: Inputs) -> dict[str, Tensor]:
        of_video, of_text = (hybrid_space.Embedding(*side) for side in (video, text))
        return {"loss": hybrid_loss(of_video, of_text, labels[0], self.options.margin)}

    def similarities(self) -> tuple[Similarity, ...]:
        return cosines, _concepts_shared


def _concepts_shared(video: Embedding, text: Embedding) -> Tensor:
    return jaccard(video[1], text[1])


def _lemmas(options: HybridSpaceOptions, split: Split, folder: Path) -> list[dict[str, int]]:
    tagged = tag_captions([lower_words(text) for text in split.texts], folder)
    return video_lemmas(tagged, split.video_of, len(split.videos), options.above)
