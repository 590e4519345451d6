"""HANet in training: frames, words with their semantic roles, and concepts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Generator, Tensor, nn

from feature_store import FeatureStore
from train.annotations import Split
from train.features import Cache, ExpertFacts, VideoRows, open_rows, spread_rows
from train.paths import FilePath, JsonOrName
from train.retrieval.hanet import HANet, HANetConfig, HANetText, HANetVideo
from train.retrieval.hanet_scores import hanet_loss, hanet_scores
from train.tasks.base import SCALES, Assets, Dropout, Embedding, Inputs, Options, RetrievalTask, Similarity
from train.text import role_rules
from train.text.concepts import CaptionConcepts, frequent_lemmas, is_noun, is_verb
from train.text.graph_table import graph_table
from train.text.parses import parse_captions, tag_captions
from train.text.role_graphs import RoleGraph, read_published
from train.text.vocabulary import TokenTable, Vocabulary, count_words, lower_words
from train.text.word_vectors import take_vectors

SPECIALS = ("<bos>", "<eos>", "<unk>")  # the first is not used


class HANetOptions(Options):
    """Sizes are those of `HANetConfig`.

    `role_graphs` are "rules" (built in), "spacy" (if a model of it is installed), or the published
    sent2rolegraph.augment.json, where captions that it lacks are read by the rules.
    """

    system: Literal["hanet"]
    word_vectors: FilePath = ""
    role_graphs: JsonOrName = "rules"
    word_dim: PositiveInt = 300
    min_count: PositiveInt = 3
    dim: PositiveInt = 1024
    verb_concepts: PositiveInt = 512
    noun_concepts: PositiveInt = 1024
    graph_width: PositiveInt = 512
    dropout: Dropout = 0.2
    graph_dropout: Dropout = 0.5
    max_frames: PositiveInt = 20
    max_words: PositiveInt = 30
    margin: NonNegativeFloat = 0.2
    compat: bool = False


class Frames:
    """Frames spread over videos."""

    def __init__(self, rows: VideoRows, max_frames: int) -> None:
        self._rows, self._select = rows, spread_rows(max_frames)

    def batch(self, videos: Tensor, generator: Generator | None) -> Inputs:
        given = self._rows.batch(videos, self._select)
        return given.values, given.lengths


class Sentences:
    """Word ids, and the words' roles."""

    def __init__(
        self, captions: Sequence[Sequence[str]], graphs: Sequence[RoleGraph], words: Sequence[str], max_words: int
    ) -> None:
        vocabulary = Vocabulary(SPECIALS, tuple(words), unknown="<unk>")
        cut = [caption[:max_words] for caption in captions]
        self._tokens = TokenTable([vocabulary.ids(caption) for caption in cut], padding=SPECIALS.index("<eos>"))
        self._graphs = graph_table(graphs, [len(caption) for caption in cut], max_words)

    def batch(self, captions: Tensor) -> Inputs:
        tokens, lengths = self._tokens.batch(captions)
        graphs = self._graphs.batch(captions, tokens.shape[1])
        verbs = self._graphs.links.shape[1]
        return tokens, lengths, graphs.spans[:, :verbs], graphs.spans[:, verbs:], graphs.roles, graphs.edges


class ConceptLabels:
    """Which verbs and nouns a pair's caption has, and which count."""

    def __init__(self, verbs: CaptionConcepts, nouns: CaptionConcepts) -> None:
        self._verbs, self._nouns = verbs, nouns

    def batch(self, videos: Tensor, captions: Tensor) -> Inputs:
        (verbs, verb_mask), (nouns, noun_mask) = self._verbs.batch(captions), self._nouns.batch(captions)
        return verbs, nouns, verb_mask, noun_mask


