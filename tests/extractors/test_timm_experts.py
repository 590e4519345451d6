"""Experts made of timm models against timm's own transforms and models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform, resolve_data_config
from torch import nn

from extractors import ExpertError, Frames, find_expert, load_expert
from extractors.appearance import TimmExpert, TimmNetwork

CPU = torch.device("cpu")
SIZES = [(72, 128), (128, 72), (40, 21), (161, 160), (301, 33), (1, 9), (9, 1), (1, 1)]  # height, width

MODELS = [
    "test_resnet",  # bilinear
    "test_vit",
    "test_vit3",
    "test_convnext",
    "test_efficientnet",
    "test_nfnet",
    "resnet18",
]
TRANSFORMS = [
    "vit_base_patch16_clip_224.openai",
    "vit_base_patch16_siglip_224.webli",
    "eva_giant_patch14_336.clip_ft_in1k",  # squashed, crop_pct 1
    "dm_nfnet_f1.dm_in1k",  # squashed, crop_pct 0.91
    "legacy_senet154.in1k",
    "inception_v3.tv_in1k",
    "volo_d4_448.sail_in1k",  # crop_pct 1.15: the crop is larger than the picture
]


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def timms_transform(model: str) -> Any:
    return create_transform(**resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(model).to_dict()))


class Nothing(nn.Module):
    """Stands for a network where only what comes before it matters."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))


def only_transform(model: str) -> TimmNetwork:
    return TimmNetwork(Nothing(), **TimmExpert(model).preprocessing())


@pytest.mark.parametrize("model", MODELS)
def test_features_are_those_of_timms_own_transform_and_model(model: str) -> None:
    network = load_expert(find_expert(f"timm:{model}"), "random", seed=5).network
    assert isinstance(network, TimmNetwork)
    theirs = timm.create_model(model, pretrained=False, num_classes=0).eval()
    theirs.load_state_dict(network.model.state_dict())
    transform = timms_transform(model)
    frames = [picture(*size) for size in SIZES[:6]]
    with torch.inference_mode():
        ours = network(torch.stack([network.prepare(frame, CPU) for frame in frames]))
        expected = theirs(torch.stack([transform(Image.fromarray(frame)) for frame in frames]))
    assert ours.dtype == torch.float32 and ours.shape == (len(frames), network.dim)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("model", TRANSFORMS)
def test_images_of_any_size_are_those_of_timms_transform(model: str) -> None:
    network, transform = only_transform(model), timms_transform(model)
    for size in SIZES:
        frame = picture(*size)
        ours = network.normalize(network.prepare(frame, CPU)[None])[0]
        torch.testing.assert_close(ours, transform(Image.fromarray(frame)), rtol=0, atol=1e-5)


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["test_resnet", "test_vit", "resnet18"]))
def test_images_of_random_sizes_are_those_of_timms_transform(height: int, width: int, model: str) -> None:
    frame = picture(height, width)
    ours = only_transform(model).prepare(frame, CPU)
    theirs = timms_transform(model).transforms[:2]
    image = Image.fromarray(frame)
    for step in theirs:
        image = step(image)
    np.testing.assert_array_equal(ours.permute(1, 2, 0), np.asarray(image))


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext"])
def test_a_row_does_not_depend_on_its_batch_nor_its_place_in_it(model: str) -> None:
    network = load_expert(find_expert(f"timm:{model}"), "random").network
    frame = network.prepare(picture(90, 120), CPU)
    generator = torch.Generator().manual_seed(0)
    rows = []
    for place in (0, 11, 15):
        batch = torch.randint(0, 256, (16, *frame.shape), dtype=torch.uint8, generator=generator)
        batch[place] = frame
        with torch.inference_mode():
            rows.append(network(batch)[place])
    with torch.inference_mode():
        alone = network(frame[None])[0]
    assert torch.equal(rows[0], rows[1]) and torch.equal(rows[0], rows[2])
    torch.testing.assert_close(alone, rows[0], rtol=1e-5, atol=1e-5)


def test_frames_are_sampled_as_the_option_says() -> None:
    assert find_expert("resnet152").samples == Frames(0.5)
    assert TimmExpert("test_resnet", every=2.0).samples == Frames(2.0)


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf")])
def test_a_step_that_is_no_time_is_refused(every: float) -> None:
    with pytest.raises(ExpertError, match=r"every must be at least 0\.001"):
        TimmExpert("test_resnet", every=every)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet18.nope", "resnet18"),
        ("resnet19", "resnet18"),
        ("vit_base_patch16_clip_224.opanai", "vit_base_patch16_clip_224.openai"),
        ("", ""),
        ("hf-hub:org/model", ""),
        ("../resnet18", "resnet18"),
    ],
)
def test_an_unknown_model_or_tag_is_an_error_that_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(ExpertError) as unknown:
        find_expert(f"timm:{name}")
    assert f"timm has no model {name!r}" in str(unknown.value) and near in str(unknown.value)


def test_a_model_that_wants_other_than_square_pictures_is_refused_by_name() -> None:
    wide = next(name for name in timm.list_pretrained() if len(set(timm.get_pretrained_cfg(name).input_size[1:])) > 1)
    with pytest.raises(ExpertError, match="is not supported"):
        find_expert(f"timm:{wide}")
