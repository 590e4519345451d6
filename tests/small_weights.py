"""Files of weights for tests: small, named as their publishers name them, and sources that lead nowhere."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import extractors.appearance
import extractors.download
from extractors import find_expert
from extractors.audio import VGGish, VGGishNetwork
from extractors.motion import S3D

S3D_FILE, VGGISH_FILE = "s3d-d76dad2f.pth", "vggish-10086976.pth"
TIMM = find_expert("timm:test_resnet")
TIMM_FILE = "test_resnet.safetensors"
FILES = {"s3d": S3D_FILE, "vggish": VGGISH_FILE, "timm:test_resnet": TIMM_FILE}
HUB_FOLDER = "models--timm--test_resnet.r160_in1k"

State = dict[str, torch.Tensor]


def leave_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and no network: its addresses lead nowhere."""
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("REELCACHE_WEIGHTS", raising=False)
    monkeypatch.setattr(extractors.download, "PAUSE", 0.01)
    nowhere = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(extractors.appearance, "ENDPOINT", nowhere)
    for kind in (S3D, VGGish):
        publish_at(monkeypatch, kind, f"{nowhere}/{kind.weights.files[0].name}")


def publish_at(monkeypatch: pytest.MonkeyPatch, kind: Any, url: str, name: str | None = None) -> None:
    """Have an expert's parameters published elsewhere, and under another name with its own digest."""
    [file] = kind.weights.files
    changed = replace(file, name=name, sha256=name.split("-")[1][:8], url=url) if name else replace(file, url=url)
    monkeypatch.setattr(kind, "weights", replace(kind.weights, files=(changed,)))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def vggish_state() -> State:
    """VGGish's 288 MB of parameters in a few kB: every tensor is one number repeated."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VGGishNetwork().state_dict().items()}
    return {name: torch.tensor(0.001 * number).expand(shape) for number, (name, shape) in enumerate(shapes.items())}


def timm_state(model: str = "test_resnet", seed: int = 1) -> State:
    torch.manual_seed(seed)
    return timm.create_model(model, pretrained=False).state_dict()


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)
