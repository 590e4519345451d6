"""What is wrong with a run, its features, its captions or a query ends a command in a sentence that names it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import rows_of, small_recipe, videos, write_corpus, write_features, write_moments
from typer.testing import CliRunner

from pipeline.cli import app
from train.grounding.drn import DRN
from train.runs import BEST, LAST
from train.training import train

Damage = Callable[[Path], object]
NOT_UTF8 = {"UTF-16": "v00\n".encode("utf-16"), "ISO-8859-1": b"caf\xe9\n"}
SEARCH = ["search", "RUN", "a red dog"]
EVALUATE = ["evaluate", "RUN"]
RESUME = ["train", "RUN", "--resume"]
MOMENT = ["search", "DRN", "a red dog", "--video", "v18"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with runs of Dual Encoding, FVMR and DRN, of one epoch of two."""
    folder = tmp_path_factory.mktemp("errors") / "base"
    folder.mkdir()
    write_corpus(folder)
    write_moments(folder)
    for system in ("dual_encoding", "fvmr", "drn"):
        train(small_recipe(folder, system, epochs=1), folder / system)
        recipe = json.loads((folder / system / "recipe.json").read_text())
        recipe["training"]["epochs"] = 2
        (folder / system / "recipe.json").write_text(json.dumps(recipe))
    return folder


def message(base: Path, tmp_path: Path, words: list[str], damage: Damage, code: int = 1) -> str:
    """What a command says of a damaged copy of the corpus and its runs."""
    folder = tmp_path / "copy"
    shutil.copytree(base, folder)
    damage(folder)
    names = {"RUN": "dual_encoding", "FVMR": "fvmr", "DRN": "drn"}
    asked = [str(folder / names[word]) if word in names else word.replace("HERE", str(folder)) for word in words]
    result = CliRunner().invoke(app, asked)
    assert isinstance(result.exception, SystemExit), f"{result.exception!r}\n{result.output}"
    assert result.exit_code == code, result.output
    told = " ".join(result.stderr.split())
    assert "Traceback" not in told and len(told) < 700
    return told


def put(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content)


def cut(name: str, share: float = 0.5) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(share * len(content))])

    return damage


def gone(name: str) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def folder_for_file(name: str) -> Damage:
    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()

    return damage


def file_for_folder(name: str) -> Damage:
    def damage(folder: Path) -> None:
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).write_bytes(b"")

    return damage


def checkpoints(change: Callable[[dict[str, Any]], object], run: str = "dual_encoding") -> Damage:
    def damage(folder: Path) -> None:
        for name in (BEST, LAST):
            content = torch.load(folder / run / name, weights_only=True)
            content = change(content) or content
            torch.save(content, folder / run / name)

    return damage


def fill(value: float) -> Callable[[dict[str, Any]], None]:
    """A number in every parameter."""

    def change(checkpoint: dict[str, Any]) -> None:
        for tensor in checkpoint["state_dict"].values():
            if tensor.is_floating_point():
                tensor.view(-1)[:1] = value

    return change


def of_another_system(folder: Path) -> None:
    for name in (BEST, LAST):
        shutil.copy(folder / "drn" / name, folder / "dual_encoding" / name)


def features(value: float, video: str = "v18") -> Damage:
    """A row of a video that holds a number."""

    def damage(folder: Path) -> None:
        shutil.rmtree(folder / "corpus.zarr")
        looks: dict[str, np.ndarray | None] = {each: rows_of(each, "looks") for each in videos(24)}
        sounds = {each: None if int(each[1:]) % 5 == 4 else rows_of(each, "sounds") for each in videos(24)}
        rows = looks[video]
        assert rows is not None
        rows[1] = value
        write_features(folder / "corpus.zarr", {"looks": looks, "sounds": sounds}, {"sounds": "float16"})

    return damage


def nothing(folder: Path) -> None:
    pass


NAN = float("nan")
SHARD = "corpus.zarr/looks/000000"


@pytest.mark.parametrize(
    ("words", "damage", "told"),
    [
        (EVALUATE, gone("dual_encoding"), "there is no run"),
        (["evaluate", "HERE/captions/test.jsonl"], nothing, "there is no run"),
        (EVALUATE, put("dual_encoding/assets.json", b"{}"), "no model can be made of its recipe and assets.json"),
        (EVALUATE, put("dual_encoding/assets.json", b"[]"), "no model can be made of its recipe and assets.json"),
        (EVALUATE, put("dual_encoding/assets.json", b"[" * 100_000), "assets.json: damaged"),
        (EVALUATE, put("dual_encoding/assets.json", b"\xff\x00"), "assets.json: damaged"),
        (EVALUATE, put("dual_encoding/experts.json", b"[]"), "experts.json: damaged"),
        (EVALUATE, cut("dual_encoding/experts.json"), "experts.json: damaged"),
        (EVALUATE, put("dual_encoding/recipe.json", b"[]"), "recipe.json: Input should be a valid dictionary"),
        (EVALUATE, put("dual_encoding/recipe.json", b"[" * 100_000), "recipe.json: damaged"),
        (EVALUATE, cut("dual_encoding/recipe.json"), "recipe.json: damaged"),
    ],
)
def test_files_of_a_run_that_are_damaged_are_named(
    base: Path, tmp_path: Path, words: list[str], damage: Damage, told: str
) -> None:
    code = 1 if "there is no run" in told else 2
    assert told in message(base, tmp_path, words, damage, code)


