"""verify finds whatever is not as it was written, and --repair drops just that."""

from __future__ import annotations

import errno
import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
import zarr

import feature_store.writer
from feature_store import FeatureStore, StoreError, StoreWriter, VideoStatus, verify
from small_stores import CORPUS, DIM, contents, features, identity, plan, reseal, times, write_store

SHARD_FILES = [
    "complete.json",
    "features/c/0/0",
    "features/c/1/0",
    "features/zarr.json",
    "offsets/c/0",
    "offsets/zarr.json",
    "times/c/0/0",
    "times/c/1/0",
    "times/c/2/0",
    "times/zarr.json",
    "zarr.json",
]
SMALL = 250  # bytes: files up to here are damaged at every byte
PLACES = 60  # in larger ones

Damaged = list[tuple[str, int]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of one shard, features and times in several chunks."""
    path = tmp_path_factory.mktemp("sound") / "corpus.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_store.writer, "CHUNK_BYTES", 100)
        write_store(path, ["\u1e9e\x1f", *CORPUS[1:]], {"s3d": {"wide": False}}, shard_videos=5)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two experts and three shards each."""
    write_store(tmp_path / "corpus.zarr", experts={"s3d": {}, "vggish": {"kind": "audio"}})
    return tmp_path / "corpus.zarr"


def damaged(path: Path, repair: bool = False) -> Damaged:
    return sorted({(damage.expert, damage.shard) for damage in verify(path, repair).damaged})


def flips(content: bytes, everywhere: bool) -> Iterator[bytes]:
    """The content with one byte changed: by any bits, or by that which tells capitals."""
    chosen = random.Random(0)
    places = range(len(content)) if everywhere else sorted(chosen.sample(range(len(content)), PLACES))
    for place in places:
        mask = chosen.choice([1 << chosen.randrange(8), chosen.randrange(1, 256), 0x20, 0x20])
        yield content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]


def says(content: bytes, document: Any) -> bool:
    """It is the document all the same, with a line broken where a space was."""
    try:
        return bool(json.loads(content) == document)
    except ValueError:
        return False


def test_what_is_written_is_sound(sound: Path, store: Path) -> None:
    assert verify(sound).damaged == () and verify(sound).checked == 1
    assert verify(store).damaged == () and verify(store).checked == 6
    assert list(contents(sound / "s3d" / "000000")) == SHARD_FILES


@pytest.mark.parametrize("file", SHARD_FILES)
def test_any_changed_byte_is_found(sound: Path, file: str) -> None:
    path = sound / "s3d" / "000000" / file
    content = path.read_bytes()
    array = file.split("/")[0] if "/" in file else "complete.json" if file == "complete.json" else "shard"
    try:
        for changed in flips(content, everywhere=len(content) <= SMALL or file == "complete.json"):
            path.write_bytes(changed)
            found = verify(sound).damaged
            assert found, (file, changed)
            assert {damage.array for damage in found} == {array}
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("file", ["zarr.json", "s3d/zarr.json"])
def test_any_changed_byte_in_the_metadata_of_a_store_or_expert_is_an_error_that_names_the_file(
    sound: Path, file: str
) -> None:
    path = sound / file
    content = path.read_bytes()
    try:
        for changed in flips(content, everywhere=True):
            path.write_bytes(changed)
            if not says(changed, json.loads(content)):
                with pytest.raises(StoreError) as told:
                    verify(sound)
                assert str(path) in str(told.value), changed
    finally:
        path.write_bytes(content)


@pytest.mark.parametrize("file", SHARD_FILES)
@pytest.mark.parametrize("cut", [1, -1], ids=["to its first byte", "by its last byte"])
def test_a_cut_file_is_found(sound: Path, file: str, cut: int) -> None:
    path = sound / "s3d" / "000000" / file
    content = path.read_bytes()
    try:
        path.write_bytes(content[:cut])
        assert damaged(sound) == [("s3d", 0)]
        path.write_bytes(content + b"\n")
        assert damaged(sound) == [("s3d", 0)]
    finally:
        path.write_bytes(content)


def test_a_missing_file_is_found_and_named(store: Path) -> None:
    shard = store / "vggish" / "000002"
    for file in contents(shard):
        if file != "complete.json":
            content = (shard / file).read_bytes()
            (shard / file).unlink()
            (found,) = verify(store).damaged
            assert (found.expert, found.shard) == ("vggish", 2) and found.reason == f"{file} is missing"
            (shard / file).write_bytes(content)


