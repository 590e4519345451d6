"""Published word vectors for the words of a vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from feature_store import StoreError
from feature_store.foreign.bigfile import open_matrix
from train import TrainError


def read_vectors(path: Path, words: Sequence[str], dim: int) -> dict[str, np.ndarray]:
    """The vectors (dim,) float32 of those of `words` that a file or folder has.

    Reads word2vec (.bin, or text with a header), GloVe (text without one), and BigFile folders (feature.bin, id.txt,
    shape.txt). Raises TrainError if it cannot be read, for text naming the line, and for vectors of another length.
    """
    if not path.exists():
        raise TrainError(
            f"word vectors {path}: no such file or folder; name another with --set model.word_vectors=PATH"
        )
    if path.is_dir():
        vectors = _of_bigfile(path, set(words))
    else:
        vectors = _of_binary(path, words) if path.suffix == ".bin" else dict(_of_text(path, set(words)))
    for word, vector in vectors.items():
        if len(vector) != dim:
            raise TrainError(
                f"word vectors {path}: have {len(vector)} numbers, not {dim}: --set model.word_dim={len(vector)}"
            )
        if not np.isfinite(vector).all():
            raise TrainError(f"word vectors {path}: that of {word!r} is not finite")
    return vectors


def take_vectors(embedding: nn.Embedding, words: Sequence[str], path: Path, first: int = 0) -> None:
    """Give the rows of `words`, from row `first` on, their published vectors, where there are. Raises as above."""
    vectors = read_vectors(path, words, embedding.embedding_dim)
    with torch.no_grad():
        for row, word in enumerate(words, first):
            if word in vectors:
                embedding.weight[row] = torch.from_numpy(vectors[word])


def _of_bigfile(folder: Path, words: set[str]) -> dict[str, np.ndarray]:
    try:
        matrix, ids = open_matrix(folder)
    except StoreError as error:
        raise TrainError(f"word vectors: {error}") from None
    return {word: np.array(matrix[row], np.float32) for row, word in enumerate(ids) if word in words}


def _of_binary(path: Path, words: Sequence[str]) -> dict[str, np.ndarray]:
    from gensim.models import KeyedVectors  # takes a second to import

    try:
        vectors = KeyedVectors.load_word2vec_format(str(path), binary=True, unicode_errors="replace")
    except Exception as error:  # gensim raises whatever a wrong file sets off
        raise TrainError(f"word vectors {path}: not word2vec's .bin ({type(error).__name__}: {error})") from error
    return {word: np.array(vectors[word], np.float32) for word in words if word in vectors.key_to_index}


def _of_text(path: Path, words: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    """A line a word, so that the size of the file does not matter."""
    dim = 0
    with open(path, encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip().split(" ")
            if number == 1 and len(fields) == 2:
                continue  # word2vec's header
            dim = dim or len(fields) - 1
            if not 0 < dim < len(fields):
                raise TrainError(f"word vectors {path}:{number}: not a word and {dim or 'its'} numbers")
            word = " ".join(fields[:-dim])  # GloVe has words of several parts
            if word in words:
                try:
                    yield word, np.array(fields[-dim:], np.float32)
                except ValueError:
                    raise TrainError(f"word vectors {path}:{number}: not a word and {dim} numbers") from None
    if not dim:
        raise TrainError(f"word vectors {path}: is empty")
