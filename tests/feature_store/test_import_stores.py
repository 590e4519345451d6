"""An import fits a store, new or not, or leaves it as it was."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import foreign_files as foreign
from data_manifests import Manifest, Video, write_rows
from feature_store import FeatureStore, ImportUsageError, ShardWriter, StoreError, import_features, summarize, verify
from feature_store.foreign.target import digest_of_ids
from small_stores import CORPUS, changed_at, contents, write_store

ROOT = Path(__file__).parents[2]


def videos(*ids: str) -> foreign.Corpus:
    return {video: np.full((number + 1, 2), number, np.float32) for number, video in enumerate(ids)}


def npy(folder: Path, *ids: str) -> Path:
    return foreign.write_npy(folder / "npy", videos(*ids))


def test_a_new_store_has_the_videos_of_the_source_in_shards(tmp_path: Path) -> None:
    source = foreign.write_pickle(tmp_path / "x.pickle", videos("b", "a", "c", "e", "d"))
    summary = import_features("ce-pickle", [source], tmp_path / "s", expert="x", every=1.0, shard_videos=2)
    store = FeatureStore(tmp_path / "s")
    assert list(store["x"]) == ["b", "a", "c", "e", "d"]
    assert (summary.videos, summary.shards, store.plan.videos, len(store.plan)) == (5, 3, 5, 3)
    assert store["x"].status("e").seconds == 4.0


def test_its_videos_are_those_of_a_manifest_that_lists_them(tmp_path: Path) -> None:
    ids = ["video7", "\u4e2d\u6587/\x1f", "a b"]
    write_rows(tmp_path / "m.jsonl", [Video(video, "x.mp4") for video in ids])
    digest = Manifest(tmp_path / "m.jsonl").digest
    assert [digest_of_ids(ids)(*part) for part in ((0, 3), (1, 3), (0, 0))] == [
        digest(0, 3),
        digest(1, 3),
        digest(0, 0),
    ]


def test_an_import_into_a_store_takes_its_videos_order_and_shards(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    before = contents(tmp_path / "s")
    source = npy(tmp_path, "eel", "ant", "cat")
    summary = import_features("npy", [source], tmp_path / "s", expert="i3d", every=1.0)
    assert (summary.ok, summary.failed, summary.skipped) == (3, 2, 0)
    store = FeatureStore(tmp_path / "s")
    assert list(store["i3d"]) == CORPUS
    status = store["i3d"].status("bee")
    assert (status.status, status.stage, status.reason) == ("failed", "import", "not in the imported features")
    assert store["i3d"].read("eel").values.tolist() == videos("eel", "ant", "cat")["eel"].tolist()
    assert not verify(tmp_path / "s").damaged
    assert before.items() <= contents(tmp_path / "s").items()
    assert [failure.video for failure in summarize(tmp_path / "s").failures if failure.expert == "i3d"] == [
        "bee",
        "dog",
    ]


def test_videos_that_the_store_does_not_know_are_refused_or_left_out_and_counted(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    before = contents(tmp_path / "s")
    source = npy(tmp_path, "ant", "fox", "gnu")
    with pytest.raises(ImportUsageError, match=r"2 videos that the store does not know, e\.g\. 'fox', 'gnu'"):
        import_features("npy", [source], tmp_path / "s", expert="x", untimed=True)
    assert contents(tmp_path / "s") == before
    summary = import_features("npy", [source], tmp_path / "s", expert="x", untimed=True, skip_unknown=True)
    assert (summary.ok, summary.skipped) == (1, 2)


def test_features_of_other_videos_altogether_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    with pytest.raises(StoreError, match=r"none of the store's videos; its ids are like 'fox', the store's like 'ant'"):
        import_features("npy", [npy(tmp_path, "fox")], tmp_path / "s", expert="x", untimed=True, skip_unknown=True)


def test_a_store_that_does_not_know_its_videos_yet_needs_its_manifest(tmp_path: Path) -> None:
    write_store(tmp_path / "s")
    (tmp_path / "s" / "s3d" / "000001" / "complete.json").unlink()
    source = npy(tmp_path, *CORPUS)
    with pytest.raises(ImportUsageError, match="--manifest"):
        import_features("npy", [source], tmp_path / "s", expert="x", untimed=True)

    def digest(first: int, stop: int) -> str:  # as write_store makes it
        return repr(tuple(CORPUS)[first:stop])

    import_features("npy", [source], tmp_path / "s", expert="x", untimed=True, videos=CORPUS, digest=digest)
    assert list(FeatureStore(tmp_path / "s")["x"]) == CORPUS


def test_a_longer_list_of_videos_extends_the_store_and_another_is_refused(tmp_path: Path) -> None:
    source = npy(tmp_path, "a", "b", "c", "d")
    short = {"expert": "x", "untimed": True, "shard_videos": 2}
    import_features("npy", [source], tmp_path / "s", videos=["a", "b", "c"], skip_unknown=True, **short)
    before = contents(tmp_path / "s")
    summary = import_features("npy", [source], tmp_path / "s", videos=["a", "b", "c", "d"], **short)
    assert (summary.shards, summary.videos) == (1, 4)
    assert list(FeatureStore(tmp_path / "s")["x"]) == ["a", "b", "c", "d"]
    after = contents(tmp_path / "s")
    assert {name for name in before if before[name] != after[name]} == {"zarr.json"}
    with pytest.raises(StoreError, match="not those of this manifest"):
        import_features("npy", [source], tmp_path / "s", videos=["b", "a", "c", "d"], **{**short, "expert": "y"})
    assert contents(tmp_path / "s") == after


def test_the_same_import_again_does_nothing_and_another_is_refused(tmp_path: Path) -> None:
    source = npy(tmp_path, "a", "b")
    import_features("npy", [source], tmp_path / "s", expert="x", every=1.0)
    before = changed_at(tmp_path / "s")
    summary = import_features("npy", [source], tmp_path / "s", expert="x", every=1.0)
    assert (summary.shards, summary.ok, changed_at(tmp_path / "s")) == (0, 2, before)
    with pytest.raises(StoreError, match=r"sampling.every: 1.0 against 2.0"):
        import_features("npy", [source], tmp_path / "s", expert="x", every=2.0)
    np.save(source / "a.npy", np.full((1, 2), 9, np.float32))
    with pytest.raises(StoreError, match=r"weights.sha256: .*\n.*--expert NAME"):
        import_features("npy", [source], tmp_path / "s", expert="x", every=1.0)
    assert changed_at(tmp_path / "s") == before


def failing_at(shard: int, error: BaseException) -> Any:
    """ShardWriter.finish that fails at a shard."""
    finish = ShardWriter.finish

    def fail(writer: ShardWriter, *arguments: Any) -> Any:
        if writer._shard == shard:
            raise error
        return finish(writer, *arguments)

    return fail


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("known", [None, ["a", "b", "c"], ["a", "b", "c", "d"]])
def test_an_import_that_fails_while_it_writes_is_undone(
    known: list[str] | None, error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = npy(tmp_path, "a", "b", "c")
    options: dict[str, Any] = {"untimed": True, "shard_videos": 2, "videos": known}
    if known is not None:  # else the store is new
        import_features("npy", [source], tmp_path / "s", expert="x", **{**options, "videos": ["a", "b", "c"]})
    before = contents(tmp_path)
    monkeypatch.setattr(ShardWriter, "finish", failing_at(1, error))
    with pytest.raises(type(error)):
        import_features("npy", [source], tmp_path / "s", expert="y", **options)
    assert contents(tmp_path) == before
    assert (tmp_path / "s").exists() == (known is not None)


def test_a_source_that_changes_while_it_is_imported_is_not_imported(tmp_path: Path) -> None:
    source = npy(tmp_path, "a", "b", "c")

    def change(what: str, done: int, total: int) -> None:
        if (what, done) == ("writing", 1):
            np.save(source / "c.npy", np.ones((7, 2), np.float32))

    with pytest.raises(StoreError, match=r"c\.npy.*changed while it was imported"):
        import_features("npy", [source], tmp_path / "s", expert="x", untimed=True, show=change)
    assert not (tmp_path / "s").exists()


def test_an_interrupt_leaves_nothing_though_a_write_goes_on_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = npy(tmp_path, "a", "b", "c")
    before = contents(tmp_path)
    threads: list[threading.Thread] = []

    def interrupted(writer: ShardWriter, *arguments: Any) -> Any:
        def go_on() -> None:
            for chunk in range(60):
                path = writer._folder / "features" / "c" / str(chunk)
                with suppress(OSError):  # the folder may go between the two
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(bytes(100))
                time.sleep(0.002)

        threads.append(threading.Thread(target=go_on))
        threads[0].start()
        raise KeyboardInterrupt

    monkeypatch.setattr(ShardWriter, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        import_features("npy", [source], tmp_path / "s", expert="x", untimed=True)
    threads[0].join()
    assert contents(tmp_path) == before and not (tmp_path / "s").exists()


def test_an_import_that_went_on_and_fails_leaves_complete_shards_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = npy(tmp_path, "a", "b", "c", "d")
    options: dict[str, Any] = {"expert": "x", "untimed": True, "shard_videos": 1}
    import_features("npy", [source], tmp_path / "s", videos=["a"], skip_unknown=True, **options)
    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "finish", failing_at(2, OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            import_features("npy", [source], tmp_path / "s", videos=list("abcd"), **options)
    assert list(FeatureStore(tmp_path / "s")["x"]) == ["a", "b"]
    summary = import_features("npy", [source], tmp_path / "s", videos=list("abcd"), **options)
    assert (summary.shards, summary.ok, verify(tmp_path / "s").damaged) == (2, 4, ())


@pytest.mark.parametrize("other", ["a file", "a folder of other things", "a Zarr group"])
def test_what_is_no_store_is_not_written_to(other: str, tmp_path: Path) -> None:
    source, target = npy(tmp_path, "a"), tmp_path / "target"
    if other == "a file":
        target.write_text("thesis")
    else:
        target.mkdir()
        (target / ("zarr.json" if other == "a Zarr group" else "thesis.tex")).write_text("{}")
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="target"):
        import_features("npy", [source], target, expert="x", untimed=True)
    assert contents(tmp_path) == before


KILLED = """
import os, sys
from feature_store import import_features

