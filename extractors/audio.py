"""Audio experts: VGGish, one vector a 0.96 s window of sound.

The front end and the network follow tensorflow/models research/audioset/vggish (mel_features.py,
vggish_params.py, vggish_slim.py; Hershey et al., ICASSP 2017). The state dict carries the names of
the PyTorch port harritaylor/torchvggish, so that its published file loads as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from extractors.sampling import Audio
from extractors.spec import Network, Weights, WeightsFile, channels_last
from extractors.weights import he_init, load_published

RATE = 16_000  # Hz
STFT_WINDOW = 400  # samples: 25 ms
STFT_HOP = 160  # samples: 10 ms
FFT_LENGTH = 512  # the next power of two
MEL_BANDS = 64
MEL_LOW, MEL_HIGH = 125.0, 7500.0  # Hz
LOG_OFFSET = 0.01
EXAMPLE_FRAMES = 96  # STFT frames an example: 0.96 s
EXAMPLE_SAMPLES = (EXAMPLE_FRAMES - 1) * STFT_HOP + STFT_WINDOW  # 15,600: the last frame looks 15 ms ahead


@dataclass(frozen=True)
class VGGish:
    """VGGish embeddings before post-processing: 128-d, one row every 0.96 s."""

    kind = "audio"
    name = "vggish"
    weights = Weights(
        files=(
            WeightsFile(
                "vggish-10086976.pth",
                "https://github.com/harritaylor/torchvggish/releases/download/v0.1/vggish-10086976.pth",
                sha256="10086976",
            ),
        ),
        license="Apache-2.0",
        paper="CNN Architectures for Large-Scale Audio Classification (Hershey et al., ICASSP 2017)",
    )

    @property
    def samples(self) -> Audio:
        window = EXAMPLE_FRAMES * STFT_HOP / RATE
        return Audio(RATE, window=window, hop=window, context=(EXAMPLE_SAMPLES - EXAMPLE_FRAMES * STFT_HOP) / RATE)

    def preprocessing(self) -> dict[str, Any]:
        return {
            "stft": {"window": STFT_WINDOW, "hop": STFT_HOP, "fft": FFT_LENGTH},
            "mel": {"bands": MEL_BANDS, "low": MEL_LOW, "high": MEL_HIGH, "scale": "htk"},
            "log_offset": LOG_OFFSET,
        }

    def random(self) -> Network:
        network = VGGishNetwork()
        he_init(network)
        return network

    def pretrained(self, folder: Path, fetch: bool) -> Network:
        network = VGGishNetwork()
        load_published(network, self.weights.files[0], folder, fetch)
        return network


class LogMel(nn.Module):
    """Log-mel examples of waveforms, in double precision: the log of a near silence is sensitive."""

    def __init__(self) -> None:
        super().__init__()
        self.window: Tensor
        self.mel: Tensor
        periodic_hann = torch.hann_window(STFT_WINDOW, periodic=True, dtype=torch.float64)
        self.register_buffer("window", periodic_hann, persistent=False)
        self.register_buffer("mel", torch.from_numpy(mel_matrix()), persistent=False)

    def forward(self, waveforms: Tensor) -> Tensor:
        """(B, samples) in [-1, 1] -> (B, frames, 64) float32, frames = 1 + (samples - 400) // 160."""
        frames = waveforms.double().unfold(1, STFT_WINDOW, STFT_HOP)  # (B, frames, 400)
        magnitude = torch.fft.rfft(frames * self.window, FFT_LENGTH).abs()  # (B, frames, 257)
        return torch.log(magnitude @ self.mel + LOG_OFFSET).float()


class VGGishNetwork(Network):
    """Four groups of 3x3 convolutions and three fully connected layers, as vggish_slim.py stacks them."""

    dim = 128

    def __init__(self) -> None:
        super().__init__()
        self.log_mel = LogMel()
        self.features = nn.Sequential(
            *_conv(1, 64),
            nn.MaxPool2d(2),
            *_conv(64, 128),
            nn.MaxPool2d(2),
            *_conv(128, 256),
            *_conv(256, 256),
            nn.MaxPool2d(2),
            *_conv(256, 512),
            *_conv(512, 512),
            nn.MaxPool2d(2),
        )
        self.embeddings = nn.Sequential(
            nn.Linear(EXAMPLE_FRAMES // 16 * MEL_BANDS // 16 * 512, 4096),
            nn.ReLU(),
            nn.Linear(4096, 4096),
            nn.ReLU(),
            nn.Linear(4096, self.dim),
            nn.ReLU(),
        )
        channels_last(self)

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.embed(self.log_mel(waveforms))

    def embed(self, examples: Tensor) -> Tensor:
        """Log-mel examples (B, 96, 64) -> (B, 128)."""
        maps = self.features(examples[:, None].contiguous(memory_format=torch.channels_last))  # (B, 512, 6, 4)
        flat = maps.permute(0, 2, 3, 1).flatten(1)  # time, mel, channel: TensorFlow's order
        return self.embeddings(flat).float()


def mel_matrix() -> np.ndarray:
    """(257, 64) float64: triangles on the HTK mel scale, unnormalised (mel_features.spectrogram_to_mel_matrix)."""

    def mel(hertz: np.ndarray | float) -> np.ndarray:
        return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)

    bins = mel(np.linspace(0.0, RATE / 2, FFT_LENGTH // 2 + 1))[:, None]
    edges = np.linspace(mel(MEL_LOW), mel(MEL_HIGH), MEL_BANDS + 2)
    lower, center, upper = edges[:-2], edges[1:-1], edges[2:]
    triangles = np.minimum((bins - lower) / (center - lower), (upper - bins) / (upper - center))
    weights = np.maximum(0.0, triangles)
    weights[0] = 0.0  # the constant component counts for nothing
    return weights


def _conv(channels: int, filters: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(channels, filters, kernel_size=3, padding=1), nn.ReLU()
