"""An expert may be called anything: its folder stays in the store, and its name comes back."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store import FeatureStore, StoreError, StoreWriter, summarize, verify
from feature_store.layout import node_name
from small_stores import contents, identity, plan, write_store

NAMES = [
    "..",
    ".",
    "a/b",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\temp",
    "%2e",
    "%2e%2e%2f",
    "__x",
    ".hidden",
    "zarr.json",
    "complete.json",
    "c",
    "timm:hf-hub:org/model",
    "timm:vit_base_patch16_clip_224.openai",
    "Ünïcödé 视频 🎬",
    "with space\nand line",
    "nul\0",
    "x" * 255,
    "x" * 5000,
    "🎬" * 300,
]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:30] for name in NAMES])
def test_a_strange_name_stays_in_the_store_and_comes_back(tmp_path: Path, name: str) -> None:
    store = tmp_path / "around" / "corpus.zarr"
    write_store(store, experts={name: {}, "s3d": {}})
    assert [path.name for path in tmp_path.iterdir()] == ["around"]
    assert [path.name for path in (tmp_path / "around").iterdir()] == ["corpus.zarr"]
    folders = {path.name for path in store.iterdir() if path.is_dir()}
    assert len(folders) == 2 and {path.parent for path in store.glob("*/*/complete.json")} == {
        store / folder / f"{shard:06d}" for folder in folders for shard in range(3)
    }
    assert set(FeatureStore(store).experts) == set(summarize(store).experts) == {name, "s3d"}
    assert FeatureStore(store)[name].read("bee").values.shape == (6, 3)
    assert verify(store).damaged == ()
    assert len(list(zarr.open_group(store, mode="r").groups())) == 2
    assert write_store(store, experts={name: {}}) == []


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(min_size=1), st.text(min_size=1))
def test_folders_of_different_names_are_different_plain_names(one: str, other: str) -> None:
    for name in (one, other):
        folder = node_name(name)
        assert os.path.basename(folder) == folder and folder not in (".", "..", "zarr.json")
        assert not folder.startswith((".", "__")) and folder.isascii() and folder.isprintable()
        assert len(folder) <= 255 and "/" not in folder and "\\" not in folder
    assert (node_name(one) == node_name(other)) == (one == other)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(min_size=1, max_size=60), min_size=1, max_size=4, unique=True))
def test_any_names_come_back(names: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = StoreWriter(folder)
        plan(store, ["a"])
        for name in names:
            store.add_expert(name, identity(), {})
        assert set(FeatureStore(folder).experts) == set(names)


def test_long_names_that_differ_at_their_end_are_different_experts(tmp_path: Path) -> None:
    names = ["long " * 100 + "one", "long " * 100 + "two"]
    write_store(tmp_path, experts={name: {} for name in names})
    assert set(FeatureStore(tmp_path).experts) == set(names)


def test_an_expert_must_have_a_name(tmp_path: Path) -> None:
    write_store(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(StoreError, match="must have a name"):
        StoreWriter(tmp_path).add_expert("", identity(), {})
    assert contents(tmp_path) == before


def test_a_folder_that_was_renamed_is_told_of(tmp_path: Path) -> None:
    write_store(tmp_path)
    (tmp_path / "s3d").rename(tmp_path / "i3d")
    with pytest.raises(StoreError, match=r"i3d: holds the expert 's3d'"):
        FeatureStore(tmp_path)
