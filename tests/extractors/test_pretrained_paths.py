"""The whole way of every expert's published weights: fetched from its publisher, checked, loaded by name."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from hashlib import md5, sha256
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from easyocr.config import detection_models, recognition_models

from extractors import EXPERTS, Expert, WeightsError, fetch_weights, is_cached, load_expert, verify_weights
from extractors.spec import WeightsFile
from extractors.weights import HUB_FILE, HubFile
from published import PUBLISHED, Published
from publisher import Publisher, publishing

MODELS = {model["filename"]: model for model in (detection_models["craft"], *recognition_models["gen2"].values())}


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Publisher]:
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("REELCACHE_WEIGHTS", raising=False)
    with publishing() as publisher:
        yield publisher


def publish(publisher: Publisher, file: WeightsFile, content: bytes) -> WeightsFile:
    """The file of the table at its publisher's path, with the digest that it has here where one is told."""
    path = urlsplit(file.url).path.removeprefix("/")
    publisher.publish(f"{path}/resolve/main/{HUB_FILE}" if isinstance(file, HubFile) else path, content)
    digest = sha256(content).hexdigest()[: len(file.sha256)]
    return replace(file, url=f"{publisher.url}/{path}", sha256=digest)


def publish_all(monkeypatch: pytest.MonkeyPatch, publisher: Publisher, expert: Expert, published: Published) -> None:
    """Have an expert's files published on this machine."""
    weights = expert.weights
    pairs = zip(weights.files, published.contents, strict=True)
    files = tuple(publish(publisher, file, content) for file, content in pairs)
    monkeypatch.setattr(type(expert), "weights", replace(weights, files=files))
    if expert.name == "ocr":
        for content in published.contents:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                [name] = archive.namelist()
                monkeypatch.setitem(MODELS[name], "md5sum", md5(archive.read(name)).hexdigest())


def test_it_is_known_how_the_files_of_every_expert_are_published() -> None:
    lacking = EXPERTS.keys() - PUBLISHED.keys()
    assert not lacking, f"tests/published.py does not say how the weights of {', '.join(lacking)} are published"


@pytest.mark.parametrize("name", [name for name in EXPERTS if name in PUBLISHED])
def test_published_weights_are_fetched_once_and_loaded_by_name(
    monkeypatch: pytest.MonkeyPatch, publisher: Publisher, tmp_path: Path, name: str
) -> None:
    expert, published = EXPERTS[name], PUBLISHED[name]()
    publish_all(monkeypatch, publisher, expert, published)
    assert not is_cached(expert)
    fetched = fetch_weights([expert])
    assert [file.problem for file in fetched] == [""] * len(published.contents)
    assert is_cached(expert) and len(verify_weights().sound) == len(published.contents)
    publisher.files.clear()
    loaded = load_expert(expert)
    assert loaded.sha256 and loaded.source == expert.weights.source
    state = loaded.network.state_dict()
    assert {key for key in state.keys() - published.state.keys() if not key.startswith(published.own)} == set()
    for key, expected in published.state.items():
        assert torch.equal(state[key], expected), key


@pytest.mark.parametrize("name", ["s3d", "i3d_r50", "slowfast_r50", "face", "speech"])
def test_what_the_libraries_fetched_before_is_used(
    monkeypatch: pytest.MonkeyPatch, publisher: Publisher, tmp_path: Path, name: str
) -> None:
    expert, published = EXPERTS[name], PUBLISHED[name]()
    publish_all(monkeypatch, publisher, expert, published)
    publisher.files.clear()
    kept = tmp_path / "torch" / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    for file, content in zip(expert.weights.files, published.contents, strict=True):
        (kept / file.name).write_bytes(content)
    assert is_cached(expert)
    assert load_expert(expert).source == expert.weights.source


def test_what_easyocr_fetched_before_is_used(
    monkeypatch: pytest.MonkeyPatch, publisher: Publisher, tmp_path: Path
) -> None:
    expert, published = EXPERTS["ocr"], PUBLISHED["ocr"]()
    publish_all(monkeypatch, publisher, expert, published)
    publisher.files.clear()
    monkeypatch.setattr("extractors.ocr.MODULE_PATH", str(tmp_path / "easyocr"))
    for content in published.contents:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            archive.extractall(tmp_path / "easyocr" / "model")
    assert load_expert(expert).source == expert.weights.source
    damaged = tmp_path / "easyocr" / "model" / "english_g2.pth"
    damaged.write_bytes(damaged.read_bytes() + b"!")
    with pytest.raises(WeightsError, match=r"(?s)english_g2\.pth.*MD5"):
        load_expert(expert)


@pytest.mark.parametrize("name", ["s3d", "ocr", "speech"])
def test_a_folder_for_a_machine_without_network_is_enough(
    monkeypatch: pytest.MonkeyPatch, publisher: Publisher, tmp_path: Path, name: str
) -> None:
    expert = EXPERTS[name]
    publish_all(monkeypatch, publisher, expert, PUBLISHED[name]())
    fetch_weights([expert], to=tmp_path / "box")
    publisher.files.clear()
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "another"))
    assert load_expert(expert, str(tmp_path / "box")).source == expert.weights.source
    assert not (tmp_path / "another").exists()
