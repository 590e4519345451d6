"""Checkpoints of PyTorch under Python 2: read whole, and never run."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from extractors.python2 import load_checkpoint
from python2_file import Hostile, write_checkpoint

LONG = "é" * 300  # more bytes than the short form of a string holds, and not UTF-8
TABLE = torch.arange(12.0).view(3, 4)
CONTENT = {
    "epoch": 90,
    "best_prec1": 56.1,
    "big": 1 << 70,
    LONG: "naïve",
    "state_dict": OrderedDict(
        [
            ("whole", TABLE),
            ("part", TABLE[1:, 2]),  # of the same storage
            ("turned", TABLE.t()),
            ("steps", torch.tensor([3, -4])),
            ("number", torch.tensor(7.0)),
            ("none", torch.zeros(0)),
        ]
    ),
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_checkpoint(CONTENT, tmp_path / "old.pth.tar")
    return tmp_path / "old.pth.tar"


def same(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[key], expected[key]) for key in expected)
    if isinstance(expected, torch.Tensor):
        return found.dtype == expected.dtype and torch.equal(found, expected)
    return found == expected


def test_torch_itself_takes_the_files_of_these_tests_for_its_own(file: Path) -> None:
    found = torch.load(file, map_location="cpu", weights_only=False, encoding="latin1")
    assert same(found, CONTENT)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(file, map_location="cpu", weights_only=True)


def test_tensors_and_plain_data_are_read_to_the_bit(file: Path) -> None:
    found = load_checkpoint(file)
    assert same(found, CONTENT)
    assert type(found["state_dict"]) is OrderedDict
    whole, part = found["state_dict"]["whole"], found["state_dict"]["part"]
    assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


@pytest.mark.parametrize("zipped", [True, False])
def test_what_todays_pytorch_writes_is_read_too(tmp_path: Path, zipped: bool) -> None:
    torch.save(CONTENT, tmp_path / "new.pth", _use_new_zipfile_serialization=zipped)
    assert same(load_checkpoint(tmp_path / "new.pth"), CONTENT)


@pytest.mark.parametrize("where", ["value", "key", "alone"])
def test_a_hostile_file_runs_nothing(tmp_path: Path, where: str) -> None:
    hostile = Hostile(tmp_path / "it_ran")
    content = {"value": {"state_dict": hostile}, "key": {hostile: 1}, "alone": hostile}[where]
    write_checkpoint(content, tmp_path / "old")
    with pytest.raises(pickle.UnpicklingError, match=r"it carries \w+\.system, which is no tensor"):
        load_checkpoint(tmp_path / "old")
    torch.save(content, tmp_path / "new")
    with pytest.raises(pickle.UnpicklingError) as told:
        load_checkpoint(tmp_path / "new")
    assert "weights_only" not in str(told.value), "never how to run what a file carries"
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("name", [b"builtins\neval", b"__builtin__\neval", b"torch\nload", b"torch.cuda\nStream"])
def test_nothing_but_tensors_and_dictionaries_has_a_name(tmp_path: Path, name: bytes) -> None:
    (tmp_path / "raw").write_bytes(b"\x80\x02c" + name + b"\n.")
    with pytest.raises(pickle.UnpicklingError, match="which is no tensor"):
        load_checkpoint(tmp_path / "raw")


def test_a_file_cut_anywhere_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(Exception):  # noqa: B017, PT011  # of many types: pickle's, struct's, our own
            load_checkpoint(file)


def test_storages_larger_than_the_file_are_refused_before_they_are_made(file: Path) -> None:
    whole = file.read_bytes()
    assert whole.count(b"K\x0c") >= 1  # 12 elements
    file.write_bytes(whole.replace(b"K\x0c", b"\x8a\x05\x00\x00\x00\x00\x7f", 1))  # half a million million
    with pytest.raises(pickle.UnpicklingError, match="more than the file"):
        load_checkpoint(file)


@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", bytes(range(7, 207)), pickle.dumps({"state_dict": {}}, 2)]
)
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(Exception):  # noqa: B017, PT011
        load_checkpoint(tmp_path / "other")
