"""Moments are found by a sentence: in one video, and in all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from small_runs import duration_of, small_recipe, write_corpus, write_moments
from typer.testing import CliRunner

from pipeline.cli import app
from train import TrainError
from train.moment_search import build_index, moments_of, search_moments
from train.search import open_model
from train.training import train

QUERY = "a dog runs"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each grounding system."""
    folder = tmp_path_factory.mktemp("moments")
    corpus = folder / "corpus"
    corpus.mkdir()
    write_corpus(corpus)
    write_moments(corpus)
    for system in ("fvmr", "drn", "tan2d"):
        train(small_recipe(corpus, system, epochs=1), folder / system)
    return folder


def test_the_runs_own_index_is_made_once_and_is_that_of_the_command(runs: Path, tmp_path: Path) -> None:
    opened = open_model(runs / "fvmr")
    found = search_moments(opened, QUERY, 4)
    own = runs / "fvmr" / "moments.zarr" / "complete.json"
    written = own.stat().st_mtime_ns
    index = build_index(opened, tmp_path / "moments.zarr")
    assert len(index) == len(index.videos) * len(opened.task.options.proposals.cells)  # type: ignore[attr-defined]
    assert search_moments(opened, QUERY, 4, tmp_path / "moments.zarr") == found == search_moments(opened, QUERY, 4)
    assert own.stat().st_mtime_ns == written
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_an_index_of_another_model_is_refused_and_the_runs_own_made_anew(runs: Path, tmp_path: Path) -> None:
    corpus = runs / "corpus"
    train(small_recipe(corpus, "fvmr", epochs=1, seed=1), tmp_path / "other")
    other = open_model(tmp_path / "other")
    build_index(other, tmp_path / "moments.zarr")
    with pytest.raises(TrainError, match=r"of another model.*reelcache index"):
        search_moments(open_model(runs / "fvmr"), QUERY, 3, tmp_path / "moments.zarr")
    expected = search_moments(other, QUERY, 3)
    build_index(open_model(runs / "fvmr"), tmp_path / "other" / "moments.zarr")  # as if the model had changed since
    assert search_moments(other, QUERY, 3) == expected


@pytest.mark.parametrize("system", ["fvmr", "drn", "tan2d"])
def test_every_grounding_system_tells_when_in_a_video(runs: Path, system: str) -> None:
    opened = open_model(runs / system)
    video = opened.videos[0]
    found = moments_of(opened, QUERY, video, 3)
    assert 1 <= len(found) <= 3
    assert all(0 <= start < end <= duration_of(video) + 1e-4 for start, end in found)


def test_what_cannot_be_asked_is_told(runs: Path) -> None:
    with pytest.raises(TrainError, match="train FVMR"):
        search_moments(open_model(runs / "drn"), QUERY)
    with pytest.raises(TrainError, match="no features of 'nowhere'"):
        moments_of(open_model(runs / "drn"), QUERY, "nowhere")
    with pytest.raises(TrainError, match="holds no word"):
        search_moments(open_model(runs / "fvmr"), "...")


def test_the_commands_print_moments_as_json(runs: Path, tmp_path: Path) -> None:
    index = str(tmp_path / "moments.zarr")
    assert CliRunner().invoke(app, ["index", str(runs / "fvmr"), "-o", index]).exit_code == 0
    asked = ["search", str(runs / "fvmr"), QUERY, "--index", index, "--top", "2", "--json"]
    found = json.loads(CliRunner().invoke(app, asked).stdout)
    assert [set(each) for each in found] == [{"video", "start", "end", "score"}] * 2
    within = json.loads(CliRunner().invoke(app, [*asked[:3], "--video", "v00", "--json"]).stdout)
    assert within and {each["video"] for each in within} == {"v00"}
