"""Parameters: random ones by seed, published ones from a folder, and nothing else that files may carry."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchvision.models.video import s3d

from extractors import EXPERTS, Expert, WeightsError, find_expert, load_expert
from small_weights import (
    FILES,
    S3D_FILE,
    TIMM,
    TIMM_FILE,
    VGGISH_FILE,
    Hostile,
    State,
    leave_alone,
    same,
    timm_state,
    vggish_state,
)


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    leave_alone(monkeypatch, tmp_path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights as publishers name them, with classifiers."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(3)
    torch.save(s3d().state_dict(), folder / S3D_FILE)
    torch.save(vggish_state(), folder / VGGISH_FILE)
    save_file(timm_state(), folder / TIMM_FILE)
    return folder


def parameters(expert: Expert, *weights: Any) -> State:
    network = load_expert(expert, *weights).network
    return getattr(network, "model", network).state_dict()


# Random


@pytest.mark.parametrize("name", ["s3d", "timm:test_resnet", "timm:test_vit"])
def test_random_parameters_are_those_of_their_seed(name: str) -> None:
    expert = find_expert(name)
    first = parameters(expert, "random", 4)
    torch.rand(7)
    assert same(first, parameters(expert, "random", 4))
    assert not same(first, parameters(expert, "random", 5))
    loaded = load_expert(expert, "random", seed=4)
    assert (loaded.source, loaded.sha256, loaded.network.training) == ("random:4", None, False)


@pytest.mark.parametrize("name", ["s3d", "timm:test_resnet"])
def test_drawing_parameters_leaves_torchs_random_state_alone(name: str) -> None:
    torch.manual_seed(123)
    expected = torch.rand(3)
    torch.manual_seed(123)
    load_expert(find_expert(name), "random", seed=9)
    assert torch.equal(torch.rand(3), expected)


# A folder


def test_s3d_is_loaded_to_the_bit(folder: Path) -> None:
    assert same(parameters(EXPERTS["s3d"], str(folder)), torch.load(folder / S3D_FILE, weights_only=True))


def test_vggish_is_loaded_to_the_bit(folder: Path) -> None:
    assert same(parameters(EXPERTS["vggish"], str(folder)), vggish_state())


@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_timm_model_is_loaded_to_the_bit_without_its_classifier(tmp_path: Path, model: str) -> None:
    state = timm_state(model)
    save_file(state, tmp_path / f"{model}.safetensors")
    loaded = parameters(find_expert(f"timm:{model}"), str(tmp_path))
    assert same(loaded, {name: tensor for name, tensor in state.items() if name in loaded})
    classifier = timm.get_pretrained_cfg(model).classifier
    assert state.keys() - loaded.keys() == {f"{classifier}.weight", f"{classifier}.bias"}
    assert parameters(find_expert(f"timm:{model}"), "random").keys() == loaded.keys()


def test_a_timm_model_gives_the_features_of_its_file(tmp_path: Path) -> None:
    save_file(timm_state("test_vit"), tmp_path / "test_vit.safetensors")
    network = load_expert(find_expert("timm:test_vit"), str(tmp_path)).network
    theirs = timm.create_model("test_vit", pretrained=False, num_classes=0).eval()
    theirs.load_state_dict(load_file(tmp_path / "test_vit.safetensors"), strict=False)
    images = torch.rand(2, 3, 160, 160)
    with torch.inference_mode():
        torch.testing.assert_close(network.model(images), theirs(images))


def test_a_timm_model_whose_first_weights_were_numpy_files_is_loaded_from_the_hubs_file(tmp_path: Path) -> None:
    model = "vit_tiny_patch16_224.augreg_in21k"
    assert timm.get_pretrained_cfg(model).custom_load
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in timm.create_model(model).state_dict().items()}
    state = {name: torch.rand(shape) for name, shape in shapes.items()}
    save_file(state, tmp_path / f"{model}.safetensors")
    loaded = parameters(find_expert(f"timm:{model}"), str(tmp_path))
    assert same(loaded, {name: tensor for name, tensor in state.items() if name in loaded})


def test_what_was_loaded_is_recorded(folder: Path, tmp_path: Path) -> None:
    save_file(timm_state(), tmp_path / TIMM_FILE)
    loaded, again = load_expert(TIMM, str(folder)), load_expert(TIMM, str(tmp_path))
    assert loaded.source == TIMM_FILE
    assert loaded.sha256 is not None and len(bytes.fromhex(loaded.sha256)) == 32
    assert again.sha256 == loaded.sha256
    state = timm_state()
    state["bn1.running_mean"][0] += 1e-6
    save_file(state, tmp_path / TIMM_FILE)
    assert load_expert(TIMM, str(tmp_path)).sha256 != loaded.sha256
    assert load_expert(EXPERTS["s3d"], str(folder)).source == S3D_FILE


def test_the_environment_names_a_folder_to_use_instead_of_the_network(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REELCACHE_WEIGHTS", str(folder))
    assert load_expert(TIMM).sha256 == load_expert(TIMM, str(folder)).sha256


def test_an_empty_variable_names_no_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REELCACHE_WEIGHTS", "")
    monkeypatch.chdir(folder)
    with pytest.raises(WeightsError, match=str(tmp_path / "cache")):
        load_expert(TIMM)


@pytest.mark.parametrize("weights", ["", "pretrianed", "/no/such/folder"])
def test_weights_that_are_no_folder_are_refused(weights: str) -> None:
    with pytest.raises(WeightsError, match="neither pretrained, random nor an existing folder"):
        load_expert(TIMM, weights)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named_with_its_source_and_what_to_do(tmp_path: Path, name: str) -> None:
    expert = find_expert(name)
    with pytest.raises(WeightsError) as told:
        load_expert(expert, str(tmp_path))
    fetch = f"reelcache weights fetch {name} --to {tmp_path} puts them there"
    copied = f"reelcache weights fetch {name} --to FOLDER", "--weights FOLDER", "REELCACHE_WEIGHTS=FOLDER"
    for part in (FILES[name], expert.weights.files[0].url, str(tmp_path), fetch, *copied, "--weights random"):
        assert part in str(told.value)


def test_a_model_that_nobody_published_says_so() -> None:
    with pytest.raises(WeightsError, match="None are known to be published"):
        load_expert(find_expert("timm:test_vit4"))


def rewrite(file: Path, change: Any) -> None:
    state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    change(state)
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)


LACKING = {
    "s3d": "features.0.0.0.weight",
    "vggish": "embeddings.2.bias",
    "timm:test_resnet": "layer1.0.conv1.weight",
}
CHANGES = {
    "a parameter lacks": lambda state, name: state.pop(name),
    "another shape": lambda state, name: state.update({name: torch.zeros(3)}),
    "another name": lambda state, name: state.update({f"other.{name}": state.pop(name)}),
    "one too many": lambda state, name: state.update({"more": torch.zeros(3)}),
    "empty": lambda state, name: state.clear(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_holds_other_parameters_is_refused_by_name(
    folder: Path, tmp_path: Path, name: str, change: str
) -> None:
    file = tmp_path / FILES[name]
    file.write_bytes((folder / FILES[name]).read_bytes())
    rewrite(file, lambda state: CHANGES[change](state, LACKING[name]))
    with pytest.raises(WeightsError, match=FILES[name]) as told:
        load_expert(find_expert(name), str(tmp_path))
    assert "cannot be used" in str(told.value) and "in its place" in str(told.value)


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    whole = (folder / FILES[name]).read_bytes()
    file = tmp_path / FILES[name]
    for content in (whole[: len(whole) // 2], whole[:-1], b"", b"<html>404 not found</html>", os.urandom(2000)):
        file.write_bytes(content)
        with pytest.raises(WeightsError, match=FILES[name]) as told:
            load_expert(find_expert(name), str(tmp_path))
        assert "weights_only" not in str(told.value), "never how to run what a file carries"


@pytest.mark.parametrize("name", FILES)
def test_parameters_that_are_not_finite_are_refused_by_name(folder: Path, tmp_path: Path, name: str) -> None:
    load, save = (load_file, save_file) if FILES[name] == TIMM_FILE else (torch.load, torch.save)
    state = {name: value.clone() for name, value in load(folder / FILES[name]).items()}
    next(value for value in state.values() if value.is_floating_point()).flatten()[0] = float("nan")
    save(state, tmp_path / FILES[name])
    with pytest.raises(WeightsError, match=f"weights of {name} in .* holds numbers that are not finite"):
        load_expert(find_expert(name), str(tmp_path))


@pytest.mark.parametrize("name", [*FILES, "ocr", "densenet161_places365", "speech"])
def test_a_folder_or_an_empty_file_in_a_files_place_is_told(tmp_path: Path, name: str) -> None:
    file = tmp_path / find_expert(name).weights.files[0].name
    file.mkdir()
    with pytest.raises(WeightsError, match=f"{file.name} cannot be used: it is a folder"):
        load_expert(find_expert(name), str(tmp_path))
    file.rmdir()
    file.write_bytes(b"")
    with pytest.raises(WeightsError, match=f"{file.name} cannot be used: [^\n]*(empty|too small|not a zip file)"):
        load_expert(find_expert(name), str(tmp_path))


@pytest.mark.parametrize("content", [7, "text", [torch.zeros(3)], {"state_dict": None}, {"state_dict": 3}, None])
@pytest.mark.parametrize("name", ["s3d", "vggish"])
def test_a_file_that_holds_no_state_dict_is_refused_by_name(tmp_path: Path, name: str, content: Any) -> None:
    torch.save(content, tmp_path / FILES[name])
    with pytest.raises(WeightsError, match=FILES[name]):
        load_expert(find_expert(name), str(tmp_path))


@pytest.mark.parametrize(
    "save", [torch.save, lambda it, file: file.write_bytes(pickle.dumps(it, protocol=2))], ids=["zip", "raw"]
)
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_runs_nothing_and_is_refused_by_name(tmp_path: Path, name: str, save: Any) -> None:
    trace = tmp_path / "it_ran"
    save({"features.0.weight": Hostile(trace)}, tmp_path / FILES[name])
    with pytest.raises(WeightsError, match=FILES[name]):
        load_expert(find_expert(name), str(tmp_path))
    assert not trace.exists()
    save(Hostile(trace), tmp_path / FILES[name])
    with pytest.raises(WeightsError, match=FILES[name]):
        load_expert(find_expert(name), str(tmp_path))
    assert not trace.exists()
