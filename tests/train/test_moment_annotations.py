"""Moments of a split: what of them is cut or left out and counted, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import small_recipe, write_corpus, write_moment_split
from typer.testing import CliRunner

from data_manifests import ManifestError
from feature_store import FeatureStore
from pipeline.cli import app
from train import TrainError
from train.annotations import MomentSplit, moment_texts, read_moments
from train.evaluation import open_split
from train.grounding.evaluation import summarise
from train.tasks.tan2d import TAN2DTask
from train.training import train


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def test_times_that_cannot_be_are_cut_or_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        ("a", "ends beyond", 1.0, 9.0),
        ("a", "begins at the end", 4.0, 5.0),
        ("b", "begins beyond", 3.0, 4.0),
        ("b", " ?! ", 0.0, 9.0),
        ("b", "", 0.0, 1.0),
        ("b", "is as long as the video", 0.0, 2.5),
        ("a", "begins before it", -1.5, 2.0),
        ("a", "is over before it", -2.0, -1.0),
        ("a", "ends before it starts", 3.0, 2.0),
        ("a", "takes no time", 3.0, 3.0),
    ]
    write_moment_split(tmp_path, "test", rows, {"a": 4.0, "b": 2.5, "c": 7.0})
    split = read_moments(tmp_path, "test")
    assert split.texts == ("ends beyond", "is as long as the video", "begins before it")
    assert split.spans.tolist() == [[1.0, 4.0], [0.0, 2.5], [0.0, 2.0]]
    assert (split.videos, split.durations.tolist()) == (("a", "b", "c"), [4.0, 2.5, 0.0])
    assert split.left_out == (
        "2 moments without a word",
        "5 moments that do not end after they start, or begin beyond their video",
        "1 starts of moments before 0 s",
        "1 ends of moments beyond their video's end",
    )


def test_all_moments_of_a_sentence_are_kept_and_the_best_counts(tmp_path: Path) -> None:
    meta = {"duration": 30.0, "windows": [[1, 4], [10, 20], [25, 99]]}
    rows = [
        {"video": "a", "text": "thrice", "start": 1, "end": 4, "meta": meta},
        {"video": "a", "text": "once", "start": 5, "end": 6, "meta": {"duration": 30.0}},
    ]
    (tmp_path / "val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    split = read_moments(tmp_path, "val")
    assert split.spans.tolist() == [[1, 4], [5, 6]]
    assert split.windows.tolist() == [[[1, 4], [10, 20], [25, 30]], [[5, 6], [0, 0], [0, 0]]]
    guesses = torch.tensor([[[10.0, 19.0]], [[0.0, 5.0]]])
    metrics = summarise("qvhighlights", 1, {0.5: guesses}, split.windows, strict=False)
    assert (metrics.recalls["R1@0.5"], metrics.mean_iou, metrics.several) == (50.0, pytest.approx(45.0), 1)
    assert "of the moments of 1 sentences that have several, the best counts" in metrics.told()


def test_windows_that_are_none_are_refused(tmp_path: Path) -> None:
    row = {"video": "a", "text": "x", "start": 1, "end": 4, "meta": {"duration": 9.0, "windows": [[1, 2, 3]]}}
    (tmp_path / "val.jsonl").write_text(json.dumps(row))
    with pytest.raises(ManifestError, match=r"meta\.windows of 'a' must be pairs of seconds"):
        read_moments(tmp_path, "val")


times = st.floats(-1e3, 1e3)


@given(st.lists(st.tuples(times, times), min_size=1, max_size=8), st.floats(0.1, 500))
def test_every_moment_is_taken_within_its_video_or_counted(
    tmp_path_factory: pytest.TempPathFactory, spans: list[tuple[float, float]], duration: float
) -> None:
    folder = tmp_path_factory.mktemp("moments")
    rows = [("a", "whole", 0.0, duration), *(("a", "one", start, end) for start, end in spans)]
    write_moment_split(folder, "test", rows, {"a": duration})
    split = read_moments(folder, "test")
    backwards = sum(int(each.split()[0]) for each in split.left_out if "do not end after" in each)
    assert len(split.texts) + backwards == 1 + len(spans)
    assert all(0 <= start <= end <= duration * (1 + 1e-6) for start, end in split.spans.tolist())


def test_moments_of_videos_that_are_not_in_the_split_are_left_out_and_named(tmp_path: Path) -> None:
    rows = [("a", "one", 0.0, 1.0), ("x", "two", 0.0, 1.0), ("y", "three", 0.0, 1.0), ("x", "four", 0.0, 1.0)]
    write_moment_split(tmp_path, "test", rows, dict.fromkeys("axy", 2.0))
    (tmp_path / "test.videos.txt").write_text("a\n")
    split = read_moments(tmp_path, "test")
    assert (split.videos, split.texts) == (("a",), ("one",))
    assert split.left_out == ("3 moments of videos that test.videos.txt lacks: x, y",)


def test_a_video_whose_length_is_not_told_or_told_twice_is_named(tmp_path: Path) -> None:
    row = {"video": "a", "text": "one", "start": 0, "end": 1}
    for meta in ({}, {"duration": "4"}, {"duration": 0}, {"duration": None}):
        lines = [json.dumps({**row, "video": video, "meta": meta}) for video in "aba"]
        (tmp_path / "test.jsonl").write_text("\n".join(lines))
        with pytest.raises(TrainError, match=r"test\.jsonl: 3 moments do not tell .*meta\.duration.* those of a, b"):
            read_moments(tmp_path, "test")
    lines = [json.dumps({**row, "meta": {"duration": duration}}) for duration in (4, 5)]
    (tmp_path / "test.jsonl").write_text("\n".join(lines))
    with pytest.raises(TrainError, match="moments of a tell it is 4 s long, and 5 s"):
        read_moments(tmp_path, "test")


def test_a_split_without_moments_tells_what_became_of_them(tmp_path: Path) -> None:
    rows = [("a", "...", 0.0, 1.0), ("a", "one", 1.0, 0.0), ("x", "two", 0.0, 1.0)]
    write_moment_split(tmp_path, "test", rows, {"a": 2.0, "x": 2.0})
    (tmp_path / "test.videos.txt").write_text("a\n")
    told = (
        r"holds no moments; 1 moments of videos that .* lacks: x; 1 moments without a word; 1 moments that do not end"
    )
    with pytest.raises(TrainError, match=told):
        read_moments(tmp_path, "test")


@pytest.mark.parametrize("line", ["{", '{"video": "a"}', '{"video": "a", "text": "b", "start": 1, "end": NaN}'])
def test_a_line_that_is_no_moment_is_named(tmp_path: Path, line: str) -> None:
    write_moment_split(tmp_path, "test", [("a", "one", 0, 1)], {"a": 2.0})
    with open(tmp_path / "test.jsonl", "a") as file:
        file.write(line)
    with pytest.raises(ManifestError, match=r"test\.jsonl:2: "):
        read_moments(tmp_path, "test")


def test_words_are_those_of_all_splits_whatever_else_lies_in_the_folder(tmp_path: Path) -> None:
    for name, text in (("train", "a dog"), ("other", "a cat")):
        write_moment_split(tmp_path, name, [("a", text, 0, 1)], {"a": 2.0})
    (tmp_path / "stray.jsonl").write_text("not even JSON\n")
    (tmp_path / "captions.jsonl").write_text('{"video": "a", "text": "a zebra"}\n')
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "role_graphs.rules.jsonl").write_text('{"format": "reelcache-parses-1", "parser": "rules"}\n')
    assert sorted(moment_texts(tmp_path)) == ["a cat", "a dog"]


def test_videos_without_features_are_refused_or_dropped_with_their_moments(corpus: Path, tmp_path: Path) -> None:
    write_moment_split(tmp_path, "train", [("v00", "one", 0, 1), ("x", "two", 0, 1)], {"v00": 2.0, "x": 2.0})
    recipe = small_recipe(corpus, "tan2d", data={"annotations": str(tmp_path)})
    with pytest.raises(TrainError, match=r"1 of 2 videos are without rows of looks: x; .* not in the store at all: x"):
        train(recipe, tmp_path / "run")
    dropped = small_recipe(corpus, "tan2d", data={"annotations": str(tmp_path), "missing": "drop"})
    split = open_split(TAN2DTask, dropped.data, FeatureStore(recipe.data.store), "train")
    assert isinstance(split, MomentSplit)
    assert (split.videos, split.texts, split.spans.tolist(), split.durations.tolist()) == (
        ("v00",), ("one",), [[0.0, 1.0]], [2.0],
    )  # fmt: skip


def test_what_was_left_out_is_told_when_a_run_is_measured(corpus: Path, tmp_path: Path) -> None:
    rows = [("v00", "a red dog", 0.0, 0.5), ("v01", "a cat", 1.0, 0.5), ("v02", "a bird", 0.0, 0.5)]
    for name in ("train", "val", "test"):
        write_moment_split(tmp_path, name, rows, dict.fromkeys(("v00", "v01", "v02"), 1.0))
    train(small_recipe(corpus, "tan2d", data={"annotations": str(tmp_path)}, epochs=1, batch=2), tmp_path / "run")
    told = CliRunner().invoke(app, ["evaluate", str(tmp_path / "run")]).output
    assert "left out: 1 moments that do not end after they start" in " ".join(told.split())