@pytest.mark.parametrize("words", [EVALUATE, SEARCH, RESUME])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda content: [1], "holds no parameters"),
        (lambda content: {"a": 1}, "holds no parameters"),
        (lambda content: {"state_dict": [1]}, "holds no parameters"),
        (lambda content: {"state_dict": print}, "damaged, or no checkpoint"),
        (fill(NAN), "parameters hold numbers that are not finite"),
        (fill(float("inf")), "parameters hold numbers that are not finite"),
    ],
)
def test_a_checkpoint_that_is_none_is_named(
    base: Path, tmp_path: Path, words: list[str], change: Callable[..., Any], told: str
) -> None:
    found = message(base, tmp_path, words, checkpoints(change))
    assert told in found and ".ckpt" in found


@pytest.mark.parametrize("words", [EVALUATE, RESUME])
@pytest.mark.parametrize("damage", [b"", b"hello", b"PK\x05\x06" + b"\0" * 18])
def test_a_file_that_is_no_checkpoint_is_named(base: Path, tmp_path: Path, words: list[str], damage: bytes) -> None:
    def both(folder: Path) -> None:
        for name in (BEST, LAST):
            (folder / "dual_encoding" / name).write_bytes(damage)

    assert "damaged, or no checkpoint" in message(base, tmp_path, words, both)


@pytest.mark.parametrize("words", [EVALUATE, RESUME])
def test_a_checkpoint_of_another_system_is_named(base: Path, tmp_path: Path, words: list[str]) -> None:
    assert "is of another model" in message(base, tmp_path, words, of_another_system)


@pytest.mark.parametrize(
    "key",
    ["optimizer_states", "loops", "callbacks", "validated", "global_step", "pytorch-lightning_version", "state_dict"],
)
def test_a_checkpoint_that_lacks_what_going_on_needs_is_named(base: Path, tmp_path: Path, key: str) -> None:
    told = message(base, tmp_path, RESUME, checkpoints(lambda content: {**content, key: "x"}))
    assert "last.ckpt" in told and "put back the file that the run made" in told


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"step,train/loss\nx,y\n", "step\n1\n".encode("utf-16")])
def test_a_damaged_table_of_metrics_is_named(base: Path, tmp_path: Path, content: bytes) -> None:
    told = message(base, tmp_path, RESUME, put("dual_encoding/logs/metrics.csv", content))
    assert "metrics.csv: is no table of metrics" in told


@pytest.mark.parametrize(
    ("words", "value", "told"),
    [
        (EVALUATE, NAN, "looks has values of v18 that are not finite, the first in row 1"),
        (SEARCH, float("inf"), "looks has values of v18 that are not finite"),
        (["index", "FVMR"], NAN, "looks has values of v18 that are not finite"),
        (MOMENT, NAN, "looks has values of v18 that are not finite"),
        (["evaluate", "DRN"], NAN, "looks has values of v18 that are not finite"),
        (["evaluate", "DRN"], 3e38, "embedding of 'v18' is not finite"),
        (MOMENT, 3e38, "embedding of 'v18' is not finite"),
        (["export", "HERE/corpus.zarr", "--format", "npy", "-o", "HERE/out"], NAN, "looks has values of v18 that are"),
    ],
)
def test_features_that_are_not_finite_are_named_by_their_video(
    base: Path, tmp_path: Path, words: list[str], value: float, told: str
) -> None:
    assert told in message(base, tmp_path, words, features(value))


@pytest.mark.parametrize(
    ("words", "run", "value"),
    [
        (EVALUATE, "dual_encoding", 1e38), (SEARCH, "dual_encoding", 1e38), (["index", "FVMR"], "fvmr", 1e36),
        (["search", "FVMR", "a red dog"], "fvmr", 1e36), (["evaluate", "FVMR"], "fvmr", 1e38),
    ],
)  # fmt: skip
def test_a_model_whose_parameters_are_finite_but_huge_is_not_ranked(
    base: Path, tmp_path: Path, words: list[str], run: str, value: float
) -> None:
    assert "is not finite" in message(base, tmp_path, words, checkpoints(fill(value), run))


