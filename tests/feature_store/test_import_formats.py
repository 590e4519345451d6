"""Each published format comes in as its description says."""

from __future__ import annotations

import pickle
import pickletools
import tempfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import foreign_files as foreign
from feature_store import FeatureStore, ImportUsageError, StoreError, import_features, verify


def imported(store: Path, expert: str = "x") -> dict[str, np.ndarray]:
    """What a store has of an expert, by video; its files must be sound."""
    assert verify(store).damaged == ()
    reader = FeatureStore(store)[expert]
    return {video: reader.read(video).values for video in reader}


def same(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[video], b[video]) for video in a)


WRITTEN: dict[str, Callable[[Path], Path]] = {
    "bigfile": lambda folder: foreign.write_bigfile(folder / "pyresnext-101_rbps13k,flatten0", foreign.corpus()),
    "mmt-h5": lambda folder: foreign.write_mmt(folder / "mult_h5", foreign.corpus(), "x"),
    "ce-pickle": lambda folder: foreign.write_pickle(folder / "ocr-raw.pickle", foreign.corpus()),
    "hgr-hdf5": lambda folder: foreign.write_hdf5(folder / "trn_ft.hdf5", foreign.corpus()),
    "tan-hdf5": lambda folder: foreign.write_hdf5(folder / "c3d.hdf5", foreign.corpus(), "c3d_features"),
    "drn-pt": lambda folder: foreign.write_tensors(folder / "C3D", foreign.corpus()),
    "npy": lambda folder: foreign.write_npy(folder / "i3d", foreign.corpus()),
}


@pytest.mark.parametrize("format", WRITTEN)
def test_values_come_back_equal_with_the_times_that_are_said(format: str, tmp_path: Path) -> None:
    source, store = WRITTEN[format](tmp_path), tmp_path / "corpus.zarr"
    summary = import_features(format, [source], store, expert="x", every=0.5, window=0.75, kind="motion")
    assert same(imported(store), foreign.corpus())
    assert (summary.videos, summary.ok, summary.rows, summary.dim, summary.dtype) == (3, 3, 16, 4, "float32")
    times = FeatureStore(store)["x"].read("video7").times
    assert times.tolist() == [[0.0, 0.75], [0.5, 1.25], [1.0, 1.75]]
    info = FeatureStore(store).experts["x"]
    assert (info.kind, info.weights, info.sampling["times"]) == ("motion", f"imported:{format}", "given")
    assert info.identity["weights"]["sha256"] == summary.sha256
    with pytest.raises(ImportUsageError, match="--every SECONDS"):
        import_features(format, [source], tmp_path / "other.zarr", expert="x")
    assert not (tmp_path / "other.zarr").exists()


@pytest.mark.parametrize(
    ("dtype", "stored"), [("float16", "float16"), ("float32", "float32"), ("float64", "float32"), (">f8", "float32")]
)
def test_a_narrower_type_is_stored_only_where_nothing_is_lost_but_of_float64(
    dtype: str, stored: str, tmp_path: Path
) -> None:
    videos = foreign.corpus(dtype=dtype)
    source = foreign.write_npy(tmp_path / "i3d", videos)
    summary = import_features("npy", [source], tmp_path / "corpus.zarr", expert="x", untimed=True)
    assert summary.dtype == stored
    assert bool(summary.notes) == (stored == "float32" and dtype.endswith(("8", "64")))
    expected = {video: values.astype("float32") for video, values in videos.items()}
    assert same(imported(tmp_path / "corpus.zarr"), expected)
    assert FeatureStore(tmp_path / "corpus.zarr")["x"].read("video7").times.tolist() == [[0.0, 0.0]] * 3


def test_a_value_that_float16_cannot_hold_is_not_made_infinite(tmp_path: Path) -> None:
    source = foreign.write_npy(tmp_path / "i3d", {"a": np.array([[1.0, 70000.0]], np.float32)})
    with pytest.raises(StoreError, match="--dtype float32"):
        import_features("npy", [source], tmp_path / "corpus.zarr", expert="x", untimed=True, dtype="float16")
    import_features("npy", [source], tmp_path / "corpus.zarr", expert="x", untimed=True)
    assert imported(tmp_path / "corpus.zarr")["a"].tolist() == [[1.0, 70000.0]]


ids = st.text(
    st.characters(codec="iso-8859-1", exclude_categories=["Cc"], exclude_characters=" "), min_size=1, max_size=12
)


@settings(max_examples=25)
@given(st.dictionaries(ids, st.integers(1, 12), min_size=1, max_size=5))
def test_a_bigfile_of_any_ids_and_lengths_comes_back_in_order_of_frame_numbers(lengths: dict[str, int]) -> None:
    videos = {video: np.random.default_rng(rows).normal(size=(rows, 2)).astype("f4") for video, rows in lengths.items()}
    with tempfile.TemporaryDirectory() as folder:
        source = foreign.write_bigfile(Path(folder) / "f", videos)
        import_features("bigfile", [source], Path(folder) / "s", expert="x", every=1.0, shard_videos=2)
        assert same(imported(Path(folder) / "s"), videos)


