"""What is written comes back."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import feature_store.writer
from feature_store import FeatureStore, StoreError, StoreWriter, VideoStatus, verify
from small_stores import features, identity, plan, times


@dataclass(frozen=True)
class Case:
    """A corpus and the ways in which a run may come to write it."""

    videos: list[VideoStatus]
    dim: int
    dtype: str
    shard_videos: int
    chunk_bytes: int
    spool_bytes: int
    blocks: list[tuple[int, int, int]]  # (video, first row, rows), in the order in which they are appended


@st.composite
def statuses(draw: st.DrawFn, video: str) -> VideoStatus:
    kind = draw(st.sampled_from(["ok", "ok", "ok", "truncated", "no_stream", "failed"]))
    if kind in ("no_stream", "failed"):
        return VideoStatus(video, kind, stage="decode", reason=draw(st.text(max_size=9)))
    rows = draw(st.integers(0, 14))
    at = draw(st.floats(0, 100)) if kind == "truncated" else None
    return VideoStatus(video, kind, rows=rows, seconds=draw(st.floats(0, 20)), at=at)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    ids = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=9, unique=True))
    videos = [draw(statuses(video)) for video in ids]
    blocks = []
    for number, video in enumerate(videos):
        first = 0
        while first < video.rows:
            rows = draw(st.integers(1, video.rows - first))
            blocks.append((number, first, rows))
            first += rows
    return Case(
        videos,
        dim=draw(st.integers(1, 5)),
        dtype=draw(st.sampled_from(["float16", "float32"])),
        shard_videos=draw(st.integers(1, 5)),
        chunk_bytes=draw(st.sampled_from([1, 7, 64, 100_000])),
        spool_bytes=draw(st.sampled_from([1, 100, 100_000])),
        blocks=draw(st.permutations(blocks)),
    )


def write(path: Path, case: Case) -> None:
    store = StoreWriter(path)
    shards = plan(store, [video.id for video in case.videos], case.shard_videos)
    expert = store.add_expert("x", identity(dim=case.dim, dtype=case.dtype), {})
    for shard in range(len(shards)):
        first, stop = shards.bounds(shard)
        writer = expert.begin(shard)
        for number, row, rows in case.blocks:
            if first <= number < stop:
                values, seconds = of_video(case, number)
                writer.append(number - first, row, values[row : row + rows], seconds[row : row + rows])
        writer.finish(case.videos[first:stop], {})


def of_video(case: Case, number: int) -> tuple[np.ndarray, np.ndarray]:
    video = case.videos[number]
    return features(video.id, video.rows, case.dim), times(video.rows)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases())
def test_what_is_written_in_any_order_and_any_cut_comes_back(case: Case) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(feature_store.writer, "CHUNK_BYTES", case.chunk_bytes),
        patch.object(feature_store.writer, "SPOOL_BYTES", case.spool_bytes),
    ):
        path = Path(folder) / "corpus.zarr"
        write(path, case)
        reader = FeatureStore(path)["x"]
        assert list(reader) == [video.id for video in case.videos]
        for number, video in enumerate(case.videos):
            read = reader.read(video.id)
            values, seconds = of_video(case, number)
            assert read.status == reader.status(video.id) == video
            assert read.missing == (video.status in ("no_stream", "failed"))
            assert (read.values.dtype, read.times.dtype) == (np.float32, np.float64)
            np.testing.assert_array_equal(read.values, values.astype(case.dtype).astype(np.float32))
            np.testing.assert_array_equal(read.times, np.minimum(seconds, video.seconds))
        verdict = verify(path)
        assert verdict.damaged == () and verdict.checked == -(-len(case.videos) // case.shard_videos)


def test_rows_of_a_discarded_video_leave_no_trace(tmp_path: Path) -> None:
    store = StoreWriter(tmp_path)
    plan(store, ["a", "b"])
    writer = store.add_expert("x", identity(), {}).begin(0)
    writer.append(0, 0, features("a", 4), times(4))
    writer.append(1, 0, features("b", 2), times(2))
    writer.discard(0)
    writer.finish([VideoStatus("a", "failed"), VideoStatus("b", "ok", rows=2, seconds=1.0)], {})
    reader = FeatureStore(tmp_path)["x"]
    assert reader.read("a").values.shape == (0, 3) and reader.read("a").times.shape == (0, 2)
    np.testing.assert_array_equal(reader.read("b").values, features("b", 2))


@pytest.mark.parametrize(
    "blocks",
    [[(0, 2)], [(0, 2), (3, 1)], [(1, 3)], [(0, 2), (1, 3)], [(0, 4), (0, 4)], [(0, 5)], []],
    ids=["end missing", "middle missing", "start missing", "overlap", "twice", "too many", "none"],
)
def test_a_shard_whose_rows_do_not_add_up_is_refused_and_not_complete(
    tmp_path: Path, blocks: list[tuple[int, int]]
) -> None:
    store = StoreWriter(tmp_path)
    plan(store, ["a"])
    expert = store.add_expert("x", identity(), {})
    writer = expert.begin(0)
    for first, rows in blocks:
        writer.append(0, first, features("a", rows), times(rows))
    with pytest.raises(StoreError, match="'a' are missing or double"):
        writer.finish([VideoStatus("a", "ok", rows=4, seconds=2.0)], {})
    assert expert.complete(0) is None and "a" not in FeatureStore(tmp_path)["x"]


def test_no_row_ends_after_its_video(tmp_path: Path) -> None:
    store = StoreWriter(tmp_path)
    plan(store, ["a", "b"])
    writer = store.add_expert("x", identity(), {}).begin(0)
    for number, video in enumerate("ab"):
        writer.append(number, 0, features(video, 4), times(4))
    writer.finish([VideoStatus("a", "ok", 4, seconds=1.75), VideoStatus("b", "ok", 4, seconds=9.0)], {})
    reader = FeatureStore(tmp_path)["x"]
    assert reader.read("a").times.tolist() == [[0.0, 0.5], [0.5, 1.0], [1.0, 1.5], [1.5, 1.75]]
    assert reader.read("b").times.tolist() == times(4).tolist()


def test_rows_that_wait_for_their_shard_are_never_seen_in_the_store(tmp_path: Path) -> None:
    store = StoreWriter(tmp_path)
    plan(store, ["a"])
    with patch.object(feature_store.writer, "SPOOL_BYTES", 10):
        writer = store.add_expert("x", identity(), {}).begin(0)
        writer.append(0, 0, features("a", 100), times(100))
    assert [path.name for path in (tmp_path / "x").rglob("*")] == ["zarr.json"]
    writer.finish([VideoStatus("a", "ok", 100, 50.0)], {})
    np.testing.assert_array_equal(FeatureStore(tmp_path)["x"].read("a").values, features("a", 100))
