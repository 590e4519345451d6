"""kill -9 at random moments, again and again, then the same command: nothing is lost and nothing differs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corpora import make_corpus, quick_experts
from feature_store import verify
from pipeline import extract

KILLS = 20
LONGEST = 0.8  # seconds of work before a kill
SETTINGS = {"weights": "random", "shard_videos": 1, "workers": 2}

# One interpreter that has imported everything and computed nothing forks a child for every attempt; a
# child that is to die kills itself from a timer thread, at a random moment of its work.
DRIVER = """
import os, random, signal, sys, threading
sys.path[:0] = [{root!r}, {tests!r}]
import pipeline.engine, pipeline.extraction, corpora
run = pipeline.engine.Engine.run
def run_and_die(engine, tasks):
    threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()
    run(engine, tasks)
def attempt():
    child = os.fork()
    if child == 0:
        pipeline.extraction.extract({manifest!r}, {store!r}, corpora.quick_experts(), **{settings!r})
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
pipeline.engine.Engine.run = run_and_die
moments = random.Random(0)
for _ in range({kills}):
    delay = moments.uniform(0.0, {longest})
    attempt()
pipeline.engine.Engine.run = run
attempt()
"""


def shards(store: Path) -> dict[str, bytes]:
    files = (path for path in store.rglob("*") if path.is_file() and path.name != "complete.json")
    return {name: path.read_bytes() for path in files if (name := str(path.relative_to(store))).count("/") >= 2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_kills_at_random_moments_the_same_command_gives_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path, videos=16)
    extract(manifest, tmp_path / "unbroken", quick_experts(), **SETTINGS)
    root = Path(__file__).parents[2]
    driver = DRIVER.format(
        root=str(root),
        tests=str(root / "tests"),
        manifest=str(manifest),
        store=str(tmp_path / "killed"),
        kills=KILLS,
        longest=LONGEST,
        settings=SETTINGS,
    )
    complete: dict[Path, int] = {}
    ends: list[int] = []
    process = subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    for line in process.stdout:
        ends.append(int(line))
        now = {path: path.stat().st_mtime_ns for path in (tmp_path / "killed").rglob("complete.json")}
        assert complete.items() <= now.items(), "a complete shard was touched"
        complete = now
    assert process.wait() == 0
    assert ends.count(signal.SIGKILL) > KILLS / 2, "most runs should have died at work"
    assert ends[-1] == 0
    assert shards(tmp_path / "killed") == shards(tmp_path / "unbroken")
    assert verify(tmp_path / "killed").damaged == ()
    leftovers = [path for path in (tmp_path / "killed").rglob("*") if path.suffix == ".part"]
    assert leftovers == []
