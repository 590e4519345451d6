"""Published word vectors in each of their formats, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors

from train import TrainError
from train.text.word_vectors import read_vectors

WORDS = ["dog", "cat", "the"]
MATRIX = np.array([[1, 2, 3], [-0.5, 0.25, 8], [0, 0, 1]], np.float32)


def lines() -> list[str]:
    return [f"{word} {' '.join(map(str, row))}" for word, row in zip(WORDS, MATRIX.tolist(), strict=True)]


def write(folder: Path, kind: str) -> Path:
    path = folder / {"word2vec.bin": "v.bin", "bigfile": "v"}.get(kind, "v.txt")
    if kind == "glove":
        path.write_text("\n".join(lines()) + "\n")
    elif kind == "bigfile":
        path.mkdir()
        MATRIX.tofile(path / "feature.bin")
        (path / "id.txt").write_text(" ".join(WORDS))
        (path / "shape.txt").write_text("3 3")
    else:
        vectors = KeyedVectors(3)
        vectors.add_vectors(WORDS, MATRIX)
        vectors.save_word2vec_format(str(path), binary=kind == "word2vec.bin")
    return path


@pytest.mark.parametrize("kind", ["glove", "word2vec.txt", "word2vec.bin", "bigfile"])
def test_vectors_of_the_words_that_are_there_are_read(tmp_path: Path, kind: str) -> None:
    vectors = read_vectors(write(tmp_path, kind), ["cat", "zebra", "dog"], 3)
    assert vectors.keys() == {"cat", "dog"}
    np.testing.assert_array_equal(vectors["cat"], MATRIX[1])
    np.testing.assert_array_equal(vectors["dog"], MATRIX[0])
    assert vectors["dog"].dtype == np.float32


@pytest.mark.parametrize("kind", ["glove", "word2vec.txt", "word2vec.bin", "bigfile"])
def test_vectors_of_another_length_are_told(tmp_path: Path, kind: str) -> None:
    with pytest.raises(TrainError, match=r"have 3 numbers, not 300: --set model\.word_dim=3"):
        read_vectors(write(tmp_path, kind), WORDS, 300)


def test_words_of_several_parts_are_read(tmp_path: Path) -> None:
    path = tmp_path / "v.txt"
    path.write_text("\n".join([*lines(), ". . 1 2 3"]))
    assert read_vectors(path, [". .", "dog"], 3).keys() == {". .", "dog"}


@pytest.mark.parametrize(("line", "text"), [(2, "cat 1 2"), (2, "cat"), (3, "the 1 two 3"), (1, "dog")])
def test_a_damaged_line_is_told_by_number(tmp_path: Path, line: int, text: str) -> None:
    path, damaged = tmp_path / "v.txt", lines()
    damaged[line - 1] = text
    path.write_text("\n".join(damaged))
    with pytest.raises(TrainError, match=rf"v\.txt:{line}: "):
        read_vectors(path, WORDS, 3)


def test_what_are_no_vectors_is_told(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="no such file or folder"):
        read_vectors(tmp_path / "none", WORDS, 3)
    (tmp_path / "v.txt").write_text("")
    with pytest.raises(TrainError, match="is empty"):
        read_vectors(tmp_path / "v.txt", WORDS, 3)
    (tmp_path / "nan.txt").write_text("dog 1 nan 3\n")
    with pytest.raises(TrainError, match="'dog' is not finite"):
        read_vectors(tmp_path / "nan.txt", WORDS, 3)
    path = write(tmp_path, "word2vec.bin")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(TrainError, match=r"not word2vec's \.bin"):
        read_vectors(path, WORDS, 3)
    folder = write(tmp_path, "bigfile")
    (folder / "feature.bin").write_bytes(b"123")
    with pytest.raises(TrainError, match="word vectors"):
        read_vectors(folder, WORDS, 3)
