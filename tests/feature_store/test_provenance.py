"""An expert of a store is made in one way, from its first shard to its last."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from feature_store import FeatureStore, StoreError, StoreWriter, verify
from small_stores import CORPUS, contents, features, identity, reseal, write_store

OTHER = [
    ({"weights": {"source": "random:1", "sha256": None}}, ["weights.source"]),
    ({"sampling": {"of": "frames", "every": 0.25}}, ["sampling.every"]),
    ({"sampling": {"of": "clips", "length": 16}}, ["sampling.every", "sampling.length", "sampling.of"]),
    ({"dtype": "float16"}, ["dtype"]),
    ({"dim": 4, "network": "i3d"}, ["dim", "network"]),
    ({"preprocessing": {"crop": 224}}, ["preprocessing"]),
]


@pytest.mark.parametrize(("changes", "fields"), OTHER, ids=[" ".join(fields) for _, fields in OTHER])
def test_an_expert_made_in_another_way_is_refused_by_the_fields_that_differ(
    tmp_path: Path, changes: dict[str, Any], fields: list[str]
) -> None:
    write_store(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(StoreError) as refused:
        write_store(tmp_path, experts={"s3d": changes})
    message = str(refused.value)
    assert [line.strip().split(":")[0] for line in message.splitlines() if line.startswith("  ")] == fields
    assert "'s3d'" in message and "--as" in message
    assert contents(tmp_path) == before


def test_the_refusal_shows_both_values(tmp_path: Path) -> None:
    write_store(tmp_path)
    with pytest.raises(StoreError, match=r"sampling\.every: 0\.5 against 0\.25"):
        write_store(tmp_path, experts={"s3d": {"sampling": {"of": "frames", "every": 0.25}}})


def test_a_variant_lives_under_another_name(tmp_path: Path) -> None:
    write_store(tmp_path)
    write_store(tmp_path, experts={"s3d half": {"dtype": "float16"}})
    store = FeatureStore(tmp_path)
    assert {name: info.dtype for name, info in store.experts.items()} == {"s3d": "float32", "s3d half": "float16"}
    np.testing.assert_array_equal(store["s3d"].read("bee").values, features("bee", 6))
    half = features("bee", 6, expert="s3d half").astype(np.float16)
    np.testing.assert_array_equal(store["s3d half"].read("bee").values, half)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ({"options": {"fps": 16}}, {"options": {"fps": 16.0}}),
        ({"options": {"fps": 16.0}}, {"options": {"fps": 16}}),
        ({"options": {"mean": (0.5, 0.5)}}, {"options": {"mean": [0.5, 0.5]}}),
        ({"options": {}}, {"options": {"alias": None}}),
    ],
    ids=["int to float", "float to int", "tuple to list", "a new option that is not used"],
)
def test_equal_provenance_written_otherwise_continues_an_expert(
    tmp_path: Path, was: dict[str, Any], now: dict[str, Any]
) -> None:
    write_store(tmp_path, CORPUS[:3], {"s3d": was})
    assert write_store(tmp_path, CORPUS, {"s3d": now}) == [("s3d", 2)], "nothing is computed again"
    assert verify(tmp_path).damaged == ()


def test_what_is_only_told_about_an_expert_may_change(tmp_path: Path) -> None:
    write_store(tmp_path)
    before = contents(tmp_path)
    StoreWriter(tmp_path).add_expert("s3d", identity(), {"packages": {"torch": "99"}})
    assert contents(tmp_path) == before


def test_readers_learn_how_an_expert_was_made(tmp_path: Path) -> None:
    write_store(tmp_path)
    info = FeatureStore(tmp_path).experts["s3d"]
    assert (info.name, info.kind, info.dim, info.dtype) == ("s3d", "motion", 3, "float32")
    assert info.weights == "random:0" and info.sampling == {"of": "frames", "every": 0.5}
    assert info.identity == identity()
    assert info.about["host"] and info.about["made"]


def test_a_store_of_a_later_format_is_refused(tmp_path: Path) -> None:
    write_store(tmp_path)
    metadata = json.loads((tmp_path / "zarr.json").read_bytes())
    metadata["attributes"]["reelcache"] = reseal({**metadata["attributes"]["reelcache"], "format": 2})
    (tmp_path / "zarr.json").write_text(json.dumps(metadata))
    for use in (FeatureStore, write_store, verify):
        with pytest.raises(StoreError, match="of format 2, and this version reads 1: update Reelcache"):
            use(tmp_path)
