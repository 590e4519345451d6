"""MMT in training: features of any experts with their times, sentences through BERT, all negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch import Generator, Tensor, nn

from feature_store import FeatureStore
from train import RecipeError
from train.annotations import Split
from train.features import Cache, ExpertFacts, RowBatch, VideoRows, open_rows, random_rows
from train.losses import max_margin_loss
from train.paths import FolderOrName
from train.retrieval.mmt import MMT, OFFICIAL_TYPES, UNKNOWN, ExpertBatch, ExpertTokens, MMTConfig
from train.tasks.base import SCALES, Assets, Dropout, Embedding, Inputs, Options, RetrievalTask, Similarity
from train.text.bert import RANDOM, SPECIALS, Bert, describe, tokenize
from train.text.vocabulary import TokenTable

# The rows that experts have in the official table, for published checkpoints; others take the rows after these.
OFFICIAL_NAMES = {"senet154": "rgb", "densenet161_places365": "scene"}  # others have the same
UNTIMED = ("face", "ocr", "speech")  # kinds whose features the published model takes as of no known time


class MMTOptions(Options):
    """Sizes are those of `MMTConfig`. `max_rows` are the features an expert and video, `window` seconds a position."""

    system: Literal["mmt"]
    bert: FolderOrName = "bert-base-cased"  # a folder, a name on the Hugging Face hub, or "random"
    max_words: PositiveInt = 30
    max_tokens: Annotated[int, Field(ge=2)] = 30
    max_rows: PositiveInt = 30
    window: PositiveFloat = 1.0
    dim: PositiveInt = 512
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    hidden: PositiveInt = 3072
    dropout: Dropout = 0.1
    types: PositiveInt = 19
    keep_missing: bool = True
    margin: NonNegativeFloat = 0.05

    @model_validator(mode="after")
    def _heads_share_the_size(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim = {self.dim} is no multiple of heads = {self.heads}")
        return self


def has_no_positions(expert: ExpertFacts) -> bool:
    """Whether all features of an expert are at the position "unknown", rather than at those of their seconds."""
    return expert.kind in UNTIMED or not expert.timed


class ExpertFeatures:
    """Of each expert up to `max_rows` features with their positions, and the maxima over all."""

    def __init__(self, rows: Mapping[str, VideoRows], untimed: frozenset[str], max_rows: int, window: float) -> None:
        self._rows, self._untimed, self._window = rows, untimed, window
        self._max_rows, self._select = max_rows, random_rows(max_rows)

    def batch(self, videos: Tensor, generator: Generator | None) -> Inputs:
        return tuple(
            self._tokens(rows.batch(videos, self._select, generator), name in self._untimed)
            for name, rows in self._rows.items()
        )

    def _tokens(self, rows: RowBatch, untimed: bool) -> ExpertBatch:
        """The transformer wants as many tokens of each expert, however few there are."""
        lacking = self._max_rows - rows.values.shape[1]
        values = nn.functional.pad(rows.values, (0, 0, 0, lacking))
        times = nn.functional.pad(rows.times, (0, 0, 0, lacking))
        valid = (torch.arange(self._max_rows, device=values.device) < rows.lengths[:, None]).float()
        seconds = times.mean(dim=2) / self._window + UNKNOWN + 1
        positions = torch.full_like(seconds, UNKNOWN) if untimed else seconds
        return ExpertBatch(values, positions, valid, rows.pooled)


class Sentences:
    """Pieces of words from [CLS] to [SEP]."""

    def __init__(self, texts: Sequence[str], vocabulary: Sequence[str], max_words: int, max_tokens: int) -> None:
        pieces = tokenize(texts, vocabulary, max_words, max_tokens)
        self._tokens = TokenTable(pieces, padding=list(vocabulary).index(SPECIALS[0]))

    def batch(self, captions: Tensor) -> Inputs:
        return self._tokens.batch(captions)


class MMTTask(RetrievalTask):
    protocol: ClassVar[str] = "mmt"
    any_expert: ClassVar[bool] = True

    def __init__(self, options: MMTOptions, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        super().__init__(options, experts, assets)
        self.bert = Bert(assets["bert"])
        self._untimed = frozenset(name for name, expert in experts.items() if has_no_positions(expert))
        self.model = MMT(
            MMTConfig(
                experts=_tokens_of(experts, options.types),
                positions=options.max_rows + 2,
                text_dim=self.bert.dim,
                **options.of(MMTConfig),
            )
        )

    @classmethod
    def prepare(cls, options: MMTOptions, split: Split, folder: Path) -> Assets:
        return {"bert": describe(options.bert, split.texts)}

    def start(self) -> None:
        if self.options.bert == RANDOM:
            self.bert.begin_without_order()
        else:
            self.bert.load_published(self.options.bert)

    def open_videos(
        self, store: FeatureStore, videos: Sequence[str], cache: Cache, device: torch.device | str
    ) -> ExpertFeatures:
        names = [expert.name for expert in self.model.config.experts]
        scales = self.assets.get(SCALES)
        rows = {name: open_rows(store, [name], videos, "max", cache, device, scales) for name in names}
        return ExpertFeatures(rows, self._untimed, self.options.max_rows, self.options.window)

    def read_texts(self, texts: Sequence[str], folder: Path | None) -> Sentences:
        return Sentences(texts, self.assets["bert"]["vocabulary"], self.options.max_words, self.options.max_tokens)

    def encode_video(self, inputs: Inputs) -> Embedding:
        names = (expert.name for expert in self.model.config.experts)
        return self.model.encode_video({name: ExpertBatch(*each) for name, each in zip(names, inputs, strict=True)})

    def encode_text(self, inputs: Inputs) -> Embedding:
        return self.model.encode_text(self.bert(*inputs))

    def loss(self, video: Embedding, text: Embedding, labels: Inputs) -> dict[str, Tensor]:
        return {"loss": max_margin_loss(self._similarity(video, text), self.options.margin)}

    def similarities(self) -> tuple[Similarity, ...]:
        return (self._similarity,)

    def _similarity(self, video: Embedding, text: Embedding) -> Tensor:
        return self.model.similarity((text[0], text[1]), (video[0], video[1])).T


def _tokens_of(experts: Mapping[str, ExpertFacts], types: int) -> tuple[ExpertTokens, ...]:
    """The experts with their rows of the table: the official ones where there are, else those that are left."""
    free = iter(number for number in range(1, types) if number not in OFFICIAL_TYPES.values())
    tokens = []
    for name, expert in experts.items():
        type_id = OFFICIAL_TYPES.get(OFFICIAL_NAMES.get(name, name)) or next(free, types)
        if type_id >= types:
            raise RecipeError(f"model.types is {types}: there is no row left for {name}; give a larger one")
        tokens.append(ExpertTokens(name, expert.dim, type_id))
    return tuple(tokens)
