"""S3D against torchvision's own network and transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.video import S3D_Weights, s3d

from extractors import EXPERTS, Clips, ExpertError, Network, find_experts, load_expert
from extractors.motion import S3D, S3DNetwork

CPU = torch.device("cpu")


def small(**options: int) -> Network:
    (expert,) = find_experts(["s3d"], {"s3d": options})
    return load_expert(expert, "random").network


@pytest.fixture(scope="module")
def network() -> S3DNetwork:
    network = load_expert(EXPERTS["s3d"], "random").network
    assert isinstance(network, S3DNetwork)
    return network


def random_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_a_clip_gives_what_torchvision_pools_before_its_classifier(network: S3DNetwork) -> None:
    theirs = s3d().eval()
    theirs.load_state_dict(network.model.state_dict())
    pooled: list[torch.Tensor] = []
    theirs.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output))
    clip = random_frames(1, 16, 3, 224, 224)
    mean, std = torch.tensor([[0.43216, 0.394666, 0.37645], [0.22803, 0.22145, 0.216989]])
    with torch.inference_mode():
        row = network(clip)
        images = (clip / 255 - mean[:, None, None]) / std[:, None, None]
        theirs(images.transpose(1, 2))
    assert row.shape == (1, 1024) and row.dtype == torch.float32
    torch.testing.assert_close(row, pooled[0].flatten(1), rtol=1e-4, atol=1e-4 * float(row.max()))


@pytest.mark.parametrize(
    ("height", "width"), [(240, 320), (720, 405), (33, 640), (640, 7), (1, 50), (1, 1), (256, 256)], ids=str
)
def test_a_frame_is_prepared_as_by_torchvisions_transform_within_one_level(
    network: S3DNetwork, height: int, width: int
) -> None:
    frame = random_frames(height, width, 3).numpy()
    transform = S3D_Weights.KINETICS400_V1.transforms()
    theirs = transform(torch.from_numpy(frame).permute(2, 0, 1)[None])[:, 0]  # (3, 224, 224) normalised
    ours = network.prepare(frame, CPU)
    assert ours.shape == (3, 224, 224) and ours.dtype == torch.uint8
    levels = (network.normalize(ours[None])[0] - theirs) * network.normalize.std[:, None, None] * 255
    assert levels.abs().max() < 1.01
    assert levels.abs().mean() < 0.25


@pytest.mark.parametrize("length", [11, 24])
def test_clips_of_other_lengths_and_sizes_work(length: int) -> None:
    network = small(crop=112, resize=128, length=length)
    frames = [network.prepare(frame.numpy(), CPU) for frame in random_frames(length, 48, 64, 3)]
    with torch.inference_mode():
        row = network(torch.stack(frames)[None])
    assert row.shape == (1, 1024) and torch.isfinite(row).all()


def test_a_row_does_not_depend_on_its_batch_nor_its_place_in_it() -> None:
    network = small(crop=48, resize=48)
    clip = random_frames(8, 3, 48, 48)
    rows = []
    for place in (0, 2):
        batch = random_frames(3, 8, 3, 48, 48, seed=place + 1)
        batch[place] = clip
        with torch.inference_mode():
            rows.append(network(batch)[place])
    with torch.inference_mode():
        alone = network(clip[None])[0]
    assert torch.equal(*rows)
    torch.testing.assert_close(alone, rows[0], rtol=1e-5, atol=1e-5 * float(rows[0].max()))


def test_options_decide_what_is_sampled_and_how_it_is_prepared() -> None:
    (expert,) = find_experts(["s3d"], {"s3d": {"length": 32, "fps": 25, "hop": 8, "crop": 112, "resize": 128}})
    assert expert.samples == Clips(length=32, fps=25.0, hop=8)
    assert expert.preprocessing()["crop"] == 112 and expert.preprocessing()["resize"] == [128, 128]
    assert load_expert(expert, "random").network.prepare(np.zeros((9, 5, 3), np.uint8), CPU).shape == (3, 112, 112)


@pytest.mark.parametrize(
    "options",
    [
        {"length": 4},
        {"length": 0},
        {"fps": 0},
        {"fps": -1},
        {"fps": "nan"},
        {"fps": "inf"},
        {"hop": 0},
        {"crop": 31},
        {"crop": 300},
        {"resize": 100},
    ],
    ids=str,
)
def test_options_that_cannot_work_are_refused_before_any_work(options: dict[str, str]) -> None:
    with pytest.raises(ExpertError, match=r"must be (at least|from \d+ to)"):
        find_experts(["s3d"], {"s3d": options})


def test_the_shortest_clip_that_is_allowed_works() -> None:
    expert = S3D(length=5, crop=32, resize=32)
    with torch.inference_mode():
        assert load_expert(expert, "random").network(random_frames(1, 5, 3, 32, 32)).shape == (1, 1024)