class HANetTask(RetrievalTask):
    protocol: ClassVar[str] = "hanet"

    def __init__(self, options: HANetOptions, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        super().__init__(options, experts, assets)
        verbs, nouns = len(assets["verbs"]), len(assets["nouns"])
        config = HANetConfig(
            video_dim=sum(expert.dim for expert in experts.values()),
            words=len(SPECIALS) + len(assets["words"]),
            top_verbs=min(HANetConfig.top_verbs, verbs),
            top_nouns=min(HANetConfig.top_nouns, nouns),
            **{**options.of(HANetConfig), "verb_concepts": verbs, "noun_concepts": nouns},
        )
        self.model = HANet(config, options.compat)

    @classmethod
    def prepare(cls, options: HANetOptions, split: Split, folder: Path) -> Assets:
        tagged = tag_captions([lower_words(text) for text in split.texts], folder)
        return {
            "words": count_words(split.texts, lower_words, options.min_count),
            "verbs": frequent_lemmas(tagged, is_verb, options.verb_concepts),
            "nouns": frequent_lemmas(tagged, is_noun, options.noun_concepts),
        }

    def start(self) -> None:
        """Words with a published vector take it."""
        if self.options.word_vectors:
            words = [*SPECIALS, *self.assets["words"]]
            take_vectors(self.model.text.embedding, words, Path(self.options.word_vectors))

    def open_videos(
        self, store: FeatureStore, videos: Sequence[str], cache: Cache, device: torch.device | str
    ) -> Frames:
        return Frames(
            open_rows(store, self.experts, videos, None, cache, device, self.assets.get(SCALES)),
            self.options.max_frames,
        )

    def read_texts(self, texts: Sequence[str], folder: Path | None) -> Sentences:
        captions = [lower_words(text) for text in texts]
        graphs = self._graphs(texts, captions, folder)
        return Sentences(captions, graphs, self.assets["words"], self.options.max_words)

    def known_words(self, text: str) -> dict[str, bool]:
        known = frozenset(self.assets["words"])
        return {word: word in known for word in lower_words(text)}

    def _graphs(
        self, texts: Sequence[str], captions: Sequence[Sequence[str]], folder: Path | None
    ) -> Sequence[RoleGraph]:
        if folder is None:
            return [role_rules.build(caption) for caption in captions]
        source = self.options.role_graphs
        if not source.endswith(".json"):
            return parse_captions(captions, folder, source)
        published = read_published(Path(source))
        lacking = [place for place, text in enumerate(texts) if text not in published]
        built = parse_captions([captions[place] for place in lacking], folder) if lacking else []
        graphs = dict(zip(lacking, built, strict=True))
        return [graphs[place] if place in graphs else published[text] for place, text in enumerate(texts)]

    def read_labels(self, split: Split, folder: Path) -> ConceptLabels:
        tagged = tag_captions([lower_words(text) for text in split.texts], folder)
        return ConceptLabels(
            CaptionConcepts(tagged, split.video_of, is_verb, self.assets["verbs"]),
            CaptionConcepts(tagged, split.video_of, is_noun, self.assets["nouns"]),
        )

    def encode_video(self, inputs: Inputs) -> Embedding:
        """Frames are padded to `max_frames`, so that videos of several batches stand side by side."""
        video = self.model.encode_video(*inputs)
        lacking = self.options.max_frames - video.valid.shape[1]
        return video._replace(
            actions=nn.functional.pad(video.actions, (0, 0, 0, lacking)),
            entities=nn.functional.pad(video.entities, (0, 0, 0, lacking)),
            valid=nn.functional.pad(video.valid, (0, lacking)),
        )

    def encode_text(self, inputs: Inputs) -> Embedding:
        return self.model.encode_text(*inputs)

    def loss(self, video: Embedding, text: Embedding, labels: Inputs) -> dict[str, Tensor]:
        verbs, nouns, verb_mask, noun_mask = labels
        margin = self.options.margin
        parts = hanet_loss(HANetVideo(*video), HANetText(*text), verbs, nouns, verb_mask, noun_mask, margin)
        return {"loss": parts.total, "alignment": parts.alignment, "concept": parts.concept}

    def similarities(self) -> tuple[Similarity, ...]:
        return (self._similarity,)

    def _similarity(self, video: Embedding, text: Embedding) -> Tensor:
        return hanet_scores(HANetVideo(*video), HANetText(*text)).ranking()
