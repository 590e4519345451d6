"""Shards: planned once, written once, whole or not there."""

from __future__ import annotations

import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store import FeatureStore, NotInStore, ShardPlan, StoreError, StoreWriter, VideoStatus, verify
from feature_store.layout import Segment
from small_stores import (
    CORPUS,
    changed_at,
    contents,
    features,
    identity,
    plan,
    status,
    times,
    write_shard,
    write_store,
)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 10)), min_size=1, max_size=5))
def test_the_shards_of_a_plan_hold_every_video_once_and_in_order(sizes: list[tuple[int, int]]) -> None:
    shards = ShardPlan(tuple(Segment(videos, shard_videos, "") for videos, shard_videos in sizes))
    bounds = [shards.bounds(shard) for shard in range(len(shards))]
    assert bounds[0][0] == 0 and bounds[-1][1] == shards.videos == sum(videos for videos, _ in sizes)
    assert all(before[1] == after[0] for before, after in pairwise(bounds))
    assert all(0 < stop - first <= max(size for _, size in sizes) for first, stop in bounds)
    with pytest.raises(IndexError):
        shards.bounds(len(shards))


def test_complete_shards_are_left_alone(tmp_path: Path) -> None:
    write_store(tmp_path, experts={"s3d": {}, "vggish": {}})
    before = changed_at(tmp_path)
    assert write_store(tmp_path, experts={"s3d": {}, "vggish": {}}) == []
    assert changed_at(tmp_path) == before


@pytest.mark.parametrize("left", ["nothing", "no mark", "half a mark", "an empty mark", "a mark of another shard"])
def test_an_incomplete_shard_is_done_from_scratch_and_only_it(tmp_path: Path, left: str) -> None:
    write_store(tmp_path)
    whole, before = contents(tmp_path), changed_at(tmp_path)
    shard = tmp_path / "s3d" / "000000"
    mark = shard / "complete.json"
    content = mark.read_bytes()
    mark.unlink()
    (shard / "features" / "c" / "7").write_bytes(b"of a run that was killed")
    (shard / "features" / "zarr.json").write_text("{")
    if left == "nothing":
        shutil.rmtree(shard)
    elif left == "half a mark":
        mark.write_bytes(content[: len(content) // 2])
    elif left == "an empty mark":
        mark.write_bytes(b"")
    elif left == "a mark of another shard":
        shutil.copy(tmp_path / "s3d" / "000001" / "complete.json", mark)
    assert write_store(tmp_path) == [("s3d", 0)]
    assert contents(tmp_path) == whole
    untouched = {name for name in before if "000000" not in name}
    assert {name: changed_at(tmp_path)[name] for name in untouched} == {name: before[name] for name in untouched}


def test_a_shard_that_is_half_removed_does_not_count_as_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_store(tmp_path)
    expert = StoreWriter(tmp_path).add_expert("s3d", identity(), {})

    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", die)
    with pytest.raises(KeyboardInterrupt):
        write_shard(expert, 0, map(status, CORPUS[:2]))
    assert expert.complete(0) is None
    assert "ant" not in FeatureStore(tmp_path)["s3d"]


def test_a_complete_shard_that_is_begun_again_stays_until_the_new_one_is_written(tmp_path: Path) -> None:
    write_store(tmp_path)
    before = contents(tmp_path)
    expert = StoreWriter(tmp_path).add_expert("s3d", identity(), {})
    writer = expert.begin(0)
    writer.append(0, 0, features("ant", 6), times(6))
    assert contents(tmp_path) == before
    writer.finish([status("ant"), VideoStatus("bee", "failed")], {})
    assert FeatureStore(tmp_path)["s3d"].read("bee").missing


def test_a_shard_is_redone_for_some_videos_and_keeps_the_rows_of_the_others(tmp_path: Path) -> None:
    write_store(tmp_path, experts={"half": {"dtype": "float16"}}, shard_videos=5)
    before = contents(tmp_path)
    expert = StoreWriter(tmp_path).add_expert("half", identity(dtype="float16"), {})
    record = expert.complete(0)
    assert record is not None
    assert contents(tmp_path) == before
    writer = expert.redo(record, {0, 3})
    for number, rows in ((3, 5), (0, 6)):
        writer.append(number, 0, np.full((rows, 3), number), times(rows))
    videos = [*record.videos]
    videos[3] = VideoStatus("dog", "ok", rows=5, seconds=2.25)
    writer.finish(videos, {})
    reader = FeatureStore(tmp_path)["half"]
    assert [reader.status(video) for video in CORPUS] == videos
    assert (reader.read("ant").values == 0).all() and (reader.read("dog").values == 3).all()
    for video in ("bee", "eel"):
        rows = status(video).rows
        kept = features(video, rows, expert="half").astype(np.float16)
        np.testing.assert_array_equal(reader.read(video).values, kept)
        np.testing.assert_array_equal(reader.read(video).times, times(rows))
    assert verify(tmp_path).damaged == ()


@pytest.mark.parametrize("array", ["features", "times", "offsets"])
def test_a_damaged_shard_is_not_carried_on(tmp_path: Path, array: str) -> None:
    write_store(tmp_path, shard_videos=5)
    expert = StoreWriter(tmp_path).add_expert("s3d", identity(), {})
    record = expert.complete(0)
    assert record is not None
    chunk = next(path for path in (tmp_path / "s3d" / "000000" / array / "c").rglob("*") if path.is_file())
    content = chunk.read_bytes()
    for damage in (content[:-9], content[:8] + b"\x77" + content[9:], b""):
        chunk.write_bytes(damage)
        with pytest.raises(StoreError, match="s3d/000000: damaged"):
            expert.redo(record, {3})


def test_readers_see_the_shards_that_are_complete_and_no_others(tmp_path: Path) -> None:
    store = StoreWriter(tmp_path)
    shards = plan(store, CORPUS)
    expert = store.add_expert("s3d", identity(), {})
    done: list[str] = []
    for shard in (1, 0, 2):
        writing = expert.begin(shard)
        assert list(FeatureStore(tmp_path)["s3d"]) == done
        del writing
        first, stop = shards.bounds(shard)
        write_shard(expert, shard, map(status, CORPUS[first:stop]))
        done = sorted([*done, *CORPUS[first:stop]])
        reader = FeatureStore(tmp_path)["s3d"]
        assert list(reader) == done and len(reader) == len(done)
        for video in done:
            assert reader.read(video).status == status(video)
        for video in set(CORPUS) - set(done):
            with pytest.raises(NotInStore):
                reader.read(video)


def test_more_videos_and_experts_are_added_without_changing_a_byte_of_what_is_there(tmp_path: Path) -> None:
    write_store(tmp_path, CORPUS[:3])
    before, shards = contents(tmp_path), changed_at(tmp_path)
    assert write_store(tmp_path, CORPUS, {"s3d": {}, "vggish": {}}, shard_videos=1) == [
        ("s3d", 2),
        ("s3d", 3),
        ("vggish", 0),
        ("vggish", 1),
        ("vggish", 2),
        ("vggish", 3),
    ]
    after = contents(tmp_path)
    assert {name for name in before if after[name] != before[name]} == {"zarr.json"}
    assert all(changed_at(tmp_path)[name] == when for name, when in shards.items() if name != "zarr.json")
    assert FeatureStore(tmp_path).plan.videos == 5
    assert list(FeatureStore(tmp_path)["s3d"]) == list(FeatureStore(tmp_path)["vggish"]) == CORPUS


@pytest.mark.parametrize(
    "videos",
    [CORPUS[:4], CORPUS[1:], [], ["ant", "cat", "bee", "dog", "eel"], ["ANT", *CORPUS[1:]], ["new", *CORPUS]],
    ids=["shorter", "first removed", "empty", "reordered", "renamed", "added in front"],
)
def test_a_manifest_whose_first_videos_are_other_ones_is_refused(tmp_path: Path, videos: list[str]) -> None:
    write_store(tmp_path, CORPUS)
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="first 5 videos are not those of this manifest"):
        write_store(tmp_path, videos)
    assert contents(tmp_path) == before


def test_every_part_that_was_added_must_stay_the_same(tmp_path: Path) -> None:
    write_store(tmp_path, CORPUS[:2])
    write_store(tmp_path, CORPUS)
    with pytest.raises(StoreError, match="first 5 videos"):
        write_store(tmp_path, ["ant", "bee", "dog", "cat", "eel", "fox"])


def test_a_folder_that_holds_other_things_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="holds other things"):
        write_store(tmp_path)
    assert contents(tmp_path) == {"thesis.tex": b"years of work"}


