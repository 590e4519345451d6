"""Concepts of videos and captions as labels: the words that a video or a caption is about.

Two systems learn to tell them: Dual Encoding's hybrid space (Dong et al., TPAMI 2021; util/get_concept_tags.py of
danieljf24/hybrid_space) and HANet (Wu et al., ACM MM 2021; Roc-Ng/HANet). Both took parts of speech and lemmas from
NLTK, here they come from `train.text.tagging`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import torch
from torch import Tensor

from train.text.stop_words import STOP_WORDS
from train.text.tagging import Word

HYBRID_SIZE, VERB_SIZE, NOUN_SIZE = 512, 512, 1024  # concepts of the hybrid space; verbs and nouns of HANet

Keep = Callable[[Word], bool]


def is_content(word: Word) -> bool:
    """Whether a word can be a concept of the hybrid space: adjective, verb or noun, and no stop word."""
    return word.pos in ("ADJ", "VERB", "NOUN") and _counts(word)


def is_verb(word: Word) -> bool:
    """Whether a word can be a verb concept of HANet."""
    return word.pos == "VERB" and _counts(word)


def is_noun(word: Word) -> bool:
    """Whether a word can be a noun concept of HANet."""
    return word.pos == "NOUN" and _counts(word)


def _counts(word: Word) -> bool:
    return word.lemma not in STOP_WORDS and any(map(str.isalnum, word.lemma))


def most_frequent(counts: Iterable[tuple[str, int]], size: int) -> tuple[str, ...]:
    """The `size` lemmas with the highest sums of counts, in that order; of equals the first in the alphabet."""
    sums: Counter[str] = Counter()
    for lemma, count in counts:
        sums[lemma] += count
    return tuple(lemma for lemma, _ in sorted(sums.items(), key=lambda item: (-item[1], item[0]))[:size])


def frequent_lemmas(captions: Iterable[Sequence[Word]], keep: Keep, size: int) -> tuple[str, ...]:
    """HANet's vocabulary: the `size` lemmas met most often in tagged captions, among words that `keep` accepts."""
    return most_frequent(((word.lemma, 1) for caption in captions for word in caption if keep(word)), size)


def video_lemmas(
    captions: Sequence[Sequence[Word]], video_of: Tensor, videos: int, above: int = 1
) -> list[dict[str, int]]:
    """How often each content lemma occurs in the captions of each of `videos`, if more than `above` times.

    `video_of` (captions,) says which video each caption is of. The hybrid space has `above` 1, and 0 for TGIF, whose
    videos have one caption.
    """
    counts: list[Counter[str]] = [Counter() for _ in range(videos)]
    for caption, video in zip(captions, video_of.tolist(), strict=True):
        counts[video].update(word.lemma for word in caption if is_content(word))
    return [{lemma: count for lemma, count in one.items() if count > above} for one in counts]


def hybrid_vocabulary(videos: Iterable[dict[str, int]], size: int = HYBRID_SIZE) -> tuple[str, ...]:
    """The hybrid space's concepts: the lemmas with the most counts in `video_lemmas`."""
    return most_frequent(chain.from_iterable(one.items() for one in videos), size)


class VideoConcepts:
    """Soft labels of videos for the hybrid space: a concept's count over the count of the video's most frequent lemma.

    That lemma need not be a concept. A video without concepts has zeros.
    """

    def __init__(self, videos: Sequence[dict[str, int]], vocabulary: Sequence[str]) -> None:
        ids = {lemma: number for number, lemma in enumerate(vocabulary)}
        self._size = len(ids)
        self._ids = IdLists([[ids[lemma] for lemma in one if lemma in ids] for one in videos])
        shares = [count / max(one.values()) for one in videos for lemma, count in one.items() if lemma in ids]
        self._shares = torch.tensor(shares, dtype=torch.float32)

    def batch(self, videos: Tensor) -> Tensor:
        """Labels of videos (B,): (B, concepts) float32 from 0 to 1."""
        rows, places = self._ids.of(videos)
        labels = torch.zeros(len(videos), self._size)
        labels[rows, self._ids.values[places]] = self._shares[places]
        return labels


class CaptionConcepts:
    """HANet's labels: which concepts a caption has, and which count for it.

    A concept that only other captions of the same video have is left out: it is in the video, though not in the
    caption.
    """

    def __init__(
        self, captions: Sequence[Sequence[Word]], video_of: Tensor, keep: Keep, vocabulary: Sequence[str]
    ) -> None:
        ids = {lemma: number for number, lemma in enumerate(vocabulary)}
        self._size = len(ids)
        self._video_of = video_of
        own = [
            sorted({ids[word.lemma] for word in caption if keep(word) and word.lemma in ids}) for caption in captions
        ]
        of_video: list[set[int]] = [set() for _ in range(int(video_of.max()) + 1 if len(video_of) else 0)]
        for concepts, video in zip(own, video_of.tolist(), strict=True):
            of_video[video].update(concepts)
        self._own, self._of_video = IdLists(own), IdLists([sorted(concepts) for concepts in of_video])

    def batch(self, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Labels and mask of captions (B,), each (B, concepts) float32: 1 where it has one, 1 where that counts."""
        labels = self._own.dense(captions, self._size)
        of_video = self._of_video.dense(self._video_of[captions], self._size)
        return labels, 1 - of_video + labels


class IdLists:
    """Many short lists of numbers, one after the other."""

    def __init__(self, lists: Sequence[Sequence[int]]) -> None:
        self._lengths = torch.tensor([len(one) for one in lists], dtype=torch.int64)
        self._starts = self._lengths.cumsum(0) - self._lengths
        self.values = torch.tensor(list(chain.from_iterable(lists)), dtype=torch.int64)

    def of(self, lists: Tensor) -> tuple[Tensor, Tensor]:
        """For each number in lists (B,): the row of its list in the batch, and its place in `values`."""
        lengths = self._lengths[lists]
        rows = torch.arange(len(lists)).repeat_interleave(lengths)
        within = torch.arange(len(rows)) - (lengths.cumsum(0) - lengths)[rows]
        return rows, self._starts[lists][rows] + within

    def dense(self, lists: Tensor, size: int) -> Tensor:
        """(B, size) float32, 1 at the numbers of each list."""
        rows, places = self.of(lists)
        marks = torch.zeros(len(lists), size)
        marks[rows, self.values[places]] = 1
        return marks
