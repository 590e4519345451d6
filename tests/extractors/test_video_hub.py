"""I3D and SlowFast on ResNet-50 against pytorchvideo's own forward, up to what its head pools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorchvideo.models import hub
from torch import Tensor
from torchvision.transforms.v2.functional import center_crop, resize

from extractors import EXPERTS, Clips, ExpertError, Network, WeightsError, find_experts, identity, load_expert
from extractors.video_hub import slow_frames

CPU = torch.device("cpu")
FILES = {"i3d_r50": "I3D_8x8_R50.pyth", "slowfast_r50": "SLOWFAST_8x8_R50.pyth"}
BUILD = {"i3d_r50": hub.i3d_r50, "slowfast_r50": hub.slowfast_r50}
DIMS = {"i3d_r50": 2048, "slowfast_r50": 2304}


def small(name: str, **options: int) -> Network:
    (expert,) = find_experts([name], {name: {"crop": 48, "resize": 48, **options}})
    network = load_expert(expert, "random").network
    assert isinstance(network, Network)
    return network


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    return {name: load_expert(EXPERTS[name], "random").network for name in FILES}


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def as_the_hub_wants(name: str, clips: Tensor) -> Tensor | list[Tensor]:
    """(B, L, 3, h, w) uint8 -> the hub's input, its slow pathway picked as in its PackPathway."""
    images = ((clips / 255 - 0.45) / 0.225).transpose(1, 2)
    if name == "i3d_r50":
        return images
    frames = images.shape[2]
    return [images.index_select(2, torch.linspace(0, frames - 1, frames // 4).long()), images]


@pytest.mark.parametrize("name", FILES)
def test_a_row_is_what_the_hubs_head_projects(networks: dict[str, Any], name: str) -> None:
    theirs = BUILD[name]().eval()
    theirs.load_state_dict(networks[name].model.state_dict())
    pooled: list[Tensor] = []
    theirs.blocks[-1].dropout.register_forward_pre_hook(lambda _, inputs: pooled.append(inputs[0]))
    samples = EXPERTS[name].samples
    assert isinstance(samples, Clips)
    clip = random_frames(1, samples.length, 3, 224, 224)
    with torch.inference_mode():
        row = networks[name](clip)
        theirs(as_the_hub_wants(name, clip))
    assert row.dtype == torch.float32 and row.shape == (1, DIMS[name]) and pooled[0].shape[2:] == (1, 1, 1)
    assert (row > 0).float().mean() > 0.1
    torch.testing.assert_close(row, pooled[0].flatten(1), rtol=1e-5, atol=1e-5 * float(row.max()))


def test_the_slow_pathway_sees_a_quarter_of_the_frames_with_the_first_and_the_last() -> None:
    assert slow_frames(32) == [0, 4, 8, 13, 17, 22, 26, 31]
    assert slow_frames(8) == [0, 7] and slow_frames(4) == [0]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(("height", "width"), [(240, 320), (720, 405), (33, 640), (1, 1)], ids=str)
def test_a_frame_keeps_its_shape_and_gives_its_middle(
    networks: dict[str, Any], name: str, height: int, width: int
) -> None:
    frame = random_frames(height, width, 3)
    theirs = center_crop(resize(frame.permute(2, 0, 1), [256], antialias=False), [224, 224])
    ours = networks[name].prepare(frame.numpy(), CPU)
    assert ours.shape == (3, 224, 224) and ours.dtype == torch.uint8
    assert (ours.int() - theirs.int()).abs().max() <= 1


@pytest.mark.parametrize(("name", "length", "crop"), [("i3d_r50", 2, 32), ("i3d_r50", 11, 65), ("slowfast_r50", 4, 33)])
def test_clips_of_other_lengths_and_sizes_work(name: str, length: int, crop: int) -> None:
    network = small(name, length=length, crop=crop, resize=crop + 3)
    frames = [network.prepare(frame.numpy(), CPU) for frame in random_frames(length, 48, 64, 3)]
    with torch.inference_mode():
        row = network(torch.stack(frames)[None])
    assert row.shape == (1, DIMS[name]) and torch.isfinite(row).all()


@pytest.mark.parametrize("name", FILES)
def test_a_row_does_not_depend_on_its_batch_nor_its_place_in_it_and_little_on_precision(name: str) -> None:
    network = small(name, length=8)
    clip = random_frames(8, 3, 48, 48)
    with torch.inference_mode():
        alone = network(clip[None])[0]
        for place in (0, 2):
            batch = random_frames(3, 8, 3, 48, 48, seed=place + 1)
            batch[place] = clip
            torch.testing.assert_close(network(batch)[place], alone, rtol=1e-5, atol=1e-5 * float(alone.max()))
        with torch.autocast("cpu", torch.bfloat16):
            half = network(clip[None])[0]
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(alone, half, dim=0) > 0.999


@pytest.mark.parametrize("name", FILES)
def test_the_publishers_file_is_loaded_to_the_bit(networks: dict[str, Any], tmp_path: Path, name: str) -> None:
    state = {
        key: torch.rand_like(value.float()).to(value.dtype) for key, value in networks[name].model.state_dict().items()
    }
    torch.save({"model_state": state}, tmp_path / FILES[name])
    loaded = load_expert(EXPERTS[name], str(tmp_path))
    assert loaded.source == FILES[name]
    found = loaded.network.model.state_dict()  # type: ignore[union-attr]
    assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("content", [{}, {"model_state": {}}, {"state_dict": {"model_state": 3}}], ids=str)
@pytest.mark.parametrize("name", FILES)
def test_a_file_without_the_parameters_is_refused_by_name(tmp_path: Path, name: str, content: Any) -> None:
    torch.save(content, tmp_path / FILES[name])
    with pytest.raises(WeightsError, match=f"{FILES[name]} cannot be used"):
        load_expert(EXPERTS[name], str(tmp_path))


def test_rows_cover_64_frames_of_30_a_second_and_2_seconds() -> None:
    assert EXPERTS["i3d_r50"].samples == Clips(length=8, fps=30 / 8, hop=1)
    assert EXPERTS["slowfast_r50"].samples == Clips(length=32, fps=16.0, hop=32)


def test_which_frames_are_slow_is_part_of_the_identity() -> None:
    (longer,) = find_experts(["slowfast_r50"], {"slowfast_r50": {"length": 64}})
    assert identity(longer)["preprocessing"]["slow_frames"][-1] == 63


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, options) for name in FILES for options in ({"fps": 0}, {"fps": "nan"}, {"hop": 0}, {"crop": 257})),
        ("i3d_r50", {"length": 1}),
        ("slowfast_r50", {"length": 0}),
        ("slowfast_r50", {"length": 30}),
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused_before_any_work(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ExpertError, match=r"must be (at least|from \d+ to)"):
        find_experts([name], {name: options})
