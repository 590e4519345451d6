"""Parameters: random ones by seed, published ones from a folder, a cache or the network, and nothing else."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torchvision.models.video import s3d

import extractors.appearance
import extractors.download
from extractors import EXPERTS, Expert, WeightsError, find_expert, load_expert
from extractors.audio import VGGish, VGGishNetwork

S3D_FILE, VGGISH_FILE = "s3d-d76dad2f.pth", "vggish-10086976.pth"
TIMM = find_expert("timm:test_resnet")
TIMM_FILE = "test_resnet.safetensors"
FILES = {"s3d": S3D_FILE, "vggish": VGGISH_FILE, "timm:test_resnet": TIMM_FILE}
HUB_FOLDER = "models--timm--test_resnet.r160_in1k"

State = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, and no network: its addresses lead nowhere."""
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("REELCACHE_WEIGHTS", raising=False)
    monkeypatch.setattr(extractors.download, "PAUSE", 0.01)
    nowhere = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(extractors.appearance, "ENDPOINT", nowhere)
    for kind in (type(EXPERTS["s3d"]), VGGish):
        publish_at(monkeypatch, kind, f"{nowhere}/{kind.weights.files[0].name}")


def publish_at(monkeypatch: pytest.MonkeyPatch, kind: Any, url: str, name: str | None = None) -> None:
    """Have an expert's parameters published elsewhere, and under another name with its own digest."""
    [file] = kind.weights.files
    changed = replace(file, name=name, sha256=name.split("-")[1][:8], url=url) if name else replace(file, url=url)
    monkeypatch.setattr(kind, "weights", replace(kind.weights, files=(changed,)))


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def vggish_state() -> State:
    """VGGish's 288 MB of parameters in a few kB: every tensor is one number repeated."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in VGGishNetwork().state_dict().items()}
    return {name: torch.tensor(0.001 * number).expand(shape) for number, (name, shape) in enumerate(shapes.items())}


def timm_state(model: str = "test_resnet", seed: int = 1) -> State:
    torch.manual_seed(seed)
    return timm.create_model(model, pretrained=False).state_dict()


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


def same(one: State, other: State) -> bool:
    return one.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in one.items())


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
    for part in (FILES[name], expert.weights.files[0].url, str(tmp_path), "--weights FOLDER", "--weights random"):
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


@pytest.mark.parametrize("content", [7, "text", [torch.zeros(3)], {"state_dict": None}, {"state_dict": 3}, None])
@pytest.mark.parametrize("name", ["s3d", "vggish"])
def test_a_file_that_holds_no_state_dict_is_refused_by_name(tmp_path: Path, name: str, content: Any) -> None:
    torch.save(content, tmp_path / FILES[name])
    with pytest.raises(WeightsError, match=FILES[name]):
        load_expert(find_expert(name), str(tmp_path))


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


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


# The network


@pytest.mark.parametrize("name", FILES)
def test_without_a_network_it_is_soon_said_what_to_do(tmp_path: Path, name: str) -> None:
    began = time.monotonic()
    with pytest.raises(WeightsError) as told:
        load_expert(find_expert(name))
    assert time.monotonic() - began < 10
    for part in (FILES[name], find_expert(name).weights.files[0].url, str(tmp_path / "cache"), "--weights random"):
        assert part in str(told.value)


@pytest.mark.parametrize("name", FILES)
def test_a_server_that_never_answers_is_given_up_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(extractors.download, "PATIENCE", 0.3)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr(extractors.appearance, "ENDPOINT", url)
        expert = find_expert(name)
        if name in EXPERTS:
            publish_at(monkeypatch, type(expert), url)
        began = time.monotonic()
        with pytest.raises(WeightsError, match="could not be had"):
            load_expert(expert)
        assert time.monotonic() - began < 10


class Quiet(SimpleHTTPRequestHandler):
    asked: list[str]

    def log_message(self, *message: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.asked.append(self.path)
        super().do_GET()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """A web server of tmp_path/served, and the paths it was asked for."""
    (tmp_path / "served").mkdir()
    handler = type("Handler", (Quiet,), {"asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(tmp_path / "served")))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", handler.asked
    server.shutdown()
    server.server_close()
    thread.join()


def fetched(tmp_path: Path) -> list[str]:
    """What is in the cache, besides locks."""
    return [path.name for path in (tmp_path / "cache" / "weights").iterdir() if path.name != ".locks"]


def publish(monkeypatch: pytest.MonkeyPatch, file: Path, url: str) -> str:
    """Publish VGGish's state under a name with its own digest, and return that name."""
    torch.save(vggish_state(), file)
    name = f"vggish-{sha256(file.read_bytes()).hexdigest()[:8]}.pth"
    file.rename(file.with_name(name))
    publish_at(monkeypatch, VGGish, f"{url}/{name}", name)
    return name


