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

QUERY = "a dog runs"  # of which the last word is not known


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
    with pytest.raises(TrainError, match="none of the videos to look among"):
        search_moments(open_model(runs / "fvmr"), QUERY, among={"nowhere"})


@pytest.mark.parametrize("system", ["fvmr", "drn", "tan2d"])
def test_words_of_which_none_is_known_are_refused(runs: Path, system: str) -> None:
    opened = open_model(runs / system)
    for query in ("zebra", "zebra, gnu!", "日本"):
        with pytest.raises(TrainError, match="knows none of its words"):
            moments_of(opened, query, opened.videos[0])
    with pytest.raises(TrainError, match="knows none of its words"):
        search_moments(open_model(runs / "fvmr"), "zebra")


@pytest.mark.parametrize("damage", ["complete.json", "embeddings/c/0/0", "times/c/0/0", "zarr.json"])
def test_the_runs_own_index_is_made_anew_when_it_is_damaged(runs: Path, damage: str) -> None:
    expected = search_moments(open_model(runs / "fvmr"), QUERY, 4)
    path = runs / "fvmr" / "moments.zarr" / damage
    path.write_bytes(path.read_bytes()[:-1])
    assert search_moments(open_model(runs / "fvmr"), QUERY, 4) == expected


def test_a_search_among_some_videos_finds_moments_of_no_others(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("v03\nv17\nnowhere\n")
    asked = ["search", str(runs / "fvmr"), QUERY, "--top", "50", "--json"]
    found = json.loads(CliRunner().invoke(app, [*asked, "--among", str(tmp_path / "some.txt")]).stdout)
    assert {each["video"] for each in found} == {"v03", "v17"}
    everywhere = search_moments(open_model(runs / "fvmr"), QUERY, 10_000)
    assert [each["score"] for each in found] == pytest.approx(
        [each.score for each in everywhere if each.video in ("v03", "v17")], abs=1e-6
    )


def test_an_index_is_verified_by_command(runs: Path, tmp_path: Path) -> None:
    asked = ["index", str(runs / "fvmr"), "-o", str(tmp_path / "moments.zarr")]
    assert "no index of moments" in CliRunner().invoke(app, [*asked, "--verify"]).stderr
    CliRunner().invoke(app, asked)
    assert "every file is as it was written" in CliRunner().invoke(app, [*asked, "--verify"]).stdout
    chunk = tmp_path / "moments.zarr" / "embeddings/c/0/0"
    content = bytearray(chunk.read_bytes())
    content[3] ^= 1
    chunk.write_bytes(content)
    result = CliRunner().invoke(app, [*asked, "--verify"])
    assert result.exit_code == 1
    assert "make it anew with `reelcache index`" in " ".join(result.stderr.split())


@pytest.mark.parametrize("option", [["--among", "some.txt"], ["--index", "i.zarr"], ["--engine", "torch"]])
def test_options_that_do_not_apply_to_one_video_are_refused(runs: Path, option: list[str]) -> None:
    result = CliRunner().invoke(app, ["search", str(runs / "fvmr"), QUERY, "--video", "v00", *option])
    assert result.exit_code == 2
    assert "--video looks at one video alone" in " ".join(result.stderr.split())


def test_the_commands_print_moments_as_json(runs: Path, tmp_path: Path) -> None:
    index = str(tmp_path / "moments.zarr")
    assert CliRunner().invoke(app, ["index", str(runs / "fvmr"), "-o", index]).exit_code == 0
    asked = ["search", str(runs / "fvmr"), QUERY, "--index", index, "--top", "2", "--json"]
    found = json.loads(CliRunner().invoke(app, asked).stdout)
    assert [set(each) for each in found] == [{"video", "start", "end", "score"}] * 2
    within = json.loads(CliRunner().invoke(app, [*asked[:3], "--video", "v00", "--json"]).stdout)
    assert within and {each["video"] for each in within} == {"v00"}
