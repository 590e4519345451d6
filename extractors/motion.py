"""Motion experts: video networks, one vector a clip."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.video import S3D_Weights, s3d

from extractors.images import Normalize, center_crop, resize_plain
from extractors.sampling import Clips
from extractors.spec import ExpertError, Network, Weights, WeightsFile
from extractors.weights import he_init, load_published

# Of S3D_Weights.KINETICS400_V1.transforms().
S3D_MEAN = (0.43216, 0.394666, 0.37645)
S3D_STD = (0.22803, 0.22145, 0.216989)

MIN_LENGTH = 5  # frames: fewer, and the network halves them away


@dataclass(frozen=True)
class S3D:
    """S3D on Kinetics-400 (Xie et al. 2018; torchvision's network), pooled before the classifier: 1024-d.

    Frames are squashed to `resize` x `resize` and cropped to `crop`, as torchvision's own transform
    does. One row covers length / fps seconds: by default one second.
    """

    length: int = 16  # frames
    fps: float = 16.0
    hop: int = 16  # frames
    resize: int = 256  # pixels
    crop: int = 224

    kind = "motion"
    name = "s3d"
    weights = Weights(
        files=(WeightsFile("s3d-d76dad2f.pth", S3D_Weights.KINETICS400_V1.url, sha256="d76dad2f"),),
        license="BSD-3-Clause",
        paper="Rethinking Spatiotemporal Feature Learning (Xie et al., ECCV 2018)",
    )

    def __post_init__(self) -> None:
        if self.length < MIN_LENGTH or not 0 < self.fps < inf or self.hop < 1 or not 32 <= self.crop <= self.resize:
            raise ExpertError(
                f"{self}: length must be at least {MIN_LENGTH}, fps above 0, hop at least 1, and resize >= crop >= 32"
            )

    @property
    def samples(self) -> Clips:
        return Clips(self.length, self.fps, self.hop)

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
