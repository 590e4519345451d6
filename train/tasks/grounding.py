"""What the grounding systems share in training: moments of a split, words, features of whole videos."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor, nn

from train import TrainError
from train.annotations import MomentSplit, Split, moment_texts, read_moments
from train.evaluation import Gallery, encode_texts, encode_videos, evaluating
from train.features import VideoRows, first_rows
from train.grounding.evaluation import GroundingMetrics, summarise
from train.grounding.proposals import clip_means
from train.paths import FilePath
from train.tasks.base import Assets, Embedding, Inputs, Labels, Options, Task, Texts
from train.text.vocabulary import TokenTable, Vocabulary, count_words, lower_words
from train.text.word_vectors import read_vectors, take_vectors

ALL_ROWS = first_rows(1 << 30)
PADDING = "<pad>"  # also stands for words that have no vector, which is all zeros
AT_ONCE = 64  # sentences that are answered at a time

Ious = Annotated[tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1)]


class GroundingOptions(Options):
    """Words take fixed vectors from `word_vectors`, a file or folder, or, without, are learnt from the start.

    tokenizer = "official" splits at spaces, as 2D-TAN does, which leaves "room." without a vector; "clean" takes
    punctuation off.
    """

    word_vectors: FilePath = ""
    word_dim: PositiveInt = 300
    min_count: PositiveInt = 1
    tokenizer: Literal["clean", "official"] = "clean"
    ious: Ious = (0.3, 0.5, 0.7)  # that recalls are told for

    def words(self, text: str) -> list[str]:
        return text.lower().split() if self.tokenizer == "official" else lower_words(text)


class Clips:
    """The features of videos, made so many means of clips of length one, as 2D-TAN reads them."""

    def __init__(self, rows: VideoRows, clips: int) -> None:
        self._rows, self._clips = rows, clips

    def batch(self, videos: Tensor, generator: Generator | None) -> Inputs:
        """(B, clips, D)."""
        return (torch.stack([torch.from_numpy(clip_means(rows, self._clips)) for rows in whole(self._rows, videos)]),)


def whole(rows: VideoRows, videos: Tensor) -> list[np.ndarray]:
    """All rows (T, D) of each video."""
    given = rows.batch(videos, ALL_ROWS)
    values, lengths = given.values.cpu().numpy(), given.lengths.tolist()
    return [values[place, :length] for place, length in enumerate(lengths)]


class Sentences:
    """Ids of words."""

    def __init__(self, captions: Sequence[Sequence[str]], words: Sequence[str]) -> None:
        vocabulary = Vocabulary((PADDING,), tuple(words), unknown=PADDING)
        self._tokens = TokenTable([vocabulary.ids(caption or [PADDING]) for caption in captions], padding=0)

    def batch(self, captions: Tensor) -> Inputs:
        return self._tokens.batch(captions)


class Truths:
    """When moments are, in seconds, and how long their videos."""

    def __init__(self, split: MomentSplit) -> None:
        self._split = split

    def batch(self, videos: Tensor, captions: Tensor) -> Inputs:
        return self._split.spans[captions], self._split.durations[videos]


class GroundingTask(Task):
    """A system that answers a sentence about a video with moments of it."""

    protocol: ClassVar[str]
    strict: ClassVar[bool] = True
    """Whether an answer must overlap the moment by more than an IoU, or by as much."""
    answers_by_iou: ClassVar[bool] = False
    """Whether answers depend on the IoU that a recall is told for; else they are the same for all."""
    options: GroundingOptions
    embedding: nn.Embedding

    @classmethod
    def read_split(cls, folder: Path, name: str) -> Split:
        return read_moments(folder, name)

    @classmethod
    def prepare(cls, options: GroundingOptions, split: Split, folder: Path) -> Assets:
        """With published vectors, words of all splits are taken, since nothing is learnt of them."""
        texts = list(split.texts)
        if options.word_vectors:
            texts += moment_texts(folder)
        words = count_words(texts, options.words, options.min_count)
        if options.word_vectors:
            known = read_vectors(Path(options.word_vectors), words, options.word_dim)
            words = tuple(word for word in words if word in known)
            if not words:
                raise TrainError(f"word vectors {options.word_vectors}: has none of the words of {folder}")
        return {"words": words}

    def embed_words(self) -> nn.Embedding:
        """Vectors of the words of the assets; the first row is zeros."""
        embedding = nn.Embedding(1 + len(self.assets["words"]), self.options.word_dim, padding_idx=0)
        embedding.weight.requires_grad_(not self.options.word_vectors)
        return embedding

    def start(self) -> None:
        if self.options.word_vectors:
            take_vectors(self.embedding, self.assets["words"], Path(self.options.word_vectors), first=1)

    def read_texts(self, texts: Sequence[str], folder: Path | None) -> Texts:
        return Sentences([self.options.words(text) for text in texts], self.assets["words"])

    def known_words(self, text: str) -> dict[str, bool]:
        known = frozenset(self.assets["words"])
        return {word: word in known for word in self.options.words(text)}

    def read_labels(self, split: Split, folder: Path) -> Labels:
        assert isinstance(split, MomentSplit)
        return Truths(split)

    @abstractmethod
    def answer(self, video: Embedding, text: Embedding, durations: Tensor, iou: float) -> Tensor:
        """Ranked moments (B, K, 2), in seconds, for sentences about videos; rows of -1 where there are fewer.

        `iou` is what a recall is told for, on which DRN's suppression depends.
        """

    @torch.no_grad()
    def measure(self, gallery: Gallery) -> GroundingMetrics:
        """Recalls of a split; sentences about one video follow each other, so that it is encoded once or twice."""
        split = gallery.split
        assert isinstance(split, MomentSplit)
        order, ious = split.video_of.argsort(stable=True), self.options.ious
        ranked: dict[float, list[Tensor]] = {iou: [] for iou in (ious if self.answers_by_iou else ious[:1])}
        with evaluating(self):  # answers are of the whole system, not of encoders alone
            for captions in order.split(AT_ONCE):
                videos, place = split.video_of[captions].unique(return_inverse=True)
                seen = encode_videos(self, gallery.videos, videos, split.videos)
                told = encode_texts(self, gallery.texts, captions, split.texts)
                durations = split.durations[split.video_of[captions]].to(seen[0].device)
                for iou, found in ranked.items():
                    found.append(self.answer(tuple(each[place] for each in seen), told, durations, iou).cpu())
        answers = {iou: torch.cat(found) for iou, found in ranked.items()}
        predictions = {iou: answers.get(iou, answers[ious[0]]) for iou in ious}
        return summarise(self.protocol, len(split.videos), predictions, split.windows[order], self.strict)