def test_a_shard_without_its_mark_is_pending_not_damaged(store: Path) -> None:
    (store / "vggish" / "000002" / "complete.json").unlink()
    assert verify(store).damaged == () and verify(store).checked == 5


STRANGERS = [
    ".DS_Store", "notes.txt", "lost+found/x", "s3d/.DS_Store", "s3d/Thumbs.db", "s3d/000000/._features",
    "s3d/000000/.nfs0001", "s3d/000000/@eaDir/x", "s3d/000000/times/zarr.json~",
    "s3d/000000/features/c/.DS_Store",
]  # fmt: skip


@pytest.mark.parametrize("file", STRANGERS)
def test_a_file_of_others_is_named_and_neither_it_nor_the_shard_goes(store: Path, file: str) -> None:
    path = store / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    verdict = verify(store, repair=True)
    assert verdict.damaged == () and verdict.checked == 6
    assert [name for name in verdict.foreign if file == name or file.startswith(f"{name}/")] and path.exists()
    assert FeatureStore(store)["s3d"].read("ant").values.shape[0] == 6
    assert write_store(store, experts={"s3d": {}, "vggish": {"kind": "audio"}}) == [], "all of it counts as done"


def test_a_folder_of_zarr_that_somebody_keeps_in_a_store_is_none_of_its_experts(store: Path) -> None:
    zarr.open_group(store / "mine", mode="w", attributes={"made": "by hand"})
    assert set(FeatureStore(store).experts) == {"s3d", "vggish"}
    assert verify(store).foreign == ("mine",)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("s3d", 0), ("s3d", 2)),
        (("s3d", 0), ("vggish", 0)),
        (("s3d", 1), ("vggish", 2)),
    ],
    ids=["of one expert", "of two experts", "crosswise"],
)
def test_shards_that_changed_places_are_found_and_no_others(
    store: Path, one: tuple[str, int], other: tuple[str, int]
) -> None:
    swap(*(store / expert / f"{shard:06d}" for expert, shard in (one, other)))
    assert damaged(store) == sorted([one, other])


def test_experts_that_changed_places_are_told_of(store: Path) -> None:
    swap(store / "s3d", store / "vggish")
    with pytest.raises(StoreError, match=r"s3d: holds the expert 'vggish'"):
        verify(store)


def test_features_that_changed_places_are_found(store: Path) -> None:
    swap(store / "s3d" / "000000" / "features", store / "vggish" / "000000" / "features")
    assert damaged(store) == [("s3d", 0), ("vggish", 0)]


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


EDITS: dict[str, Callable[[dict], None]] = {
    "a status": lambda document: document["videos"][0].update(status="failed"),
    "rows": lambda document: document["videos"][0].update(rows=5),
    "an id": lambda document: document["videos"][0].update(id="fly"),
    "order": lambda document: document["videos"].reverse(),
    "one video less": lambda document: document["videos"].pop(),
    "a file": lambda document: document["files"].popitem(),
    "a file's digest": lambda document: document["files"].update({"zarr.json": "0" * 64}),
    "the shard": lambda document: document.update(shard=1),
    "the expert": lambda document: document.update(expert="vggish"),
    "the provenance": lambda document: document.update(provenance="0" * 64),
    "a new field": lambda document: document.update(checked="by me"),
    "a time": lambda document: document["run"].update(host="elsewhere"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_record_edited_by_hand_is_found(store: Path, edit: str) -> None:
    path = store / "s3d" / "000000" / "complete.json"
    document = json.loads(path.read_bytes())
    EDITS[edit](document)
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False))
    assert damaged(store) == [("s3d", 0)]
    assert write_store(store) == [("s3d", 0)], "it does not count as complete"


@pytest.mark.parametrize("edit", [edit for edit in EDITS if edit != "a time"])
def test_a_record_edited_with_its_digest_made_anew_is_found_where_it_contradicts_the_store(
    store: Path, edit: str
) -> None:
    path = store / "vggish" / "000000" / "complete.json"
    document = json.loads(path.read_bytes())
    if edit == "the expert":
        document["expert"] = "s3d"
    else:
        EDITS[edit](document)
    path.write_text(json.dumps(reseal(document), indent=1, ensure_ascii=False))
    assert damaged(store) == [("vggish", 0)]


