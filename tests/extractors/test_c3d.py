"""C3D against the numbers of a public implementation under the same parameters (goldens/c3d.npz)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from extractors import EXPERTS, Clips, ExpertError, WeightsError, find_experts, load_expert
from extractors.motion import C3D, C3DNetwork
from goldens_recipe import parameter

CPU = torch.device("cpu")
FILE = "c3d.pickle"
GOLDENS = np.load(Path(__file__).parents[1] / "goldens" / "c3d.npz", allow_pickle=False)
META: dict[str, Any] = json.loads(GOLDENS["meta/json"].tobytes())


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> C3DNetwork:
    """Loaded from a file as PyTorch wrote them before 1.6, under the publisher's names, its classifier included."""
    file = tmp_path_factory.mktemp("weights") / FILE
    state = {name: parameter(name, shape) for name, shape in META["state"].items()}
    torch.save(state, file, _use_new_zipfile_serialization=False)
    assert file.read_bytes()[:2] != b"PK"
    network = load_expert(EXPERTS["c3d"], str(file.parent)).network
    file.unlink()
    assert isinstance(network, C3DNetwork)
    return network


def random_clips(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 16, 3, 112, 112), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_features_are_those_of_the_goldens(network: C3DNetwork, monkeypatch: pytest.MonkeyPatch, layer: str) -> None:
    monkeypatch.setattr(network, "layer", layer)
    images = torch.from_numpy(np.random.RandomState(8).uniform(-1, 1, (2, 3, 16, 112, 112)).astype(np.float32))
    with torch.inference_mode():
        rows = network.embed(images)
    expected = GOLDENS[layer]
    assert rows.dtype == torch.float32 and rows.shape == expected.shape == (2, 4096)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_it_has_the_published_parameters_by_name_but_for_the_classifier(network: C3DNetwork) -> None:
    state = network.model.state_dict()
    assert META["state"].keys() - state.keys() == {"fc8.weight", "fc8.bias"}
    assert {name: list(tensor.shape) for name, tensor in state.items()}.items() <= META["state"].items()


@pytest.mark.parametrize("layer", ["fc6", "fc7"])
def test_the_layer_is_an_option(layer: str) -> None:
    (expert,) = find_experts(["c3d"], {"c3d": {"layer": layer}})
    assert expert == C3D(layer=layer)
    with torch.device("meta"):
        network = expert.random()
    assert isinstance(network, C3DNetwork) and network.layer == layer and network.dim == 4096


@pytest.mark.parametrize("layer", ["fc8", "", "FC6"])
def test_another_layer_is_refused_by_name(layer: str) -> None:
    with pytest.raises(ExpertError, match=f"c3d.layer is '{layer}'; it must be fc6 or fc7"):
        find_experts(["c3d"], {"c3d": {"layer": layer}})


@pytest.mark.parametrize("options", [{"fps": 0}, {"fps": "nan"}, {"fps": "inf"}, {"hop": 0}], ids=str)
def test_options_that_cannot_work_are_refused_before_any_work(options: dict[str, Any]) -> None:
    with pytest.raises(ExpertError, match="fps must be above 0 and at most 1000, and hop at least 1"):
        find_experts(["c3d"], {"c3d": options})


def test_clips_are_of_16_frames_every_8() -> None:
    assert EXPERTS["c3d"].samples == Clips(length=16, fps=25.0, hop=8)
    (expert,) = find_experts(["c3d"], {"c3d": {"fps": "30", "hop": 16}})
    assert expert.samples == Clips(length=16, fps=30.0, hop=16)


@pytest.mark.parametrize(("height", "width"), [(240, 320), (720, 405), (33, 640), (640, 7), (1, 1)], ids=str)
def test_a_frame_is_squashed_to_128_by_171_and_cropped_in_the_middle(
    network: C3DNetwork, height: int, width: int
) -> None:
    frame = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    squashed = interpolate(frame.permute(2, 0, 1)[None].double(), (128, 171), mode="bilinear")[0]
    ours = network.prepare(frame.numpy(), CPU)
    assert ours.shape == (3, 112, 112) and ours.dtype == torch.uint8
    assert min((ours - squashed[:, 8:120, left : left + 112]).abs().max() for left in (29, 30)) <= 1


def test_a_clip_enters_as_rgb_between_0_and_255_and_alone_or_in_a_batch_gives_the_same_row(network: C3DNetwork) -> None:
    clip = random_clips(1)
    with torch.inference_mode():
        alone = network.embed(clip.float().transpose(1, 2).contiguous())[0]
        for place in (0, 1):
            batch = random_clips(2, seed=place + 1)
            batch[place] = clip[0]
            rows = network(batch)
            assert rows.shape == (2, 4096)
            torch.testing.assert_close(rows[place], alone, rtol=1e-5, atol=1e-5 * float(alone.max()))


def test_half_precision_gives_nearly_the_same_row(network: C3DNetwork) -> None:
    clip = random_clips(1)
    with torch.inference_mode():
        full = network(clip)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(clip)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(full, half) > 0.999


def test_a_file_with_other_parameters_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(64, 3, 3, 3, 3)}, tmp_path / FILE)
    with pytest.raises(WeightsError, match=rf"{FILE} cannot be used(.|\n)*conv2\.weight"):
        load_expert(EXPERTS["c3d"], str(tmp_path))
