"""Where networks and scores are computed: what is chosen, what is refused, and that results are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from small_runs import GROUNDING_SYSTEMS, SYSTEMS, small_recipe, write_corpus, write_moments

from command import reelcache
from train import RecipeError, TrainError
from train.devices import CPU, choose_device, enough_memory
from train.grounding import moments
from train.grounding.moments import DeviceProducts
from train.moment_search import moments_of, search_moments
from train.search import INDEX, open_index, open_model
from train.testing import evaluate_run
from train.training import train

NO_CUDA = not torch.cuda.is_available()
QUERY = "the dog chases a ball near a red house"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of each system, named after it."""
    folder = tmp_path_factory.mktemp("runs")
    write_corpus(folder)
    write_moments(folder)
    for system in (*SYSTEMS, *GROUNDING_SYSTEMS):
        train(small_recipe(folder, system, epochs=1), folder / system)
    return folder


def pretend(monkeypatch: pytest.MonkeyPatch, devices: int) -> None:
    """A machine with so many GPUs, as torch tells it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: devices > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)


@pytest.mark.parametrize(
    ("devices", "name", "accelerator", "expected"),
    [
        (0, "auto", "auto", "cpu"), (2, "auto", "auto", "cuda"), (2, "auto", "gpu", "cuda"), (2, "auto", "cpu", "cpu"),
        (2, "cpu", "gpu", "cpu"), (2, "cuda:1", "cpu", "cuda:1"), (1, "cuda", "auto", "cuda"),
    ],
)  # fmt: skip
def test_a_device_is_chosen_by_its_name_and_auto_by_what_is_there(
    monkeypatch: pytest.MonkeyPatch, devices: int, name: str, accelerator: str, expected: str
) -> None:
    pretend(monkeypatch, devices)
    assert choose_device(name, accelerator) == torch.device(expected)


@pytest.mark.parametrize(
    ("devices", "name", "told"),
    [
        (0, "cuda", "finds no CUDA device here; use cpu"), (0, "cuda:1", "finds no CUDA device here"),
        (2, "cuda:2", "are cuda:0 to cuda:1"), (1, "gpu", "must be auto, cpu, cuda or cuda:N"),
        (1, "mps", "must be auto"), (1, "", "must be auto"), (1, "cuda:x", "must be auto"),
        (1, "cuda:-1", "must be auto"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_there_is_refused_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, devices: int, name: str, told: str
) -> None:
    pretend(monkeypatch, devices)
    with pytest.raises(RecipeError, match=told):
        choose_device(name)


def test_every_command_refuses_a_device_that_is_not_there(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, 0)
    commands = (["evaluate", runs / "mmt"], ["search", runs / "mmt", QUERY], ["index", runs / "fvmr"])
    for words in commands:
        told = reelcache(*words, "--device", "cuda", code=2).stderr
        assert "finds no CUDA device here" in " ".join(told.split())


def test_commands_compute_on_the_device_they_are_given(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name goes as far as to the network."""
    chosen = []
    for module in ("train.search", "train.testing"):
        monkeypatch.setattr(f"{module}.choose_device", lambda *given: chosen.append(given) or CPU)
    reelcache("evaluate", runs / "mmt", "--device", "cuda:3")
    reelcache("search", runs / "mmt", QUERY, "--device", "cuda:4")
    reelcache("index", runs / "fvmr", "--device", "cuda:5")
    assert chosen == [("cuda:3", "cpu"), ("cuda:4", "cpu"), ("cuda:5", "cpu")]


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_embeddings_that_do_not_fit_the_device_give_the_same_results(
    runs: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    def results() -> list[object]:
        (runs / system / INDEX).unlink(missing_ok=True)
        opened = open_model(runs / system)
        hits = [open_index(opened).search(QUERY) for _ in range(2)]  # made, and read
        return [*hits, evaluate_run(runs / system).metrics]

    expected = results()
    for module in ("train.search", "train.evaluation"):
        monkeypatch.setattr(f"{module}.fits", lambda size, device: False)
    assert results() == expected


@pytest.mark.parametrize("held", [True, False])
def test_products_of_a_device_rank_all_rows_with_the_first_of_equal_ones_first(
    monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    monkeypatch.setattr(moments, "DEVICE_BYTES", 7 * 2 * 3)  # 7 rows a piece
    monkeypatch.setattr(moments, "fits", lambda size, device: held)
    rows = torch.randint(-2, 3, (50, 3), generator=torch.Generator().manual_seed(0)).half()
    query = torch.tensor([1.0, 0.5, -1.0])
    exact = rows.float() @ query
    best = DeviceProducts([rows[:20], rows[20:40], rows[40:]], CPU)(query)
    for count in (1, 5, 50):
        found, scores = best(count)
        assert count <= len(found) <= 50
        assert torch.equal(found, exact.sort(descending=True, stable=True).indices[: len(found)])
        assert torch.equal(scores, exact[found])
        assert len(found) == int((exact >= scores[-1]).sum())


def test_a_device_without_enough_memory_is_told_in_a_sentence(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.\nGPU 0 has a total of 8 GiB")

    told = r"too little memory \(CUDA out of memory\. Tried .*GiB\.\): take a smaller"
    with pytest.raises(TrainError, match=told), enough_memory("take a smaller batch"):
        full()
    monkeypatch.setattr("train.search.encode_videos", full)
    (runs / "mmt" / INDEX).unlink(missing_ok=True)
    told = reelcache("search", runs / "mmt", QUERY, code=1).stderr
    assert "search with --device cpu" in " ".join(told.split())


@pytest.mark.skipif(NO_CUDA, reason="torch finds no CUDA device here")
@pytest.mark.parametrize("system", list(SYSTEMS))
def test_a_gpu_finds_and_measures_as_the_cpu_does(runs: Path, system: str) -> None:
    hits = {}
    for device in ("cpu", "cuda"):
        (runs / system / INDEX).unlink(missing_ok=True)
        hits[device] = open_index(open_model(runs / system, device=device)).search(QUERY, 24)
    scores = {device: {hit.video: hit.score for hit in found} for device, found in hits.items()}
    assert scores["cuda"] == pytest.approx(scores["cpu"], abs=1e-4)
    measured = [evaluate_run(runs / system, device=device).metrics.figures() for device in ("cpu", "cuda")]
    assert measured[1] == pytest.approx(measured[0], abs=15)  # of 16 captions, one may change places with another


@pytest.mark.skipif(NO_CUDA, reason="torch finds no CUDA device here")
@pytest.mark.parametrize("system", list(GROUNDING_SYSTEMS))
def test_a_gpu_finds_the_moments_that_the_cpu_does(runs: Path, system: str) -> None:
    on_cpu, on_gpu = (open_model(runs / system, device=device) for device in ("cpu", "cuda"))
    video = on_cpu.videos[0]
    best = [moments_of(opened, QUERY, video, 1)[0] for opened in (on_cpu, on_gpu)]
    assert best[1] == pytest.approx(best[0], abs=1e-3)
    if system == "fvmr":
        found = [search_moments(opened, QUERY, 5) for opened in (on_cpu, on_gpu)]
        assert [hit.score for hit in found[1]] == pytest.approx([hit.score for hit in found[0]], abs=1e-3)


def test_hits_on_a_named_device_are_those_of_auto(runs: Path) -> None:
    asked = ["search", runs / "hanet", QUERY, "--json"]
    assert json.loads(reelcache(*asked, "--device", "cpu").stdout) == json.loads(reelcache(*asked).stdout)
