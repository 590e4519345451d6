"""Dual Encoding in training: frames of one or more experts, words and bags of words, the hardest negative."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Generator, Tensor

from feature_store import FeatureStore
from train.annotations import Split
from train.features import Cache, ExpertFacts, VideoRows, first_rows, open_rows
from train.losses import triplet_loss
from train.paths import FilePath
from train.retrieval.dual_encoding import DualEncoding, DualEncodingConfig, Encoders
from train.tasks.base import SCALES, Assets, Dropout, Embedding, Inputs, Options, RetrievalTask, Similarity
from train.text.vocabulary import TokenTable, Vocabulary, alphanumeric_words, bags, count_words
from train.text.word_vectors import take_vectors

SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")


class DualEncodingOptions(Options):
    """Sizes are those of `DualEncodingConfig`; words that occur less often than `min_count` are unknown."""

    system: Literal["dual_encoding"]
    word_vectors: FilePath = ""  # a file or folder; random without
    word_dim: PositiveInt = 500
    min_count: PositiveInt = 5
    video_units: PositiveInt = 1024
    text_units: PositiveInt = 512
    video_filters: PositiveInt = 512
    text_filters: PositiveInt = 512
    common_dim: PositiveInt = 2048
    dropout: Dropout = 0.2
    reduced: bool = False
    max_frames: PositiveInt = 64
    margin: NonNegativeFloat = 0.2
    compat: bool = False

    def config(self, video_dim: int, words: int) -> DualEncodingConfig:
        return DualEncodingConfig(
            video_dim=video_dim, words=len(SPECIALS) + words, bag=words, **self.of(DualEncodingConfig)
        )


class Frames:
    """The first frames of videos, and the mean of all."""

    def __init__(self, rows: VideoRows, max_frames: int) -> None:
        self._rows, self._select = rows, first_rows(max_frames)

    def batch(self, videos: Tensor, generator: Generator | None) -> Inputs:
        given = self._rows.batch(videos, self._select)
        return given.values, given.lengths, given.pooled


class Sentences:
    """Word ids from <start> to <end>, and how often each word occurs."""

    def __init__(self, texts: Sequence[str], words: Sequence[str]) -> None:
        vocabulary = Vocabulary(SPECIALS, tuple(words), unknown="<unk>")
        start, end = vocabulary.ids(("<start>", "<end>"))
        self._tokens = TokenTable(
            [[start, *vocabulary.ids(alphanumeric_words(text)), end] for text in texts], padding=SPECIALS.index("<pad>")
        )
        self._words = len(words)

    def batch(self, captions: Tensor) -> Inputs:
        tokens, lengths = self._tokens.batch(captions)
        return tokens, lengths, bags(tokens, lengths, len(SPECIALS), self._words)


class EncodersTask(RetrievalTask):
    """What Dual Encoding and its hybrid space share: inputs, and vectors of words."""

    model: Encoders

    def __init__(self, options: DualEncodingOptions, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        super().__init__(options, experts, assets)
        self.config = options.config(sum(expert.dim for expert in experts.values()), len(assets["words"]))

    @classmethod
    def prepare(cls, options: DualEncodingOptions, split: Split, folder: Path) -> Assets:
        return {"words": count_words(split.texts, alphanumeric_words, options.min_count)}

    def start(self) -> None:
        """Words with a published vector take it; the others, as in the official code, lie in a cube around 0."""
        if not self.options.word_vectors:
            return
        torch.nn.init.uniform_(self.model.embedding.weight, -1, 1)
        take_vectors(self.model.embedding, [*SPECIALS, *self.assets["words"]], Path(self.options.word_vectors))

    def open_videos(
        self, store: FeatureStore, videos: Sequence[str], cache: Cache, device: torch.device | str
    ) -> Frames:
        return Frames(
            open_rows(store, self.experts, videos, "mean", cache, device, self.assets.get(SCALES)),
            self.config.max_frames,
        )

    def known_words(self, text: str) -> dict[str, bool]:
        known = frozenset(self.assets["words"])
        return {word: word in known for word in alphanumeric_words(text)}

    def read_texts(self, texts: Sequence[str], folder: Path | None) -> Sentences:
        return Sentences(texts, self.assets["words"])


class DualEncodingTask(EncodersTask):
    protocol: ClassVar[str] = "dual_encoding"
    model: DualEncoding

    def __init__(self, options: DualEncodingOptions, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        super().__init__(options, experts, assets)
        self.model = DualEncoding(self.config, options.compat)

    def encode_video(self, inputs: Inputs) -> Embedding:
        return (self.model.encode_video(*inputs),)

    def encode_text(self, inputs: Inputs) -> Embedding:
        return (self.model.encode_text(*inputs),)

    def loss(self, video: Embedding, text: Embedding, labels: Inputs) -> dict[str, Tensor]:
        return {"loss": triplet_loss(cosines(video, text), self.options.margin)}

    def similarities(self) -> tuple[Similarity, ...]:
        return (cosines,)


def cosines(video: Embedding, text: Embedding) -> Tensor:
    """(videos, texts) of the first vectors, whose length is one."""
    return video[0] @ text[0].T
