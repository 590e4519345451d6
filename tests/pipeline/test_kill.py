"""kill -9 at random moments, again and again, then the same command: nothing is lost and nothing differs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corpora import make_corpus
from feature_store import verify

KILLS = 10
SETTINGS = {"weights": "random", "shard_videos": 1, "decoders": 2, "batch_size": 4}

# One interpreter that has imported everything and computed nothing forks a child for every attempt; a child that is
# to die kills itself from a timer thread, at any moment of the time that the whole work takes on this machine. When
# a store is finished before its child was to die, the next one is begun.
DRIVER = """
import os, random, signal, sys, threading, time
sys.path.insert(0, {root!r})
import pipeline.engine, pipeline.extraction
run = pipeline.engine.Engine.run

def attempt(store, dies_after=None):
    def run_and_die(engine, tasks):
        threading.Timer(dies_after, os.kill, (os.getpid(), signal.SIGKILL)).start()
        run(engine, tasks)
    child = os.fork()
    if child == 0:
        if dies_after is not None:
            pipeline.engine.Engine.run = run_and_die
        pipeline.extraction.extract({manifest!r}, store, ["timm:test_resnet", "timm:test_vit"], **{settings!r})
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(store, status, flush=True)
    return status == signal.SIGKILL

attempt("warm")
began = time.monotonic()
attempt("unbroken")
whole = time.monotonic() - began
moments = random.Random(0)
kills = stores = 0
while kills < {kills}:
    if attempt(f"killed{{stores}}", moments.uniform(0, whole)):
        kills += 1
    else:
        stores += 1
attempt(f"killed{{stores}}")
"""


def shards(store: Path) -> dict[str, bytes]:
    files = (path for path in store.glob("[!.]*/**/*") if path.is_file() and path.name != "complete.json")
    return {name: path.read_bytes() for path in files if (name := str(path.relative_to(store))).count("/") >= 2}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_after_kills_at_random_moments_the_same_command_gives_the_bytes_of_an_unbroken_run(tmp_path: Path) -> None:
    manifest = make_corpus(tmp_path, videos=8)
    driver = DRIVER.format(root=str(Path(__file__).parents[2]), manifest=str(manifest), kills=KILLS, settings=SETTINGS)
    complete: dict[Path, int] = {}
    last: dict[str, int] = {}  # how each store's last attempt ended
    with subprocess.Popen([sys.executable, "-c", driver], stdout=subprocess.PIPE, text=True, cwd=tmp_path) as process:
        assert process.stdout
        for line in process.stdout:
            store, status = line.split()
            assert int(status) in (0, signal.SIGKILL)
            now = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/*/*/complete.json")}
            assert complete.items() <= now.items(), "a complete shard was touched"
            complete = now
            last[store] = int(status)
    assert process.returncode == 0
    assert set(last.values()) == {0}
    unbroken = shards(tmp_path / "unbroken")
    assert len(last) > 1 and unbroken
    for store in last:
        assert shards(tmp_path / store) == unbroken
        assert verify(tmp_path / store).damaged == ()
        assert list((tmp_path / store).rglob("*.part")) == []
