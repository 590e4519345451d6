"""A store needs none of our code to be read."""

from __future__ import annotations

import json
from pathlib import Path

import dask.array
import numpy as np
import pytest
import zarr

from feature_store import FeatureStore
from small_stores import CORPUS, features, times, write_store

DTYPES = ["float16", "float32"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("format") / "corpus.zarr"
    write_store(path, experts={dtype: {"dtype": dtype} for dtype in DTYPES}, shard_videos=3)
    return path


@pytest.mark.parametrize("expert", DTYPES)
def test_zarr_reads_features_times_and_offsets(store: Path, expert: str) -> None:
    group = zarr.open_group(store, mode="r")
    first = json.loads((store / expert / "000000" / "complete.json").read_bytes())
    assert [video["id"] for video in first["videos"]] == CORPUS[:3]
    shard = group[f"{expert}/000000"]
    assert shard["features"].dtype == expert and shard["times"].dtype == "float64"
    assert shard["offsets"].dtype == "int64" and shard["offsets"][:].tolist() == [0, 6, 12, 12]
    for number, video in enumerate(CORPUS[:2]):
        begin, end = shard["offsets"][number], shard["offsets"][number + 1]
        np.testing.assert_array_equal(shard["features"][begin:end], features(video, 6, expert=expert).astype(expert))
        np.testing.assert_array_equal(shard["times"][begin:end], times(6))


def test_dask_reads_it(store: Path) -> None:
    rows = dask.array.from_zarr(str(store), component="float32/000000/features")
    expected = np.concatenate([features(video, 6, expert="float32") for video in CORPUS[:2]])
    np.testing.assert_array_equal(rows.compute(), expected)
    seconds = dask.array.from_zarr(str(store), component="float32/000000/times")
    assert float((seconds[:, 1] - seconds[:, 0]).sum().compute()) == 6.0


def test_zarr_finds_the_experts_in_the_hierarchy_and_their_provenance_in_its_attributes(store: Path) -> None:
    group = zarr.open_group(store, mode="r")
    assert sorted(name for name, _ in group.groups()) == DTYPES
    document = group["float16"].attrs["reelcache"]
    assert document["expert"] == "float16" and document["identity"]["dtype"] == "float16"
    assert group.attrs["reelcache"]["segments"][0]["videos"] == len(CORPUS)


def test_chunks_are_plain_rows_that_a_checksum_follows(store: Path) -> None:
    chunk = (store / "float32" / "000000" / "features" / "c" / "0" / "0").read_bytes()
    rows = np.frombuffer(chunk[:-4], "<f4").reshape(-1, 3)
    np.testing.assert_array_equal(rows[:6], features("ant", 6, expert="float32"))


@pytest.mark.parametrize("array", ["features", "times", "offsets"])
def test_zarr_itself_notices_a_changed_byte(tmp_path: Path, array: str) -> None:
    write_store(tmp_path)
    chunk = next(path for path in (tmp_path / "s3d" / "000000" / array / "c").rglob("*") if path.is_file())
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(ValueError, match=r"(?i)checksum"):
        zarr.open_group(tmp_path, mode="r")[f"s3d/000000/{array}"][:]


def test_a_shard_that_another_tool_compressed_is_read_all_the_same(tmp_path: Path) -> None:
    write_store(tmp_path)
    shard = zarr.open_group(tmp_path / "s3d" / "000000", mode="r+")
    rows = shard["features"][:]
    shard.create_array("features", data=rows, chunks=(2, 2), overwrite=True)
    reader = FeatureStore(tmp_path)["s3d"]
    np.testing.assert_array_equal(reader.read("bee").values, features("bee", 6))