def test_rows_of_a_bigfile_may_be_videos(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    np.arange(6, dtype="<f4").tofile(folder / "feature.bin")
    (folder / "shape.txt").write_text("3 2")
    (folder / "id.txt").write_text("a_1 a_2 b")
    with pytest.raises(StoreError, match=r"'b' does not end in _<frame number>.*--key video"):
        import_features("bigfile", [folder], tmp_path / "s", expert="x", untimed=True)
    import_features("bigfile", [folder], tmp_path / "s", expert="x", untimed=True, key="video")
    assert {video: rows.tolist() for video, rows in imported(tmp_path / "s").items()} == {
        "a_1": [[0, 1]],
        "a_2": [[2, 3]],
        "b": [[4, 5]],
    }


def test_mmt_times_are_those_that_mmt_uses(tmp_path: Path) -> None:
    videos = foreign.corpus()
    told = {video: np.stack([np.arange(len(rows)), np.arange(len(rows)) + 2.0], 1) for video, rows in videos.items()}
    expected = {"s3d": [[0, 2], [1, 3], [2, 4]], "rgb": [[0, 0.2], [0.2, 0.4], [0.4, 0.6]]}
    for expert, times in expected.items():
        source = foreign.write_mmt(tmp_path / expert, videos, expert, told)
        import_features("mmt-h5", [source], tmp_path / "corpus.zarr", expert=expert)
        assert FeatureStore(tmp_path / "corpus.zarr")[expert].read("video7").times == pytest.approx(np.array(times))
    face = foreign.write_mmt(tmp_path / "face", videos, "face", told)
    with pytest.raises(ImportUsageError, match="--untimed"):
        import_features("mmt-h5", [face], tmp_path / "corpus.zarr", expert="face")


def test_what_an_mmt_file_lacks_is_recorded_as_no_stream(tmp_path: Path) -> None:
    nan = np.full((1, 4), np.nan, np.float32)
    videos = {"full": np.ones((2, 4), np.float32), "empty": np.empty((0, 4), np.float32), "nan4": nan}
    source = foreign.write_mmt(tmp_path / "h5", videos, "ocr")
    foreign.write_mmt(tmp_path / "h5", {"without": nan}, "s3d")
    summary = import_features("mmt-h5", [source], tmp_path / "corpus.zarr", expert="words", key="ocr", untimed=True)
    assert (summary.ok, summary.no_stream) == (1, 3)
    reader = FeatureStore(tmp_path / "corpus.zarr")["words"]
    assert reader.read("full").values.tolist() == [[1] * 4] * 2
    assert [reader.read(video).missing for video in ("empty", "nan4", "without")] == [True] * 3
    assert "features.ocr" in (reader.status("without").reason or "")


@pytest.mark.parametrize("protocol", range(6))
def test_ce_pickles_of_any_protocol_hold_averages_rows_and_nan(protocol: int, tmp_path: Path) -> None:
    fortran = np.asfortranarray(np.arange(8.0, dtype=">f4").reshape(2, 4))
    videos = {"mean": np.arange(4.0), "rows": fortran, "none": float("nan"), "nan": np.full(4, np.nan), "s": np.nan}
    for number, kind in enumerate((dict, OrderedDict, lambda content: defaultdict(list, content))):
        source = foreign.write_pickle(tmp_path / f"{number}.pickle", kind(videos), protocol)
        summary = import_features("ce-pickle", [source], tmp_path / f"{number}.zarr", expert="x", untimed=True)
        assert (summary.ok, summary.no_stream) == (2, 3)
        found = imported(tmp_path / f"{number}.zarr")
        assert found["mean"].tolist() == [[0, 1, 2, 3]] and np.array_equal(found["rows"], fortran)


PYTHON_2 = (  # of {'vid\xe9o': array([1., 2.], dtype=float32)}, as Python 2 and NumPy 1.16 write it at protocol 2
    b"\x80\x02}q\x00U\x04vid\xe9q\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04"
    b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x02\x85q\x08cnumpy\ndtype\nq\tU\x02f4q\nK\x00K\x01\x87q\x0bRq\x0c(K\x03U\x01<q\r"
    b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x08\x00\x00\x80?\x00\x00\x00@q\x0ftq\x10bs."
)


def test_a_pickle_of_python_2_is_read(tmp_path: Path) -> None:
    pickletools.dis(PYTHON_2, out=(tmp_path / "dis").open("w"))  # raises if it is not well-formed
    (tmp_path / "x.pkl").write_bytes(PYTHON_2)
    import_features("ce-pickle", [tmp_path / "x.pkl"], tmp_path / "s", expert="x", untimed=True)
    assert {video: rows.tolist() for video, rows in imported(tmp_path / "s").items()} == {"vid\xe9": [[1.0, 2.0]]}
    assert pickle.loads(PYTHON_2, encoding="latin1")["vid\xe9"].tolist() == [1.0, 2.0]


def test_hgr_splits_come_together_and_slashes_come_back(tmp_path: Path) -> None:
    ones = np.ones((2, 3), np.float32)
    foreign.write_hdf5(tmp_path / "trn_ft.hdf5", {"a_b": ones, "c": 2 * ones})
    foreign.write_hdf5(tmp_path / "tst_ft.hdf5", {"d": 3 * ones})
    paths, ids = [tmp_path / "trn_ft.hdf5", tmp_path / "tst_ft.hdf5"], ["d", "a/b", "c"]
    import_features("hgr-hdf5", paths, tmp_path / "s", expert="x", every=1.0, videos=ids)
    found = imported(tmp_path / "s")
    assert list(found) == ids and [found[video][0, 0] for video in ids] == [3, 1, 2]


def test_tacos_ids_match_with_and_without_their_suffix(tmp_path: Path) -> None:
    videos = {"s17-d69.avi": np.ones((2, 3), np.float32), "s18-d1": np.zeros((1, 3), np.float32)}
    source = foreign.write_hdf5(tmp_path / "tall.hdf5", videos)
    durations = {"s17-d69": 5.0, "s18-d1.avi": 3.0}
    import_features(
        "tan-hdf5", [source], tmp_path / "s", expert="x", videos=["s17-d69", "s18-d1.avi"], durations=durations
    )
    assert {video: len(rows) for video, rows in imported(tmp_path / "s").items()} == {"s17-d69": 2, "s18-d1.avi": 1}
    assert FeatureStore(tmp_path / "s")["x"].read("s17-d69").times.tolist() == [[0.0, 2.5], [2.5, 5.0]]
    ambiguous = ["s17-d69", "s17-d69.avi", "s18-d1"]
    with pytest.raises(StoreError, match="may mean"):
        import_features("tan-hdf5", [source], tmp_path / "t", expert="x", videos=ambiguous, untimed=True)


def test_one_of_several_datasets_of_a_video_is_named_by_its_key(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["v/c3d"], file["v/i3d"] = np.ones((1, 2), "f4"), np.zeros((1, 3), "f4")
    with pytest.raises(ImportUsageError, match=r"c3d, i3d: say which with --key"):
        import_features("tan-hdf5", [tmp_path / "f.h5"], tmp_path / "s", expert="x", untimed=True)
    import_features("tan-hdf5", [tmp_path / "f.h5"], tmp_path / "s", expert="x", untimed=True, key="i3d")
    assert imported(tmp_path / "s")["v"].tolist() == [[0, 0, 0]]


def test_tensors_of_bfloat16_and_arrays_with_a_batch_of_one_are_read(tmp_path: Path) -> None:
    source = foreign.write_tensors(tmp_path / "pt", {"a": torch.tensor([[1.5, 2.0]], dtype=torch.bfloat16)})
    import_features("drn-pt", [source], tmp_path / "s", expert="pt", untimed=True)
    assert imported(tmp_path / "s", "pt")["a"].tolist() == [[1.5, 2.0]]
    vatex = foreign.write_npy(tmp_path / "npy", {"a": np.ones((1, 5, 2), np.float32), "b": np.empty((0, 2), "f4")})
    summary = import_features("npy", [vatex], tmp_path / "s", expert="npy", untimed=True, skip_unknown=True)
    assert (summary.ok, summary.skipped) == (1, 1)
    assert imported(tmp_path / "s", "npy")["a"].shape == (5, 2)


def test_npz_files_of_moment_detr_come_in_by_their_array_or_the_one_that_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "slowfast"
    folder.mkdir()
    for video, values in foreign.corpus().items():
        np.savez(folder / f"{video}.npz", features=values, other=np.zeros(3))
    import_features("npy", [folder], tmp_path / "s", expert="slowfast", every=2.0)
    assert same(imported(tmp_path / "s", "slowfast"), foreign.corpus())
    assert FeatureStore(tmp_path / "s").experts["slowfast"].kind == "motion"
    for video, values in foreign.corpus().items():
        np.savez_compressed(folder / f"{video}.npz", a=values.astype("float16"), b=np.zeros((1, 4)))
    with pytest.raises(ImportUsageError, match=r"it holds a, b: say which with --key NAME"):
        import_features("npy", [folder], tmp_path / "t", expert="x", every=2.0)
    import_features("npy", [folder], tmp_path / "t", expert="x", every=2.0, key="a")
    assert FeatureStore(tmp_path / "t")["x"].read("video7").values.shape == (3, 4)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no zip at all", "objects"])
def test_damaged_npz_files_and_those_that_hold_objects_are_refused(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "v.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, features=np.array([{"a": 1}], dtype=object))
    with pytest.raises(StoreError, match=r"v\.npz: not a \.npz file of NumPy arrays of numbers"):
        import_features("npy", [tmp_path], tmp_path / "s", expert="x", every=2.0)
