"""Child processes import nothing from the current folder, and do not run the caller's script again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from corpora import make_corpus
from feature_store.clean_processes import ProcessDied, map_in_processes

DECOYS = (
    "av", "dask", "data_manifests", "distributed", "easyocr", "extractors", "feature_store", "json", "multiprocessing",
    "numpy", "pickle", "pipeline", "pydantic", "queue", "random", "rich", "socket", "torch", "train", "typer", "zarr",
)  # fmt: skip
DECOY = "open({marker!r}, 'a').write(__name__ + ' ')\nraise SystemExit('a module of the current folder was imported')\n"
SCRIPT = """
open({marker!r}, "a").write("ran ")
from pathlib import Path
from pipeline import extract
from pipeline.corpus import find_videos, probe_videos
from train.text.parses import tag_captions
assert len([found for found in probe_videos(find_videos("videos").videos, 2)]) == 3
assert len(tag_captions([["a", "dog", "runs"], ["a", "cat", "sleeps"]], Path("tags"), processes=2)) == 2
"""
EXTRACT = """
summary = extract("corpus.jsonl", "s{number}.zarr", ["timm:test_resnet"], weights="random", shard_videos=1, {options})
assert summary.shards == 3, summary
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with a corpus and a decoy for everything that a child imports."""
    here = tmp_path / "here"
    (here / "videos").mkdir(parents=True)
    make_corpus(here / "videos", videos=3).rename(here / "corpus.jsonl")
    for name in DECOYS:
        (here / f"{name}.py").write_text(DECOY.format(marker=str(tmp_path / "imported")))
    monkeypatch.chdir(here)
    yield here
    assert not (tmp_path / "imported").exists(), (tmp_path / "imported").read_text()


def reelcache(*arguments: str) -> str:
    """What the installed command prints; it must succeed."""
    command = [str(Path(sys.executable).with_name("reelcache")), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, env=plain_environment())
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def plain_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}


def test_commands_that_start_processes_import_nothing_from_the_current_folder(folder: Path) -> None:
    reelcache("manifest", "build", "videos", "-o", "built.jsonl")
    options = ["--experts", "timm:test_resnet", "--weights", "random", "--shard-videos", "1"]
    reelcache("extract", "corpus.jsonl", "watched.zarr", *options)
    reelcache("extract", "corpus.jsonl", "cluster.zarr", *options, "--workers", "1")
    assert "sound" in reelcache("verify", "cluster.zarr")


@pytest.mark.parametrize("how", ["as a script", "from standard input"])
def test_a_script_without_a_main_guard_runs_once(folder: Path, tmp_path: Path, how: str) -> None:
    script = SCRIPT.format(marker=str(tmp_path / "ran"))
    if how == "as a script":
        script += EXTRACT.format(number=1, options="workers=2")
        (tmp_path / "plain.py").write_text(script)
        ended = subprocess.run(
            [sys.executable, str(tmp_path / "plain.py")], capture_output=True, text=True, timeout=300
        )
    else:  # as in a notebook, whose __main__ has no file
        script += EXTRACT.format(number=1, options="watched=True")
        ended = subprocess.run([sys.executable, "-P", "-"], input=script, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "ran").read_text() == "ran "


def test_results_come_in_order_and_errors_are_raised() -> None:
    assert list(map_in_processes(abs, range(-50, 0), workers=2, chunk=3)) == list(range(50, 0, -1))
    with pytest.raises(TypeError, match="bad operand"):
        list(map_in_processes(abs, [1, "no number"], workers=1))


def test_an_item_that_ends_its_process_costs_no_other() -> None:
    ignored, deadly = signal.SIGWINCH, signal.SIGKILL
    results = map_in_processes(signal.raise_signal, [ignored, deadly, ignored], 1, chunk=3, died=lambda _, how: how)
    assert list(results) == [None, "its process ended with signal 9", None]
    with pytest.raises(ProcessDied, match="exit code 3"):
        list(map_in_processes(os._exit, [3], workers=1))
