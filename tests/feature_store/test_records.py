"""Records: what each row of an expert that finds things is about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import ExpertWriter, FeatureStore, StoreError, StoreWriter, VideoStatus, verify
from small_stores import DIM, identity, plan

WORDS = {"sign": ["EXIT", "Füße", "出口 \u2028\n"], "mute": [], "talk": ["a", "b"]}


def status(video: str) -> VideoStatus:
    return VideoStatus(video, "ok", rows=len(WORDS[video]), seconds=9.0)


def rows(words: list[str]) -> tuple[np.ndarray, np.ndarray, list[dict[str, Any]]]:
    """Features, times and records of words."""
    starts = np.arange(len(words), dtype=float)
    features = np.arange(len(words) * DIM, dtype=np.float32).reshape(-1, DIM)
    return features, np.stack([starts, starts + 0.5], axis=1), [{"text": word, "box": [[1, 2.5]]} for word in words]


@pytest.fixture
def expert(tmp_path: Path) -> ExpertWriter:
    store = StoreWriter(tmp_path / "store")
    plan(store, list(WORDS), shard_videos=3)
    return store.add_expert("ocr", identity(records=True), {})


def write(expert: ExpertWriter) -> None:
    writer = expert.begin(0)
    for number in (2, 0, 1):  # in whatever order videos are done
        features, times, records = rows(list(WORDS.values())[number])
        for row in reversed(range(len(records))):
            writer.append(number, row, features[[row]], times[[row]], [records[row]])
    writer.finish([status(video) for video in WORDS], {})


def test_records_come_back_with_their_rows_and_times(expert: ExpertWriter, tmp_path: Path) -> None:
    write(expert)
    reader = FeatureStore(tmp_path / "store")["ocr"]
    for video, words in WORDS.items():
        features, times, records = rows(words)
        expected = [{**record, "start": a, "end": b} for record, (a, b) in zip(records, times.tolist(), strict=True)]
        assert reader.records(video) == expected
        np.testing.assert_array_equal(reader.read(video).values, features)
    assert verify(tmp_path / "store").damaged == ()


def test_any_zarr_reader_reads_records(expert: ExpertWriter, tmp_path: Path) -> None:
    write(expert)
    shard = zarr.open_group(tmp_path / "store")["ocr/000000"]
    first, stop = shard["record_offsets"][1:3]
    assert json.loads(shard["records"][first:stop].tobytes()) == {"text": "Füße", "box": [[1, 2.5]]}


def test_rows_that_are_kept_keep_their_records(expert: ExpertWriter, tmp_path: Path) -> None:
    write(expert)
    record = expert.complete(0)
    assert record
    writer = expert.redo(record, {2})
    writer.append(2, 0, *rows(["anew"]))
    writer.finish([status("sign"), status("mute"), VideoStatus("talk", "ok", rows=1, seconds=9.0)], {})
    reader = FeatureStore(tmp_path / "store")["ocr"]
    assert [[record["text"] for record in reader.records(video)] for video in WORDS] == [WORDS["sign"], [], ["anew"]]


def test_a_shard_without_any_row_has_records(expert: ExpertWriter, tmp_path: Path) -> None:
    writer = expert.begin(0)
    writer.finish([VideoStatus(video, "ok", seconds=9.0) for video in WORDS], {})
    assert FeatureStore(tmp_path / "store")["ocr"].records("talk") == []
    assert verify(tmp_path / "store").damaged == ()


def test_an_expert_has_a_record_for_every_row_or_none(expert: ExpertWriter, tmp_path: Path) -> None:
    features, times, records = rows(["a", "b"])
    for wrong in (None, records[:1]):
        with pytest.raises(StoreError, match="every row"):
            expert.begin(0).append(0, 0, features, times, wrong)
    other = StoreWriter(tmp_path / "store").add_expert("s3d", identity(), {})
    with pytest.raises(StoreError, match="every row"):
        other.begin(0).append(0, 0, features, times, records)
    other.begin(0).finish([VideoStatus(video, "ok", seconds=9.0) for video in WORDS], {})
    with pytest.raises(StoreError, match="s3d has no records"):
        FeatureStore(tmp_path / "store")["s3d"].records("talk")


def test_records_that_contradict_their_rows_are_found(expert: ExpertWriter, tmp_path: Path) -> None:
    write(expert)
    shard = zarr.open_group(tmp_path / "store" / "ocr" / "000000")
    shard["record_offsets"][1] += 1
    arrays = {damage.array for damage in verify(tmp_path / "store").damaged}
    assert "record_offsets" in arrays


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.text().filter(lambda key: key not in ("start", "end")), json_values), max_size=6))
def test_any_record_comes_back(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> None:
    path = tmp_path_factory.mktemp("any") / "store"
    store = StoreWriter(path)
    plan(store, ["v"])
    writer = store.add_expert("ocr", identity(records=True), {}).begin(0)
    times = np.tile([0.0, 1.0], (len(records), 1))
    writer.append(0, 0, np.zeros((len(records), DIM), np.float32), times, records)
    writer.finish([VideoStatus("v", "ok", rows=len(records), seconds=1.0)], {})
    assert FeatureStore(path)["ocr"].records("v") == [{**record, "start": 0.0, "end": 1.0} for record in records]