def die(what, done, total):
    if (what, done) == ("writing", 3):
        os._exit(9)

import_features("npy", [sys.argv[1]], sys.argv[2], expert="x", untimed=True, shard_videos=2, show=die)
"""


def test_a_killed_import_goes_on_from_its_complete_shards(tmp_path: Path) -> None:
    source = npy(tmp_path, "a", "b", "c", "d", "e")
    done = subprocess.run([sys.executable, "-c", KILLED, source, tmp_path / "s"], cwd=ROOT)
    assert done.returncode == 9
    assert list(FeatureStore(tmp_path / "s")["x"]) == ["a", "b"]
    before = changed_at(tmp_path / "s")
    summary = import_features("npy", [source], tmp_path / "s", expert="x", untimed=True, shard_videos=2)
    assert (summary.shards, summary.ok) == (2, 5)
    assert before.items() <= changed_at(tmp_path / "s").items()
    assert not verify(tmp_path / "s").damaged
    read = FeatureStore(tmp_path / "s")["x"].read
    assert {video: read(video).values.tolist() for video in "abcde"} == {
        video: values.tolist() for video, values in videos(*"abcde").items()
    }


@pytest.mark.parametrize("format", ["bigfile", "mmt-h5", "npy"])
def test_a_corpus_larger_than_memory_is_imported(format: str, tmp_path: Path) -> None:
    corpus = {f"video{number}": np.full((256, 512), number, np.float32) for number in range(24)}  # 0.5 MB a video
    source = {
        "bigfile": lambda: foreign.write_bigfile(tmp_path / "f", {"v": np.ones((1, 1), np.float32)}),
        "mmt-h5": lambda: foreign.write_mmt(tmp_path / "h5", corpus, "x"),
        "npy": lambda: foreign.write_npy(tmp_path / "npy", corpus),
    }[format]()
    if format == "bigfile":  # larger than the test's own writer can make in time
        np.concatenate(list(corpus.values())).tofile(source / "feature.bin")
        (source / "shape.txt").write_text(f"{24 * 256} 512")
        (source / "id.txt").write_text("\n".join(f"{video}_{frame}" for video in corpus for frame in range(256)))
    tracemalloc.start()
    import_features(format, [source], tmp_path / "s", expert="x", every=1.0, shard_videos=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6, f"{peak / 1e6:.1f} MB for 12.6 MB of features"
    assert FeatureStore(tmp_path / "s")["x"].read("video23").values.mean() == 23


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every": 0.0}, "--every 0.0"),
        ({"every": float("nan")}, "--every nan"),
        ({"window": 1.0}, "--every"),
        ({"every": 1.0, "window": -1.0}, "--window -1.0"),
        ({"every": 1.0, "untimed": True}, "choose one"),
        ({"untimed": True, "durations": {"a": 1.0}}, "choose one"),
        ({"durations": {}}, "'a'"),
        ({"untimed": True, "dtype": "float64"}, "float16, float32"),
        ({"untimed": True, "shard_videos": 0}, "shard_videos 0"),
        ({"untimed": True, "expert": ""}, "--expert"),
        ({"untimed": True, "key": "c3d"}, "--key c3d"),
        ({"untimed": True, "videos": ["a", "a"]}, "stands twice"),
        ({"untimed": True, "format": "zip"}, "bigfile, mmt-h5, ce-pickle"),
    ],
)
def test_options_that_make_no_sense_are_told(options: dict[str, Any], says: str, tmp_path: Path) -> None:
    source = npy(tmp_path, "a")
    with pytest.raises(ImportUsageError) as error:
        import_features(**{"format": "npy", "paths": [source], "store": tmp_path / "s", "expert": "x", **options})
    assert says in str(error.value)
    assert not (tmp_path / "s").exists()


def test_provenance_says_where_features_and_times_come_from(tmp_path: Path) -> None:
    source = npy(tmp_path, "a")
    import_features("npy", [source], tmp_path / "s", expert="x", durations={"a": 3.0}, kind="motion")
    metadata = json.loads((tmp_path / "s" / "x" / "zarr.json").read_text())
    identity = metadata["attributes"]["reelcache"]["identity"]
    digest = identity["weights"].pop("sha256")
    printed = subprocess.run(["sha256sum", source / "a.npy"], capture_output=True, text=True, check=True).stdout
    assert printed.startswith(digest)
    assert identity == {
        "kind": "motion",
        "format": "npy",
        "key": None,
        "sampling": {"of": "imported", "times": "spread"},
        "weights": {"source": "imported:npy"},
        "dim": 2,
        "dtype": "float32",
    }