@pytest.mark.parametrize("words", [["evaluate", "DRN"], MOMENT])
def test_drn_does_not_answer_with_the_whole_video_where_its_scores_are_not_numbers(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    predict = DRN.predict

    def without_numbers(self: DRN, *given: Any) -> Any:
        found = predict(self, *given)
        found.class_logits[:] = NAN
        return found

    monkeypatch.setattr(DRN, "predict", without_numbers)
    assert "is not finite: its training has diverged" in message(base, tmp_path, words, nothing)


@pytest.mark.parametrize(
    ("words", "damage", "told"),
    [
        (EVALUATE, cut("corpus.zarr/zarr.json"), "name another with --store PATH"),
        (EVALUATE, gone("corpus.zarr/sounds"), "lacks sounds, which"),
        (EVALUATE, gone(f"{SHARD}/features"), "looks/000000: damaged"),
        *(
            (EVALUATE, cut(f"{SHARD}/{name}"), "looks/000000: damaged")
            for name in ("offsets/zarr.json", "times/zarr.json")
        ),
        (EVALUATE, put(f"{SHARD}/features/zarr.json", b"[]"), "looks/000000: damaged"),
        (SEARCH, put(f"{SHARD}/offsets/c/0", b""), "looks/000000: damaged"),
        (SEARCH, put(f"{SHARD}/features/c/0/0", b""), "looks/000000: damaged"),
    ],
)
def test_a_store_that_is_damaged_is_named(
    base: Path, tmp_path: Path, words: list[str], damage: Damage, told: str
) -> None:
    assert told in message(base, tmp_path, words, damage)


@pytest.mark.parametrize("encoding", list(NOT_UTF8))
@pytest.mark.parametrize(
    ("words", "name"),
    [
        (EVALUATE, "captions/test.jsonl"), (EVALUATE, "captions/test.videos.txt"),
        (["evaluate", "DRN"], "moments/test.jsonl"), ([*SEARCH, "--among", "HERE/ids.txt"], "ids.txt"),
    ],
)  # fmt: skip
def test_text_that_is_not_utf8_is_named_with_its_encoding(
    base: Path, tmp_path: Path, words: list[str], name: str, encoding: str
) -> None:
    told = message(base, tmp_path, words, put(name, NOT_UTF8[encoding]))
    assert f"{Path(name).name}:1: is not UTF-8 text, but {encoding} as it seems" in told


@pytest.mark.parametrize(
    ("words", "told", "code"),
    [
        (["search", "RUN", "\udce9 dog"], "is not UTF-8 text", 1),
        (["search", "RUN", ""], "holds no word to look for", 1),
        ([*SEARCH, "--among", "HERE/none.txt"], "none.txt", 1),
        ([*SEARCH, "--among", "HERE/captions"], "captions", 1),
        (["index", "RUN"], "dual_encoding finds videos", 1),
        (["index", "DRN"], "train FVMR for that", 1),
        ([*EVALUATE, "--split", "none"], "there is no split 'none'", 1),
        ([*EVALUATE, "--split", "../captions/test"], "a name, not a path", 2),
        ([*EVALUATE, "--annotations", "HERE/moments"], "moments/test.jsonl:1", 1),
        (["train", "--resume"], "name its folder", 2),
        (["train", "HERE/drn/recipe.json", "--resume"], "there is no run", 1),
        ([*RESUME, "-o", "HERE/x"], "leave out -o", 2),
    ],
)
def test_what_cannot_be_asked_is_said(base: Path, tmp_path: Path, words: list[str], told: str, code: int) -> None:
    assert told in message(base, tmp_path, words, nothing, code)


@pytest.mark.parametrize(
    ("words", "damage", "told"),
    [
        (EVALUATE, file_for_folder("dual_encoding/evaluation"), "dual_encoding/evaluation"),
        (SEARCH, folder_for_file("dual_encoding/videos.safetensors"), "cannot be kept there"),
        (["search", "FVMR", "a red dog"], file_for_folder("fvmr/moments.zarr"), "holds other things"),
        (RESUME, file_for_folder("dual_encoding/logs"), "dual_encoding/logs"),
        (RESUME, file_for_folder("dual_encoding/checkpoints"), "dual_encoding/checkpoints"),
    ],
)
def test_a_place_that_cannot_be_written_is_named(
    base: Path, tmp_path: Path, words: list[str], damage: Damage, told: str
) -> None:
    assert told in message(base, tmp_path, words, damage)


def test_moments_are_found_however_many_are_asked_for(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "copy")
    found = CliRunner().invoke(app, ["search", str(tmp_path / "copy/fvmr"), "a dog", "--top", str(10**12), "--json"])
    assert len({hit["video"] for hit in json.loads(found.stdout)}) == 24
