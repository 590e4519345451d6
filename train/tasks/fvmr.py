"""FVMR in training: what 2D-TAN reads, and the semantic roles of sentences, which only its teacher needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from train.annotations import MomentSplit, Split
from train.features import ExpertFacts
from train.grounding.fvmr import FVMR, FVMRConfig, fvmr_loss
from train.tasks.base import Assets, Embedding, Inputs, Labels, Share, Texts
from train.tasks.grounding import Truths
from train.tasks.tan2d import MapOptions, MapTask
from train.text.graph_table import GraphTable, graph_table
from train.text.parses import parse_captions
from train.text.vocabulary import lower_words


class FVMROptions(MapOptions):
    """`objective` is "distilled", or "student" or "teacher" alone; the other values are those of `FVMRConfig`."""

    system: Literal["fvmr"]
    tokenizer: Literal["clean"] = "clean"  # that of the role graphs
    role_graphs: Literal["rules", "spacy"] = "rules"
    text_units: PositiveInt = 256
    text_layers: PositiveInt = 1
    common_dim: PositiveInt = 512
    suppress: Share = 0.49
    similarity: Literal["dot", "cosine"] = "dot"
    objective: Literal["distilled", "student", "teacher"] = "distilled"
    distill: Literal["kl", "bce_mean"] = "kl"
    temperature: PositiveFloat = 1.0
    distill_weight: NonNegativeFloat = 0.03


class Graphs:
    """Semantic roles of sentences, over as many words as their batch has."""

    def __init__(self, texts: Sequence[str], folder: Path, builder: str) -> None:
        captions = [lower_words(text) for text in texts]
        self._lengths = torch.tensor([len(caption) for caption in captions])
        longest = int(self._lengths.max())
        self._table: GraphTable = graph_table(
            parse_captions(captions, folder, builder), self._lengths.tolist(), max_words=longest
        )

    def batch(self, captions: Tensor) -> Inputs:
        graphs = self._table.batch(captions, max(1, int(self._lengths[captions].max())))
        return graphs.spans, graphs.edges, graphs.roles


class TruthsAndGraphs:
    """When moments are, and the roles in what is said of them."""

    def __init__(self, truths: Truths, graphs: Graphs) -> None:
        self._truths, self._graphs = truths, graphs

    def batch(self, videos: Tensor, captions: Tensor) -> Inputs:
        return *self._truths.batch(videos, captions), *self._graphs.batch(captions)


class SentencesAndGraphs:
    """Words and their roles, for the teacher when it answers alone."""

    def __init__(self, sentences: Texts, graphs: Graphs) -> None:
        self._sentences, self._graphs = sentences, graphs

    def batch(self, captions: Tensor) -> Inputs:
        return *self._sentences.batch(captions), *self._graphs.batch(captions)


class FVMRTask(MapTask):
    options: FVMROptions

    def __init__(self, options: FVMROptions, experts: Mapping[str, ExpertFacts], assets: Assets) -> None:
        super().__init__(options, experts, assets)
        self.embedding = self.embed_words()
        self.model = FVMR(
            FVMRConfig(
                video_dim=sum(expert.dim for expert in experts.values()),
                proposals=options.proposals,
                **options.of(FVMRConfig),
            )
        )

    def read_texts(self, texts: Sequence[str], folder: Path | None) -> Texts:
        """Roles are read for the teacher alone: a student answers without them."""
        sentences = super().read_texts(texts, folder)
        if self.options.objective != "teacher" or folder is None:
            return sentences
        return SentencesAndGraphs(sentences, Graphs(texts, folder, self.options.role_graphs))

    def read_labels(self, split: Split, folder: Path) -> Labels:
        """With roles, but for a student that learns alone."""
        assert isinstance(split, MomentSplit)
        if self.options.objective == "student":
            return Truths(split)
        return TruthsAndGraphs(Truths(split), Graphs(split.texts, folder, self.options.role_graphs))

    def encode_video(self, inputs: Inputs) -> Embedding:
        return (self.model.encode_moments(inputs[0]),)

    def encode_text(self, inputs: Inputs) -> Embedding:
        """In training, and for the teacher, words as they are, since student and teacher read them once together."""
        tokens, lengths, *graphs = inputs
        words = self.embedding(tokens)
        if self.training or self.options.objective == "teacher":
            return words, lengths, *graphs
        return (self.model.encode_text(words, lengths),)

    def loss(self, video: Embedding, text: Embedding, labels: Inputs) -> dict[str, Tensor]:
        truths, durations, *graphs = labels
        words, lengths = text[:2]
        overlaps = self.model.config.proposals.overlaps(truths, durations)
        if self.options.objective == "student":
            student, teacher = self.model.score(video[0], self.model.encode_text(words, lengths)), None
        else:
            student, teacher = self.model.both(video[0], words, lengths, *graphs)
        total, parts = fvmr_loss(self.model.config, overlaps, student, teacher)
        return {"loss": total, **parts}

    def answer(self, video: Embedding, text: Embedding, durations: Tensor, iou: float) -> Tensor:
        if self.options.objective == "teacher":
            words, lengths, spans, edges, roles = text
            return self.model.best(self.model.teacher(video[0], words, lengths, spans, edges, roles), durations)
        return self.model.best(self.model.score(video[0], text[0]), durations)
