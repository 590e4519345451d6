"""Vectors of words: from files of both kinds, and hashed."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extractors import ExpertError
from extractors.words import HASHED_DIM, FileVectors, HashedVectors, find_word_vectors

WORDS = {"dog": [0.5, -1.0, 2.0], "frisbee": [1.0, 0.0, 0.25], "Paris": [0.0, 3.0, 0.0], "größe": [1.0, 1.0, 1.0]}


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "cache"))


def glove(path: Path) -> Path:
    path.write_text("".join(f"{word} {' '.join(map(str, vector))}\n" for word, vector in WORDS.items()), "utf-8")
    return path


def word2vec_text(path: Path) -> Path:
    body = glove(path).read_text("utf-8")
    path.write_text(f"{len(WORDS)} 3\n{body}", "utf-8")
    return path


def word2vec_binary(path: Path) -> Path:
    rows = (word.encode() + b" " + struct.pack("<3f", *vector) + b"\n" for word, vector in WORDS.items())
    path.write_bytes(f"{len(WORDS)} 3\n".encode() + b"".join(rows))
    return path


@pytest.mark.parametrize(
    ("write", "name"),
    [(glove, "glove.3d.txt"), (word2vec_text, "w.vec"), (word2vec_text, "w.txt"), (word2vec_binary, "w.bin")],
)
def test_a_file_gives_its_vectors(tmp_path: Path, write: object, name: str) -> None:
    vectors = find_word_vectors(str(write(tmp_path / name)))  # type: ignore[operator]
    assert vectors.dim == 3
    for word, vector in WORDS.items():
        assert vectors.embed(word).tolist() == vector
    assert vectors.embed("PARIS").tolist() == WORDS["Paris"] and vectors.embed("Dog").tolist() == WORDS["dog"]
    assert vectors.embed("unheard-of").tolist() == [0, 0, 0]
    provenance = vectors.provenance()
    assert (provenance["vectors"], provenance["dim"], len(provenance["sha256"])) == ("file", 3, 64)


def test_the_same_vectors_under_another_name_are_the_same(tmp_path: Path) -> None:
    one, other = FileVectors(glove(tmp_path / "a.txt")), FileVectors(glove(tmp_path / "b.txt"))
    assert one.provenance() == other.provenance()


def test_what_is_shouted_has_the_vector_of_the_usual_form(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("HELLO 1 1\nhello 2 2\nNASA 3 3\n")
    vectors = FileVectors(tmp_path / "w.txt")
    assert vectors.embed("HELLO").tolist() == [2, 2] and vectors.embed("NASA").tolist() == [3, 3]


def test_words_with_strange_letters_keep_their_places(tmp_path: Path) -> None:
    words = ["a", "b\rc", "d\u2028e", "dog"]
    rows = (word.encode() + b" " + struct.pack("<2f", number, 1) for number, word in enumerate(words))
    (tmp_path / "w.bin").write_bytes(b"4 2\n" + b"\n".join(rows) + b"\n")
    assert [FileVectors(tmp_path / "w.bin").embed(word)[0] for word in words] == [0, 1, 2, 3]


def test_a_file_is_read_once_and_then_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = word2vec_text(tmp_path / "w.txt")
    FileVectors(file)
    monkeypatch.setattr("extractors.words._convert", None)
    again = FileVectors(file)
    assert isinstance(again._vectors.vectors, np.memmap)
    assert again.embed("dog").tolist() == WORDS["dog"]


@pytest.mark.parametrize(
    "content",
    [b"", b"dog 1 2\ncat 1 2 3\n", b"\x80\x04\x95cposix\nsystem", b"3 3\ndog 1 2 3\n", b"dog 1 nan\n", b"dog x y\n"],
)
def test_a_file_that_holds_none_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "vectors.txt"
    file.write_bytes(content)
    with pytest.raises(ExpertError, match=r"vectors\.txt"):
        FileVectors(file)
    with pytest.raises(ExpertError, match=r"absent\.txt: No such file"):
        FileVectors(tmp_path / "absent.txt")


def test_hashed_vectors_are_near_for_words_spelt_alike() -> None:
    hashed = HashedVectors()
    frisbee, frisbees, dog = (hashed.embed(word) for word in ("frisbee", "frisbees", "dog"))
    assert frisbee @ frisbees > 0.6 and abs(frisbee @ dog) < 0.2
    np.testing.assert_array_equal(hashed.embed("EXIT"), hashed.embed("exit"))


def test_hashed_vectors_are_the_same_in_every_process() -> None:
    make = "HashedVectors().embed('exit').tolist()"
    code = f"import json; from extractors.words import HashedVectors; print(json.dumps({make}))"
    root = Path(__file__).parents[2]
    other = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True, text=True).stdout
    assert json.loads(other) == HashedVectors().embed("exit").tolist()


@given(st.text())
def test_any_text_has_a_hashed_vector_of_length_one(text: str) -> None:
    vector = HashedVectors().embed(text)
    assert vector.shape == (HASHED_DIM,) and vector.dtype == np.float32
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
