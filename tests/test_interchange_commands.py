"""`reelcache import-features` and `reelcache export`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import foreign_files as foreign
from command import reelcache
from data_manifests import Video, write_rows
from feature_store import FeatureStore
from small_stores import contents, write_store


def document(*words: object) -> dict[str, object]:
    return dict(json.loads(reelcache(*words, "--json").stdout))


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_published_features_become_a_store_that_every_command_reads() -> None:
    foreign.write_bigfile(Path("f/resnet152"), foreign.corpus())
    foreign.write_mmt(Path("mult_h5"), foreign.corpus(), "s3d")
    words = ["import-features", "bigfile", "f/resnet152", "msrvtt.zarr", "--expert", "resnet152", "--every", "0.5"]
    told = document(*words, "--kind", "appearance")
    assert {"ok": 3, "failed": 0, "rows": 16, "dim": 4, "dtype": "float32", "shards": 1}.items() <= told.items()
    printed = reelcache("import-features", "mmt-h5", "mult_h5", "msrvtt.zarr", "--expert", "s3d", "--untimed").stdout
    assert "3 videos in 1 shards written: 3 ok" in printed and "unknown" in printed
    status = document("status", "msrvtt.zarr")["experts"]
    assert {name: expert["weights"] for name, expert in status.items()} == {  # type: ignore[attr-defined]
        "resnet152": "imported:bigfile",
        "s3d": "imported:mmt-h5",
    }
    assert document("verify", "msrvtt.zarr") == {"checked": 2, "damaged": [], "foreign": []}
    assert document("inspect", "msrvtt.zarr", "video10")["resnet152"]["times"] == [[0.0, 0.5]]  # type: ignore[index]


def test_several_paths_stand_before_the_store() -> None:
    for split, video in (("trn", "a"), ("val", "b"), ("tst", "c")):
        foreign.write_hdf5(Path(f"{split}_ft.hdf5"), {video: np.ones((2, 3), np.float32)})
    words = ["hgr-hdf5", "trn_ft.hdf5", "val_ft.hdf5", "tst_ft.hdf5", "vatex.zarr", "--expert", "i3d", "--every", 1]
    assert document("import-features", *words)["videos"] == 3
    assert list(FeatureStore("vatex.zarr")["i3d"]) == ["a", "b", "c"]


def assert_imported_by(manifest: str) -> None:
    """Features of videos a, b and x come in by what a manifest says of b, a and c."""
    foreign.write_npy(Path("i3d"), {video: np.ones((2, 3), np.float32) for video in "abx"})
    words = ["import-features", "npy", "i3d", "c.zarr", "--expert", "i3d", "--manifest", manifest, "--spread"]
    assert "--skip-unknown" in reelcache(*words, code=2).stderr
    told = document(*words, "--skip-unknown")
    assert (told["ok"], told["failed"], told["skipped"]) == (2, 1, 1)
    reader = FeatureStore("c.zarr")["i3d"]
    assert list(reader) == ["b", "a", "c"]
    assert reader.read("b").times.tolist() == [[0, 2], [2, 4]]
    assert reader.read("a").times.tolist() == [[0, 0.5], [0.5, 1]]


def test_a_manifest_gives_videos_order_and_durations_and_extract_may_go_on_with_it() -> None:
    rows = [Video("b", "b.mp4", meta={"duration": 4.0}), Video("a", "a.mp4", start=2.0, end=3.0), Video("c", "c.mp4")]
    write_rows("m.jsonl", rows)
    assert_imported_by("m.jsonl")
    extracted = reelcache("extract", "m.jsonl", "c.zarr", "--experts", "timm:test_resnet", "--weights", "random")
    assert "3 failed" in extracted.stdout  # there are no such files, but the videos are the store's
    assert set(FeatureStore("c.zarr").experts) == {"i3d", "timm:test_resnet"}


def test_durations_of_an_imported_dataset_do_for_a_manifest() -> None:
    Path("durations.json").write_text(json.dumps({"b": 4.0, "a": 1.0, "c": 9.0}))
    assert_imported_by("durations.json")


@pytest.mark.parametrize("format", ["npy", "hdf5"])
def test_a_store_goes_out_and_comes_back(format: str) -> None:
    write_store(Path("s"), experts={"s3d": {}, "vggish": {"kind": "audio"}})
    assert "s3d 14 rows" in reelcache("export", "s", "-o", "out", "--format", format, "--experts", "s3d").stdout
    reelcache("import-features", format, "out", "back", "--expert", "s3d")
    assert document("diff", "s", "back")["s3d"]["equal_rows"] == 14  # type: ignore[index]
    told = document("export", "s", "-o", "out", "--format", "webdataset", "--video", "ant", "--video", "bee")
    assert told == {"format": "webdataset", "folder": "out", "videos": 2, "rows": {"s3d": 12, "vggish": 12}}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ("import-features zip npy new --expert x", 2, "bigfile, mmt-h5"),
        ("import-features npy npy new", 2, "--expert"),
        ("import-features npy npy new --expert x", 2, "--every SECONDS"),
        ("import-features npy npy new --expert x --spread", 2, "--manifest FILE"),
        ("import-features npy npy new --expert x --every 1 --dtype int8", 2, "float16"),
        ("import-features npy npy new --expert x --every 1 --manifest none.jsonl", 1, "none.jsonl"),
        ("import-features npy none new --expert x --every 1", 1, "none"),
        ("import-features npy bad new --expert x --every 1", 1, "bad/a.npy"),
        ("import-features npy npy s --expert x --every 1", 1, "none of the store's videos"),
        ("export s -o new --format zip", 2, "webdataset"),
        ("export s -o new --format npy --experts s3e", 2, "s3d"),
        ("export s -o new --format npy --experts ,", 2, "no expert is named"),
        ("export s -o new --format npy --video bea", 1, "bee"),
        ("export s -o bad --format npy", 1, "other things"),
        ("export none -o new --format npy", 1, "none"),
        ("export s --format npy", 2, "--output"),
    ],
)
def test_what_is_wrong_is_told_in_a_sentence_and_leaves_nothing(words: str, code: int, says: str) -> None:
    write_store(Path("s"))
    foreign.write_npy(Path("npy"), {"q": np.ones((2, 3), np.float32)})
    foreign.write_npy(Path("bad"), {"a": np.array([[1, np.nan]], np.float32)})
    before = contents(Path())
    assert says in reelcache(*words.split(), code=code).stderr
    assert contents(Path()) == before
