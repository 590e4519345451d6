"""Stores as other people and programs use them: modes, pickles, forks, other readers, plain disks."""

from __future__ import annotations

import copy
import errno
import json
import multiprocessing
import os
import pickle
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from feature_store import FeatureStore, StoreError, StoreWriter, verify
from feature_store.leases import Leases, new_holder
from feature_store.places import LocalPlace
from small_stores import identity, write_store


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "s.zarr")
    return tmp_path / "s.zarr"


@pytest.fixture(params=[0o002, 0o022, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def odd_modes(folder: Path, umask: int) -> list[str]:
    """Files and folders whose modes are not the umask's."""
    found = []
    for path in (folder, *folder.rglob("*")):
        expected = (0o777 if path.is_dir() else 0o666) & ~umask
        if stat.S_IMODE(path.stat().st_mode) != expected:
            found.append(f"{path.relative_to(folder)} {stat.S_IMODE(path.stat().st_mode):o}")
    return found


def test_everything_in_a_store_has_the_modes_of_the_umask(tmp_path: Path, umask: int) -> None:
    write_store(tmp_path / "s.zarr", experts={"s3d": {}, "ocr": {"kind": "ocr"}})
    assert odd_modes(tmp_path / "s.zarr", umask) == []


def first_values(reader: Any) -> list[float]:
    values: list[float] = reader.read("ant").values[0].tolist()
    return values


@pytest.mark.parametrize("how", ["pickled", "copied"])
def test_a_store_that_was_read_from_can_be_pickled_and_copied(store: Path, how: str) -> None:
    opened = FeatureStore(store)
    expected = first_values(opened["s3d"])
    for each in (opened, opened["s3d"]):
        again = pickle.loads(pickle.dumps(each)) if how == "pickled" else copy.deepcopy(each)
        assert first_values(again["s3d"] if isinstance(again, FeatureStore) else again) == expected


def test_a_pickled_store_is_found_from_another_folder(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(store.parent)
    pickled = pickle.dumps(FeatureStore("s.zarr"))
    monkeypatch.chdir("/")
    assert first_values(pickle.loads(pickled)["s3d"])


def test_a_store_is_read_after_a_fork(store: Path) -> None:
    opened = FeatureStore(store)
    expected = first_values(opened["s3d"])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(first_values, (opened["s3d"],)) == expected


def test_a_closed_store_says_so(store: Path) -> None:
    with FeatureStore(store) as opened:
        reader = opened["s3d"]
        assert first_values(reader)
    for read in (lambda: reader.read("ant"), lambda: opened["s3d"]):
        with pytest.raises(StoreError, match="closed"):
            read()
    opened.close()


def mapped(folder: Path) -> int:
    """How many files below a folder this process has mapped."""
    return Path("/proc/self/maps").read_text().count(str(folder))


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the kernel tells nobody what is mapped")
def test_closing_lets_go_of_all_files(store: Path) -> None:
    opened = FeatureStore(store)
    first_values(opened["s3d"])
    assert mapped(store)
    opened.close()
    assert not mapped(store)


def test_arrays_have_named_dimensions(store: Path) -> None:
    group = zarr.open_group(store / "s3d/000000", mode="r")
    names = {name: array.metadata.dimension_names for name, array in group.arrays()}
    assert names == {"features": ("row", "dim"), "times": ("row", "edge"), "offsets": ("video_edge",)}


def test_xarray_opens_a_shard(store: Path) -> None:
    xarray = pytest.importorskip("xarray", reason="xarray is not installed")
    shard = xarray.open_zarr(store / "s3d/000000", consolidated=False)
    assert shard["features"].dims == ("row", "dim") and shard["times"].dims == ("row", "edge")
    assert shard.sizes["row"] == len(shard["features"])


def test_a_store_whose_arrays_have_no_names_of_dimensions_is_read_checked_and_extended(store: Path) -> None:
    for path in store.rglob("000000/*/zarr.json"):
        metadata = json.loads(path.read_bytes())
        assert metadata.pop("dimension_names")
        path.write_text(json.dumps(metadata))
    assert first_values(FeatureStore(store)["s3d"])
    assert write_store(store) == []


def test_metadata_that_a_user_consolidated_hides_no_expert_that_is_added(store: Path) -> None:
    zarr.consolidate_metadata(store)
    write_store(store, experts={"vggish": {"kind": "audio"}})
    assert set(FeatureStore(store).experts) == {"s3d", "vggish"}
    assert set(zarr.open_group(store, mode="r")["vggish/000000"].array_keys()) == {"features", "times", "offsets"}


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_leases_work_where_there_are_no_hard_links(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(source))

    monkeypatch.setattr(os, "link", no_links)
    one, other = (Leases(LocalPlace(tmp_path), new_holder(), stale=0.2) for _ in range(2))
    for each in (one, other):
        each.beat()
    assert one.take("000001") is None and one.holds("000001")
    assert other.take("000001") == one.holder
    one.release("000001")
    assert other.take("000001") is None and not one.holds("000001")
    # A process that is killed in the moment when its lease is there and empty holds it until it is stale.
    (tmp_path / ".run/leases/000002-0").touch()
    assert one.take("000002") == ""
    import time

    time.sleep(0.3)
    assert one.take("000002") is None and one.holds("000002")


def test_a_store_is_written_where_folders_cannot_be_synced_and_files_not_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = os.fsync

    def only_files(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    def no_maps(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENODEV, "No such device")

    write_store(tmp_path / "plain.zarr")
    monkeypatch.setattr(os, "fsync", only_files)
    monkeypatch.setattr(np, "memmap", no_maps)
    write_store(tmp_path / "s.zarr")
    assert verify(tmp_path / "s.zarr").damaged == ()
    assert first_values(FeatureStore(tmp_path / "s.zarr")["s3d"])


def test_a_disk_that_takes_no_colons_is_told_of_with_a_name_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.mkdir

    def no_colons(path: Path, *arguments: Any, **options: Any) -> None:
        if ":" in path.name:
            raise OSError(errno.EINVAL, "Invalid argument", str(path))
        make(path, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", no_colons)
    with pytest.raises(StoreError, match=r"takes no ':' in names.*--as timm_resnet18"):
        write_store(tmp_path / "s.zarr", experts={"timm:resnet18": {}})


def test_experts_that_differ_by_capitals_alone_are_refused_where_the_disk_cannot_tell(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (store / "S3D").symlink_to("s3d")
    with pytest.raises(StoreError, match=r"'s3d' lies where 'S3D' would.*--as NAME"):
        StoreWriter(store).add_expert("S3D", identity(), {})


def test_what_systems_leave_in_an_empty_folder_does_not_keep_a_store_from_it(tmp_path: Path) -> None:
    for name in (".DS_Store", "._x", "lost+found", "Thumbs.db"):
        (tmp_path / name).touch()
    write_store(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/thesis.tex").touch()
    with pytest.raises(StoreError, match="holds other things"):
        StoreWriter(tmp_path / "other")
