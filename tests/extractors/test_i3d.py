"""Inception I3D against the numbers of a public implementation under the same parameters (goldens/i3d.npz)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import center_crop, resize

from extractors import EXPERTS, Clips, ExpertError, WeightsError, find_experts, load_expert
from extractors.i3d import InceptionI3D, pad_same
from extractors.motion import I3DNetwork
from goldens_recipe import parameter

CPU = torch.device("cpu")
FILE = "rgb_imagenet.pt"
GOLDENS = np.load(Path(__file__).parents[1] / "goldens" / "i3d.npz", allow_pickle=False)
META: dict[str, Any] = json.loads(GOLDENS["meta/json"].tobytes())
SIZES = [name.split("/")[0] for name in GOLDENS if name.endswith("mean_pool_1024")]  # frames x pixels
END_POINTS = ["Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c"]


@pytest.fixture(scope="module")
def published() -> dict[str, torch.Tensor]:
    """A state dict under the publisher's names, its classifier included."""
    return {name: parameter(name, shape) for name, shape in META["state"].items()}


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, published: dict[str, torch.Tensor]) -> I3DNetwork:
    folder = tmp_path_factory.mktemp("weights")
    torch.save(published, folder / FILE)
    network = load_expert(EXPERTS["i3d"], str(folder)).network
    assert isinstance(network, I3DNetwork)
    return network


def small(**options: int) -> Any:
    (expert,) = find_experts(["i3d"], {"i3d": options})
    return load_expert(expert, "random").network


def random_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def golden_input(size: str) -> torch.Tensor:
    length, side = map(int, size.split("x"))
    return torch.from_numpy(np.random.RandomState(7).uniform(-1, 1, (1, 3, length, side, side)).astype(np.float32))


@pytest.mark.parametrize("size", SIZES)
def test_features_and_end_points_are_those_of_the_goldens_at_even_and_odd_sizes(network: I3DNetwork, size: str) -> None:
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        getattr(network.model, name).register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
        for name in END_POINTS
    ]
    with torch.inference_mode():
        row = network.pool(golden_input(size))
    for hook in hooks:
        hook.remove()
    for name in END_POINTS:
        expected = GOLDENS[f"{size}/{name}/mean_per_channel"]
        means = seen[name].mean(dim=(0, 2, 3, 4))
        np.testing.assert_allclose(means, expected, rtol=1e-4, atol=2e-6 * np.abs(expected).max(), err_msg=name)
    expected = GOLDENS[f"{size}/mean_pool_1024"]
    assert row.dtype == torch.float32 and row.shape == expected.shape == (1, 1024)
    np.testing.assert_allclose(row, expected, rtol=1e-4, atol=2e-6 * expected.max())


def test_it_has_the_published_parameters_by_name_and_number_but_for_the_classifier(
    network: I3DNetwork, published: dict[str, torch.Tensor]
) -> None:
    state = {name: tensor for name, tensor in network.model.state_dict().items() if "num_batches" not in name}
    assert published.keys() - state.keys() == {"logits.conv3d.weight", "logits.conv3d.bias"}
    assert all(torch.equal(tensor, published[name]) for name, tensor in state.items())
    assert sum(tensor.numel() for tensor in network.parameters()) == 12_287_264


def test_a_file_without_its_classifier_is_loaded_too(tmp_path: Path, published: dict[str, torch.Tensor]) -> None:
    torch.save({name: value for name, value in published.items() if not name.startswith("logits")}, tmp_path / FILE)
    assert load_expert(EXPERTS["i3d"], str(tmp_path)).source == FILE


@pytest.mark.parametrize("change", ["lacks", "more"])
def test_a_file_with_other_parameters_is_refused_by_name(
    tmp_path: Path, published: dict[str, torch.Tensor], change: str
) -> None:
    state = dict(published)
    if change == "lacks":
        del state["Mixed_4d.b2a.bn.running_var"]
    else:
        state["Mixed_6a.conv3d.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / FILE)
    with pytest.raises(WeightsError, match=rf"{FILE} cannot be used(.|\n)*Mixed"):
        load_expert(EXPERTS["i3d"], str(tmp_path))


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (3, 1), (2, 2), (1, 1)])
def test_same_padding_gives_an_output_every_stride_and_puts_the_odd_cell_behind(kernel: int, stride: int) -> None:
    for size in range(1, 12):
        line = torch.arange(1.0, size + 1).view(1, 1, 1, 1, size)
        padded, padding = pad_same(line, (1, 1, kernel), (1, 1, stride))
        front = padding[2] or int((padded.flatten() != 0).nonzero()[0])
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        assert padded.shape[4] + 2 * padding[2] == size + total, size
        assert front == total // 2, size


