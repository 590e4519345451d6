"""Words as numbers, against plain loops."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from train.text.vocabulary import TokenTable, Vocabulary, alphanumeric_words, bags, count_words, lower_words

WORDS = st.sampled_from(["the", "a", "dog", "cat", "runs", "sleeps", "zebra"])
SENTENCES = st.lists(st.lists(WORDS, max_size=8), max_size=8)


@pytest.mark.parametrize(
    ("text", "alphanumeric", "lower"),
    [
        ("A man's DOG runs.", ["a", "man", "s", "dog", "runs"], ["a", "man's", "dog", "runs"]),
        ("  two-wheeled\tbike (red)!", ["two", "wheeled", "bike", "red"], ["two-wheeled", "bike", "red"]),
        ("café 7", ["caf", "7"], ["café", "7"]),
        ('"..." ?', [], []),
    ],
)
def test_texts_are_split_as_the_systems_do(text: str, alphanumeric: list[str], lower: list[str]) -> None:
    assert alphanumeric_words(text) == alphanumeric
    assert lower_words(text) == lower


@given(SENTENCES, st.integers(1, 4))
def test_frequent_words_come_first_and_rare_ones_not_at_all(sentences: list[list[str]], at_least: int) -> None:
    counts = Counter(word for sentence in sentences for word in sentence)
    words = count_words([" ".join(sentence) for sentence in sentences], str.split, at_least)
    assert set(words) == {word for word, count in counts.items() if count >= at_least}
    assert list(words) == sorted(words, key=lambda word: (-counts[word], word))


def test_unknown_words_have_the_id_of_unknown() -> None:
    vocabulary = Vocabulary(("<pad>", "<unk>"), ("dog", "cat"), unknown="<unk>")
    assert vocabulary.ids(["cat", "zebra", "dog", "<pad>"]) == [3, 1, 2, 0]
    assert len(vocabulary) == 4


@given(st.lists(st.lists(st.integers(0, 8), max_size=7), min_size=1, max_size=9), st.data())
def test_batches_and_bags_are_those_of_plain_loops(captions: list[list[int]], data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(captions) - 1), min_size=1, max_size=6))
    table = TokenTable(captions, padding=0)
    assert len(table) == len(captions)
    tokens, lengths = table.batch(torch.tensor(chosen))
    assert lengths.tolist() == [len(captions[each]) for each in chosen]
    width = max(1, *(len(captions[each]) for each in chosen), 1)
    assert tokens.tolist() == [captions[each] + [0] * (width - len(captions[each])) for each in chosen]
    expected = [[captions[each].count(word) for word in range(3, 9)] for each in chosen]
    assert bags(tokens, lengths, specials=3, words=6).tolist() == expected
