"""Motion experts of pytorchvideo's model hub: I3D and SlowFast on ResNet-50, both trained on Kinetics-400.

The networks are pytorchvideo's own, and so are the names in their files. Preprocessing follows the
hub's tutorial: RGB, short side 256, the middle 224, mean 0.45, standard deviation 0.225. The hub
resizes floating-point frames, here they stay 8-bit: the same within half a level.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorchvideo.models import hub
from pytorchvideo.models.net import Net
from torch import Tensor

from extractors.images import Normalize
from extractors.motion import CroppedClips, channels_last_3d, middle_of_short_side
from extractors.spec import ExpertError, Network, Weights, WeightsFile
from extractors.weights import he_init, load_published

MEAN = (0.45, 0.45, 0.45)
STD = (0.225, 0.225, 0.225)
ALPHA = 4  # SlowFast: fast frames a slow one
ZOO = "https://dl.fbaipublicfiles.com/pytorchvideo/model_zoo/kinetics"


@dataclass(frozen=True)
class I3DR50(CroppedClips):
    """I3D on ResNet-50 ("8x8" of pytorchvideo's hub), pooled before the projection: 2048-d.

    8 frames with a stride of 8 at 30 a second are 8 frames at 3.75 fps. One row stands for 8 x 8 = 64
    frames of 30 a second, 2.13 s, and a new one starts every 8 of them, 0.27 s.
    """

    length: int = 8  # frames
    fps: float = 3.75  # 30 / 8
    hop: int = 1  # frames of these: 8 at 30 fps

    kind = "motion"
    name = "i3d_r50"
    shortest = 2
    weights = Weights(
        files=(WeightsFile("I3D_8x8_R50.pyth", f"{ZOO}/I3D_8x8_R50.pyth"),),
        license="Apache-2.0",
        paper="Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset (Carreira & Zisserman, CVPR 2017)",
    )

    def preprocessing(self) -> dict[str, Any]:
        return _preprocessing(self.resize, self.crop)

    def random(self) -> Network:
        network = I3DR50Network(self.resize, self.crop)
        he_init(network)
        return network

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        network = I3DR50Network(self.resize, self.crop)
        load_published(network.model, self.weights.files[0], folder, fetch)
        return network


@dataclass(frozen=True)
class SlowFastR50(CroppedClips):
    """SlowFast 8x8 on ResNet-50 (Feichtenhofer et al. 2019; pytorchvideo's hub), pooled: 2304-d.

    The fast pathway sees all `length` frames, the slow one a quarter of them, first and last included,
    as the hub's PackPathway takes them. A row is the slow pathway's 2048 and the fast one's 256, and
    covers length / fps seconds: by default 2, a new one every 2.
    """

    length: int = 32  # frames, a multiple of 4
    fps: float = 16.0
    hop: int = 32  # frames

    kind = "motion"
    name = "slowfast_r50"
    shortest = ALPHA
    weights = Weights(
        files=(WeightsFile("SLOWFAST_8x8_R50.pyth", f"{ZOO}/SLOWFAST_8x8_R50.pyth"),),
        license="Apache-2.0",
        paper="SlowFast Networks for Video Recognition (Feichtenhofer et al., ICCV 2019)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.length % ALPHA:
            raise ExpertError(f"{self}: length must be at least {ALPHA} and a multiple of {ALPHA}")

    def preprocessing(self) -> dict[str, Any]:
        return {**_preprocessing(self.resize, self.crop), "slow_frames": slow_frames(self.length)}

    def random(self) -> Network:
        network = SlowFastR50Network(self.length, self.resize, self.crop)
        he_init(network)
        return network

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        network = SlowFastR50Network(self.length, self.resize, self.crop)
        load_published(network.model, self.weights.files[0], folder, fetch)
        return network


class HubNetwork(Network):
    """A network of the hub behind its preprocessing."""

    def __init__(self, model: Net, resize: int, crop: int) -> None:
        super().__init__()
        self.model = channels_last_3d(model).eval()
        self.normalize = Normalize(MEAN, STD)
        self.resize, self.crop = resize, crop

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        return middle_of_short_side(frame, self.resize, self.crop, device)

    def images(self, clips: Tensor) -> Tensor:
        """(B, L, 3, h, w) uint8 -> (B, 3, L, h, w) float32, normalised, channels last."""
        return self.normalize(clips).transpose(1, 2).contiguous(memory_format=torch.channels_last_3d)


class I3DR50Network(HubNetwork):
    """The hub's i3d_r50 up to its head, whose pool takes the mean of all there is at the published size."""

    dim = 2048

    def __init__(self, resize: int, crop: int) -> None:
        super().__init__(hub.i3d_r50(), resize, crop)

    def forward(self, clips: Tensor) -> Tensor:
        maps = self.images(clips)
        for block in self.model.blocks[:-1]:  # the last is the head
            maps = block(maps)
        return maps.float().mean(dim=(2, 3, 4))  # (B, 2048, L / 2, h / 32, w / 32) -> (B, 2048)


class SlowFastR50Network(HubNetwork):
    """The hub's slowfast_r50 up to its pools, which take the mean of all there is at the published size."""

    dim = 2304

    def __init__(self, length: int, resize: int, crop: int) -> None:
        super().__init__(hub.slowfast_r50(), resize, crop)
        self.slow: Tensor
        self.register_buffer("slow", torch.tensor(slow_frames(length)), persistent=False)

    def forward(self, clips: Tensor) -> Tensor:
        fast = self.images(clips)  # (B, 3, L, h, w)
        slow = fast[:, :, self.slow].contiguous(memory_format=torch.channels_last_3d)  # (B, 3, L / 4, h, w)
        pathways = [slow, fast]
        for block in self.model.blocks[:-2]:  # the last two are the pools and the head
            pathways = block(pathways)
        return torch.cat([maps.float().mean(dim=(2, 3, 4)) for maps in pathways], dim=1)  # (B, 2048 + 256)


def slow_frames(length: int) -> list[int]:
    """The frames of a clip that SlowFast's slow pathway sees: length / 4 of them, evenly from first to last."""
    return torch.linspace(0, length - 1, length // ALPHA, device="cpu").long().tolist()


def _preprocessing(resize: int, crop: int) -> dict[str, Any]:
    return {
        "resize": resize,
        "keep_aspect": True,
        "interpolation": "bilinear",
        "antialias": False,
        "crop": crop,
        "mean": list(MEAN),
        "std": list(STD),
    }
