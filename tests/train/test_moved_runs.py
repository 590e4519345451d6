"""Runs are used from any folder, and after they, or what they need, were moved."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from small_runs import captions_of, rows_of, small_recipe, videos, write_corpus, write_features, write_moments
from small_runs import write_split as write_captions

from command import reelcache
from train import RecipeError, TrainError
from train.paths import PathMark, absolute_paths, paths_of
from train.recipe import Data, Recipe, parse_recipe
from train.runs import LAST, RECIPE, SOURCES, open_recipe
from train.search import INDEX, open_index, open_model
from train.tasks import OPTIONS
from train.training import train

NAMES = {"train", "val", "test"}  # texts of [data] that are no paths
MOMENTS = "moments.zarr/complete.json"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with features, captions, moments, and runs of the hybrid space and of FVMR by relative paths."""
    project = tmp_path_factory.mktemp("made") / "project"
    project.mkdir()
    before = Path.cwd()
    os.chdir(project)
    try:
        write_corpus(Path("data"))
        write_moments(Path("data"))
        for system in ("hybrid_space", "fvmr"):
            train(small_recipe(Path("data"), system, epochs=1), Path("runs") / system)
    finally:
        os.chdir(before)
    return project


@pytest.fixture
def project(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the project, used from a folder elsewhere; the original is not to be found meanwhile."""
    copy = tmp_path / "elsewhere" / "copy"
    shutil.copytree(made, copy)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    made.rename(made.with_name("away"))
    yield copy
    made.with_name("away").rename(made)


def messages(*words: object, code: int = 1) -> str:
    """What a command that fails prints, without its line breaks."""
    return " ".join(reelcache(*words, code=code).stderr.split())


def test_a_run_by_relative_paths_is_used_from_any_folder_and_after_its_project_was_moved(project: Path) -> None:
    run = project / "runs/hybrid_space"
    reelcache("evaluate", run)
    reelcache("search", run, "a red dog")
    reelcache("train", run, "--resume")
    reelcache("search", project / "runs/fvmr", "a red dog")
    reelcache("evaluate", os.path.relpath(project / "runs/fvmr"))


def test_what_search_keeps_in_a_run_is_still_of_it_after_a_move(project: Path, tmp_path: Path) -> None:
    for system, kept in (("hybrid_space", INDEX), ("fvmr", MOMENTS)):
        reelcache("search", project / "runs" / system, "a red dog")
        written = (project / "runs" / system / kept).stat().st_mtime_ns
        moved = project.rename(tmp_path / f"moved-{system}")
        reelcache("search", moved / "runs" / system, "a red dog")
        assert (moved / "runs" / system / kept).stat().st_mtime_ns == written
        moved.rename(project)


def test_a_run_that_was_moved_alone_finds_its_files_where_they_were(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "deep/er/run"
    shutil.copytree(made / "runs/hybrid_space", run)
    reelcache("evaluate", run)
    assert open_recipe(run).data.store == str(made / "data/corpus.zarr")


def test_a_copy_of_a_project_uses_its_own_files(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "copy")
    assert open_recipe(tmp_path / "copy/runs/fvmr").data.annotations == str(tmp_path / "copy/data/moments")


def test_a_run_reached_by_a_link_finds_its_files(made: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(made / "runs")
    reelcache("evaluate", tmp_path / "link/hybrid_space")


def test_a_run_without_its_files_names_the_option_that_points_to_them(project: Path, tmp_path: Path) -> None:
    run = project / "runs/hybrid_space"
    store, captions = tmp_path / "features.zarr", tmp_path / "said"
    (project / "data/corpus.zarr").rename(store)
    (project / "data/captions").rename(captions)
    commands: list[list[Any]] = [["evaluate", run], ["search", run, "a red dog"], ["train", run, "--resume"]]
    for words in commands:
        told = messages(*words)
        assert "corpus.zarr" in told and "name another with --store PATH" in told
        told = messages(*words, "--store", store)
        assert "data/captions" in told and "name another with --annotations PATH" in told
        reelcache(*words, "--store", os.path.relpath(store), "--annotations", os.path.relpath(captions))
    reelcache("search", run, "a red dog", "--store", store)  # what was made of the captions is kept
    reelcache("train", run, "--resume", "--set", f"data.store={store}", "--set", f"data.annotations={captions}")
    assert "name another with --store PATH" in messages("index", project / "runs/fvmr")
    reelcache("index", project / "runs/fvmr", "--store", store)


def test_pointing_does_not_change_the_run(made: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "runs/hybrid_space", run)
    shutil.copytree(made / "data/corpus.zarr", tmp_path / "other.zarr")
    before = {name: (run / name).read_bytes() for name in (RECIPE, SOURCES)}
    reelcache("evaluate", run, "--store", tmp_path / "other.zarr")
    reelcache("train", run, "--resume", "--store", tmp_path / "other.zarr")
    assert before == {name: (run / name).read_bytes() for name in before}


def test_a_run_goes_on_only_with_the_features_and_captions_that_it_began_with(made: Path, tmp_path: Path) -> None:
    run = made / "runs/hybrid_space"
    features = {name: {video: rows_of(video, name) for video in videos(24)} for name in ("looks", "sounds")}
    write_features(tmp_path / "other.zarr", features)  # sounds are float32
    told = messages("train", run, "--resume", "--store", tmp_path / "other.zarr")
    assert "sounds was made in another way" in told

    other = tmp_path / "captions"
    shutil.copytree(made / "data/captions", other)
    said = [(video, text) for video in videos(16) for text in captions_of(video)]
    write_captions(other, "train", [*said[:-1], (said[-1][0], "a cat sleeps")], videos(16))
    told = messages("train", run, "--resume", "--annotations", other)
    assert "split 'train' holds other captions or videos" in told and "--annotations" in told
    write_captions(other, "train", said, videos(16))
    reelcache("train", run, "--resume", "--annotations", other)


@pytest.mark.parametrize("setting", ["training.epochs=9", "model.dim=3", "model.word_vectors=some.txt", "store=x"])
def test_only_paths_of_a_run_can_be_named_anew(made: Path, setting: str) -> None:
    for words in (["train", made / "runs/hybrid_space", "--resume"], ["evaluate", made / "runs/hybrid_space"]):
        told = messages(*words, "--set", setting, code=2)
        assert "only its paths can be named anew: data.annotations, data.store" in told
    assert "write KEY=PATH" in messages("evaluate", made / "runs/fvmr", "--set", "data.store", code=2)


def test_a_new_run_takes_its_store_and_annotations_from_options(made: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path / "nowhere", epochs=1).model_dump(mode="json")
    lines = [
        "[data]", 'store = "nowhere"', 'annotations = "nowhere"', 'experts = ["looks"]',
        "[model]", *(f"{key} = {json.dumps(value)}" for key, value in recipe["model"].items()),
        "[training]", "epochs = 1", "batch = 8", "learning_rate = 1e-2", 'accelerator = "cpu"',
    ]  # fmt: skip
    (tmp_path / "mine.toml").write_text("\n".join(lines))
    data = made / "data"
    reelcache(
        "train", tmp_path / "mine.toml", "-o", tmp_path / "run", "--store", data / "corpus.zarr",
        "--annotations", data / "captions",
    )  # fmt: skip
    assert open_recipe(tmp_path / "run").data.store == str(data / "corpus.zarr")


def test_only_the_recipe_of_a_run_names_folders_outside_it(made: Path) -> None:
    reelcache("search", made / "runs/hybrid_space", "a red dog")
    for file in (path for path in (made / "runs").rglob("*") if path.is_file()):
        assert file.name == RECIPE or os.fsencode(made.parent) not in file.read_bytes(), file
        assert not file.is_symlink()


def test_every_text_of_a_recipe_is_marked_as_a_path_or_known_to_be_none() -> None:
    """So that a new option that holds a path is bound to the run like the others."""
    for model in (Data, *get_args(OPTIONS)):
        for name, field in model.model_fields.items():
            if field.annotation is str:
                marked = any(isinstance(each, PathMark) for each in field.metadata)
                assert marked != (model is Data and name in NAMES), f"{model.__name__}.{name}"


def with_model(system: str, store: str = "a.zarr", **values: Any) -> Recipe:
    return parse_recipe(
        {
            "data": {"store": store, "annotations": "captions", "experts": ["looks"]},
            "model": {"system": system, **values},
            "training": {"epochs": 1, "batch": 8, "learning_rate": 0.1},
        },
        "recipe",
    )


def test_paths_of_every_kind_are_bound_and_names_and_urls_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bert = with_model("mmt", bert="bert", store="s3://bucket/a.zarr")
    assert set(paths_of(bert)) == {"data.annotations"}  # there is no folder bert: a name on the hub
    (tmp_path / "bert").mkdir()
    bound = absolute_paths(bert)
    assert bound.model.bert == str(tmp_path / "bert")
    assert bound.data.store == "s3://bucket/a.zarr"
    hanet = with_model("hanet", role_graphs="graphs/all.json", word_vectors="../glove.txt")
    assert paths_of(absolute_paths(hanet)) == {
        "data.store": str(tmp_path / "a.zarr"),
        "data.annotations": str(tmp_path / "captions"),
        "model.role_graphs": str(tmp_path / "graphs/all.json"),
        "model.word_vectors": f"{tmp_path}/../glove.txt",
    }
    assert "model.role_graphs" not in paths_of(with_model("hanet", role_graphs="rules"))


def test_published_role_graphs_that_were_moved_are_named_anew(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "graphs.json").write_text("{}")
    recipe = small_recipe(made / "data", "hanet", model={"role_graphs": "graphs.json"}, epochs=1, select="last")
    train(recipe, tmp_path / "run")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    reelcache("evaluate", tmp_path / "run")
    (tmp_path / "graphs.json").rename(tmp_path / "moved.json")
    told = messages("evaluate", tmp_path / "run")
    assert "graphs.json" in told and "--set model.role_graphs=PATH" in told
    reelcache("evaluate", tmp_path / "run", "--set", "model.role_graphs=../moved.json")


def test_word_vectors_that_are_gone_before_the_first_checkpoint_are_named_with_the_option(
    made: Path, tmp_path: Path
) -> None:
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"{word} {' '.join(['0.5'] * 8)}\n" for word in ("dog", "cat", "a", "the")))
    recipe = small_recipe(made / "data", "dual_encoding", model={"word_vectors": str(vectors)}, epochs=1)
    run = tmp_path / "run"
    train(recipe, run)
    (run / LAST).unlink()
    vectors.rename(tmp_path / "moved.txt")
    assert "--set model.word_vectors=PATH" in messages("train", run, "--resume")
    reelcache("train", run, "--resume", "--set", f"model.word_vectors={tmp_path / 'moved.txt'}")


def test_a_run_of_an_earlier_version_is_read_from_the_folder_it_was_made_in(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "runs/hybrid_space", run)
    (run / SOURCES).unlink()
    document = json.loads((run / RECIPE).read_text())
    document["data"] |= {"store": "data/corpus.zarr", "annotations": "data/captions"}
    (run / RECIPE).write_text(json.dumps(document))
    monkeypatch.chdir(made)
    reelcache("evaluate", run)
    reelcache("train", run, "--resume")


@pytest.mark.parametrize("content", ["[]", '{"paths": 3}', "{", '{"paths": {"data.store": 3}}'])
def test_damaged_sources_are_named(made: Path, tmp_path: Path, content: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "runs/fvmr", run)
    (run / SOURCES).write_text(content)
    with pytest.raises(RecipeError, match=r"sources\.json: damaged"):
        open_recipe(run)


def test_what_search_keeps_has_the_modes_of_the_umask(made: Path) -> None:
    path = made / "runs/hybrid_space" / INDEX
    path.unlink(missing_ok=True)
    before = os.umask(0o027)
    try:
        reelcache("search", made / "runs/hybrid_space", "a red dog")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_search_whose_embeddings_cannot_be_kept_says_so(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(made / "runs/hybrid_space", run)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.search.save_file", full)
    (run / INDEX).unlink(missing_ok=True)
    with pytest.raises(TrainError, match=r"cannot be kept there .*No space left"):
        open_index(open_model(run))
    assert not list(run.glob("*.part"))
