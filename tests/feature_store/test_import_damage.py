"""Damaged and hostile sources: told by the file's name, running nothing, leaving nothing behind."""

from __future__ import annotations

import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import foreign_files as foreign
from feature_store import FeatureStore, StoreError, import_features, verify
from small_stores import contents, write_store

ONES = np.ones((2, 4), np.float32)
NAN = np.array([[1, 2, 3, 4], [1, np.nan, 3, 4]], np.float32)


class Hostile:
    """Unpickles by calling what it is told to."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def refused(format: str, source: Path | list[Path], says: str, names: str, **options: Any) -> None:
    """The import must fail, say so, name the file, and leave both a new and an old store as they were."""
    paths = source if isinstance(source, list) else [source]
    home = paths[0].parent
    write_store(home / "old.zarr", ["video7", "a"])
    before = contents(home)
    for store in ("new.zarr", "old.zarr"):
        with pytest.raises(StoreError) as error:
            import_features(
                format, paths, home / store, expert="x", **{"untimed": True, "skip_unknown": True, **options}
            )
        assert says in str(error.value) and names in str(error.value)
    assert contents(home) == before


def bigfile(folder: Path, content: bytes, shape: str, ids: bytes) -> Path:
    (folder / "f").mkdir()
    (folder / "f" / "feature.bin").write_bytes(content)
    (folder / "f" / "shape.txt").write_text(shape)
    (folder / "f" / "id.txt").write_bytes(ids)
    return folder / "f"


@pytest.mark.parametrize(
    ("content", "shape", "ids", "says", "names"),
    [
        (ONES.tobytes()[:-1], "2 4", b"a_0 a_1", "31 bytes, but shape.txt says 2 x 4", "feature.bin"),
        (ONES.tobytes(), "2 5", b"a_0 a_1", "which is 40", "feature.bin"),
        (ONES.tobytes(), "8", b"a_0 a_1", "two numbers", "shape.txt"),
        (ONES.tobytes(), "-2 -4", b"a_0 a_1", "two numbers", "shape.txt"),
        (b"", "0 4", b"", "two numbers", "shape.txt"),
        (ONES.tobytes(), "2 4", b"a_0", "1 ids for the 2 rows", "id.txt"),
        (ONES.tobytes(), "2 4", b"a_1 a_01", "two rows of the same frame", "id.txt"),
        (ONES.tobytes(), "2 4", b"a\x00_1 a_2", "control characters", "id.txt"),
        (ONES.tobytes(), "2 4", b"a_1 " + b"b" * 5000 + b"_1", "5000 characters", "id.txt"),
        (NAN.tobytes(), "2 4", b"a_0 a_1", "row 1 holds NaN", "feature.bin"),
    ],
)
def test_a_damaged_bigfile(content: bytes, shape: str, ids: bytes, says: str, names: str, tmp_path: Path) -> None:
    refused("bigfile", bigfile(tmp_path, content, shape, ids), says, names)


def test_a_bigfile_that_lacks_a_file(tmp_path: Path) -> None:
    folder = bigfile(tmp_path, ONES.tobytes(), "2 4", b"a_0 a_1")
    (folder / "id.txt").unlink()
    refused("bigfile", folder, "is missing", "id.txt")


PICKLES: dict[str, tuple[Any, str]] = {
    "system": ({"a": Hostile(os.system, "touch PWNED")}, "posix.system, which features do not need"),
    "exec": (Hostile(exec, "open('PWNED', 'w')"), ".exec, which features do not need"),
    "getattr": ({"a": Hostile(getattr, ONES, "tofile")}, ".getattr, which features do not need"),
    "numpy.load": (Hostile(np.load, "x.pickle", None, True), "refused"),
    "memmap": (Hostile(np.memmap, "PWNED", "u1", "w+", 0, (9,)), "numpy"),
    "tofile": (Hostile(np.ndarray.tofile, ONES, "PWNED"), "refused"),
    "objects": ({"a": np.array([[1.0, None]], object)}, "only arrays of plain numbers"),
    "structured": ({"a": np.zeros(2, [("f", "f4"), ("o", object)])}, "only arrays of plain numbers"),
    "texts": ({"a": np.array(["x"])}, "only arrays of plain numbers"),
    "list": ([ONES], "holds a list, not a dict"),
    "empty": ({}, "holds no videos"),
    "captions": ({"a": [["a", "dog"]]}, "a list, not an array"),
    "none": ({"a": None}, "a NoneType, not an array"),
    "numbers as ids": ({7: ONES}, "keys must be text"),
    "integers": ({"a": np.ones((2, 4), int)}, "must be float16, float32, float64"),
    "three axes": ({"a": np.ones((1, 2, 4), "f4")}, "(rows, dim)"),
    "dimensions": ({"video7": ONES, "a": np.ones((2, 5), "f4")}, "5 dimensions, but video 'video7' has 4"),
    "infinite": ({"a": ONES * np.inf}, "infinite"),
    "partly NaN": ({"a": NAN}, "row 1 holds NaN"),
    "all missing": ({"a": float("nan")}, "none of the 1 videos"),
    "surrogate id": ({"\ud800": ONES}, "not Unicode text"),
    "empty id": ({"": ONES}, "0 characters"),
}


@pytest.mark.parametrize("case", PICKLES)
def test_a_pickle_that_is_hostile_or_holds_no_features(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    content, says = PICKLES[case]
    for protocol in (2, 5):
        source = foreign.write_pickle(tmp_path / "x.pickle", content, protocol)
        refused("ce-pickle", source, says, "x.pickle")
        shutil.rmtree(tmp_path / "old.zarr")
    assert not (tmp_path / "PWNED").exists()


def raw_array(dtype: bytes, state: bytes, shape: bytes, content: bytes) -> bytes:
    """A pickle {'a': array}, its type and what that is made of at will."""
    return (
        b"\x80\x02}U\x01acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01"
        + shape
        + b"cnumpy\ndtype\n"
        + dtype
        + b"K\x00K\x01\x87R"
        + state
        + b"b\x89"
        + content
        + b"tbs."
    )


NO_FLAGS = b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00t"
EIGHT = b"U\x08AAAAAAAA"
SHAPE_2 = b"K\x02\x85"
CRAFTED = {
    "addresses for objects": raw_array(b"U\x02O8", NO_FLAGS, SHAPE_2, EIGHT),
    "a larger shape than there are bytes": raw_array(b"U\x02f4", NO_FLAGS, b"J\x00\x00\x00\x7f\x85", EIGHT),
    "a negative shape": raw_array(b"U\x02f4", NO_FLAGS, b"J\xfe\xff\xff\xff\x85", b"U\x04AAAA"),
    "a subarray type": raw_array(b"U\x02f4", b"(K\x03U\x01<K\x07NNK\x04K\x04K\x00t", SHAPE_2, EIGHT),
    "a list for bytes": raw_array(b"U\x02f4", NO_FLAGS, SHAPE_2, b"]"),
    "state for a function": b"\x80\x02c_codecs\nencode\n}U\x08__call__K\x01sb.",
    "state for a class": b"\x80\x02cnumpy\ndtype\nU\x02f4\x85b.",
    "a class by extension code": b"\x80\x02\x82\x01.",
    "an object outside": b"\x80\x02U\x01aQ.",
    "a long text that is not there": b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x00.",
    "nothing": b"",
    "text": b"video7 0.1 0.2",
}


@pytest.mark.parametrize("case", CRAFTED)
def test_a_crafted_pickle(case: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(CRAFTED[case])
    refused("ce-pickle", tmp_path / "x.pkl", "x.pkl", "x.pkl")


def test_a_pickle_damaged_anywhere_is_told_or_read_but_never_breaks_the_reader(tmp_path: Path) -> None:
    sound = pickle.dumps({"a": ONES, "b": float("nan")}, 2)
    dice = random.Random(5)
    refusals = read = 0
    for number in range(300):
        content = bytearray(sound[: dice.randrange(1, len(sound))] if number % 3 == 0 else sound)
        content[dice.randrange(len(content))] = dice.randrange(256)
        (tmp_path / "x.pkl").write_bytes(content)
        try:
            import_features("ce-pickle", [tmp_path / "x.pkl"], tmp_path / "s", expert="x", untimed=True)
        except StoreError as error:
            refusals += "x.pkl" in str(error) and not (tmp_path / "s").exists()
        else:
            assert not verify(tmp_path / "s").damaged
            shutil.rmtree(tmp_path / "s")
            read += 1
    assert (refusals + read, read > 0) == (300, True)


def outside(tmp_path: Path) -> Path:
    return foreign.write_hdf5(tmp_path / "secret.h5", {"a": ONES})


def external_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink(str(outside(path.parent)), "/a")


def external_link_in_a_group(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_group("a")["c3d"] = h5py.ExternalLink(str(outside(path.parent)), "/a")


def dangling_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["a"] = h5py.ExternalLink("nowhere.h5", "/a")


def soft_link(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file["b"], file["a"] = ONES, h5py.SoftLink("/b")


def external_values(path: Path) -> None:
    (path.parent / "secret").write_bytes(ONES.tobytes())
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (2, 4), "f4", external=[(str(path.parent / "secret"), 0, 32)])


def virtual_values(path: Path) -> None:
    layout = h5py.VirtualLayout((2, 4), "f4")
    layout[:] = h5py.VirtualSource(str(outside(path.parent)), "a", (2, 4))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("a", layout)


def a_claim(path: Path) -> None:
    with h5py.File(path, "w") as file:
        file.create_dataset("a", (1 << 40, 1 << 10), "f4", chunks=(1, 1024))


def cut_off(path: Path) -> None:
    foreign.write_hdf5(path, {"a": ONES})
    path.write_bytes(path.read_bytes()[:-100])


HDF5: dict[str, tuple[Callable[[Path], Any], str]] = {
    "external link": (external_link, "ExternalLink"),
    "external link in a group": (external_link_in_a_group, "ExternalLink"),
    "dangling link": (dangling_link, "ExternalLink"),
    "soft link": (soft_link, "SoftLink"),
    "external values": (external_values, "other files"),
    "virtual values": (virtual_values, "other files"),
    "a shape that no video has": (a_claim, "which no video has"),
    "cut off": (cut_off, "fetch it again"),
    "not HDF5": (lambda path: path.write_bytes(b"<html>Quota exceeded</html>"), "fetch it again"),
    "no videos": (lambda path: foreign.write_hdf5(path, {}), "holds no videos"),
    "NaN": (lambda path: foreign.write_hdf5(path, {"a": NAN}), "row 1 holds NaN"),
    "texts": (lambda path: foreign.write_hdf5(path, {"a": b"x"}), "(rows, dim)"),
    "an empty group": (lambda path: foreign.write_hdf5(path, {"a/b": ONES}, "c"), "not a dataset"),
}


@pytest.mark.parametrize("format", ["hgr-hdf5", "tan-hdf5"])
@pytest.mark.parametrize("case", HDF5)
def test_an_hdf5_file_that_is_damaged_or_reaches_outside(case: str, format: str, tmp_path: Path) -> None:
    write, says = HDF5[case]
    write(tmp_path / "x.hdf5")
    refused(format, tmp_path / "x.hdf5", says, "x.hdf5")


@pytest.mark.parametrize("write", [external_link, dangling_link, external_values, virtual_values, soft_link])
def test_an_mmt_file_that_reaches_outside(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "video7.h5")
    with h5py.File(tmp_path / "video7.h5", "a") as file:
        file.move("a", "features.x")
    refused("mmt-h5", tmp_path / "video7.h5", "file", "video7.h5")


def test_a_video_that_stands_in_two_files(tmp_path: Path) -> None:
    paths = [foreign.write_hdf5(tmp_path / name, {"a": ONES}) for name in ("trn_ft.hdf5", "tst_ft.hdf5")]
    refused("hgr-hdf5", paths, f"stands already in {paths[0]}", "tst_ft.hdf5")


TENSORS: dict[str, tuple[Any, str]] = {
    "system": (Hostile(os.system, "touch PWNED"), "it is damaged, or carries other things"),
    "dict": ({"features": torch.ones(2, 4)}, "holds a dict"),
    "integers": (torch.ones(2, 4, dtype=torch.int64), "plain one of floats"),
    "sparse": (torch.ones(2, 4).to_sparse(), "plain one of floats"),
    "repeated in memory": (torch.ones(1, 1).expand(1 << 20, 1 << 20), "which no video has"),
    "NaN": (torch.from_numpy(NAN), "row 1 holds NaN"),
    "one axis": (torch.ones(4), "(rows, dim)"),
}


@pytest.mark.parametrize("case", TENSORS)
def test_a_pt_file_that_is_no_plain_tensor(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, says = TENSORS[case]
    refused("drn-pt", foreign.write_tensors(tmp_path / "C3D", {"a": content}), says, "a.pt")
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("kept", [0, 5, 100, 140])
def test_a_npy_file_that_is_cut_off(kept: int, tmp_path: Path) -> None:
    source = foreign.write_npy(tmp_path / "i3d", {"a": ONES})
    (source / "a.npy").write_bytes((source / "a.npy").read_bytes()[:kept])
    refused("npy", source, "cut off", "a.npy")


def test_a_npy_file_that_is_an_archive(tmp_path: Path) -> None:
    source = foreign.write_npy(tmp_path / "i3d", {"b": ONES})
    with open(source / "a.npy", "wb") as file:
        np.savez(file, ONES)
    refused("npy", source, "not a NumPy array of numbers", "a.npy")


def test_a_npy_file_of_objects_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i3d").mkdir()
    np.save(tmp_path / "i3d" / "a.npy", np.array([Hostile(os.system, "touch PWNED")]), allow_pickle=True)
    refused("npy", tmp_path / "i3d", "not a NumPy array of numbers", "a.npy")
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("format", ["bigfile", "mmt-h5", "ce-pickle", "hgr-hdf5", "tan-hdf5", "drn-pt", "npy", "hdf5"])
def test_a_source_that_is_not_there_or_empty(format: str, tmp_path: Path) -> None:
    refused(format, tmp_path / "nowhere", "nowhere", "nowhere")
    shutil.rmtree(tmp_path / "old.zarr")
    (tmp_path / "empty").mkdir()
    refused(format, tmp_path / "empty", "empty", "empty")


@pytest.mark.parametrize("video", ["../../escape", "/etc/passwd", "a/b", "..", "nul\0byte", "\u202eevil", "zarr.json"])
def test_an_id_that_looks_like_a_path_stays_an_id(video: str, tmp_path: Path) -> None:
    source = foreign.write_pickle(tmp_path / "x.pickle", {video: ONES})
    store = tmp_path / "below" / "s"
    import_features("ce-pickle", [source], store, expert="x", untimed=True)
    assert np.array_equal(FeatureStore(store)["x"].read(video).values, ONES)
    assert {path.name for path in tmp_path.iterdir()} == {"x.pickle", "below"}
    assert {path.name for path in (tmp_path / "below").iterdir()} == {"s"}
