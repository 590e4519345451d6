"""Splits of annotations: what is taken, what is left out, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_runs import rows_of, write_features, write_split

from data_manifests import ManifestError
from feature_store import FeatureStore
from train import TrainError
from train.annotations import read_split
from train.evaluation import open_split
from train.recipe import Data
from train.tasks import TASKS


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    looks = {video: rows_of(video, "looks") for video in ("v00", "v01", "v02")}
    return write_features(tmp_path / "corpus.zarr", {"looks": {**looks, "v03": None}})


def data(folder: Path, **changes: object) -> Data:
    return Data.model_validate(
        {"store": str(folder / "corpus.zarr"), "annotations": str(folder), "experts": ["looks"], **changes}
    )


def test_captions_know_their_videos(tmp_path: Path) -> None:
    write_split(tmp_path, "test", [("b", "one"), ("a", "two"), ("b", "three")], ["a", "b", "c"])
    split = read_split(tmp_path, "test")
    assert split.videos == ("a", "b", "c")
    assert split.video_of.tolist() == [1, 0, 1]
    assert split.video_of.tolist() == [1, 0, 1] and len(split.videos) == 3


def test_without_a_list_the_videos_are_those_of_the_captions(tmp_path: Path) -> None:
    write_split(tmp_path, "test", [("b", "one"), ("a", "two"), ("b", "three")], None)
    assert read_split(tmp_path, "test").videos == ("b", "a")


def test_captions_without_a_word_are_left_out_and_counted(tmp_path: Path) -> None:
    write_split(tmp_path, "test", [("a", "one"), ("a", ""), ("b", " ?! ")], ["a", "b"])
    split = read_split(tmp_path, "test")
    assert (split.texts, split.videos) == (("one",), ("a", "b"))
    assert split.left_out == ("2 captions without a word",)


def test_captions_of_videos_that_are_not_listed_are_refused_by_name(tmp_path: Path) -> None:
    write_split(tmp_path, "test", [("a", "one"), ("x", "two"), ("y", "three"), ("x", "four")], ["a"])
    with pytest.raises(ManifestError, match=r"3 captions of videos that test\.videos\.txt lacks: x, y"):
        read_split(tmp_path, "test")


def test_a_list_that_names_a_video_twice_is_refused(tmp_path: Path) -> None:
    write_split(tmp_path, "test", [("a", "one")], ["a", "b", "a"])
    with pytest.raises(ManifestError, match="names videos twice: a"):
        read_split(tmp_path, "test")


def test_a_split_that_is_not_there_or_is_empty_is_told(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [("a", "...")], None)
    with pytest.raises(TrainError, match=r"no split 'test', there are: train"):
        read_split(tmp_path, "test")
    with pytest.raises(TrainError, match="holds no captions"):
        read_split(tmp_path, "train")


def test_videos_without_features_are_an_error_that_names_them(tmp_path: Path, store: FeatureStore) -> None:
    write_split(tmp_path, "train", [("v00", "one"), ("v03", "two"), ("v09", "three")], None)
    with pytest.raises(TrainError, match=r"2 of 3 videos are without rows of looks: v03, v09; of these 1 .*: v09"):
        open_split(TASKS["dual_encoding"], data(tmp_path), store, "train")


def test_videos_without_features_are_dropped_on_demand(tmp_path: Path, store: FeatureStore) -> None:
    captions = [("v03", "one"), ("v02", "two"), ("v09", "three"), ("v00", "four")]
    write_split(tmp_path, "train", captions, None)
    split = open_split(TASKS["dual_encoding"], data(tmp_path, missing="drop"), store, "train")
    assert (split.videos, split.texts) == (("v02", "v00"), ("two", "four"))
    assert torch.equal(split.video_of, torch.tensor([0, 1]))
    assert split.left_out == ("2 videos without rows of looks",)
    write_split(tmp_path, "train", [("v03", "one")], ["v03", "v00"])
    with pytest.raises(TrainError, match="no caption is left"):
        open_split(TASKS["dual_encoding"], data(tmp_path, missing="drop"), store, "train")


def test_an_expert_that_the_store_lacks_is_told(tmp_path: Path, store: FeatureStore) -> None:
    with pytest.raises(TrainError, match="lacks smells; it has looks"):
        open_split(TASKS["dual_encoding"], data(tmp_path, experts=["looks", "smells"]), store, "train")
