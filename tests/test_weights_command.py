"""`reelcache weights` and `reelcache experts`: what is here, what is fetched, and a folder for where no network is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save

import extractors.appearance
import extractors.download
from command import reelcache
from extractors import EXPERTS, find_expert, is_cached, load_expert
from extractors.audio import VGGish
from extractors.motion import S3D
from publisher import COMMIT, Publisher, publishing

ROOT = Path(__file__).parents[1]
TIMM = "timm:test_resnet"
REPOSITORY = "timm/test_resnet.r160_in1k"
HUB_FILE = f"{REPOSITORY}/resolve/main/model.safetensors"
HUB_CACHED = f"models--timm--test_resnet.r160_in1k/snapshots/{COMMIT}/model.safetensors"
S3D_BYTES, VGGISH_BYTES = os.urandom(100_000), os.urandom(50_000)


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Publisher]:
    """A server of what the table says s3d, vggish (without a digest) and a timm model are; nothing is cached."""
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("REELCACHE_WEIGHTS", raising=False)
    monkeypatch.setattr(extractors.download, "PAUSE", 0.01)
    monkeypatch.chdir(tmp_path)
    with publishing() as publisher:
        monkeypatch.setattr(extractors.appearance, "ENDPOINT", publisher.url)
        digest = sha256(S3D_BYTES).hexdigest()[:8]
        publish_as(monkeypatch, S3D, publisher.publish("s3d.pth", S3D_BYTES), digest)
        publish_as(monkeypatch, VGGish, publisher.publish("vggish.pth", VGGISH_BYTES), "")
        publisher.publish(HUB_FILE, save(timm_state()))
        yield publisher


def publish_as(monkeypatch: pytest.MonkeyPatch, kind: Any, url: str, digest: str) -> None:
    file = replace(kind.weights.files[0], url=url, name=url.rpartition("/")[2], sha256=digest)
    monkeypatch.setattr(kind, "weights", replace(kind.weights, files=(file,)))


def timm_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return dict(timm.create_model("test_resnet", pretrained=False).state_dict())


def document(*words: object, code: int = 0) -> Any:
    return json.loads(reelcache(*words, "--json", code=code).stdout)


def listed(tmp_path: Path) -> dict[str, dict[str, Any]]:
    found = document("weights", "list")
    assert found["folder"] == os.environ.get("REELCACHE_WEIGHTS", str(tmp_path / "cache" / "weights"))
    return {file["expert"]: file for file in found["files"]}


# list


def test_every_file_of_the_table_is_listed_with_its_source_and_license(publisher: Publisher, tmp_path: Path) -> None:
    files = listed(tmp_path)
    assert files.keys() >= EXPERTS.keys()
    assert files["s3d"] == {
        "expert": "s3d",
        "file": "s3d.pth",
        "size": None,
        "license": "BSD-3-Clause",
        "source": f"{publisher.url}/s3d.pth",
        "sha256": sha256(S3D_BYTES).hexdigest()[:8],
        "where": "missing",
    }
    assert all(file["license"] and file["where"] == "missing" for file in files.values())
    printed = reelcache("weights", "list").stdout
    assert "no digest" in printed and "missing" in printed and str(tmp_path / "cache") in printed
    assert publisher.asked == [], "to list asks nobody"


def test_what_was_fetched_is_listed_with_its_size(publisher: Publisher, tmp_path: Path) -> None:
    reelcache("weights", "fetch", "s3d,vggish")
    files = listed(tmp_path)
    assert (files["s3d"]["where"], files["s3d"]["size"]) == ("fetched", len(S3D_BYTES))
    assert files["vggish"]["sha256"] == sha256(VGGISH_BYTES).hexdigest(), "noted when it was fetched"
    assert files["resnet152"]["where"] == "missing"


def test_what_torch_has_is_listed_as_such(publisher: Publisher, tmp_path: Path) -> None:
    put_into_torchs_cache(tmp_path, S3D_BYTES)
    assert listed(tmp_path)["s3d"]["where"] == "in torch's cache"


def put_into_torchs_cache(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "torch" / "hub" / "checkpoints" / "s3d.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return path


def test_a_folder_that_is_set_is_fetched_into_and_torchs_cache_does_not_count(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_into_torchs_cache(tmp_path, S3D_BYTES)
    assert is_cached(EXPERTS["s3d"])
    monkeypatch.setenv("REELCACHE_WEIGHTS", str(tmp_path / "box"))
    assert not is_cached(EXPERTS["s3d"]) and listed(tmp_path)["s3d"]["where"] == "missing"
    reelcache("weights", "fetch", "s3d")
    assert is_cached(EXPERTS["s3d"]) and (tmp_path / "box" / "s3d.pth").read_bytes() == S3D_BYTES


# experts


def test_the_experts_are_shown_with_their_dimensions_and_whether_they_are_cached(publisher: Publisher) -> None:
    reelcache("weights", "fetch", "s3d")
    found = {expert["name"]: expert for expert in document("experts")["experts"]}
    assert found.keys() == EXPERTS.keys()
    dims = {"resnet152": 2048, "resnext101": 2048, "senet154": 2048, "s3d": 1024, "vggish": 128}
    assert dims.items() <= {name: expert["dim"] for name, expert in found.items()}.items()
    assert found["s3d"]["cached"] is True and found["vggish"]["cached"] is False
    lines = reelcache("experts").stdout.splitlines()
    assert [line.split()[-1] for line in lines if line.startswith((" s3d ", " vggish "))] == ["yes", "no"]


# fetch


def test_fetched_files_are_told_with_their_license(publisher: Publisher, tmp_path: Path) -> None:
    printed = reelcache("weights", "fetch", "s3d", TIMM).stdout
    assert f"s3d: {tmp_path}/cache/weights/s3d.pth (license: BSD-3-Clause)" in printed
    assert (tmp_path / "cache" / "weights" / "s3d.pth").read_bytes() == S3D_BYTES
    assert publisher.gets == ["/s3d.pth", f"/{HUB_FILE}"]
    reelcache("weights", "fetch", "s3d", TIMM)
    assert len(publisher.gets) == 2, "once"


def test_one_that_cannot_be_had_does_not_stop_the_others(publisher: Publisher, tmp_path: Path) -> None:
    publisher.files.pop("/s3d.pth")
    result = reelcache("weights", "fetch", "s3d", "vggish", code=1)
    assert "s3d.pth could not be had" in result.stderr and "404" in result.stderr
    assert f"published at {publisher.url}/s3d.pth" in result.stderr
    assert (tmp_path / "cache" / "weights" / "vggish.pth").read_bytes() == VGGISH_BYTES


def test_a_preset_is_fetched_whole(publisher: Publisher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    preset = (EXPERTS["s3d"], EXPERTS["vggish"])
    monkeypatch.setitem(extractors.registry.PRESETS, "both", preset)
    reelcache("weights", "fetch", "--preset", "both", "--to", "box")
    assert {path.name for path in (tmp_path / "box").iterdir()} >= {"s3d.pth", "vggish.pth"}


@pytest.mark.parametrize(
    ("words", "says"),
    [((), "NAME NAME or --preset NAME"), (("s3b",), "s3d"), (("--preset", "demos"), "there are dual-encoding, hanet")],
)
def test_a_wrong_name_is_told(publisher: Publisher, words: tuple[str, ...], says: str) -> None:
    assert says in reelcache("weights", "fetch", *words, code=2).output


def test_a_folder_is_filled_for_a_machine_without_network(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = reelcache("weights", "fetch", "s3d", "vggish", TIMM, "--to", "box").stdout
    assert "pass it as --weights, or set REELCACHE_WEIGHTS" in printed
    (tmp_path / "box").rename(tmp_path / "copied")
    publisher.files.clear()
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "another"))
    state = load_file(tmp_path / "copied" / "test_resnet.safetensors")
    assert state.keys() == timm_state().keys()
    expected = load_expert(find_expert(TIMM), str(tmp_path / "copied")).sha256
    monkeypatch.setenv("REELCACHE_WEIGHTS", str(tmp_path / "copied"))
    assert load_expert(find_expert(TIMM)).sha256 == expected
    assert {name: file["where"] for name, file in listed(tmp_path).items()}["s3d"] == "fetched"
    assert document("weights", "verify")["sound"] == ["s3d.pth", "test_resnet.safetensors", "vggish.pth"]


def test_the_folder_can_be_checked_without_reelcache(publisher: Publisher, tmp_path: Path) -> None:
    reelcache("weights", "fetch", "s3d", "vggish", TIMM, "--to", "box")
    check = ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"]
    subprocess.run(check, cwd=tmp_path / "box", check=True)
    (tmp_path / "box" / "test_resnet.safetensors").write_bytes(b"damaged")
    assert subprocess.run(check, cwd=tmp_path / "box", capture_output=True).returncode == 1


def test_what_the_cache_has_is_copied(publisher: Publisher, tmp_path: Path) -> None:
    reelcache("weights", "fetch", "s3d", TIMM)
    asked = list(publisher.gets)
    reelcache("weights", "fetch", "s3d", TIMM, "--to", "box")
    assert publisher.gets == asked
    assert (tmp_path / "box" / "s3d.pth").read_bytes() == S3D_BYTES
    assert not (tmp_path / "box" / "s3d.pth").is_symlink()
    reelcache("weights", "fetch", "s3d", TIMM, "--to", "box")


def test_a_damaged_file_in_the_folder_is_told(publisher: Publisher, tmp_path: Path) -> None:
    reelcache("weights", "fetch", "vggish", "--to", "box")
    (tmp_path / "box" / "vggish.pth").write_bytes(VGGISH_BYTES[:-1])
    told = reelcache("weights", "fetch", "vggish", "--to", "box", code=1).stderr
    assert "box/vggish.pth cannot be used" in told and "delete it to have it fetched" in told


def test_what_torch_already_fetched_is_used_unless_it_is_damaged(publisher: Publisher, tmp_path: Path) -> None:
    kept = put_into_torchs_cache(tmp_path, S3D_BYTES)
    assert f"s3d: {kept}" in reelcache("weights", "fetch", "s3d").stdout
    reelcache("weights", "fetch", "s3d", "--to", "box")
    assert (tmp_path / "box" / "s3d.pth").read_bytes() == S3D_BYTES
    assert publisher.gets == []
    kept.write_bytes(S3D_BYTES[:-1])
    reelcache("weights", "fetch", "s3d")
    assert publisher.gets == ["/s3d.pth"]


# verify


def test_damage_is_found_by_name_in_files_of_every_origin(publisher: Publisher, tmp_path: Path) -> None:
    cache = tmp_path / "cache" / "weights"
    reelcache("weights", "fetch", "s3d", "vggish", TIMM)
    assert len(document("weights", "verify")["sound"]) == 3
    [blob] = cache.glob("models--*/blobs/*")
    for path in (cache / "s3d.pth", cache / "vggish.pth", blob):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    found = document("weights", "verify", cache, code=1)
    names = [damage["file"] for damage in found["damaged"]]
    assert names[:2] == ["s3d.pth", "vggish.pth"] and "test_resnet" in names[2] and found["sound"] == []
    printed = reelcache("weights", "verify", code=1).stdout
    assert "s3d.pth" in printed and "3 checked, 3 damaged" in printed
    assert [reelcache("weights", "fetch", name, code=1).stderr.count("cannot be used") for name in ("s3d", TIMM)] == [
        1,
        1,
    ]
    blob.unlink()
    (cache / "s3d.pth").unlink()
    reelcache("weights", "fetch", "s3d", TIMM)
    assert (cache / "s3d.pth").read_bytes() == S3D_BYTES and blob.exists()


def test_a_file_that_was_not_copied_is_told(publisher: Publisher, tmp_path: Path) -> None:
    reelcache("weights", "fetch", "s3d", "vggish", "--to", "box")
    (tmp_path / "box" / "s3d.pth").unlink()
    found = document("weights", "verify", "box", code=1)
    assert [damage["file"] for damage in found["damaged"]] == ["s3d.pth"] and "not there" in found["damaged"][0][
        "reason"
    ]


def test_a_file_whose_digest_nobody_tells_is_not_called_sound(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "vggish.pth").write_bytes(b"mine")
    found = document("weights", "verify", "mine")
    assert (found["sound"], found["damaged"], found["no_digest"]) == ([], [], ["vggish.pth"])


def test_a_folder_that_is_none_is_told(publisher: Publisher) -> None:
    assert "there is no such folder" in reelcache("weights", "verify", "nowhere", code=1).stderr


def test_notes_of_digests_that_are_no_text_are_told(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "SHA256SUMS").write_bytes(b"\xff\xfe\x00")
    assert "box/SHA256SUMS: is no text" in reelcache("weights", "verify", "box", code=1).stderr


def test_a_folder_in_a_files_place_is_damage(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "box" / "s3d.pth").mkdir(parents=True)
    found = document("weights", "verify", "box", code=1)
    assert found["damaged"] == [{"file": "s3d.pth", "reason": "it is a folder"}]


def test_notes_of_digests_lead_to_no_other_folder(publisher: Publisher, tmp_path: Path) -> None:
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "SHA256SUMS").write_text(f"{'0' * 64}  ../secret\n{'0' * 64}  /etc/passwd\n")
    (tmp_path / "secret").write_text("secret")
    assert document("weights", "verify", "box")["damaged"] == []


# A mirror of the hub


def test_a_mirror_of_the_hub_is_asked_instead(publisher: Publisher, tmp_path: Path) -> None:
    publisher.faults = ["cut 200000"]
    program = """
