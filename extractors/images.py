"""Frames to network input: resizing, cropping and normalising."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torchvision.transforms.functional import center_crop as center_crop_or_pad

Size = tuple[int, int]  # height, width

_PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def short_side(height: int, width: int, size: int) -> Size:
    """The size with the shorter side brought to `size` and the shape kept, rounded as torchvision does."""
    if height <= width:
        return size, int(size * width / height)
    return int(size * height / width), size


def resize_antialiased(frame: np.ndarray, size: Size, interpolation: str, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 -> (3, h, w) uint8: by Pillow on the CPU, to the bit; on a GPU within one level of it."""
    if device.type == "cpu":
        image = Image.fromarray(frame).resize(size[::-1], _PILLOW[interpolation])
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    pixels = torch.from_numpy(frame).to(device).permute(2, 0, 1)[None].float()
    resized = functional.interpolate(pixels, size, mode=interpolation, antialias=True)[0]
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def resize_plain(frame: np.ndarray, size: Size, device: torch.device) -> Tensor:
    """(H, W, 3) uint8 -> (3, h, w) uint8, bilinear between the nearest pixels, as video networks were trained."""
    pixels = torch.from_numpy(frame).to(device).permute(2, 0, 1)[None]
    if device.type == "cpu":
        return functional.interpolate(pixels, size, mode="bilinear", antialias=False)[0]
    resized = functional.interpolate(pixels.float(), size, mode="bilinear", antialias=False)[0]
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def center_crop(image: Tensor, size: Size) -> Tensor:
    """(3, H, W) -> (3, h, w), contiguous; an image that is smaller is put on black."""
    return center_crop_or_pad(image, list(size)).contiguous()


def stacks(frames: Iterable[Tensor]) -> Iterator[Tensor]:
    """Consecutive frames of one size, stacked: all of a video's, but for rare streams that change it midway."""
    for _, run in groupby(frames, key=lambda frame: frame.shape):
        yield torch.stack(list(run))


class Normalize(nn.Module):
    """uint8 -> float32 in [0, 1], less the mean, over the standard deviation, a channel at a time."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """(..., 3, H, W) uint8 -> the same shape float32."""
        return images.float().div_(255).sub_(self.mean[:, None, None]).div_(self.std[:, None, None])
