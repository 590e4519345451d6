"""Parts of speech and lemmas of captions."""

from __future__ import annotations

import gzip
import io
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.text import tagging
from train.text.tagging import Word, tag


def lemmas(caption: str, part: str) -> list[str]:
    return [word.lemma for word in tag(caption.split()) if word.pos == part]


@pytest.mark.parametrize(
    ("caption", "verbs", "nouns"),
    [
        ("a dog jumps over the fence", ["jump"], ["dog", "fence"]),
        ("a girl talks about photos and her life", ["talk"], ["girl", "photo", "life"]),
        ("a boy playing flute", ["play"], ["boy", "flute"]),
        ("a man is dicing up potatoes", ["dice"], ["man", "potato"]),
        ("two men box in a ring", ["box"], ["man", "ring"]),
        ("a group of athletes race around a track", ["race"], ["group", "athlete", "track"]),
        ("a man fires a gun at a target", ["fire"], ["man", "gun", "target"]),
        ("playing a guitar and singing", ["play", "sing"], ["guitar"]),
        ("the veterinarian fed the pandas their bottles", ["feed"], ["veterinarian", "panda", "bottle"]),
        ("there is a sumo wrestling match", [], ["sumo", "wrestling", "match"]),
    ],
)
def test_verbs_and_nouns_of_captions_are_told_apart_with_their_lemmas(
    caption: str, verbs: list[str], nouns: list[str]
) -> None:
    assert lemmas(caption, "VERB") == verbs
    assert lemmas(caption, "NOUN") == nouns


def test_helping_verbs_are_not_verbs_of_their_own() -> None:
    assert lemmas("a man has been cooking and will eat", "AUX") == ["have", "be", "will"]
    assert lemmas("a man has a dog", "VERB") == ["have"]


def test_a_contraction_is_tagged_as_its_verb() -> None:
    assert [word.pos for word in tag(["he's", "dicing", "onions"])] == ["AUX", "VERB", "NOUN"]


def test_case_and_punctuation_do_not_matter() -> None:
    plain, written = (
        tag(["a", "dog", "jumps", "over", "the", "fence"]),
        tag(["A", '"dog"', "Jumps,", "over", "the", "FENCE", "."]),
    )
    assert [word[1:] for word in written[:6]] == [word[1:] for word in plain]
    assert written[6] == Word(".", ".", "PUN", "PUNCT")


@settings(max_examples=60)
@given(
    st.lists(
        st.text(max_size=12)
        | st.sampled_from(["a", "man's", "is", "dicing", "and", "'s", "n't", "to", "the", "-", "running"])
    )
)
def test_any_words_get_one_tag_each(words: list[str]) -> None:
    tagged = tag(words)
    assert [word.text for word in tagged] == words
    assert {word.pos for word in tagged} <= set(tagging._UNIVERSAL.values())
    assert all(word.lemma for word in tagged if word.text)


def test_a_word_of_a_million_letters_is_a_word() -> None:
    assert tag(["a" * 10**6])[0].lemma == "a" * 10**6


def test_a_model_that_would_run_code_is_refused() -> None:
    packed = gzip.compress(pickle.dumps(print))
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.print"):
        tagging._NumbersOnly(io.BytesIO(gzip.decompress(packed))).load()
