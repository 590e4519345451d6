"""Concepts as labels of videos and captions."""

from __future__ import annotations

from collections import Counter

import torch
from hypothesis import given
from hypothesis import strategies as st

from train.text.concepts import (
    CaptionConcepts,
    VideoConcepts,
    frequent_lemmas,
    hybrid_vocabulary,
    is_content,
    is_noun,
    is_verb,
    video_lemmas,
)
from train.text.tagging import Word, tag


def word(lemma: str, part: str = "NOUN") -> Word:
    return Word(lemma, lemma, "NN1", part)


def test_concepts_are_adjectives_verbs_and_nouns_that_are_no_stop_words() -> None:
    tagged = tag(
        ["A", "small", "dog", "is", "quickly", "running", "with", "other", "dogs", ",", "and", "I", "have", "fun", "."]
    )
    assert [each.lemma for each in tagged if is_content(each)] == ["small", "dog", "run", "dog", "fun"]
    assert [each.lemma for each in tagged if is_verb(each)] == ["run"]
    assert [each.lemma for each in tagged if is_noun(each)] == ["dog", "dog", "fun"]


def test_a_vocabulary_is_ordered_by_count_then_by_the_alphabet_and_cut() -> None:
    captions = [[word("dog"), word("cat")], [word("dog"), word("ant"), word("run", "VERB")]]
    assert frequent_lemmas(captions, is_noun, 2) == ("dog", "ant")
    assert frequent_lemmas(captions, is_noun, 9) == ("dog", "ant", "cat")
    assert frequent_lemmas(captions, is_verb, 9) == ("run",)


def test_soft_labels_are_counts_over_the_highest_count_of_the_video() -> None:
    captions = [[word("dog"), word("dog"), word("cat")], [word("dog"), word("dog"), word("cat"), word("ant")], []]
    videos = video_lemmas(captions, torch.tensor([1, 1, 2]), videos=3)
    assert videos == [{}, {"dog": 4, "cat": 2}, {}]
    labels = VideoConcepts(videos, ["cat", "ant", "dog"]).batch(torch.tensor([1, 0]))
    assert labels.tolist() == [[0.5, 0, 1], [0, 0, 0]]


def test_the_highest_count_need_not_be_a_concepts() -> None:
    labels = VideoConcepts([{"dog": 4, "cat": 2}], ["cat"]).batch(torch.tensor([0]))
    assert labels.tolist() == [[0.5]]


def test_words_that_a_video_has_once_count_only_where_the_threshold_is_lowered() -> None:
    captions, video_of = [[word("dog"), word("cat"), word("cat")]], torch.tensor([0])
    assert hybrid_vocabulary(video_lemmas(captions, video_of, 1)) == ("cat",)
    assert hybrid_vocabulary(video_lemmas(captions, video_of, 1, above=0)) == ("cat", "dog")


def test_concepts_of_other_captions_of_the_video_do_not_count() -> None:
    captions = [[word("dog"), word("dog")], [word("cat")], [word("ant")]]
    concepts = CaptionConcepts(captions, torch.tensor([0, 0, 1]), is_noun, ("dog", "cat", "ant", "bee"))
    labels, mask = concepts.batch(torch.tensor([2, 0]))
    assert labels.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
    assert mask.tolist() == [[1, 1, 1, 1], [1, 0, 1, 1]]


CAPTIONS = st.lists(
    st.tuples(st.lists(st.sampled_from("abcdefgh"), max_size=6), st.integers(0, 3)), min_size=1, max_size=12
)


@given(CAPTIONS, st.data())
def test_batches_say_what_counting_says(rows: list[tuple[list[str], int]], data: st.DataObject) -> None:
    captions = [[word(f"word{letter}") for letter in letters] for letters, _ in rows]
    video_of = torch.tensor([video for _, video in rows])
    vocabulary = frequent_lemmas(captions, is_noun, 5)
    picked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=5))
    labels, mask = CaptionConcepts(captions, video_of, is_noun, vocabulary).batch(
        torch.tensor(picked, dtype=torch.long)
    )
    for row, caption in enumerate(picked):
        own = {each.lemma for each in captions[caption]}
        siblings = {each.lemma for other, (_, video) in zip(captions, rows, strict=True) for each in other
                    if video == rows[caption][1]}  # fmt: skip
        assert labels[row].tolist() == [lemma in own for lemma in vocabulary]
        assert mask[row].tolist() == [lemma in own or lemma not in siblings for lemma in vocabulary]
    videos = video_lemmas(captions, video_of, 4, above=0)
    soft = VideoConcepts(videos, vocabulary).batch(torch.arange(4))
    for video in range(4):
        counts = Counter(each.lemma for one, (_, of) in zip(captions, rows, strict=True) if of == video for each in one)
        top = max(counts.values(), default=1)
        torch.testing.assert_close(soft[video], torch.tensor([counts[lemma] / top for lemma in vocabulary]))