def test_weights_are_downloaded_once_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: tuple[str, list[str]]
) -> None:
    url, asked = served
    name = publish(monkeypatch, tmp_path / "served" / "vggish", url)
    loaded = load_expert(EXPERTS["vggish"])
    assert loaded.source == name and same(loaded.network.state_dict(), vggish_state())
    assert fetched(tmp_path) == [name]
    assert load_expert(EXPERTS["vggish"]).sha256 == loaded.sha256
    assert asked == [f"/{name}"]
    again = load_expert(EXPERTS["vggish"], str(tmp_path / "cache" / "weights"))
    assert again.sha256 == loaded.sha256, "the cache is a folder of weights"


def test_a_download_with_another_checksum_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: tuple[str, list[str]]
) -> None:
    url, _ = served
    name = publish(monkeypatch, tmp_path / "served" / "vggish", url)
    content = bytearray((tmp_path / "served" / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "served" / name).write_bytes(content)
    with pytest.raises(WeightsError, match=r"(?s)damaged or another file.*was deleted.*reelcache weights fetch vggish"):
        load_expert(EXPERTS["vggish"])
    assert fetched(tmp_path) == []


def test_a_page_that_is_gone_is_refused_and_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: tuple[str, list[str]]
) -> None:
    url, _ = served
    publish_at(monkeypatch, VGGish, f"{url}/{VGGISH_FILE}")
    with pytest.raises(WeightsError, match="404"):
        load_expert(EXPERTS["vggish"])
    assert fetched(tmp_path) == []


def test_a_hostile_download_runs_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, served: tuple[str, list[str]]
) -> None:
    url, _ = served
    content = pickle.dumps({"features.0.weight": Hostile(tmp_path / "it_ran")}, protocol=2)
    name = f"vggish-{sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / "served" / name).write_bytes(content)
    publish_at(monkeypatch, VGGish, f"{url}/{name}", name)
    with pytest.raises(WeightsError, match=name):
        load_expert(EXPERTS["vggish"])
    assert not (tmp_path / "it_ran").exists()


def test_what_the_hubs_client_once_fetched_is_used_without_asking_anybody(
    folder: Path, tmp_path: Path, served: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, asked = served
    monkeypatch.setattr(extractors.appearance, "ENDPOINT", url)
    hub = tmp_path / "cache" / "weights" / HUB_FOLDER
    (hub / "refs").mkdir(parents=True)
    (hub / "refs" / "main").write_text("a" * 40)
    (hub / "snapshots" / ("a" * 40)).mkdir(parents=True)
    (hub / "snapshots" / ("a" * 40) / "model.safetensors").write_bytes((folder / TIMM_FILE).read_bytes())
    expected = load_expert(TIMM, str(folder))
    assert load_expert(find_expert("timm:test_resnet")).sha256 == expected.sha256
    assert load_expert(TIMM, str(tmp_path / "cache" / "weights")).sha256 == expected.sha256
    assert asked == []