import sys, types
sys.modules["extractors"] = package = types.ModuleType("extractors")  # without what other experts import
package.__path__ = ["extractors"]
from extractors.appearance import TimmExpert
from extractors.weights import load_expert
print(load_expert(TimmExpert("test_resnet")).sha256)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
        env={**os.environ, "HF_ENDPOINT": publisher.url, "HF_HOME": str(tmp_path / "hub"), "HOME": str(tmp_path)},
    )
    (tmp_path / "test_resnet.safetensors").write_bytes(publisher.files[f"/{HUB_FILE}"])
    assert done.stdout.strip() == load_expert(find_expert(TIMM), str(tmp_path)).sha256
    gets = [get for get in publisher.gets if not get.startswith("/api/")]  # what else the hub's client wants to know
    assert gets == [f"/{HUB_FILE}"] * 2


def test_a_hub_that_is_busy_is_asked_again(publisher: Publisher, tmp_path: Path) -> None:
    publisher.faults = ["503", "500"]
    reelcache("weights", "fetch", TIMM)
    assert document("weights", "verify")["sound"] == [HUB_CACHED]


def test_a_repository_that_is_gone_is_asked_for_once(publisher: Publisher) -> None:
    del publisher.files[f"/{HUB_FILE}"]
    assert "404" in reelcache("weights", "fetch", TIMM, code=1).stderr
    assert len([asked for asked in publisher.asked if "resolve" in asked]) == 1


def test_a_mirror_that_sends_damaged_files_is_not_believed(publisher: Publisher, tmp_path: Path) -> None:
    publisher.faults = ["corrupt"]
    told = reelcache("weights", "fetch", TIMM, code=1).stderr
    assert "damaged or another file" in told and "was deleted" in told
    reelcache("weights", "fetch", TIMM)
    assert len(document("weights", "verify")["sound"]) == 1
