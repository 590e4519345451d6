"""Parses that are made once and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from train import RecipeError, TrainError
from train.text import parses
from train.text.parses import BUILDERS, ParseError, parse_captions, tag_captions
from train.text.role_graphs import RoleGraph
from train.text.role_rules import build
from train.text.tagging import tag

CAPTIONS = [
    text.split() for text in ("a dog jumps over the fence", "a girl with a horse", "a dog jumps over the fence")
]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The captions that graphs were made of."""
    made: list[str] = []

    def watched(words: Sequence[str]) -> RoleGraph:
        made.append(" ".join(words))
        return build(words)

    monkeypatch.setitem(BUILDERS, "rules", replace(BUILDERS["rules"], parse=watched))
    return made


def test_graphs_are_made_once_and_kept_beside_the_annotations(tmp_path: Path, asked: list[str]) -> None:
    expected = [build(words) for words in CAPTIONS]
    assert parse_captions(CAPTIONS[:1], tmp_path) == expected[:1]
    assert parse_captions(CAPTIONS, tmp_path) == expected
    assert parse_captions(CAPTIONS, tmp_path) == expected
    assert asked == ["a dog jumps over the fence", "a girl with a horse"]
    assert [path.name for path in tmp_path.iterdir()] == ["role_graphs.rules.jsonl"]


def test_graphs_of_another_version_are_made_anew(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    parse_captions(CAPTIONS, tmp_path)
    monkeypatch.setitem(BUILDERS, "rules", replace(BUILDERS["rules"], version=lambda: "other"))
    parse_captions(CAPTIONS, tmp_path)
    assert len(asked) == 4


def test_tags_are_kept_as_they_were_made(tmp_path: Path) -> None:
    captions = [*CAPTIONS, [], ["Æsop's", '"dog"', "\ud800"]]
    expected = [tag(words) for words in captions]
    assert tag_captions(captions, tmp_path) == expected
    assert tag_captions(captions, tmp_path) == expected


def test_several_processes_make_what_one_makes(tmp_path: Path) -> None:
    captions = [["a", "dog", "jumps", "over", str(number)] for number in range(4)]
    assert parse_captions(captions, tmp_path, processes=2) == [build(words) for words in captions]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"caption": "a dog", "parse": [[["V", 1, 3]], []]}', "of a caption of 2"),
        ('{"caption": "a dog", "parse": [[["V", 0.5, 1]], []]}', "no whole number"),
        ('{"caption": "a dog", "parse": [[["W", 0, 1]], []]}', "role 'W'"),
        ('{"caption": "a dog", "parse": [[], [[0, 1, "ARG0"]]]}', "an edge goes"),
        ('{"caption": "a dog", "parse"', "damaged"),
        ('{"caption": "a dog"}', "'parse' is missing"),
        ('{"caption": 3, "parse": [[], []]}', "damaged"),
        ("[]", "damaged"),
        ("7", "damaged"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    parse_captions(CAPTIONS, tmp_path)
    path = tmp_path / "role_graphs.rules.jsonl"
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ParseError, match=reason) as caught:
        parse_captions(CAPTIONS, tmp_path)
    assert f"{path}:4" in str(caught.value)
    assert "Delete the file" in str(caught.value)


@pytest.mark.parametrize("header", ["", "{}", "[]", json.dumps({"format": "other", "version": "1"})])
def test_a_file_of_something_else_is_refused(tmp_path: Path, header: str) -> None:
    (tmp_path / "role_graphs.rules.jsonl").write_text(header)
    with pytest.raises(ParseError, match=r"role_graphs\.rules\.jsonl:1: is damaged"):
        parse_captions(CAPTIONS, tmp_path)


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_captions(CAPTIONS[:1], tmp_path)
    before = (tmp_path / "role_graphs.rules.jsonl").read_bytes()

    def fail(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(parses.os, "replace", fail)
    with pytest.raises(OSError, match="full"):
        parse_captions(CAPTIONS, tmp_path)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [before]


def test_builders_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="rules, spacy"):
        parse_captions(CAPTIONS, tmp_path, builder="allennlp")


def test_spacy_without_its_model_says_what_to_install(tmp_path: Path) -> None:
    try:
        import spacy

        spacy.load("en_core_web_sm")
    except (ImportError, OSError):
        with pytest.raises(TrainError, match=r"spacy.*or take the rules"):
            parse_captions(CAPTIONS, tmp_path, builder="spacy")
    else:
        pytest.skip("spaCy's model is installed")
