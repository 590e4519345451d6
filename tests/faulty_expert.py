"""An expert that videos of one colour make crash, hang or end its process: what decoders do to files of that kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor, nn

from extractors import Frames, Network, WeightsError
from extractors.spec import Weights
from faults import FAULTS

SIZE = 64, 48  # pixels
FPS = 8


COLOURS = {"crash": (255, 0, 0), "hang": (0, 255, 0), "slow": (255, 0, 255)}


@dataclass(frozen=True)
class Faulty:
    """The mean of each frame, but for those of a colour in COLOURS, at which it is in trouble."""

    kind = "appearance"
    name = "faulty"
    weights = Weights((), "none", "none")
    samples = Frames(0.5)

    def preprocessing(self) -> dict[str, Any]:
        return {}

    def random(self) -> Network:
        return FaultyNetwork()

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        raise WeightsError("it has no published parameters: say weights random")


class FaultyNetwork(Network):
    dim = 3

    def __init__(self) -> None:
        super().__init__()
        self.parameter = nn.Parameter(torch.zeros(1))

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        mean = frame.mean(axis=(0, 1))
        for trouble, colour in COLOURS.items():
            if np.abs(mean - colour).max() < 40:
                FAULTS[trouble]()
        return torch.from_numpy(frame[: SIZE[1], : SIZE[0]].copy())

    def forward(self, samples: Tensor) -> Tensor:
        return samples.float().mean(dim=(1, 2))


def write_plain_video(path: Path, colour: tuple[int, int, int], seconds: float = 1.0) -> None:
    """A video of one colour."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", FPS)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        image = np.full((SIZE[1], SIZE[0], 3), colour, np.uint8)
        for _ in range(round(seconds * FPS)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