def test_values_are_scaled_to_between_minus_one_and_one(network: I3DNetwork) -> None:
    scaled = network.normalize(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 3, 1, 1))
    torch.testing.assert_close(scaled[:, 0].flatten(), torch.tensor([-1.0, -0.6, 1.0]))


@pytest.mark.parametrize(
    ("height", "width"), [(240, 320), (405, 720), (720, 405), (33, 640), (640, 7), (1, 1)], ids=str
)
def test_a_frame_keeps_its_shape_and_gives_its_middle(network: I3DNetwork, height: int, width: int) -> None:
    frame = random_frames(height, width, 3)
    theirs = center_crop(resize(frame.permute(2, 0, 1), [256], antialias=False), [224, 224])
    ours = network.prepare(frame.numpy(), CPU)
    assert ours.shape == (3, 224, 224) and ours.dtype == torch.uint8
    assert (ours.int() - theirs.int()).abs().max() <= 1


def test_a_clip_is_normalised_and_pooled() -> None:
    network = small(crop=48, resize=48)
    clips = random_frames(2, 9, 3, 48, 48)
    with torch.inference_mode():
        rows = network(clips)
        expected = network.model((clips / 255 * 2 - 1).transpose(1, 2)).mean(dim=(2, 3, 4))
    assert rows.shape == (2, 1024) and rows.dtype == torch.float32
    torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5 * float(rows.max()))


@pytest.mark.parametrize(("length", "crop"), [(1, 32), (7, 33), (20, 64)])
def test_clips_of_other_lengths_and_sizes_work(length: int, crop: int) -> None:
    network = small(crop=crop, resize=crop + 8, length=length)
    frames = [network.prepare(frame.numpy(), CPU) for frame in random_frames(length, 48, 64, 3)]
    with torch.inference_mode():
        row = network(torch.stack(frames)[None])
    assert row.shape == (1, 1024) and torch.isfinite(row).all()


def test_a_row_does_not_depend_on_its_batch_nor_its_place_in_it() -> None:
    network = small(crop=48, resize=48)
    clip = random_frames(8, 3, 48, 48)
    with torch.inference_mode():
        alone = network(clip[None])[0]
        for place in (0, 2):
            batch = random_frames(3, 8, 3, 48, 48, seed=place + 1)
            batch[place] = clip
            torch.testing.assert_close(network(batch)[place], alone, rtol=1e-5, atol=1e-5 * float(alone.max()))


def test_half_precision_gives_nearly_the_same_row() -> None:
    network = small(crop=64, resize=64)
    clip = random_frames(1, 8, 3, 64, 64)
    with torch.inference_mode():
        full = network(clip)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(clip)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(full, half) > 0.999


def test_options_decide_what_is_sampled_and_how_it_is_prepared() -> None:
    assert EXPERTS["i3d"].samples == Clips(length=64, fps=25.0, hop=16)
    (expert,) = find_experts(["i3d"], {"i3d": {"length": 32, "fps": 16, "hop": 8, "crop": 112, "resize": "128"}})
    assert expert.samples == Clips(length=32, fps=16.0, hop=8)
    assert expert.preprocessing()["crop"] == 112 and expert.preprocessing()["resize"] == 128


@pytest.mark.parametrize(
    "options",
    [{"length": 0}, {"fps": 0}, {"fps": "nan"}, {"fps": "inf"}, {"hop": 0}, {"crop": 31}, {"crop": 300}],
    ids=str,
)
def test_options_that_cannot_work_are_refused_before_any_work(options: dict[str, Any]) -> None:
    with pytest.raises(ExpertError, match=r"must be (at least|from \d+ to)"):
        find_experts(["i3d"], {"i3d": options})


def test_fresh_parameters_are_drawn_from_the_seed() -> None:
    first, again, other = (load_expert(EXPERTS["i3d"], "random", seed).network for seed in (0, 0, 1))
    name = "model.Mixed_5c.b3b.conv3d.weight"
    assert torch.equal(first.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(first.state_dict()[name], other.state_dict()[name])
    assert sum(tensor.numel() for tensor in InceptionI3D().parameters()) == 12_287_264
