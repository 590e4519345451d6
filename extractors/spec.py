"""What an expert is: its facts, its options, and the network that turns samples into feature rows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from extractors.sampling import Sampling

PLACE = {"place": True}  # metadata of an option that says where a file is, and so decides no features by itself


class ExpertError(ValueError):
    """An expert that does not exist or cannot be set up as asked; the message says what to do."""

    exit_code = 2


@dataclass(frozen=True)
class WeightsFile:
    """A published file of parameters: its name in a folder of weights, and where it comes from.

    `sha256` is its digest, or as much of the beginning as the publisher tells; "" if nothing is told.
    `size` in bytes, 0 if it is not known.
    """

    name: str
    url: str
    sha256: str = ""
    size: int = 0


@dataclass(frozen=True)
class Weights:
    """The pretrained parameters of an expert."""

    files: tuple[WeightsFile, ...]
    license: str
    paper: str

    @property
    def source(self) -> str:
        """What a store says of where features come from."""
        return " + ".join(file.name for file in self.files)


class Network(nn.Module):
    """A loaded expert: samples in, feature rows out, each row from its own sample alone.

    `forward` takes a batch of Frames (B, 3, h, w) uint8, Clips (B, length, 3, h, w) uint8 or Audio
    (B, samples) float32 in [-1, 1], and gives (B, dim) float32.
    """

    dim: int

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        """One decoded frame, (H, W, 3) RGB uint8 with square pixels -> the (3, h, w) uint8 that is batched."""
        raise TypeError(f"{type(self).__name__} does not look at frames")


@dataclass(frozen=True)
class TimedSample:
    """A prepared frame or a window of sound, and the seconds that it covers."""

    data: Tensor
    start: float
    end: float


@dataclass(frozen=True)
class Finding:
    """One thing found in a video, which makes one feature row.

    `feature` (dim,) float32; from `start` to `end` seconds; `record` says what it is, in plain data.
    """

    feature: np.ndarray
    start: float
    end: float
    record: dict[str, Any]


class Watch(Protocol):
    """Looks at the samples of one video, in their order, and tells what it finds."""

    def look(self, samples: Sequence[TimedSample]) -> list[Finding]:
        """What is certain to be found after these samples, at least one and at most as many as `group` says."""

    def finish(self) -> list[Finding]:
        """The rest, when there are no more samples."""


class Finder(nn.Module, ABC):
    """A loaded expert that finds any number of things in a sample: words, faces.

    It computes in float32 whatever the precision of other networks. A video's findings depend on that
    video alone.
    """

    dim: int

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        """One decoded frame, (H, W, 3) RGB uint8 with square pixels -> what `look` gets; by default as it is."""
        return torch.from_numpy(frame)

    @abstractmethod
    def group(self, sample: Tensor) -> int:
        """How many samples like this one to look at at once."""

    @abstractmethod
    def watch(self) -> Watch:
        """Begin a video."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def channels_last(module: nn.Module) -> nn.Module:
    """Lay out 4-d parameters channels last, which convolves 1.3 to 2 times faster on a CPU."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class Expert(Protocol):
    """What is known of an expert before it is loaded; its dataclass fields are its options."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def samples(self) -> Sampling: ...
    @property
    def weights(self) -> Weights: ...

    def preprocessing(self) -> dict[str, Any]:
        """What happens to a sample before the network sees it, as plain data."""

    def random(self) -> Network | Finder:
        """The network with fresh parameters, drawn from torch's current random state."""

    def pretrained(self, folder: Path, fetch: bool) -> Network | Finder:
        """The network with the published parameters, from `folder`, put there first if `fetch`.

        Raises WeightsError saying which file is missing and where it comes from.
        """


def identity(expert: Expert) -> dict[str, Any]:
    """All that decides an expert's features besides its parameters, as plain data."""
    sampling = {"of": type(expert.samples).__name__.lower(), **asdict(expert.samples)}
    known = fields(expert)  # type: ignore[arg-type]  # every expert is a dataclass
    options = {option.name: getattr(expert, option.name) for option in known if option.metadata != PLACE}
    return {
        "network": expert.name,
        "options": options,
        "sampling": sampling,
        "preprocessing": expert.preprocessing(),
    }
