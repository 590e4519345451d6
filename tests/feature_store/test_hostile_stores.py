"""Stores come from anywhere: whatever their documents say, their digests made anew, ends in a sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from feature_store import FeatureStore, StoreError, inspect_video, summarize, verify
from small_stores import CORPUS, reseal, write_store

Edit = Callable[[dict[str, Any]], object]
SHARD = "s3d/000000"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_store(tmp_path / "s")
    return tmp_path / "s"


def edit_attributes(path: Path, edit: Edit) -> None:
    """Change the document in a group's metadata, and seal it anew."""
    metadata = json.loads(path.read_bytes())
    document = metadata["attributes"]["reelcache"]
    edit(document)
    metadata["attributes"]["reelcache"] = reseal(document)
    path.write_text(json.dumps(metadata))


def edit_record(path: Path, edit: Edit) -> None:
    record = json.loads(path.read_bytes())
    edit(record)
    path.write_text(json.dumps(reseal(record)))


def edit_metadata(path: Path, edit: Edit) -> None:
    """Change an array's metadata."""
    metadata = json.loads(path.read_bytes())
    edit(metadata)
    path.write_text(json.dumps(metadata))


def chunk_of(*shape: int) -> Edit:
    return lambda metadata: metadata["chunk_grid"]["configuration"].update(chunk_shape=list(shape))


PLANS: dict[str, Edit] = {
    "segments that are a number": lambda plan: plan.update(segments=3),
    "a segment that is a list": lambda plan: plan.update(segments=[[1]]),
    "shards of no videos": lambda plan: plan["segments"][0].update(shard_videos=0),
    "fewer videos than none": lambda plan: plan["segments"][0].update(videos=-1),
    "a digest that is a number": lambda plan: plan["segments"][0].update(digest=3),
    "a segment that says more": lambda plan: plan["segments"][0].update(new=1),
}
EXPERTS: dict[str, Edit] = {
    "no name": lambda document: document.pop("expert"),
    "a name that is a number": lambda document: document.update(expert=3),
    "an empty name": lambda document: document.update(expert=""),
    "no identity": lambda document: document.pop("identity"),
    "an identity that is a list": lambda document: document.update(identity=[1]),
    "nothing about it": lambda document: document.pop("about"),
    "a negative width": lambda document: document["identity"].update(dim=-4),
    "no width": lambda document: document["identity"].update(dim=None),
    "numbers of an unknown type": lambda document: document["identity"].update(dtype="float128"),
    "weights that are none": lambda document: document["identity"].update(weights=None),
    "weights from a number": lambda document: document["identity"].update(weights={"source": 3}),
}
RECORDS: dict[str, Edit] = {
    "rows that are text": lambda record: record["videos"][0].update(rows="x"),
    "more rows than there are": lambda record: record["videos"][0].update(rows=10**9),
    "an id that is a number": lambda record: record["videos"][0].update(id=3, status="failed", rows=0),
    "a reason that is a list": lambda record: record["videos"][0].update(reason=[1], status="failed", rows=0),
    "an unknown status": lambda record: record["videos"][0].update(status="new"),
    "videos that are a number": lambda record: record.update(videos=3),
    "files that are a number": lambda record: record.update(files=3),
}
ARRAYS: dict[str, Edit] = {
    "objects, which are addresses": lambda metadata: metadata.update(data_type="O"),
    "numbers of an unknown type": lambda metadata: metadata.update(data_type="float128"),
    "a type that is a document": lambda metadata: metadata.update(data_type={"name": "struct"}),
    "a negative shape": lambda metadata: metadata.update(shape=[-1, *metadata["shape"][1:]]),
    "another number of rows": lambda metadata: metadata.update(shape=[10**6, *metadata["shape"][1:]]),
    "no dimensions": lambda metadata: metadata.update(shape=[]),
    "a shape of text": lambda metadata: metadata.update(shape=["x"]),
    "chunks of nothing": chunk_of(0, 3),
    "chunks larger than any file": chunk_of(10**30, 3),
    "an unknown codec": lambda metadata: metadata.update(codecs=[{"name": "evil"}]),
    "no codecs": lambda metadata: metadata.pop("codecs"),
}


def refused(store: Path, use: Callable[[Path], object]) -> str:
    with pytest.raises(StoreError) as error:
        use(store)
    message = str(error.value)
    assert str(store) in message
    assert "\n" not in message and "pydantic" not in message and "Error(" not in message
    return message


@pytest.mark.parametrize("use", [FeatureStore, verify, summarize])
@pytest.mark.parametrize("edit", PLANS.values(), ids=PLANS)
def test_a_shard_plan_of_other_types_is_refused(store: Path, edit: Edit, use: Callable[[Path], object]) -> None:
    edit_attributes(store / "zarr.json", edit)
    assert "shard plan" in refused(store, use)


@pytest.mark.parametrize("use", [FeatureStore, verify, summarize])
@pytest.mark.parametrize("edit", EXPERTS.values(), ids=EXPERTS)
def test_an_experts_document_of_other_types_is_refused(store: Path, edit: Edit, use: Callable[[Path], object]) -> None:
    edit_attributes(store / "s3d" / "zarr.json", edit)
    assert "s3d/zarr.json: damaged" in refused(store, use)


@pytest.mark.parametrize("edit", RECORDS.values(), ids=RECORDS)
def test_a_record_of_other_types_is_refused_and_is_damage(store: Path, edit: Edit) -> None:
    edit_record(store / SHARD / "complete.json", edit)
    refused(store, lambda path: FeatureStore(path)["s3d"].read(CORPUS[0]))
    assert {(damage.expert, damage.shard) for damage in verify(store).damaged} == {("s3d", 0)}
    with suppress(StoreError):
        summarize(store)  # which looks only at what it counts


@pytest.mark.parametrize("array", ["features", "times", "offsets"])
@pytest.mark.parametrize("edit", ARRAYS.values(), ids=ARRAYS)
def test_an_array_of_another_kind_is_refused(store: Path, array: str, edit: Edit) -> None:
    edit_metadata(store / SHARD / array / "zarr.json", edit)
    assert SHARD in refused(store, lambda path: FeatureStore(path)["s3d"].read(CORPUS[0]))
    assert SHARD in refused(store, lambda path: inspect_video(path, CORPUS[0]))


def test_an_expert_that_claims_records_which_it_has_not_is_damaged(store: Path) -> None:
    edit_attributes(store / "s3d" / "zarr.json", lambda document: document["identity"].update(records=True))
    assert any("not those of a shard" in damage.reason for damage in verify(store).damaged)


def test_shards_of_an_expert_without_metadata_are_not_called_sound(store: Path) -> None:
    (store / "s3d" / "zarr.json").unlink()
    assert "s3d: holds shards, but no zarr.json" in refused(store, verify)


def test_the_folder_of_an_expert_is_no_store(store: Path) -> None:
    with pytest.raises(StoreError, match="s3d: is the folder of an expert; name the store"):
        FeatureStore(store / "s3d")


@pytest.mark.parametrize("repair", [False, True])
def test_a_file_that_may_not_be_read_is_no_damage(store: Path, repair: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(sys.modules["feature_store.verify"], "file_digest", denied)
    with pytest.raises(PermissionError):
        verify(store, repair)
    assert (store / SHARD / "complete.json").exists()
