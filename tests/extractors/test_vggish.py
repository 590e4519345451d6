"""VGGish against the numbers of a public implementation under the same parameters (goldens/vggish.npz)."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from extractors import EXPERTS, Audio, Network, load_expert
from extractors.audio import mel_matrix

RATE = 16_000
GOLDENS = np.load(Path(__file__).parents[1] / "goldens" / "vggish.npz", allow_pickle=False)
META: dict[str, Any] = json.loads(GOLDENS["meta/json"].tobytes())

SIGNALS = {
    "sine_1khz_3s": np.sin(2 * np.pi * 1000 * np.arange(0, 3, 1 / RATE)),
    "chirp_noise_5s": np.random.RandomState(3).uniform(-0.5, 0.5, 80_000) * np.linspace(0, 1, 80_000)
    + 0.3 * np.sin(2 * np.pi * (200 + 300 * (np.arange(80_000) / RATE)) * (np.arange(80_000) / RATE)),
}


def parameter(name: str, shape: list[int]) -> torch.Tensor:
    """A parameter by the recipe of the goldens."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    bound = 0.05 if len(shape) == 1 else np.sqrt(6 / np.prod(shape[1:]))
    return torch.from_numpy(random.uniform(-bound, bound, shape).astype(np.float32))


def windows(signal: np.ndarray) -> torch.Tensor:
    """(B, 15600) windows as the expert asks for them: one every 0.96 s, with what it wants to see beyond."""
    samples = EXPERTS["vggish"].samples
    assert isinstance(samples, Audio)
    hop, length = round(samples.hop * RATE), round((samples.window + samples.context) * RATE)
    count = (len(signal) - length) // hop + 1
    return torch.from_numpy(np.stack([signal[first * hop : first * hop + length] for first in range(count)]))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Network:
    folder = tmp_path_factory.mktemp("weights")
    state = {name: parameter(name, shape) for name, shape in META["state"].items()}
    torch.save(state, folder / "vggish-10086976.pth")
    network = load_expert(EXPERTS["vggish"], str(folder)).network
    (folder / "vggish-10086976.pth").unlink()
    return network


@pytest.mark.parametrize("signal", SIGNALS)
def test_log_mel_examples_are_those_of_the_goldens(network: Any, signal: str) -> None:
    examples = network.log_mel(windows(SIGNALS[signal]))
    np.testing.assert_allclose(examples, GOLDENS[f"{signal}/log_mel"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("signal", SIGNALS)
def test_embeddings_are_those_of_the_goldens(network: Network, signal: str) -> None:
    with torch.inference_mode():
        rows = network(windows(SIGNALS[signal]))
    expected = GOLDENS[f"{signal}/embedding"]
    assert rows.dtype == torch.float32 and rows.shape == expected.shape == (len(expected), 128)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)


def test_float32_sound_gives_the_same_embeddings(network: Network) -> None:
    with torch.inference_mode():
        rows = network(windows(SIGNALS["chirp_noise_5s"]).float())
    np.testing.assert_allclose(rows, GOLDENS["chirp_noise_5s/embedding"], rtol=1e-3, atol=1e-4)


def test_it_has_the_published_parameters_by_name_and_number(network: Network) -> None:
    state = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    assert state == META["state"]
    assert sum(tensor.numel() for tensor in network.parameters()) == META["params"] == 72_141_184


def test_a_row_does_not_depend_on_its_batch_nor_its_place_in_it(network: Network) -> None:
    sound = windows(SIGNALS["chirp_noise_5s"])[2].float()
    generator = torch.Generator().manual_seed(0)
    rows = []
    for place in (0, 3):
        batch = torch.rand(4, len(sound), generator=generator) * 2 - 1
        batch[place] = sound
        with torch.inference_mode():
            rows.append(network(batch)[place])
    with torch.inference_mode():
        alone = network(sound[None])[0]
    assert torch.equal(*rows)
    torch.testing.assert_close(alone, rows[0], rtol=1e-5, atol=1e-5 * float(rows[0].max()))


@pytest.mark.parametrize("level", [0.0, 1.0, -1.0])
def test_silence_and_full_scale_give_finite_rows(network: Network, level: float) -> None:
    with torch.inference_mode():
        assert torch.isfinite(network(torch.full((1, 15_600), level))).all()


def test_mel_bands_are_triangles_between_125_and_7500_hertz() -> None:
    bands = mel_matrix()
    hertz = np.linspace(0, RATE / 2, 257)
    assert bands.shape == (257, 64) and bands.min() == 0.0 and bands.max() <= 1.0
    assert not bands[(hertz < 125) | (hertz > 7500)].any()
    assert (bands.sum(axis=0) > 0).all(), "no band is empty"
    assert (np.diff(bands.argmax(axis=0)) >= 0).all()
