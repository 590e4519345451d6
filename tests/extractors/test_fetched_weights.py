"""Parameters from the network: fetched when an expert is loaded, kept, checked, and refused with what to do."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

import extractors.appearance
import extractors.download
from extractors import EXPERTS, WeightsError, find_expert, load_expert
from extractors.audio import VGGish
from extractors.spec import WeightsFile
from extractors.weights import find_file
from publisher import Publisher, publishing
from small_weights import (
    FILES,
    HUB_FOLDER,
    TIMM,
    VGGISH_FILE,
    Hostile,
    leave_alone,
    publish_at,
    same,
    timm_state,
    vggish_state,
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_alone(monkeypatch, tmp_path)


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as publisher:
        yield publisher


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights"


@pytest.mark.parametrize("name", FILES)
def test_without_a_network_it_is_soon_said_what_to_do(tmp_path: Path, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(WeightsError) as told:
        load_expert(find_expert(name))
    assert time.monotonic() - began < 10
    for part in (FILES[name], find_expert(name).weights.files[0].url, str(tmp_path / "cache"), "--weights random"):
        assert part in str(told.value)


@pytest.mark.parametrize("name", FILES)
def test_a_server_that_never_answers_is_given_up_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(extractors.download, "PATIENCE", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(extractors.appearance, "ENDPOINT", url)
        expert = find_expert(name)
        if name in EXPERTS:
            publish_at(monkeypatch, type(expert), url)
        began = time.monotonic()
        with pytest.raises(WeightsError, match="could not be had"):
            load_expert(expert)
        assert time.monotonic() - began < 10


def kept(cache: Path) -> list[str]:
    """What is in the cache, besides locks."""
    return sorted(path.name for path in cache.iterdir() if path.name != ".locks")


def publish(monkeypatch: pytest.MonkeyPatch, publisher: Publisher, tmp_path: Path) -> str:
    """Publish VGGish's state under a name with its own digest, and return that name."""
    torch.save(vggish_state(), tmp_path / "vggish")
    return publish_bytes(monkeypatch, publisher, (tmp_path / "vggish").read_bytes())


def publish_bytes(monkeypatch: pytest.MonkeyPatch, publisher: Publisher, content: bytes) -> str:
    name = f"vggish-{sha256(content).hexdigest()[:8]}.pth"
    publish_at(monkeypatch, VGGish, publisher.publish(name, content), name)
    return name


def test_weights_are_downloaded_once_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, publisher: Publisher
) -> None:
    name = publish(monkeypatch, publisher, tmp_path)
    loaded = load_expert(EXPERTS["vggish"])
    assert loaded.source == name and same(loaded.network.state_dict(), vggish_state())
    assert kept(cache) == [name]
    assert load_expert(EXPERTS["vggish"]).sha256 == loaded.sha256
    assert publisher.gets == [f"/{name}"]
    again = load_expert(EXPERTS["vggish"], str(cache))
    assert again.sha256 == loaded.sha256, "the cache is a folder of weights"


def test_a_download_with_another_checksum_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, publisher: Publisher
) -> None:
    publish(monkeypatch, publisher, tmp_path)
    publisher.faults = ["corrupt"]
    with pytest.raises(WeightsError, match=r"(?s)damaged or another file.*deleted.*reelcache weights fetch vggish"):
        load_expert(EXPERTS["vggish"])
    assert kept(cache) == []


def test_a_page_that_is_gone_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, cache: Path, publisher: Publisher
) -> None:
    publish_at(monkeypatch, VGGish, f"{publisher.url}/{VGGISH_FILE}")
    with pytest.raises(WeightsError, match="404"):
        load_expert(EXPERTS["vggish"])
    assert kept(cache) == []


def test_a_hostile_download_runs_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, publisher: Publisher) -> None:
    content = pickle.dumps({"features.0.weight": Hostile(tmp_path / "it_ran")}, protocol=2)
    name = publish_bytes(monkeypatch, publisher, content)
    with pytest.raises(WeightsError, match=name):
        load_expert(EXPERTS["vggish"])
    assert not (tmp_path / "it_ran").exists()


def test_a_file_in_the_cache_that_was_damaged_is_named_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path, publisher: Publisher
) -> None:
    name = publish(monkeypatch, publisher, tmp_path)
    load_expert(EXPERTS["vggish"])
    content = bytearray((cache / name).read_bytes())
    content[len(content) // 2] ^= 1
    (cache / name).write_bytes(content)
    with pytest.raises(WeightsError, match=rf"(?s)weights/{name} cannot be used: .*SHA-256.*delete it to have it"):
        load_expert(EXPERTS["vggish"])
    (cache / name).unlink()
    assert same(load_expert(EXPERTS["vggish"]).network.state_dict(), vggish_state())


def test_a_file_without_a_digest_is_held_to_the_one_it_had_when_it_was_fetched(
    cache: Path, publisher: Publisher
) -> None:
    file = WeightsFile("w.pth", publisher.publish("w.pth", b"content"))
    path = find_file(file, cache, fetch=True)
    assert find_file(file, cache, fetch=True) == path
    path.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="SHA-256"):
        find_file(file, cache, fetch=True)
    assert find_file(file, cache, fetch=False) == path, "a folder of the user's is taken as it is"


@pytest.mark.parametrize("name", ["../w.pth", "/etc/w.pth", "a/w.pth", "..", ".", ""])
@pytest.mark.parametrize("fetch", [True, False])
def test_a_name_that_leads_out_of_the_folder_is_refused(
    cache: Path, publisher: Publisher, name: str, fetch: bool
) -> None:
    with pytest.raises(WeightsError, match="is no name of a file"):
        find_file(WeightsFile(name, publisher.publish("w.pth", b"content")), cache, fetch)
    assert publisher.asked == [] and not cache.exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, publisher: Publisher) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(WeightsError, match=r"(?s)w\.pth could not be had.*file/\.locks: Not a directory"):
        find_file(WeightsFile("w.pth", publisher.publish("w.pth", b"content")), tmp_path / "file", fetch=True)


def test_what_the_hubs_client_once_fetched_is_used_without_asking_anybody(
    cache: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(extractors.appearance, "ENDPOINT", publisher.url)
    content = save(timm_state())
    hub = cache / HUB_FOLDER
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("a" * 40)
    (hub / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (hub / "snapshots" / ("a" * 40) / "model.safetensors").write_bytes(content)
    (tmp_path / FILES["timm:test_resnet"]).write_bytes(content)
    expected = load_expert(TIMM, str(tmp_path))
    assert load_expert(find_expert("timm:test_resnet")).sha256 == expected.sha256
    assert load_expert(TIMM, str(cache)).sha256 == expected.sha256
    assert publisher.asked == []


def test_a_timm_model_that_is_not_on_the_hub_has_its_publishers_file(tmp_path: Path) -> None:
    [file] = EXPERTS["senet154"].weights.files
    assert (file.name, file.sha256) == ("legacy_senet154-e9eb9fe6.pth", "e9eb9fe6")
    (tmp_path / file.name).write_bytes(pickle.dumps({"state_dict": Hostile(tmp_path / "it_ran")}, protocol=2))
    with pytest.raises(WeightsError, match=f"{file.name} cannot be used") as told:
        load_expert(EXPERTS["senet154"], str(tmp_path))
    assert not (tmp_path / "it_ran").exists() and "weights_only" not in str(told.value)
