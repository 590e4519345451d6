"""What is exported is what the store holds, readable without Reelcache, and comes back equal."""

from __future__ import annotations

import io
import json
import resource
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import (
    FeatureStore,
    ImportUsageError,
    NotInStore,
    StoreError,
    StoreWriter,
    VideoStatus,
    diff_stores,
    export_features,
    import_features,
    verify,
)
from small_stores import CORPUS, contents, features, identity, plan, times, write_store

FORMATS = ["npy", "hdf5", "webdataset"]
EXPERTS = {"s3d": {}, "timm:a/b.c": {"dim": 5, "dtype": "float16", "kind": "appearance"}}


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two experts; two of its videos have no rows."""
    write_store(tmp_path / "s", experts=EXPERTS)
    return tmp_path / "s"


def test_npy_is_a_file_a_video_an_expert_with_its_times(store: Path, tmp_path: Path) -> None:
    summary = export_features(store, tmp_path / "out", "npy")
    assert (summary.videos, summary.rows) == (5, {"s3d": 14, "timm:a/b.c": 14})
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.json", "s3d", "timm%3Aa%2Fb%2Ec"}
    values = np.load(tmp_path / "out" / "s3d" / "ant.npy")
    assert values.dtype == np.float32 and np.array_equal(values, features("ant", 6))
    assert np.array_equal(np.load(tmp_path / "out" / "s3d" / "ant.times.npy"), times(6))
    index = json.loads((tmp_path / "out" / "index.json").read_text())
    assert index["complete"] and index["experts"]["s3d"]["identity"] == identity()
    told = {video["id"]: video["status"] for video in index["experts"]["s3d"]["videos"]}
    assert told == {"ant": "ok", "bee": "ok", "cat": "no_stream", "dog": "failed", "eel": "truncated"}


@pytest.mark.parametrize("form", FORMATS)
def test_records_go_with_the_features_and_do_not_hinder_their_return(tmp_path: Path, form: str) -> None:
    records = {"sign": [{"text": "Füße", "box": [[1, 2.5]]}, {"text": "出口"}], "mute": []}
    writer = StoreWriter(tmp_path / "s")
    plan(writer, list(records))
    shard = writer.add_expert("ocr", identity(records=True), {}).begin(0)
    shard.append(0, 0, features("sign", 2), times(2), records["sign"])
    shard.finish([VideoStatus("sign", "ok", rows=2, seconds=1.0), VideoStatus("mute", "ok", seconds=1.0)], {})
    for _ in range(2):  # the second time over the first
        export_features(tmp_path / "s", tmp_path / "out", form)
    if form == "npy":
        exported = json.loads((tmp_path / "out" / "ocr" / "sign.records.json").read_text("utf-8"))
    elif form == "hdf5":
        with h5py.File(tmp_path / "out" / "ocr.h5") as file:
            exported = [json.loads(record) for record in file["sign/records"]]
            assert len(file["mute/records"]) == 0
    else:
        with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
            document = tar.extractfile("sign.json")
            assert document
            exported = json.load(document)["experts"]["ocr"]["records"]
    assert exported == FeatureStore(tmp_path / "s")["ocr"].records("sign")
    if form != "webdataset":
        import_features(form, [tmp_path / "out"], tmp_path / "t", expert="ocr")
        np.testing.assert_array_equal(FeatureStore(tmp_path / "t")["ocr"].read("sign").values, features("sign", 2))


def test_hdf5_is_a_file_an_expert_a_group_a_video(store: Path, tmp_path: Path) -> None:
    export_features(store, tmp_path / "out", "hdf5", experts=["timm:a/b.c"])
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"index.json", "timm%3Aa%2Fb%2Ec.h5"}
    with h5py.File(tmp_path / "out" / "timm%3Aa%2Fb%2Ec.h5") as file:
        assert list(file) == CORPUS
        expected = FeatureStore(store)["timm:a/b.c"].read("eel")
        assert np.array_equal(file["eel/features"][:], expected.values) and file["eel/features"].dtype == np.float32
        assert np.array_equal(file["eel/times"][:], expected.times)
        assert json.loads(file["dog"].attrs["status"])["reason"] == "not a video"
        assert json.loads(file.attrs["provenance"]) == identity(**EXPERTS["timm:a/b.c"])


def test_webdataset_streams_whole_videos(store: Path, tmp_path: Path) -> None:
    export_features(store, tmp_path / "out", "webdataset")
    shards = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    samples = {}
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        document = json.loads(sample["json"])
        samples[document["id"]] = document["experts"], sample
    assert list(samples) == CORPUS
    told, sample = samples["eel"]
    expected = FeatureStore(store)["timm:a/b.c"].read("eel")
    assert np.array_equal(np.load(io.BytesIO(sample[told["timm:a/b.c"]["file"]])), expected.values)
    assert told["timm:a/b.c"]["times"] == expected.times.tolist()
    assert samples["cat"][0]["s3d"]["file"] is None and samples["cat"][0]["s3d"]["status"]["status"] == "no_stream"


def test_webdataset_shards_end_where_they_are_full(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feature_store.export_formats.SHARD_BYTES", 1)
    export_features(store, tmp_path / "out", "webdataset")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.tar")) == [f"shard-{n:06d}.tar" for n in range(5)]
    export_features(store, tmp_path / "out", "webdataset", videos=["bee"])
    assert [path.name for path in (tmp_path / "out").glob("*.tar")] == ["shard-000000.tar"]
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as shard:
        assert shard.getnames() == ["bee.json", "bee.s3d.npy", "bee.timm%3aa%2fb%2ec.npy"]


@pytest.mark.parametrize("format", ["npy", "hdf5"])
def test_an_export_comes_back_equal(format: str, store: Path, tmp_path: Path) -> None:
    export_features(store, tmp_path / "out", format)
    for expert, changes in EXPERTS.items():
        dtype = changes.get("dtype", "float32")
        import_features(format, [tmp_path / "out"], tmp_path / "back", expert=expert, dtype=dtype, shard_videos=3)
    for difference in diff_stores(store, tmp_path / "back").values():
        assert not isinstance(difference, str)
        assert (difference.videos, difference.only_in_a, difference.only_in_b) == (5, 0, 0)
        assert (difference.equal_rows, difference.rows, difference.seconds) == (14, 14, 0.0)
    old, new = FeatureStore(store), FeatureStore(tmp_path / "back")
    assert [new["s3d"].status(video) for video in CORPUS] == [old["s3d"].status(video) for video in CORPUS]
    assert [new.experts[name].kind for name in EXPERTS] == ["motion", "appearance"]
    assert new.experts["s3d"].about["original"] == identity()
    assert not verify(tmp_path / "back").damaged


def write(path: Path, statuses: list[VideoStatus]) -> None:
    """A store of one expert."""
    writer = StoreWriter(path)
    shards = plan(writer, [status.id for status in statuses], 3)
    expert = writer.add_expert("x", identity(), {})
    for shard in range(len(shards)):
        first, stop = shards.bounds(shard)
        rows = expert.begin(shard)
        for number, status in enumerate(statuses[first:stop]):
            rows.append(number, 0, features(status.id, status.rows), times(status.rows))
        rows.finish(statuses[first:stop], {})


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
ids = st.one_of(
    texts, st.sampled_from(["..", "../x", "/", "\0", "a.b", "zarr.json", "index", "A" * 300, "\u4e2d" * 90])
)


@settings(max_examples=20)
@given(st.dictionaries(ids, st.integers(0, 9), min_size=1, max_size=6))
def test_any_ids_and_lengths_survive_every_format_inside_its_folder(lengths: dict[str, int]) -> None:
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home)
        statuses = [VideoStatus(video, "ok", rows=rows, seconds=rows / 2) for video, rows in lengths.items()]
        write(folder / "s", statuses)
        for format in FORMATS:
            export_features(folder / "s", folder / "out" / format, format)
        assert {path.name for path in folder.iterdir()} == {"s", "out"}
        assert {path.name for path in (folder / "out").iterdir()} == set(FORMATS)
        if any(rows for rows in lengths.values()):
            for format in ("npy", "hdf5"):
                import_features(format, [folder / "out" / format], folder / format, expert="x")
                reader = FeatureStore(folder / format)["x"]
                assert list(reader) == list(lengths)
                for video, rows in lengths.items():
                    assert np.array_equal(reader.read(video).values, features(video, rows))
                    assert np.array_equal(reader.read(video).times, times(rows))


def test_names_of_files_tell_the_ids(tmp_path: Path) -> None:
    strange = ["../a b.c", "\u4e2d/\0"]
    write(tmp_path / "s", [VideoStatus(video, "ok", rows=1, seconds=1.0) for video in strange])
    export_features(tmp_path / "s", tmp_path / "out", "npy")
    stems = {path.name.removesuffix(".npy") for path in (tmp_path / "out" / "x").glob("*[!s].npy")}
    assert {unquote(stem) for stem in stems} == set(strange)


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_replaces_a_previous_one_and_nothing_else(format: str, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_features(store, out, format)
    export_features(store, out, "npy", experts=["s3d"], videos=["bee", "ant"])
    assert set(contents(out)) == {
        "index.json",
        *(f"s3d/{v}{end}" for v in ("ant", "bee") for end in (".npy", ".times.npy")),
    }
    export_features(store, out, format)
    first = contents(out)
    export_features(store, out, format)
    assert contents(out).keys() == first.keys()
    if format != "hdf5":
        assert contents(out) == first
    for stranger in ("thesis.tex", "s3d/thesis.tex") if format == "npy" else ("thesis.tex",):
        (out / stranger).write_text("mine")
        before = contents(out)
        with pytest.raises(StoreError, match="holds other things"):
            export_features(store, out, format)
        assert contents(out) == before
        (out / stranger).unlink()


@pytest.mark.parametrize("index", ["{}", "[]", "nonsense", '{"made_by": "reelcache export"}'])
def test_a_folder_of_others_is_left_alone(index: str, store: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "index.json").write_text(index)
    before = contents(tmp_path)
    for folder in (tmp_path / "out", store, tmp_path / "out" / "index.json"):
        with pytest.raises(StoreError):
            export_features(store, folder, "npy")
    assert contents(tmp_path) == before


def test_an_index_that_names_other_folders_has_nothing_removed(store: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    np.save(mine / "a.npy", np.ones(3))
    export_features(store, out, "npy")
    index = json.loads((out / "index.json").read_text())
    index["experts"]["../mine"] = index["experts"][str(mine)] = index["experts"]["s3d"]
    (out / "index.json").write_text(json.dumps(index))
    export_features(store, out, "npy")
    assert (mine / "a.npy").exists()
    (out / "linked").symlink_to(mine)
    index["experts"]["linked"] = index["experts"]["s3d"]
    (out / "index.json").write_text(json.dumps(index))
    with pytest.raises(StoreError, match="holds other things"):
        export_features(store, out, "npy")
    assert (mine / "a.npy").exists()


def test_an_export_that_was_cut_off_says_so_and_is_made_anew(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    for format in FORMATS:
        with pytest.raises(KeyboardInterrupt):
            export_features(store, tmp_path / "out", format, show=stop)
        assert json.loads((tmp_path / "out" / "index.json").read_text())["complete"] is False
        if format == "npy":
            with pytest.raises(StoreError, match="finished export"):
                import_features("npy", [tmp_path / "out"], tmp_path / "back", expert="s3d")
        assert export_features(store, tmp_path / "out", format).videos == 5


def test_experts_and_videos_that_are_not_there_are_named_before_anything_is_written(
    store: Path, tmp_path: Path
) -> None:
    wrong: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"experts": ["s3e"]}, ImportUsageError, "s3e.*it has s3d, timm"),
        ({"format": "zip"}, ImportUsageError, "npy, hdf5, webdataset"),
        ({"videos": ["ant", "bea"]}, NotInStore, "bee"),
    ]
    for options, error, says in wrong:
        with pytest.raises(error, match=says):
            export_features(**{"store": store, "folder": tmp_path / "out", "format": "npy", **options})
    assert not (tmp_path / "out").exists()


def test_an_expert_that_is_half_done_is_exported_as_far_as_it_is(store: Path, tmp_path: Path) -> None:
    (store / "s3d" / "000000" / "complete.json").unlink()
    summary = export_features(store, tmp_path / "out", "npy")
    assert (summary.videos, summary.rows) == (5, {"s3d": 2, "timm:a/b.c": 14})


@pytest.mark.parametrize("format", ["npy", "hdf5"])
def test_a_damaged_export_is_not_imported(format: str, store: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_features(store, out, format, experts=["s3d"])
    if format == "npy":
        np.save(out / "s3d" / "bee.npy", np.ones((2, 3), np.float32))
    else:
        with h5py.File(out / "s3d.h5", "a") as file:
            del file["bee/features"]
            file["bee/features"] = np.ones((2, 3), np.float32)
    with pytest.raises(StoreError, match=r"bee.*2 rows"):
        import_features(format, [out], tmp_path / "back", expert="s3d")
    assert not (tmp_path / "back").exists()
    if format == "npy":
        (out / "s3d" / "bee.npy").unlink()
    else:
        (out / "s3d.h5").write_bytes((out / "s3d.h5").read_bytes()[:2000])
    with pytest.raises((StoreError, OSError), match=r"bee\.npy|s3d\.h5"):
        import_features(format, [out], tmp_path / "back", expert="s3d")
    assert not (tmp_path / "back").exists()


def test_records_stay_behind_and_features_come_along(tmp_path: Path) -> None:
    writer = StoreWriter(tmp_path / "s")
    plan(writer, ["a"])
    shard = writer.add_expert("ocr", identity(records=True), {}).begin(0)
    shard.append(0, 0, features("a", 2), times(2), [{"text": "EXIT"}, {"text": "EGRESS"}])
    shard.finish([VideoStatus("a", "ok", rows=2, seconds=1.0)], {})
    for format in FORMATS:
        assert export_features(tmp_path / "s", tmp_path / "out" / format, format).rows == {"ocr": 2}
    import_features("npy", [tmp_path / "out" / "npy"], tmp_path / "back", expert="ocr")
    assert np.array_equal(FeatureStore(tmp_path / "back")["ocr"].read("a").values, features("a", 2))


@pytest.mark.parametrize(("form", "room"), [("npy", 150), ("hdf5", 1500), ("hdf5", 3000), ("webdataset", 3000)])
def test_a_disk_that_is_full_ends_an_export_with_an_error_that_names_it(
    store: Path, tmp_path: Path, form: str, room: int
) -> None:
    """Stands for a full disk: no file may grow beyond `room` bytes. HDF5's library would crash."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            export_features(store, tmp_path / "out", form)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "out") in str(error.value)
    export_features(store, tmp_path / "out", form)
    assert json.loads((tmp_path / "out" / "index.json").read_text())["complete"]
