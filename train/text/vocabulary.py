"""Words of captions as numbers: vocabularies, ragged token ids, bags of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor

Split = Callable[[str], list[str]]


def alphanumeric_words(text: str) -> list[str]:
    """Runs of ASCII letters and digits in lower case, as Dual Encoding splits."""
    return re.sub("[^A-Za-z0-9]", " ", text).lower().split()


def lower_words(text: str) -> list[str]:
    """What stands between spaces, in lower case and without punctuation at its ends, as HANet's captions come."""
    return [word for word in (part.strip(".,;:!?\"'()[]") for part in text.lower().split()) if word]


@dataclass(frozen=True)
class Vocabulary:
    """Words and their ids: first `specials`, then `words`; a word that is not there has the id of `unknown`."""

    specials: tuple[str, ...]
    words: tuple[str, ...]
    unknown: str

    def __post_init__(self) -> None:
        ids = {word: number for number, word in enumerate((*self.specials, *self.words))}
        object.__setattr__(self, "_ids", ids)

    def __len__(self) -> int:
        return len(self.specials) + len(self.words)

    def ids(self, words: Iterable[str]) -> list[int]:
        known: dict[str, int] = self._ids  # type: ignore[attr-defined]
        unknown = known[self.unknown]
        return [known.get(word, unknown) for word in words]


def count_words(texts: Iterable[str], split: Split, at_least: int) -> tuple[str, ...]:
    """The words that occur at least so often, the most frequent first, then by the alphabet."""
    counts = Counter(chain.from_iterable(map(split, texts)))
    return tuple(
        word for word, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if count >= at_least
    )


class TokenTable:
    """Token ids of many captions, of which it makes padded batches."""

    def __init__(self, captions: Sequence[Sequence[int]], padding: int) -> None:
        self.lengths = torch.tensor([len(ids) for ids in captions], dtype=torch.int64)
        self._starts = self.lengths.cumsum(0) - self.lengths
        self._ids = torch.tensor([*chain.from_iterable(captions), padding], dtype=torch.int64)
        self._padding = padding

    def __len__(self) -> int:
        return len(self.lengths)

    def batch(self, captions: Tensor) -> tuple[Tensor, Tensor]:
        """Ids (B, T), padded to the longest, and lengths (B,)."""
        lengths = self.lengths[captions]
        steps = torch.arange(max(1, int(lengths.max())))
        index = (self._starts[captions][:, None] + steps).where(steps < lengths[:, None], len(self._ids) - 1)
        return self._ids[index], lengths


def bags(tokens: Tensor, lengths: Tensor, specials: int, words: int) -> Tensor:
    """How often each of the `words` ordinary words occurs in token ids (B, T): (B, words) float32."""
    counted = torch.zeros(len(tokens), specials + words)
    there = torch.arange(tokens.shape[1]) < lengths[:, None]
    counted.scatter_add_(1, tokens, there.float())
    return counted[:, specials:]
