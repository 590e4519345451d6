"""Which positions MMT gives the features of an expert: from the table of experts, and from every importer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import foreign_files as foreign
from extractors import EXPERTS, PRESETS
from extractors.spec import identity
from feature_store import FeatureStore, StoreError, StoreWriter, VideoStatus, import_features
from feature_store.kinds import KINDS, kind_of, kind_of_name
from train.features import ExpertFacts, open_rows
from train.tasks.mmt import ExpertFeatures, has_no_positions

# What the published configuration of MMT says of its seven experts; only these three have no times.
OFFICIAL = {"face": True, "ocr": True, "rgb": False, "s3d": False, "scene": False, "speech": True, "vggish": False}
DIM = 4


def store_of(path: Path, name: str, **changes: object) -> FeatureStore:
    """A store with two rows of a video, of an expert with the provenance that an extraction gives it."""
    made = {**identity(EXPERTS[name]), "kind": EXPERTS[name].kind, "dim": DIM, "dtype": "float32"}
    made |= {"weights": {"source": "random:0", "sha256": None}, **changes}
    writer = StoreWriter(path)
    writer.plan(1, 1, lambda first, stop: "one")
    shard = writer.add_expert(name, made, {}).begin(0)
    shard.append(0, 0, np.ones((2, DIM), np.float32), np.array([[2.0, 3.0], [5.0, 6.0]]))
    shard.finish([VideoStatus("v", "ok", rows=2, seconds=6.0)], {"host": "here"})
    return FeatureStore(path)


def positions(store: FeatureStore, expert: str, video: str) -> list[float]:
    """The positions of the first two features of a video."""
    untimed = frozenset([expert]) if has_no_positions(ExpertFacts.of(store.experts[expert])) else frozenset()
    rows = {expert: open_rows(store, [expert], [video], "max", "ram", "cpu", None)}
    (batch,) = ExpertFeatures(rows, untimed, max_rows=3, window=1.0).batch(torch.tensor([0]), None)
    found: list[float] = batch.positions[0, :2].tolist()
    return found


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_of_the_table_have_the_positions_of_their_seconds_or_none(name: str, tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", name)
    assert positions(store, name, "v") == ([1, 1] if name in ("face", "ocr", "speech") else [4.5, 7.5])


def test_the_preset_has_the_seven_experts_of_the_published_configuration() -> None:
    ours = {"senet154": "rgb", "densenet161_places365": "scene"}
    found = {
        ours.get(expert.name, expert.name): has_no_positions(ExpertFacts(expert.name, expert.kind, 1, "", ""))
        for expert in PRESETS["mmt"]
    }
    assert found == OFFICIAL


@pytest.mark.parametrize("name", ["ocr", "speech", "face", "s3d"])
def test_stores_that_say_text_are_read_and_continued(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = "text" if name in ("ocr", "speech") else EXPERTS[name].kind
    monkeypatch.setattr("feature_store.writer.KINDS", (*KINDS, "text"))
    store = store_of(tmp_path / "s", name, kind=old)
    monkeypatch.undo()
    assert store.experts[name].kind == EXPERTS[name].kind
    assert positions(store, name, "v") == ([1, 1] if OFFICIAL[name] else [4.5, 7.5])
    stored = dict(store.experts[name].identity)
    continued = StoreWriter(tmp_path / "s").add_expert(name, {**stored, "kind": EXPERTS[name].kind}, {})
    assert continued.complete(0) is not None, "shards that are there count as done"


IMPORTS: dict[str, Callable[[Path, str], Path]] = {
    "bigfile": lambda folder, name: foreign.write_bigfile(folder / name, foreign.corpus()),
    "mmt-h5": lambda folder, name: foreign.write_mmt(folder / "mult_h5", foreign.corpus(), name),
    "ce-pickle": lambda folder, name: foreign.write_pickle(folder / f"{name}-raw.pickle", foreign.corpus()),
    "hgr-hdf5": lambda folder, name: foreign.write_hdf5(folder / f"{name}.hdf5", foreign.corpus()),
    "tan-hdf5": lambda folder, name: foreign.write_hdf5(folder / f"{name}.hdf5", foreign.corpus(), name),
    "drn-pt": lambda folder, name: foreign.write_tensors(folder / name, foreign.corpus()),
    "npy": lambda folder, name: foreign.write_npy(folder / name, foreign.corpus()),
}


@pytest.mark.parametrize("name", OFFICIAL)
@pytest.mark.parametrize("format", IMPORTS)
def test_imported_features_have_the_positions_that_the_published_model_gives_them(
    format: str, name: str, tmp_path: Path
) -> None:
    import_features(format, [IMPORTS[format](tmp_path, name)], tmp_path / "s", expert=name, every=1.0)
    expected = [1, 1] if OFFICIAL[name] else [2.5, 3.5]
    assert positions(FeatureStore(tmp_path / "s"), name, "video7") == expected


def test_features_of_unknown_times_have_no_positions(tmp_path: Path) -> None:
    import_features("npy", [IMPORTS["npy"](tmp_path, "s3d")], tmp_path / "s", expert="s3d", untimed=True)
    assert positions(FeatureStore(tmp_path / "s"), "s3d", "video7") == [1, 1]


def test_a_kind_may_be_said_and_must_be_one_that_there_is(tmp_path: Path) -> None:
    source = IMPORTS["npy"](tmp_path, "mine")
    import_features("npy", [source], tmp_path / "s", expert="mine", every=1.0, kind="speech")
    assert positions(FeatureStore(tmp_path / "s"), "mine", "video7") == [1, 1]
    with pytest.raises(StoreError, match="--kind text: must be one of appearance, scene, motion"):
        import_features("npy", [source], tmp_path / "s", expert="other", every=1.0, kind="text")
    with pytest.raises(StoreError, match="expert 'x': the kind 'text' must be one of"):
        StoreWriter(tmp_path / "s").add_expert("x", {"kind": "text"}, {})


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("rgb",), "appearance"),
        (("pyresnext-101_rbps13k,flatten0,os",), "other"),
        (("resnet152",), "appearance"),
        (("ResNet152-pool5",), "appearance"),
        (("imagenet.senet154.0",), "appearance"),
        (("scene.densenet161.0",), "scene"),
        (("s3d.kinetics",), "motion"),
        (("audio.vggish.0",), "audio"),
        ((None, "my_ocr"), "ocr"),
        (("trn_ft",), "other"),
        (("surfaces",), "other"),
        ((None, ""), "other"),
    ],
)
def test_names_tell_what_published_features_are(names: tuple[str | None, ...], kind: str) -> None:
    assert kind_of_name(*names) == kind


def test_what_a_store_of_another_version_says_is_other() -> None:
    assert kind_of("mine", {"kind": "smell"}) == "other"
