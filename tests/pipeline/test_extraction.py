"""Whole runs through the Python call."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.shards
from corpora import make_corpus, quick_experts, write_video
from data_manifests import Manifest, Video, write_rows
from extractors import find_experts, load_expert
from feature_store import FeatureStore, StoreError, summarize
from pipeline import backends, extract
from pipeline.backends import DecoderMissing
from pipeline.extraction import ExtractError
from pipeline.sampling import Ended, Request, sample_video
from tests.decoders import LIBRARIES


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def reference(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("reference") / "store.zarr"
    extract(manifest, store, quick_experts(), weights="random", dtype="float32")
    return store


def array_bytes(store: Path) -> dict[str, bytes]:
    """Everything in a store but complete.json, the metadata that carries dates, and what runs tell each other."""
    files = [path for path in store.rglob("*") if path.is_file() and path.name != "complete.json"]
    files = [path for path in files if path.relative_to(store).parts[0] != ".run"]
    return {str(path.relative_to(store)): path.read_bytes() for path in files if path.parent.parent != store.parent}


def shard_bytes(store: Path) -> dict[str, bytes]:
    return {name: content for name, content in array_bytes(store).items() if name.count("/") >= 2}


def assert_same_features(a: Path, b: Path, tolerance: float) -> None:
    first, second = FeatureStore(a), FeatureStore(b)
    assert set(first.experts) == set(second.experts)
    for expert in first.experts:
        assert list(first[expert]) == list(second[expert])
        for video in first[expert]:
            x, y = first[expert].read(video), second[expert].read(video)
            np.testing.assert_array_equal(x.times, y.times)
            scale = np.abs(x.values).max(initial=1e-30)
            assert np.abs(x.values - y.values).max(initial=0.0) <= tolerance * scale


def test_every_row_is_the_network_applied_to_its_own_sample(manifest: Path, reference: Path) -> None:
    store = FeatureStore(reference)
    for expert in quick_experts():
        network = load_expert(expert, "random").network
        request = Request(expert.samples, lambda frame, net=network: net.prepare(frame, torch.device("cpu")))
        for video in Manifest(manifest):
            samples = [item for item in sample_video(video, {"it": request}) if not isinstance(item, Ended)]
            stored = store[expert.name].read(video.id)
            assert len(stored.values) == len(samples)
            if samples:
                with torch.inference_mode():
                    expected = network(torch.stack([sample.data for sample in samples])).numpy()
                np.testing.assert_allclose(stored.values, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
                np.testing.assert_allclose(stored.times[:, 0], [sample.start for sample in samples])


@pytest.mark.parametrize(
    "settings",
    [{"batch_size": 1}, {"batch_size": 5}, {"shard_videos": 2}, {"decoders": 3}, {"decoders": 2, "shard_videos": 1}],
    ids=str,
)
def test_features_do_not_depend_on_how_they_were_batched(
    settings: dict, manifest: Path, reference: Path, tmp_path: Path
) -> None:
    extract(manifest, tmp_path / "s", quick_experts(), weights="random", dtype="float32", **settings)
    assert_same_features(reference, tmp_path / "s", 1e-5)


def test_features_do_not_depend_on_the_neighbours(manifest: Path, reference: Path, tmp_path: Path) -> None:
    videos = list(Manifest(manifest))
    write_rows(tmp_path / "alone.jsonl", [videos[4]])
    extract(tmp_path / "alone.jsonl", tmp_path / "s", quick_experts(), weights="random", dtype="float32")
    for expert in quick_experts():
        whole, alone = (FeatureStore(store)[expert.name].read(videos[4].id) for store in (reference, tmp_path / "s"))
        np.testing.assert_allclose(alone.values, whole.values, rtol=1e-5, atol=1e-5 * np.abs(whole.values).max())


def test_the_same_run_gives_the_same_bytes(manifest: Path, reference: Path, tmp_path: Path) -> None:
    extract(manifest, tmp_path / "s", quick_experts(), weights="random", dtype="float32")
    assert shard_bytes(tmp_path / "s") == shard_bytes(reference)


def test_statuses_say_what_each_video_holds(manifest: Path, tmp_path: Path) -> None:
    experts = [*quick_experts(), *find_experts(["vggish"])]
    summary = extract(manifest, tmp_path / "s", experts, weights="random")
    assert summary.statuses == {"ok": 5, "failed": 1}
    store = FeatureStore(tmp_path / "s")
    broken = store["s3d"].read("video 2")
    assert broken.missing
    assert broken.status.stage == "open"
    assert "not a self-contained media file" in (broken.status.reason or "")
    assert store["vggish"].read("video 3").status.status == "no_stream"
    assert store["vggish"].read("video 4").status.status == "ok"
    assert summarize(tmp_path / "s").experts["vggish"].no_stream == 1


def test_a_second_run_finds_nothing_to_do_and_touches_nothing(manifest: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    extract(manifest, store, quick_experts(), weights="random", shard_videos=2)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    summary = extract(manifest, store, quick_experts(), weights="random", shard_videos=2)
    assert (summary.videos, summary.shards_before) == (0, 3)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_an_expert_is_added_without_touching_the_others(manifest: Path, tmp_path: Path) -> None:
    store = tmp_path / "s"
    first, second = quick_experts()
    extract(manifest, store, [first], weights="random")
    before = {path: path.stat().st_mtime_ns for path in (store / first.name).rglob("*")}
    extract(manifest, store, [first, second], weights="random")
    assert {path: path.stat().st_mtime_ns for path in (store / first.name).rglob("*")} == before
    assert set(FeatureStore(store).experts) == {first.name, second.name}


def test_videos_are_added_at_the_end_without_touching_the_others(manifest: Path, tmp_path: Path) -> None:
    videos = list(Manifest(manifest))
    store, growing = tmp_path / "s", tmp_path / "growing.jsonl"
    write_rows(growing, videos[:3])
    extract(growing, store, quick_experts(), weights="random", dtype="float32", shard_videos=2)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*") if path.is_file() and "/00000" in str(path)}
    write_rows(growing, videos)
    extract(growing, store, quick_experts(), weights="random", dtype="float32", shard_videos=4)
    assert before.items() <= {path: path.stat().st_mtime_ns for path in store.rglob("*")}.items()
    assert list(FeatureStore(store)["s3d"]) == [video.id for video in videos]
    write_rows(growing, videos[1:])
    with pytest.raises(StoreError, match="not those of this manifest"):
        extract(growing, store, quick_experts(), weights="random")


def test_retrying_does_only_the_videos_that_failed(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import engine

    for path in manifest.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    rows = [Video(video.id, Path(video.path).name) for video in Manifest(manifest)]
    write_rows(tmp_path / "corpus.jsonl", rows)
    settings = {"weights": "random", "dtype": "float32", "shard_videos": 3}
    extract(tmp_path / "corpus.jsonl", tmp_path / "s", quick_experts(), **settings)
    untouched = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("000001/**/*")}

    write_video(tmp_path / "v2.mp4", 1.5, 2)
    decoded: list[str] = []
    sample = engine.sample_video
    monkeypatch.setattr(engine, "sample_video", lambda video, *rest: decoded.append(video.id) or sample(video, *rest))
    summary = extract(tmp_path / "corpus.jsonl", tmp_path / "s", quick_experts(), retry_failed=True, **settings)
    assert decoded == ["video 2"]
    assert summary.statuses == {"ok": 1} and not summary.reasons
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("000001/**/*")} == untouched

    extract(tmp_path / "corpus.jsonl", tmp_path / "whole", quick_experts(), **settings)
    assert shard_bytes(tmp_path / "s") == shard_bytes(tmp_path / "whole")


def test_other_settings_are_refused_and_a_variant_gets_a_name(manifest: Path, tmp_path: Path) -> None:
    extract(manifest, tmp_path / "s", quick_experts(), weights="random")
    other = find_experts(["s3d"], {"s3d": {"resize": 40, "crop": 36}})
    with pytest.raises(StoreError, match=r"options\.crop: 32 against 36"):
        extract(manifest, tmp_path / "s", other, weights="random")
    with pytest.raises(StoreError, match=r"weights\.source"):
        extract(manifest, tmp_path / "s", quick_experts(), weights="random", seed=1)
    extract(manifest, tmp_path / "s", other, weights="random", names={"s3d": "s3d wide"})
    assert FeatureStore(tmp_path / "s").experts["s3d wide"].identity["options"]["crop"] == 36


def test_features_that_cannot_be_stored_fail_the_video_and_not_the_run(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = pipeline.shards.ShardTask.append

    def overflow(task: pipeline.shards.ShardTask, rows: pipeline.shards.Rows) -> None:
        factor = np.float32(1e9 if rows.number == 1 and rows.first else 1)
        append(task, replace(rows, features=rows.features * factor))

    monkeypatch.setattr(pipeline.shards.ShardTask, "append", overflow)
    summary = extract(manifest, tmp_path / "s", quick_experts()[:1], weights="random", batch_size=1)
    status = FeatureStore(tmp_path / "s")["timm:test_resnet"].status("video 1")
    assert (status.status, status.stage, status.rows) == ("failed", "expert", 0)
    assert "float32" in (status.reason or "")
    assert summary.statuses == {"ok": 4, "failed": 2}


@pytest.mark.parametrize("stage", ["decode", "compute", "write"])
def test_an_error_in_any_stage_ends_the_run_with_that_error(
    stage: str, manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def boom(*args: object, **kwargs: object) -> None:
        raise MemoryError(stage)

    target = {
        "decode": ("pipeline.engine.sample_video", boom),
        "compute": ("extractors.motion.S3DNetwork.forward", boom),
        "write": ("feature_store.writer.ShardWriter.finish", boom),
    }[stage]
    monkeypatch.setattr(*target)
    with pytest.raises(MemoryError, match=stage):
        extract(manifest, tmp_path / "s", quick_experts(), weights="random")


def test_what_a_decoder_raises_for_one_video_is_that_videos_reason(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import sampling

    real = sampling.open_media

    def flaky(path: str):
        if path.endswith("v4.mp4"):
            raise AssertionError("a decoder's bug")
        return real(path)

    monkeypatch.setattr(sampling, "open_media", flaky)
    extract(manifest, tmp_path / "s", quick_experts(), weights="random")
    status = FeatureStore(tmp_path / "s")["s3d"].status("video 4")
    assert (status.status, status.reason) == ("failed", "AssertionError: a decoder's bug")


@pytest.mark.parametrize("decoder", LIBRARIES)
def test_another_decoder_gives_nearly_the_same_features(
    decoder: str, manifest: Path, reference: Path, tmp_path: Path
) -> None:
    extract(manifest, tmp_path / "s", quick_experts(), weights="random", dtype="float32", decoder=decoder)
    assert_same_features(reference, tmp_path / "s", 0.05)


def test_a_decoder_that_is_missing_is_told_before_anything_is_made(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing() -> None:
        raise DecoderMissing("decord is not installed")

    monkeypatch.setitem(backends.LIBRARIES, "decord", missing)
    with pytest.raises(DecoderMissing):
        extract(manifest, tmp_path / "s", quick_experts(), weights="random", decoder="decord")
    assert not (tmp_path / "s").exists()


def test_lower_precision_is_recorded_and_close(manifest: Path, reference: Path, tmp_path: Path) -> None:
    extract(manifest, tmp_path / "s", quick_experts()[:1], weights="random", dtype="float32", precision="bf16")
    store = FeatureStore(tmp_path / "s")
    assert store.experts["timm:test_resnet"].identity["precision"] == "bf16"
    x, y = (each["timm:test_resnet"].read("video 0").values for each in (store, FeatureStore(reference)))
    assert 0 < np.abs(x - y).max() < 0.05 * np.abs(y).max()


def test_the_store_tells_how_its_features_were_made(reference: Path) -> None:
    metadata = json.loads((reference / "s3d" / "zarr.json").read_text())["attributes"]["reelcache"]
    assert metadata["identity"]["weights"] == {"source": "random:0", "sha256": None}
    assert metadata["identity"]["sampling"] == {"of": "clips", "length": 16, "fps": 16.0, "hop": 16}
    assert {"av", "torch", "timm"} <= set(metadata["about"]["packages"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp8"}, "fp32, bf16, fp16"),
        ({"dtype": "int8"}, "float16, float32"),
        ({"decoder": "mplayer"}, "av, decord, torchcodec"),
        ({"decoders": 0}, "at least 1"),
        ({"workers": 0}, "at least 1"),
        ({"time_limit": 0.0}, "more than 0 seconds"),
        ({"memory_limit": 0.0}, "more than 0 GB"),
        ({"device": "abacus"}, "auto, cpu, cuda"),
        ({"device": "meta"}, "auto, cpu, cuda"),
        ({"device": "mps"}, "auto, cpu, cuda"),
        ({"seed": 1 << 64}, "64 bits"),
        ({"scheduler": ""}, "scheduler is empty"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_before_anything_is_made(
    settings: dict, message: str, manifest: Path, tmp_path: Path
) -> None:
    with pytest.raises(ExtractError, match=message):
        extract(manifest, tmp_path / "s", ["s3d"], weights="random", **settings)
    assert not (tmp_path / "s").exists()


def test_a_name_that_is_no_text_is_refused_before_anything_is_made(manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no Unicode text"):
        extract(manifest, tmp_path / "s", ["s3d"], weights="random", names={"s3d": "a\udcff"})
    assert not (tmp_path / "s").exists()


def test_names_of_files_may_be_any_bytes(manifest: Path, tmp_path: Path) -> None:
    store = tmp_path / os.fsdecode(b"s\xff")
    log = tmp_path / os.fsdecode(b"log\xff")
    copied = shutil.copy(manifest, tmp_path / os.fsdecode(b"m\xff.jsonl"))
    extract(copied, store, quick_experts()[:1], weights="random", log=log)
    started = json.loads(log.read_text().splitlines()[0])
    assert os.fsencode(started["store"]) == os.fsencode(store)


def test_a_long_video_does_not_fill_memory_with_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine's queues hold a bounded number of samples, whatever the length of the video."""
    from pipeline.engine import Engine

    write_video(tmp_path / "long.mp4", 40.0, 0, sound=False)
    write_rows(tmp_path / "long.jsonl", [Video("long", str(tmp_path / "long.mp4"))])
    seen: list[int] = []
    put = Engine._put

    def watched(self, to, item):
        seen.append(self._heard.qsize() + sum(len(waiting) for waiting in self._waiting.values()))
        put(self, to, item)

    monkeypatch.setattr(Engine, "_put", watched)
    summary = extract(
        tmp_path / "long.jsonl", tmp_path / "s", find_experts(["timm:test_resnet"]), weights="random", decoders=1
    )
    assert summary.rows == {"timm:test_resnet": 80}
    assert max(seen) <= 8 + 16
