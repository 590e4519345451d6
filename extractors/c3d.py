"""C3D (Tran et al., ICCV 2015): eight 3x3x3 convolutions and the fully connected layers fc6 and fc7.

The state dict carries the names of the PyTorch port DavideA/c3d-pytorch, so that its published file
loads as it is, less fc8, the classifier.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

LENGTH = 16  # frames: fc6 takes no other
CROP = 112  # pixels, nor any other size
DIM = 4096
LAYERS = ("fc6", "fc7")


class C3DLayers(nn.Module):
    """The layers in their order; pool1 keeps time, pool5 pads height and width by one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(3, 64, 3, padding=1)
        self.conv2 = nn.Conv3d(64, 128, 3, padding=1)
        self.conv3a = nn.Conv3d(128, 256, 3, padding=1)
        self.conv3b = nn.Conv3d(256, 256, 3, padding=1)
        self.conv4a = nn.Conv3d(256, 512, 3, padding=1)
        self.conv4b = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5a = nn.Conv3d(512, 512, 3, padding=1)
        self.conv5b = nn.Conv3d(512, 512, 3, padding=1)
        self.fc6 = nn.Linear(512 * 4 * 4, DIM)
        self.fc7 = nn.Linear(DIM, DIM)

    def forward(self, clips: Tensor, layer: str) -> Tensor:
        """(B, 3, 16, 112, 112) in [0, 255] -> (B, 4096), `layer` ("fc6" or "fc7") after its ReLU."""
        maps = _pool(self.conv1(clips).relu_(), kernel=(1, 2, 2))  # (B, 64, 16, 56, 56)
        maps = _pool(self.conv2(maps).relu_())  # (B, 128, 8, 28, 28)
        maps = _pool(self.conv3b(self.conv3a(maps).relu_()).relu_())  # (B, 256, 4, 14, 14)
        maps = _pool(self.conv4b(self.conv4a(maps).relu_()).relu_())  # (B, 512, 2, 7, 7)
        maps = _pool(self.conv5b(self.conv5a(maps).relu_()).relu_(), padding=(0, 1, 1))  # (B, 512, 1, 4, 4)
        rows = self.fc6(maps.flatten(1)).relu_()  # in (channel, height, width) order, whatever the memory layout
        return rows if layer == "fc6" else self.fc7(rows).relu_()


def _pool(maps: Tensor, kernel: tuple[int, int, int] = (2, 2, 2), padding: tuple[int, int, int] = (0, 0, 0)) -> Tensor:
    return functional.max_pool3d(maps, kernel, kernel, padding)
