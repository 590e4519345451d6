"""Asking a store for what it has, has not, or has no longer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import feature_store.reader
from feature_store import FeatureStore, NotInStore, StoreError, summarize
from small_stores import CORPUS, DIM, contents, features, status, times, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "corpus.zarr", experts={"s3d": {}, "vggish": {}})
    return tmp_path / "corpus.zarr"


def test_a_store_lists_its_experts_and_an_expert_its_videos(store: Path) -> None:
    opened = FeatureStore(store)
    assert list(opened.experts) == ["s3d", "vggish"] and opened.experts["s3d"].dim == DIM
    assert "s3d" in opened and "i3d" not in opened
    reader = opened["s3d"]
    assert list(reader) == CORPUS and len(reader) == len(CORPUS)
    assert "ant" in reader and "fly" not in reader and None not in reader
    assert opened["s3d"] is reader


def test_a_video_without_rows_says_why(store: Path) -> None:
    reader = FeatureStore(store)["s3d"]
    for video, reason in (("cat", "no sound"), ("dog", "not a video")):
        read = reader.read(video)
        assert read.missing and read.status.reason == reason
        assert read.values.shape == (0, DIM) and read.times.shape == (0, 2)
    assert not reader.read("eel").missing and reader.read("eel").status.at == 1.0


def test_an_unknown_video_is_a_key_error_that_names_ids_like_it(tmp_path: Path) -> None:
    ids = [f"video{number}" for number in range(7000, 7040)]
    write_store(tmp_path, ids, shard_videos=20)
    with pytest.raises(KeyError) as unknown:
        FeatureStore(tmp_path)["s3d"].read("vidoe7010")
    assert isinstance(unknown.value, NotInStore) and isinstance(unknown.value, StoreError)
    assert "'vidoe7010'; near: video7010" in str(unknown.value)
    assert not str(unknown.value).startswith(("'", '"')), "shown as it is, not quoted as KeyErrors are"
    with pytest.raises(NotInStore, match="near: video7010"):
        FeatureStore(tmp_path)["s3d"].status("vidoe7010")


def test_nothing_is_named_where_nothing_is_near(store: Path) -> None:
    with pytest.raises(NotInStore) as unknown:
        FeatureStore(store)["s3d"].read("zzzzzzzz")
    assert "near" not in str(unknown.value)


def test_an_unknown_expert_is_a_key_error_that_names_those_there(store: Path) -> None:
    with pytest.raises(KeyError) as unknown:
        FeatureStore(store)["i3d"]
    assert isinstance(unknown.value, NotInStore)
    assert "no expert 'i3d'; it has s3d, vggish" in str(unknown.value)


def test_what_was_read_is_the_callers_own(store: Path) -> None:
    before = contents(store)
    reader = FeatureStore(store)["s3d"]
    read = reader.read("ant")
    read.values[:] = 7
    read.times[:] = 7
    assert contents(store) == before
    np.testing.assert_array_equal(reader.read("ant").values, features("ant", 6))
    np.testing.assert_array_equal(reader.read("ant").times, times(6))


def test_a_store_of_more_shards_than_stay_mapped_is_read_all_the_same(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store.reader, "SHARDS_HELD", 1)
    reader = FeatureStore(store)["s3d"]
    for video in [*CORPUS, *reversed(CORPUS), *CORPUS]:
        assert reader.read(video).status == status(video)
        np.testing.assert_array_equal(reader.read(video).values, features(video, status(video).rows))


@pytest.mark.parametrize("array", ["features", "times", "offsets"])
@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "metadata gone", "metadata cut"])
def test_a_shard_that_cannot_be_read_is_a_store_error_that_names_it_and_the_mend(
    store: Path, array: str, damage: str
) -> None:
    folder = store / "s3d" / "000000" / array
    chunk = next(path for path in (folder / "c").rglob("*") if path.is_file())
    metadata = folder / "zarr.json"
    if damage == "gone":
        chunk.unlink()
    elif damage == "cut":
        chunk.write_bytes(chunk.read_bytes()[:7])
    elif damage == "empty":
        chunk.write_bytes(b"")
    elif damage == "metadata gone":
        metadata.unlink()
    elif damage == "metadata cut":
        metadata.write_bytes(metadata.read_bytes()[:40])
    with pytest.raises(StoreError, match=r"s3d/000000: damaged .*verify STORE --repair") as told:
        FeatureStore(store)["s3d"].read("ant")
    assert not isinstance(told.value, KeyError), "the video is in the store"
    assert FeatureStore(store)["s3d"].read("eel").values.shape == (2, DIM)
    assert FeatureStore(store)["vggish"].read("ant").values.shape == (6, DIM)


def test_a_damaged_record_is_a_store_error_that_names_it_and_the_mend(store: Path) -> None:
    path = store / "s3d" / "000001" / "complete.json"
    path.write_bytes(path.read_bytes()[:100])
    for use in (lambda: FeatureStore(store)["s3d"].read("ant"), lambda: summarize(store)):
        with pytest.raises(StoreError, match=r"000001/complete\.json: damaged .*verify STORE --repair"):
            use()


@pytest.mark.parametrize(("one", "other"), [("s3d/000000", "s3d/000002"), ("s3d/000000", "vggish/000000")])
def test_shards_that_changed_places_are_never_read_as_each_other(store: Path, one: str, other: str) -> None:
    shutil.move(store / one, store / "aside")
    shutil.move(store / other, store / one)
    shutil.move(store / "aside", store / other)
    with pytest.raises(StoreError, match=r"complete\.json: belongs to shard \d of "):
        FeatureStore(store)["s3d"].read("ant")
