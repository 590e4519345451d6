"""Searching and evaluating trained runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import SYSTEMS, rows_of, small_recipe, videos, write_corpus, write_features
from typer.testing import CliRunner

import train.search
from feature_store import FeatureStore
from pipeline.cli import app
from train import TrainError
from train.annotations import read_split
from train.evaluation import open_gallery, score
from train.runs import LAST, load_chosen, open_recipe, open_task
from train.search import INDEX, open_index, open_model
from train.training import train as follow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with a run of each system, named after it. "all" is a split of every video with the train captions."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder)
    captions = folder / "captions"
    (captions / "all.jsonl").write_text((captions / "train.jsonl").read_text())
    (captions / "all.videos.txt").write_text("".join(f"{video}\n" for video in videos(24)))
    for system in SYSTEMS:
        follow(small_recipe(folder, system, epochs=2), folder / system)
    return folder


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_a_query_ranks_videos_as_evaluation_does(runs: Path, system: str) -> None:
    """Two similarities are brought to 0..1 by what the training captions have scored."""
    run = runs / system
    recipe = open_recipe(run)
    store = FeatureStore(recipe.data.store)
    task = open_task(run, recipe, store)
    load_chosen(task, run, recipe)
    split = read_split(runs / "captions", "all")
    scores = score(task, open_gallery(task, recipe.data, store, split, "cpu"), torch.arange(len(split.texts))).values
    index = open_index(open_model(run))
    for caption in (0, 5, 17):
        hits = index.search(split.texts[caption], top=30)
        assert sorted(hit.video for hit in hits) == videos(24)
        own = torch.tensor([scores[split.videos.index(hit.video), caption] for hit in hits])
        torch.testing.assert_close(torch.tensor([hit.score for hit in hits]), own, atol=1e-5, rtol=1e-4)
    assert len(index.search("a dog", top=3)) == 3


def made(monkeypatch: pytest.MonkeyPatch, run: Path, store: Path | None = None) -> bool:
    """Whether opening the index embeds videos."""
    calls: list[Any] = []
    whole = train.search.encode_videos
    monkeypatch.setattr(train.search, "encode_videos", lambda *each: calls.append(each) or whole(*each))
    open_index(open_model(run, {"data.store": str(store)} if store else None)).search("a red dog")
    monkeypatch.setattr(train.search, "encode_videos", whole)
    return bool(calls)


def test_embeddings_are_kept_until_the_model_or_the_videos_change(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    recipe = small_recipe(runs, epochs=1, select="last")
    follow(recipe, run)
    assert made(monkeypatch, run)
    assert not made(monkeypatch, run)

    whole = (run / INDEX).read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\0" * 100, whole[:8] + b"\xff" * 50 + whole[58:]):
        (run / INDEX).write_bytes(damaged)
        assert made(monkeypatch, run)
        assert not made(monkeypatch, run)

    ids = videos(24)
    looks = {video: rows_of(video, "looks") for video in ids}
    sounds = {video: None if int(video[1:]) % 5 == 4 else rows_of(video, "sounds") for video in ids}
    looks["v03"] = looks["v03"] + 1  # of the same ids, other features
    write_features(tmp_path / "other.zarr", {"looks": looks, "sounds": sounds}, {"sounds": "float16"})
    assert made(monkeypatch, run, tmp_path / "other.zarr")
    assert made(monkeypatch, run)

    checkpoint = torch.load(run / LAST, weights_only=True)
    checkpoint["state_dict"]["task.model.video_space.linear.weight"] += 1
    torch.save(checkpoint, run / LAST)
    assert made(monkeypatch, run)


@pytest.mark.parametrize("query", ["", "  ", "?!", "..."])
def test_a_query_without_a_word_is_refused(runs: Path, query: str) -> None:
    with pytest.raises(TrainError, match="holds no word"):
        open_index(open_model(runs / "dual_encoding")).search(query)


@pytest.mark.parametrize("query", ["dog zebra", "dog 日本", "'a'", f"{'x' * 3000} dog", "a dog " * 500])
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_a_known_word_finds_something_beside_any_others(runs: Path, system: str, query: str) -> None:
    assert all(torch.isfinite(torch.tensor(hit.score)) for hit in open_index(open_model(runs / system)).search(query))


@pytest.mark.parametrize("query", ["zebra", "日本", "x" * 3000, "zebra gnu"])
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_words_of_which_none_is_known_are_refused_but_by_bert_which_knows_their_pieces(
    runs: Path, system: str, query: str
) -> None:
    index = open_index(open_model(runs / system))
    if system == "mmt":
        assert index.search(query)
        return
    with pytest.raises(TrainError, match="knows none of its words") as caught:
        index.search(query)
    assert len(str(caught.value)) < 200


def test_words_that_are_not_known_are_told_beside_what_is_found(runs: Path) -> None:
    asked = ["search", str(runs / "hanet"), "a zebra near a dog in Timbuktu"]
    result = CliRunner().invoke(app, [*asked, "--json"])
    assert "passes over: zebra, in, timbuktu" in " ".join(result.stderr.split())
    assert len(json.loads(result.stdout)) == 10


@pytest.mark.parametrize("option", [["--index", "moments.zarr"], ["--engine", "torch"]])
def test_options_for_moments_are_refused_where_videos_are_found(runs: Path, option: list[str]) -> None:
    result = CliRunner().invoke(app, ["search", str(runs / "hanet"), "a dog", *option])
    assert result.exit_code == 2
    assert "are for moments; hanet finds videos" in " ".join(result.stderr.split())


def test_hits_are_printed_as_json_and_random_features_are_told(runs: Path) -> None:
    run, runner = str(runs / "hybrid_space"), CliRunner()
    found = runner.invoke(app, ["search", run, "a red dog", "--top", "2", "--json"])
    hits = json.loads(found.output)
    assert len(hits) == 2
    assert [list(hit) for hit in hits] == [["video", "start", "end", "score"]] * 2
    assert hits[0]["score"] >= hits[1]["score"]
    for command in (["search", run, "a red dog"], ["evaluate", run]):
        output = " ".join(runner.invoke(app, command).output.split())
        assert "The features of looks, sounds come from random weights" in output
    assert json.loads(runner.invoke(app, ["evaluate", run, "--json"]).output)["random_features"] == ["looks", "sounds"]


def test_figures_of_a_split_are_kept_under_its_whole_name(runs: Path) -> None:
    run, captions = runs / "dual_encoding", runs / "captions"
    for name in ("1k.a", "1k.b"):
        for ending in ("jsonl", "videos.txt"):
            (captions / f"{name}.{ending}").write_text((captions / f"val.{ending}").read_text())
        assert CliRunner().invoke(app, ["evaluate", str(run), "--split", name]).exit_code == 0
    kept = {path.name for path in (run / "evaluation").iterdir()}
    assert {"1k.a.json", "1k.a.csv", "1k.b.json", "1k.b.csv"} <= kept


def test_features_made_in_another_way_are_refused(runs: Path, tmp_path: Path) -> None:
    looks = {video: rows_of(video, "looks") for video in videos(3)}
    write_features(tmp_path / "other.zarr", {"looks": looks, "sounds": {"v00": rows_of("v00", "sounds")}})
    with pytest.raises(TrainError, match="sounds was made in another way"):
        open_index(open_model(runs / "dual_encoding", {"data.store": str(tmp_path / "other.zarr")}))
    write_features(tmp_path / "less.zarr", {"looks": looks})
    with pytest.raises(TrainError, match="lacks sounds"):
        open_index(open_model(runs / "dual_encoding", {"data.store": str(tmp_path / "less.zarr")}))
    with pytest.raises(TrainError, match="no feature store; name another with --store"):
        open_index(open_model(runs / "dual_encoding", {"data.store": str(tmp_path / "none.zarr")}))


def test_a_run_without_a_model_is_told(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match="there is no run"):
        open_index(open_model(tmp_path))
    (tmp_path / "run").mkdir()
    for name in ("recipe.json", "assets.json", "experts.json"):
        (tmp_path / "run" / name).write_bytes((runs / "mmt" / name).read_bytes())
    with pytest.raises(TrainError, match="--resume"):
        open_index(open_model(tmp_path / "run"))
