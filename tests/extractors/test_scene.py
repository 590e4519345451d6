"""DenseNet-161 on Places365 against timm's own network, from a file as its publisher wrote it."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision import transforms

from extractors import EXPERTS, ExpertError, Frames, WeightsError, find_experts, load_expert
from extractors.scene import todays_names
from python2_file import Hostile, write_checkpoint

CPU = torch.device("cpu")
EXPERT = EXPERTS["densenet161_places365"]
FILE = "densenet161_places365.pth.tar"


def names_of_2017(state: dict[str, torch.Tensor]) -> OrderedDict[str, torch.Tensor]:
    """A state dict as a DataParallel of torchvision 0.1.9 names it; batches were not counted then."""
    return OrderedDict(
        ("module." + re.sub(r"(denselayer\d+\.)(norm|conv)([12])", r"\1\2.\3", name), tensor)
        for name, tensor in state.items()
        if not name.endswith("num_batches_tracked")
    )


@pytest.fixture(scope="module")
def theirs() -> torch.nn.Module:
    """timm's network with its 365 outputs, statistics included."""
    torch.manual_seed(0)
    model = timm.create_model("densenet161", num_classes=365).eval()
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.uniform_(-0.1, 0.1)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory, theirs: torch.nn.Module) -> Any:
    folder = tmp_path_factory.mktemp("weights")
    state = names_of_2017(theirs.state_dict())
    assert "module.features.denseblock1.denselayer1.norm.1.running_var" in state
    assert "module.features.transition1.conv.weight" in state
    write_checkpoint({"epoch": 90, "arch": "densenet161", "state_dict": state, "best_prec1": 56.1}, folder / FILE)
    loaded = load_expert(EXPERT, str(folder))
    assert loaded.source == FILE
    (folder / FILE).unlink()
    return loaded.network


def random_frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_a_row_is_what_timm_pools_before_its_classifier(network: Any, theirs: Any) -> None:
    frames = random_frames(2, 3, 224, 224)
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])
    with torch.inference_mode():
        rows = network(frames)
        images = (frames / 255 - mean[:, None, None]) / std[:, None, None]
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
    assert rows.dtype == torch.float32 and rows.shape == (2, 2208) and network.dim == 2208
    assert (expected > 0).float().mean() > 0.5 and not torch.allclose(rows[0], rows[1], rtol=1e-3)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_every_parameter_is_loaded_to_the_bit_but_the_classifier(network: Any, theirs: torch.nn.Module) -> None:
    state, expected = network.model.state_dict(), theirs.state_dict()
    assert expected.keys() - state.keys() == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items() if "num_batches" not in name)


def test_old_names_become_todays_names() -> None:
    old = {
        "module.features.denseblock1.denselayer1.norm.1.weight": "features.denseblock1.denselayer1.norm1.weight",
        "module.features.denseblock4.denselayer24.conv.2.weight": "features.denseblock4.denselayer24.conv2.weight",
        "module.features.denseblock4.denselayer24.conv2.weight": "features.denseblock4.denselayer24.conv2.weight",
        "module.features.transition1.norm.bias": "features.transition1.norm.bias",
        "features.norm5.running_mean": "features.norm5.running_mean",
    }
    for name, todays in old.items():
        assert list(todays_names({name: torch.zeros(1), "module.classifier.bias": torch.zeros(1)})) == [todays]


@pytest.mark.parametrize(("height", "width"), [(240, 320), (405, 720), (720, 405), (33, 640), (1, 1)], ids=str)
def test_a_frame_is_prepared_as_by_the_authors_validation(network: Any, height: int, width: int) -> None:
    frame = random_frames(height, width, 3).numpy()
    transform = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    expected = np.asarray(transform(Image.fromarray(frame))).transpose(2, 0, 1)
    np.testing.assert_array_equal(network.prepare(frame, CPU), expected)


def test_a_row_does_not_depend_on_its_batch_nor_its_place_in_it(network: Any) -> None:
    frame = random_frames(3, 224, 224)
    with torch.inference_mode():
        alone = network(frame[None])[0]
        for place in (0, 1):
            batch = random_frames(2, 3, 224, 224, seed=place + 1)
            batch[place] = frame
            torch.testing.assert_close(network(batch)[place], alone, rtol=1e-5, atol=1e-5 * float(alone.max()))


def test_half_precision_gives_nearly_the_same_row(network: Any) -> None:
    frame = random_frames(1, 3, 224, 224)
    with torch.inference_mode():
        full = network(frame)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(frame)
    assert half.dtype == torch.float32
    assert torch.cosine_similarity(full, half) > 0.999


def test_a_frame_is_taken_every_second_or_as_asked() -> None:
    assert EXPERT.samples == Frames(1.0) and EXPERT.kind == "scene"
    (expert,) = find_experts([EXPERT.name], {EXPERT.name: {"every": "0.5"}})
    assert expert.samples == Frames(0.5)


@pytest.mark.parametrize("every", [0, -1, "nan", "inf"])
def test_a_time_between_frames_that_cannot_work_is_refused(every: Any) -> None:
    with pytest.raises(ExpertError, match=r"every must be at least 0\.001 seconds"):
        find_experts([EXPERT.name], {EXPERT.name: {"every": every}})


def test_a_hostile_file_runs_nothing_and_is_refused_by_name(tmp_path: Path) -> None:
    write_checkpoint({"state_dict": Hostile(tmp_path / "it_ran")}, tmp_path / FILE)
    with pytest.raises(WeightsError, match=rf"{FILE} cannot be used: .*it carries \w+\.system, which is no tensor"):
        load_expert(EXPERT, str(tmp_path))
    assert not (tmp_path / "it_ran").exists()


@pytest.mark.parametrize("content", [{"state_dict": {"module.features.conv0.weight": torch.zeros(2)}}, {}, 7, None])
def test_a_file_that_holds_other_things_is_refused_by_name(tmp_path: Path, content: Any) -> None:
    write_checkpoint(content, tmp_path / FILE)
    with pytest.raises(WeightsError, match=f"{FILE} cannot be used"):
        load_expert(EXPERT, str(tmp_path))