@pytest.mark.parametrize("metadata", ['{"zarr_format": 3, "node_type": "group", "attributes": {}}', "[]", "3", "{"])
def test_a_zarr_group_that_is_no_store_is_refused_and_left_alone(tmp_path: Path, metadata: str) -> None:
    (tmp_path / "zarr.json").write_text(metadata)
    with pytest.raises(StoreError, match=r"zarr\.json: not the metadata of a feature store"):
        write_store(tmp_path)
    with pytest.raises(StoreError, match=r"zarr\.json: not the metadata of a feature store"):
        FeatureStore(tmp_path)
    assert (tmp_path / "zarr.json").read_text() == metadata


def test_a_store_goes_into_an_empty_or_a_new_folder(tmp_path: Path) -> None:
    write_store(tmp_path)
    write_store(tmp_path / "new" / "folder")
    assert list(FeatureStore(tmp_path / "new" / "folder")["s3d"]) == CORPUS


def test_a_run_that_was_killed_while_it_began_a_store_does_not_block_the_next(tmp_path: Path) -> None:
    (tmp_path / "zarr.json.4711.part").write_text('{"zarr_fo')
    write_store(tmp_path)
    assert list(FeatureStore(tmp_path)["s3d"]) == CORPUS


def test_a_file_is_no_store(tmp_path: Path) -> None:
    file = tmp_path / "corpus.jsonl"
    file.write_text("{}")
    with pytest.raises(StoreError, match="is a file"):
        StoreWriter(file)
    with pytest.raises(StoreError, match="there is no feature store"):
        FeatureStore(file)
    with pytest.raises(StoreError, match="there is no feature store"):
        FeatureStore(tmp_path / "nowhere")
