"""Scene experts: DenseNet-161 on Places365, one vector a frame."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import timm
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import Tensor

from extractors.appearance import TimmNetwork
from extractors.checkpoints import fill, state_of
from extractors.python2 import load_checkpoint
from extractors.sampling import FASTEST, Frames
from extractors.spec import ExpertError, Network, Weights, WeightsFile
from extractors.weights import find_file, unreadable, why

# Older torchvision wrote "denselayer1.norm.1.weight" for what now is "denselayer1.norm1.weight".
OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")


@dataclass(frozen=True)
class DenseNetPlaces:
    """DenseNet-161 on Places365 (Zhou et al. 2018), pooled before the classifier: 2208-d.

    Preprocessing is that of the authors' validation in train_placesCNN.py: the short side brought to
    256, antialiased, the middle 224, ImageNet's mean and standard deviation. Their later demonstration
    scripts squash the frame to 256 x 256 instead.
    """

    every: float = 1.0  # seconds

    kind = "scene"
    name = "densenet161_places365"
    weights = Weights(
        files=(
            WeightsFile(
                "densenet161_places365.pth.tar",
                "http://places2.csail.mit.edu/models_places365/densenet161_places365.pth.tar",
            ),
        ),
        license="CC BY",
        paper="Places: A 10 Million Image Database for Scene Recognition (Zhou et al., TPAMI 2018)",
    )

    def __post_init__(self) -> None:
        if not 1 / FASTEST <= self.every < inf:
            raise ExpertError(f"{self.name}: every must be at least {1 / FASTEST} seconds, not {self.every}")

    @property
    def samples(self) -> Frames:
        return Frames(self.every)

    def preprocessing(self) -> dict[str, Any]:
        return {
            "resize": 256,
            "keep_aspect": True,
            "interpolation": "bilinear",
            "antialias": True,
            "crop": 224,
            "mean": list(IMAGENET_DEFAULT_MEAN),
            "std": list(IMAGENET_DEFAULT_STD),
        }

    def random(self) -> Network:
        return TimmNetwork(timm.create_model("densenet161", num_classes=0), **self.preprocessing())

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        [file] = self.weights.files
        path = find_file(file, folder, fetch)
        model = timm.create_model("densenet161", num_classes=0)
        try:
            names = model.state_dict().keys()
            fill(model, todays_names(state_of(load_checkpoint(path), names)))
        except Exception as error:  # whatever a damaged or hostile file sets off
            raise unreadable(path, file, why(error)) from error
        return TimmNetwork(model, **self.preprocessing())


def todays_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of 2017 under the names of today's networks, without the classifier.

    It was saved from a DataParallel, which puts "module." in front of every name.
    """
    named = {OLD_NAME.sub(r"\1\2.", name.removeprefix("module.")): tensor for name, tensor in state.items()}
    return {name: tensor for name, tensor in named.items() if not name.startswith("classifier.")}