def test_a_record_that_is_no_record_is_found(store: Path) -> None:
    path = store / "s3d" / "000000" / "complete.json"
    for content in (b"", b"{}", b"[]", b"null", b"7", b"\xff\xfe", b'{"sha256": "0"}', b"[" * 5000):
        path.write_bytes(content)
        assert damaged(store) == [("s3d", 0)]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_found(tmp_path: Path, value: float) -> None:
    store = StoreWriter(tmp_path)
    plan(store, ["a"])
    writer = store.add_expert("s3d", identity(), {}).begin(0)
    rows = features("a", 4)
    rows[2, 1] = value
    writer.append(0, 0, rows, times(4))
    writer.finish([VideoStatus("a", "ok", 4, 2.0)], {})
    (found,) = verify(tmp_path).damaged
    assert found.array == "features" and "not finite" in found.reason


def test_an_expert_whose_provenance_was_replaced_is_found(store: Path) -> None:
    path = store / "s3d" / "zarr.json"
    metadata = json.loads(path.read_bytes())
    document = metadata["attributes"]["reelcache"]
    document["identity"]["weights"]["source"] = "vggish-10086976.pth"
    metadata["attributes"]["reelcache"] = reseal(document)
    path.write_text(json.dumps(metadata))
    assert damaged(store) == [("s3d", 0), ("s3d", 1), ("s3d", 2)]


def test_a_file_that_the_disk_no_longer_gives_is_damage_not_the_end(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = hashlib.file_digest

    def digest(file: BinaryIO, kind: str) -> Any:
        if file.name == str(store / "s3d" / "000000" / "times" / "c" / "0" / "0"):
            raise OSError(errno.EIO, "Input/output error", file.name)
        return real(file, kind)

    monkeypatch.setattr(hashlib, "file_digest", digest)
    (found,) = verify(store).damaged
    assert (found.expert, found.shard) == ("s3d", 0) and "Input/output error" in found.reason


def test_repair_drops_the_damaged_shards_and_touches_nothing_else(store: Path) -> None:
    whole = contents(store)
    (store / "s3d" / "000000" / "features" / "c" / "0" / "0").write_bytes(b"")
    (store / "vggish" / "000002" / "complete.json").write_text("{")
    (store / "vggish" / "000001" / "offsets" / "c" / "9").write_text("")
    dropped = [("s3d", 0), ("vggish", 1), ("vggish", 2)]
    assert damaged(store, repair=True) == dropped
    gone = [f"{expert}/{shard:06d}/" for expert, shard in dropped]
    assert contents(store) == {name: it for name, it in whole.items() if not name.startswith(tuple(gone))}
    assert not (store / "s3d" / "000000").exists()
    assert verify(store).damaged == () and verify(store).checked == 3
    assert write_store(store, experts={"s3d": {}, "vggish": {"kind": "audio"}}) == dropped
    assert contents(store) == whole


def test_repair_of_shards_that_changed_places_keeps_those_of_other_experts(store: Path) -> None:
    swap(store / "s3d" / "000000", store / "s3d" / "000002")
    assert damaged(store, repair=True) == [("s3d", 0), ("s3d", 2)]
    assert verify(store).checked == 4


def test_without_repair_nothing_is_touched(store: Path) -> None:
    (store / "s3d" / "000000" / "features" / "c" / "0" / "0").write_bytes(b"")
    before = contents(store)
    verify(store)
    assert contents(store) == before


def test_shards_in_the_making_are_not_looked_at(store: Path) -> None:
    shutil.rmtree(store / "s3d" / "000001" / "times")
    (store / "s3d" / "000001" / "complete.json").unlink()
    assert verify(store, repair=True).damaged == ()
    assert (store / "s3d" / "000001").exists()


def test_an_expert_of_another_width_than_its_metadata_says_is_found(tmp_path: Path) -> None:
    write_store(tmp_path)
    path = tmp_path / "s3d" / "zarr.json"
    metadata = json.loads(path.read_bytes())
    document = metadata["attributes"]["reelcache"]
    document["identity"]["dim"] = DIM + 1
    metadata["attributes"]["reelcache"] = reseal(document)
    path.write_text(json.dumps(metadata))
    assert {damage.array for damage in verify(tmp_path).damaged} == {"complete.json", "features"}
