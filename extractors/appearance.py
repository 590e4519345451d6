"""Appearance experts: image networks from timm, one pooled vector a frame."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from huggingface_hub.constants import ENDPOINT
from timm.data import resolve_data_config
from torch import Tensor

from extractors.images import Normalize, center_crop, resize_antialiased, short_side
from extractors.sampling import FASTEST, Frames
from extractors.spec import ExpertError, Network, Weights, WeightsFile, channels_last
from extractors.weights import HubFile, find_file, unreadable, why

TIMM_PREFIX = "timm:"
DIGEST_IN_NAME = re.compile(r"-([0-9a-f]{8})[0-9a-f]*\.[a-z.]+$")  # torch's custom: resnet18-5c106cde.pth


@dataclass(frozen=True)
class TimmExpert:
    """Any timm model without its classifier, fed as its own `pretrained_cfg` says.

    The frame is resized, cropped and normalised exactly as `timm.data.create_transform` would.
    """

    model: str
    alias: str | None = None  # the name a model goes by in the field, e.g. senet154
    every: float = 0.5  # seconds

    kind = "appearance"

    def __post_init__(self) -> None:
        if not 1 / FASTEST <= self.every < inf:
            raise ExpertError(f"{self.name}: every must be at least {1 / FASTEST} seconds, not {self.every}")

    @property
    def name(self) -> str:
        return self.alias or TIMM_PREFIX + self.model

    @property
    def samples(self) -> Frames:
        return Frames(self.every)

    @property
    def weights(self) -> Weights:
        """Those on the hub; of a model that is not there, what timm has an address of."""
        cfg = self.cfg
        file: WeightsFile
        if cfg.hf_hub_id or not cfg.url:
            url = f"{ENDPOINT}/{cfg.hf_hub_id}" if cfg.hf_hub_id else ""
            file = HubFile(f"{self.model}.safetensors", url, repository=cfg.hf_hub_id or "")
        else:
            name = cfg.url.rpartition("/")[2]
            digest = DIGEST_IN_NAME.search(name)
            file = WeightsFile(name, cfg.url, sha256=digest[1] if digest else "")
        return Weights((file,), cfg.license or "see the model's page", cfg.paper_name or "see the model's page")

    @cached_property
    def cfg(self) -> Any:
        """timm's PretrainedCfg. Raises ExpertError naming models of like names."""
        try:
            if cfg := timm.get_pretrained_cfg(self.model):
                return cfg
        except RuntimeError:
            pass  # a tag that the architecture does not have
        near = difflib.get_close_matches(self.model, timm.list_models() + timm.list_pretrained(), n=4)
        raise ExpertError(f"timm has no model {self.model!r}" + (f"; near: {', '.join(near)}" if near else ""))

    def preprocessing(self) -> dict[str, Any]:
        config = resolve_data_config(pretrained_cfg=self.cfg.to_dict())
        _, height, width = config["input_size"]
        if config["crop_mode"] not in ("center", "squash") or height != width:
            raise ExpertError(f"{self.name}: crop mode {config['crop_mode']} at {height}x{width} is not supported")
        return {
            "resize": int(height / config["crop_pct"]),
            "keep_aspect": config["crop_mode"] == "center",
            "interpolation": config["interpolation"],
            "antialias": True,
            "crop": height,
            "mean": list(config["mean"]),
            "std": list(config["std"]),
        }

    def random(self) -> Network:
        return TimmNetwork(timm.create_model(self.model, pretrained=False, num_classes=0), **self.preprocessing())

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        [published] = self.weights.files
        named = folder / f"{self.model}.safetensors"
        converted = named.name != published.name and named.is_file()
        file = named if converted else find_file(published, folder, fetch)
        try:
            # With its classifier: without one, timm takes a file that lacks parameters and leaves them random.
            overlay = {"file": str(file), "custom_load": False}
            model = timm.create_model(self.model, pretrained=True, pretrained_cfg_overlay=overlay)
        except Exception as error:  # whatever a damaged or hostile file sets off
            raise unreadable(file, published, why(error)) from error
        if self.cfg.num_classes:
            model.reset_classifier(0)
        return TimmNetwork(model, **self.preprocessing())


class TimmNetwork(Network):
    """A timm model with `num_classes=0` behind its own transform."""

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        resize: int,
        keep_aspect: bool,
        interpolation: str,
        antialias: bool,
        crop: int,
        mean: list[float],
        std: list[float],
    ) -> None:
        super().__init__()
        self.model = channels_last(model).eval()
        self.normalize = Normalize(tuple(mean), tuple(std))
        self.resize, self.keep_aspect, self.interpolation, self.crop = resize, keep_aspect, interpolation, crop
        with torch.inference_mode():
            self.dim = self.model(torch.zeros(1, 3, crop, crop)).shape[1]

    def prepare(self, frame: np.ndarray, device: torch.device) -> Tensor:
        height, width = frame.shape[:2]
        size = short_side(height, width, self.resize) if self.keep_aspect else (self.resize, self.resize)
        return center_crop(resize_antialiased(frame, size, self.interpolation, device), (self.crop, self.crop))

    def forward(self, frames: Tensor) -> Tensor:
        images = self.normalize(frames).contiguous(memory_format=torch.channels_last)  # (B, 3, h, w)
        return self.model(images).float()  # (B, dim)
