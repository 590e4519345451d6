"""Vectors of words, for what is read and heard: from a word2vec or GloVe file, or hashed where there is none."""

from __future__ import annotations

import hashlib
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from filelock import FileLock

from extractors.download import LOCK_MODE, file_digest
from extractors.spec import ExpertError
from extractors.weights import cache_folder

if TYPE_CHECKING:
    from gensim.models import KeyedVectors  # imported where it is needed, since it takes a second

HASHED_DIM = 300
GRAMS = (3, 4, 5)  # characters
BINARY = (".bin",)
WORDS = "words.json"  # beside the vectors in the cache
HEAD = 1 << 16  # bytes: longer than any line of a text file


class WordVectors(Protocol):
    """Gives a word its vector."""

    dim: int

    def provenance(self) -> dict[str, Any]:
        """What decides the vectors, as plain data."""

    def embed(self, word: str) -> np.ndarray:
        """(dim,) float32; zeros for a word that has none."""


def find_word_vectors(file: str) -> WordVectors:
    """The vectors of a file, or the hashed ones for "". Raises ExpertError if it cannot be used."""
    return FileVectors(Path(file)) if file else HashedVectors()


class HashedVectors:
    """Vectors made of a word's spelling: the mean over its character n-grams of what a hash makes of each.

    Words spelt alike are near each other, as in fastText (Bojanowski et al., TACL 2017), but nothing is known
    of what they mean. They need no file, and keep texts apart until there is one.
    """

    dim = HASHED_DIM

    def provenance(self) -> dict[str, Any]:
        return {"vectors": "hashed character n-grams", "grams": list(GRAMS), "dim": self.dim}

    def embed(self, word: str) -> np.ndarray:
        return _hashed(word.casefold()).copy()


@lru_cache(4096)
def _hashed(word: str) -> np.ndarray:
    marked = f"<{word}>"
    grams = {marked[at : at + size] for size in GRAMS for at in range(len(marked) - size + 1)} | {marked}
    digests = (hashlib.shake_256(gram.encode("utf-8", "surrogatepass")).digest(HASHED_DIM) for gram in sorted(grams))
    vector = np.sum([np.frombuffer(digest, np.uint8) - 127.5 for digest in digests], axis=0)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


class FileVectors:
    """gensim's KeyedVectors of a file, mapped into memory.

    Reading a large file takes minutes, so what was read is kept in the cache, by the file's digest: the numbers
    as .npy, and the words as JSON. Files are word2vec's .bin, its text form (.txt, .vec) or GloVe's.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        try:
            size, changed = file.stat().st_size, file.stat().st_mtime_ns
            self._digest = _digest(str(file.absolute()), size, changed)
        except OSError as error:
            raise ExpertError(f"word vectors {file}: {error.strerror}") from None
        folder = cache_folder().parent / "words" / self._digest
        if not (folder / WORDS).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / "lock", mode=LOCK_MODE):
                if not (folder / WORDS).exists():
                    _convert(file, folder)
        self._vectors = _open(folder)
        self.dim = int(self._vectors.vector_size)

    def provenance(self) -> dict[str, Any]:
        return {"vectors": "file", "sha256": self._digest, "dim": self.dim}

    def embed(self, word: str) -> np.ndarray:
        # Of what is shouted on a sign, or said by a recogniser that knows capitals only, the usual form is meant.
        forms = (word.lower(), word) if word.isupper() else (word, word.lower())
        for form in (*forms, word.capitalize(), word.upper()):
            if form in self._vectors.key_to_index:
                return self._vectors[form].astype(np.float32)
        return np.zeros(self.dim, np.float32)


@lru_cache(8)
def _digest(file: str, size: int, changed: int) -> str:
    return file_digest(Path(file))


def _convert(file: Path, folder: Path) -> None:
    """Read a published file with gensim, and keep it in a form that can be mapped."""
    from gensim.models import KeyedVectors

    binary = file.suffix in BINARY
    try:
        vectors = KeyedVectors.load_word2vec_format(
            str(file), binary=binary, no_header=not binary and not _has_header(file), unicode_errors="replace"
        )
    except Exception as error:  # gensim raises whatever a wrong file sets off
        raise ExpertError(
            f"word vectors {file}: neither word2vec (.bin, or text) nor GloVe text ({type(error).__name__}: {error})"
        ) from error
    if not vectors.vectors.size or not np.isfinite(vectors.vectors).all():
        raise ExpertError(f"word vectors {file}: holds no vectors, or numbers that are not finite")
    np.save(folder / "vectors.npy", vectors.vectors.astype(np.float32))
    part = folder / "words.part"
    part.write_text(json.dumps(vectors.index_to_key), encoding="utf-8")
    os.replace(part, folder / WORDS)  # last: it says that all is there


def _has_header(file: Path) -> bool:
    """Whether a text file begins with how many words and dimensions it has; GloVe's do not."""
    with open(file, "rb") as opened:
        fields = opened.readline(HEAD).split()
    return len(fields) == 2 and all(field.isdigit() for field in fields)


@lru_cache(2)
def _open(folder: Path) -> KeyedVectors:
    from gensim.models import KeyedVectors

    numbers = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    vectors = KeyedVectors(numbers.shape[1])
    vectors.index_to_key = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    vectors.key_to_index = {word: row for row, word in enumerate(vectors.index_to_key)}
    vectors.vectors = numbers
    return vectors
