"""Files that authors of systems published, checkpoints and vocabularies, read without running what they carry.

A checkpoint holds objects of the authors' programs beside its parameters, and some vocabularies are objects. Here
such an object is a `Record`: what it knows, nothing that it does. Whatever else a file asks for is refused.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train import TrainError
from train.tasks.dual_encoding import SPECIALS

Words = Mapping[str, tuple[str, ...]]


class Record:
    """Stands for an object of the authors' programs, or of NumPy's and Python's that they kept in a checkpoint."""

    __slots__ = ("attributes",)

    def __new__(cls, *arguments: Any) -> Record:
        return object.__new__(cls)

    def __init__(self, *arguments: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


RECORDS = (
    "argparse.Namespace",  # opt of Dual Encoding; the arguments in MMT's config
    "parse_config.ConfigParser",  # config of MMT
    "pathlib.Path",
    "pathlib.PosixPath",
    "numpy.core.multiarray.scalar",  # figures that were measured
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)
ROLES = {
    "dual_encoding": ("rnn", "bow"),
    "hybrid_space": ("rnn", "bow", "concepts"),
    "mmt": ("bert",),
    "hanet": ("words", "verbs", "nouns"),
}  # the vocabularies of each system
VOCABULARY_MODULES = ("util.vocab", "vocab", "__main__")  # of Vocabulary; the last where its file ran as a program
PARTS = {
    2: ("dual_encoding", ("vid_encoding", "text_encoding")),
    4: ("hybrid_space", ("vid_encoding", "text_encoding", "vid_mapping", "text_mapping")),
}  # what the list in a checkpoint of so many state dicts is of


@dataclass(frozen=True)
class Released:
    """A released model: its system, its parameters by their official names, and what its config says, if it has one."""

    system: str
    state: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Released:
    """A released checkpoint of Dual Encoding, its hybrid space, MMT or HANet; which one shows in how it is built.

    Raises TrainError for any other file, and for one that asks for more than such a checkpoint needs.
    """
    content = _load(path)
    given = content if isinstance(content, dict) else {}
    models = given.get("model")
    if isinstance(models, list) and len(models) in PARTS:
        system, names = PARTS[len(models)]
        return Released(system, _joined(path, dict(zip(names, models, strict=True))))
    if "video_encoder" in given and "text_encoder" in given:
        return Released("hanet", _joined(path, {name: given[name] for name in ("video_encoder", "text_encoder")}))
    if isinstance(given.get("state_dict"), dict) and any(
        str(name).startswith("vid_bert.") for name in given["state_dict"]
    ):
        config = given.get("config")
        told = config.attributes.get("_config") if isinstance(config, Record) else config
        return Released("mmt", _joined(path, {"": given["state_dict"]}), told if isinstance(told, dict) else {})
    holds = ", ".join(str(name) for name in list(given)[:8]) or f"a {type(content).__name__}"
    raise TrainError(
        f"{path}: not a released model of Dual Encoding, its hybrid space, MMT or HANet; the file holds {holds}"
    )


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The words of a vocabulary in the order of their ids.

    Reads Dual Encoding's word_vocab_5.pkl; JSON lists (tag_vocab_512.json), ids by word (word2int.json) and counts by
    word (verb_words_freq.json), these in the order of the file; arrays of words (int2word.npy); a word a line
    (vocab.txt). Where the ids do not begin at 0, empty words come first. Raises TrainError if it is none of these.
    """
    if path.suffix not in READERS:
        raise TrainError(f"{path}: vocabularies are {', '.join(READERS)} files")
    try:
        words = READERS[path.suffix](path)
    except TrainError:
        raise
    except OSError as error:
        raise TrainError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # a damaged file may raise anything
        raise TrainError(f"{path}: not a vocabulary ({_reason(error)})") from error
    if not words or not all(isinstance(word, str) for word in words):
        raise TrainError(f"{path}: not a vocabulary, for it does not hold words alone")
    return tuple(words)


def read_vocabularies(system: str, paths: Sequence[Path]) -> Words:
    """Vocabularies by what they are to the system: told by their names, those of Dual Encoding by their words.

    Raises TrainError for one that cannot be read, that the system does not have, or that is given twice.
    """
    found: dict[str, tuple[Path, tuple[str, ...]]] = {}
    for path in paths:
        words = read_vocabulary(path)
        role = _role(path, words)
        if role not in ROLES[system]:
            there = ", ".join(ROLES[system])
            raise TrainError(f"{path}: {system} has no vocabulary of this kind ({role}); it has {there}")
        if role in found:
            raise TrainError(f"{path} and {found[role][0]} are the same vocabulary ({role}): give one of them")
        found[role] = path, words
    return {role: words for role, (_, words) in found.items()}


def _role(path: Path, words: Sequence[str]) -> str:
    for beginning, role in (("verb", "verbs"), ("noun", "nouns"), ("tag", "concepts"), ("vocab", "bert")):
        if path.name.startswith(beginning):
            return role
    if path.suffix == ".pkl":
        return "rnn" if tuple(words[: len(SPECIALS)]) == SPECIALS else "bow"
    return "words"


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([(Record, name) for name in RECORDS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise TrainError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # torch raises whatever a damaged file sets off
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted:
            raise TrainError(
                f"{path}: asks for {wanted[1]}, which no released model needs: refused, and nothing of it was run"
            ) from None
        raise TrainError(f"{path}: not a checkpoint, or a damaged one ({type(error).__name__})") from error


def _joined(path: Path, parts: Mapping[str, Any]) -> dict[str, Tensor]:
    """One state dict of several, each name after that of its part; without what trained on several GPUs adds."""
    joined = {}
    for part, state in parts.items():
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise TrainError(f"{path}: {part or 'state_dict'} is not a table of parameters; the file is damaged")
        for name, tensor in state.items():
            own = str(name).removeprefix("module.")
            joined[f"{part}.{own}" if part else own] = tensor.float() if tensor.is_floating_point() else tensor
    return joined


def _of_pickle(path: Path) -> Sequence[Any]:
    with open(path, "rb") as file:
        found = _VocabularyUnpickler(file, encoding="latin1").load()
    ids = found.attributes.get("word2idx") if isinstance(found, Record) else None
    if not isinstance(ids, dict):
        raise ValueError("it holds no Vocabulary with word2idx")
    return _by_id(ids)


def _of_json(path: Path) -> Sequence[Any]:
    document = json.loads(path.read_bytes())
    if isinstance(document, dict):
        return list(document) if "freq" in path.stem else _by_id(document)
    return document if isinstance(document, list) else []


def _of_array(path: Path) -> Sequence[Any]:
    words = np.load(path, allow_pickle=False)
    return [word.decode("utf-8") if isinstance(word, bytes) else word for word in words.tolist()]


def _of_lines(path: Path) -> Sequence[Any]:
    return path.read_text(encoding="utf-8").splitlines()


READERS: dict[str, Callable[[Path], Sequence[Any]]] = {
    ".pkl": _of_pickle,
    ".json": _of_json,
    ".npy": _of_array,
    ".txt": _of_lines,
}


def _by_id(ids: Mapping[str, Any]) -> list[str]:
    numbers = sorted(ids.values())
    first = numbers[0] if numbers else 0
    if not 0 <= first < 10 or numbers != list(range(first, first + len(numbers))):
        raise ValueError("its ids do not follow one another")
    return [*[""] * first, *sorted(ids, key=lambda word: ids[word])]


class _VocabularyUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name == "Vocabulary" and module in VOCABULARY_MODULES:
            return Record
        if module in ("copyreg", "copy_reg") and name == "_reconstructor":  # how old protocols make objects
            return lambda kind, base, state: Record()
        if module in ("builtins", "__builtin__") and name == "object":
            return Record
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no vocabulary needs: refused")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def _reason(error: Exception) -> str:
    return f"{(str(error).splitlines() or [''])[0] or type(error).__name__:.200}"
