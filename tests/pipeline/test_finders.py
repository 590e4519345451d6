"""Whole runs with experts that find any number of things in a sample, made up ones and the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from corpora import make_corpus, quick_experts, write_video
from data_manifests import Manifest, Video, write_rows
from extractors import EXPERTS, Finder, Finding, Frames, TimedSample, WeightsError, find_experts
from extractors.spec import Weights
from feature_store import FeatureStore, StoreError, diff_stores, summarize, verify
from pipeline import extract
from pipeline.embedding import embed_text
from tests.pipeline.test_extraction import assert_same_features, shard_bytes

EVERY = 0.25  # seconds


@dataclass(frozen=True)
class Count:
    """Finds as many things in frame k of a video as k % 3 says, and stumbles over frames of a given number."""

    stumbles: int = -1
    looks: int = 4
    kind = "face"
    name = "count"
    weights = Weights((), "none", "none")
    samples = Frames(EVERY)

    def preprocessing(self) -> dict[str, Any]:
        return {}

    def random(self) -> Finder:
        return CountFinder(self)

    def pretrained(self, folder: Path, fetch: bool) -> Finder:
        raise WeightsError("it has no published parameters: say weights random")


class CountFinder(Finder):
    dim = 2

    def __init__(self, expert: Count) -> None:
        super().__init__()
        self.expert = expert
        self.parameter = nn.Parameter(torch.zeros(1))

    def group(self, sample: Tensor) -> int:
        assert sample.dtype == torch.uint8 and sample.shape[-1] == 3
        return self.expert.looks

    def watch(self) -> CountWatch:
        return CountWatch(self.expert)


class CountWatch:
    def __init__(self, expert: Count) -> None:
        self.expert, self.seen = expert, 0

    def look(self, samples: Sequence[TimedSample]) -> list[Finding]:
        assert 1 <= len(samples) <= self.expert.looks
        found = []
        for sample in samples:
            if self.seen == self.expert.stumbles:
                raise ZeroDivisionError("a frame of no height")
            mean = float(sample.data.float().mean())
            for number in range(self.seen % 3):
                feature = np.array([mean, number], np.float32)
                found.append(Finding(feature, sample.start, sample.end, {"frame": self.seen, "number": number}))
            self.seen += 1
        return found

    def finish(self) -> list[Finding]:
        return [Finding(np.array([-1, self.seen], np.float32), 0.0, 0.1, {"frames": self.seen})]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def expected_records(frames: int) -> list[dict[str, Any]]:
    found = [
        {"frame": k, "number": number, "start": k * EVERY, "end": (k + 1) * EVERY}
        for k in range(frames)
        for number in range(k % 3)
    ]
    return [*found, {"frames": frames, "start": 0.0, "end": 0.1}]


def test_rows_are_what_was_found_each_with_its_record(manifest: Path, tmp_path: Path) -> None:
    extract(manifest, tmp_path / "s", [Count(), *quick_experts()], weights="random", shard_videos=4, decoders=2)
    reader = FeatureStore(tmp_path / "s")["count"]
    for video in Manifest(manifest):
        status, records = reader.status(video.id), reader.records(video.id)
        if status.status == "failed":
            assert records == [] and status.rows == 0
            continue
        frames = int(np.ceil(status.seconds / EVERY - 1e-6))
        expected = expected_records(frames)
        assert [record.get("frame") for record in records] == [record.get("frame") for record in expected]
        assert [record["start"] for record in records] == [record["start"] for record in expected]
        assert status.rows == len(records) == len(reader.read(video.id).values)
    assert verify(tmp_path / "s").damaged == ()


@pytest.mark.parametrize("settings", [{"decoders": 3}, {"shard_videos": 1}, {"batch_size": 1}], ids=str)
def test_findings_do_not_depend_on_neighbours(settings: dict[str, Any], manifest: Path, tmp_path: Path) -> None:
    experts = [Count(), *find_experts(["timm:test_resnet"])]
    extract(manifest, tmp_path / "a", experts, weights="random")
    extract(manifest, tmp_path / "b", experts, weights="random", **settings)
    assert_same_features(tmp_path / "a", tmp_path / "b", 1e-3)
    a, b = (FeatureStore(tmp_path / store)["count"] for store in "ab")
    assert [a.records(video) for video in a] == [b.records(video) for video in b]


def test_the_same_run_gives_the_same_bytes(manifest: Path, tmp_path: Path) -> None:
    for store in "ab":
        extract(manifest, tmp_path / store, [Count()], weights="random", decoders=3)
    assert shard_bytes(tmp_path / "a") == shard_bytes(tmp_path / "b")


def test_what_a_finder_stumbles_over_fails_its_video_alone(manifest: Path, tmp_path: Path) -> None:
    summary = extract(manifest, tmp_path / "s", [Count(stumbles=6), *quick_experts()], weights="random")
    store = FeatureStore(tmp_path / "s")
    longer = [video for video in store["count"] if store["s3d"].status(video).seconds > 6 * EVERY]
    failed = [video for video in store["count"] if store["count"].status(video).stage == "expert"]
    assert 0 < len(failed) == len(longer) < 6
    assert set(failed) == set(longer)
    for video in failed:
        assert store["count"].status(video).reason == "ZeroDivisionError: a frame of no height"
        assert store["count"].read(video).values.shape == (0, 2)
        assert store["s3d"].status(video).status == "ok"
    assert summary.reasons["expert: ZeroDivisionError: a frame of no height"] == len(failed)


@pytest.mark.parametrize("error", [MemoryError, OSError, torch.OutOfMemoryError, torch.AcceleratorError])
def test_what_the_machine_lacks_is_no_fault_of_a_video(
    error: type[Exception], manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(watch: CountWatch, samples: Sequence[TimedSample]) -> list[Finding]:
        raise error("nothing left")

    monkeypatch.setattr(CountWatch, "look", look)
    with pytest.raises(error, match="nothing left"):
        extract(manifest, tmp_path / "s", [Count()], weights="random")
    assert summarize(tmp_path / "s").experts["count"].pending == 6


def test_failed_videos_are_done_again_and_the_others_keep_their_records(tmp_path: Path) -> None:
    for number in range(3):
        write_video(tmp_path / f"{number}.mp4", 1.5, number)
    rows = [Video(str(number), str(tmp_path / f"{number}.mp4")) for number in range(3)]
    write_rows(tmp_path / "m.jsonl", rows)
    whole = (tmp_path / "1.mp4").read_bytes()
    (tmp_path / "1.mp4").write_bytes(b"")
    extract(tmp_path / "m.jsonl", tmp_path / "s", [Count()], weights="random")
    before = FeatureStore(tmp_path / "s")["count"].records("2")
    (tmp_path / "1.mp4").write_bytes(whole)
    summary = extract(tmp_path / "m.jsonl", tmp_path / "s", [Count()], weights="random", retry_failed=True)
    reader = FeatureStore(tmp_path / "s")["count"]
    assert summary.statuses == {"ok": 1}
    assert reader.records("2") == before and len(reader.records("1")) == len(before)
    assert summarize(tmp_path / "s").decodes == 4, "three videos, and one of them again"
    assert summary.videos == 1 and summary.rows == {"count": len(before)}


def test_status_counts_one_decode_a_video_however_many_experts(manifest: Path, tmp_path: Path) -> None:
    experts = [Count(), *quick_experts(), *find_experts(["vggish"])]
    extract(manifest, tmp_path / "s", experts, weights="random", shard_videos=4)
    assert summarize(tmp_path / "s").decodes == 6
    extract(manifest, tmp_path / "s", find_experts(["timm:test_vit"]), weights="random")
    assert summarize(tmp_path / "s").decodes == 12


def test_all_seven_experts_of_mmt_run_in_one_decode(tmp_path: Path) -> None:
    """With cheap stand-ins for the two networks that take half a minute here."""
    write_video(tmp_path / "sound.mp4", 1.2, 0)
    write_video(tmp_path / "silent.mp4", 1.2, 1, sound=False)
    write_rows(tmp_path / "m.jsonl", [Video(name, str(tmp_path / f"{name}.mp4")) for name in ("sound", "silent")])
    experts = [EXPERTS[name] for name in ("vggish", "ocr", "face", "speech")] + quick_experts()
    extract(tmp_path / "m.jsonl", tmp_path / "s", experts, weights="random")
    store = FeatureStore(tmp_path / "s")
    summary = summarize(tmp_path / "s")
    assert summary.decodes == 2
    assert all(expert.failed == expert.pending == 0 for expert in summary.experts.values())
    assert store["speech"].status("silent").status == store["vggish"].status("silent").status == "no_stream"
    assert store["ocr"].status("sound").status == "ok" and store["face"].records("sound") == []
    assert len(store["speech"].records("sound")) == store["speech"].status("sound").rows > 0
    assert store.experts["speech"].identity["preprocessing"]["words"]["vectors"] == "hashed character n-grams"


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spoken")
    for number in range(3):
        write_video(folder / f"{number}.mp4", 1.0, number, sound=number != 1)
    write_rows(folder / "m.jsonl", [Video(str(number), str(folder / f"{number}.mp4")) for number in range(3)])
    extract(folder / "m.jsonl", folder / "s", find_experts(["speech"]), weights="random", shard_videos=2)
    return folder


def test_texts_get_new_vectors_without_the_videos(spoken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELCACHE_CACHE", str(spoken / "cache"))
    store = FeatureStore(spoken / "s")
    words = {record["text"] for video in store["speech"] for record in store["speech"].records(video)}
    (spoken / "glove.txt").write_text("".join(f"{word} 1 2 {number}\n" for number, word in enumerate(sorted(words))))
    name, rows = embed_text(spoken / "s", "speech", str(spoken / "glove.txt"))
    assert (name, rows) == ("speech_glove", sum(store["speech"].status(video).rows for video in store["speech"]))
    store = FeatureStore(spoken / "s")
    for video in store["speech"]:
        assert store[name].records(video) == store["speech"].records(video)
        assert store[name].status(video) == store["speech"].status(video)
        assert (store[name].read(video).values[:, :2] == [1, 2]).all()
        np.testing.assert_array_equal(store[name].read(video).times, store["speech"].read(video).times)
    assert verify(spoken / "s").damaged == ()
    assert embed_text(spoken / "s", "speech", str(spoken / "glove.txt")) == (name, 0), "all is done"
    # an extraction with that file is the same expert, so it would go on with it
    options = {"speech": {"words": str(spoken / "glove.txt")}}
    summary = extract(
        spoken / "m.jsonl", spoken / "s", find_experts(["speech"], options), weights="random", names={"speech": name}
    )
    assert summary.videos == 0


def test_vectors_made_anew_are_those_of_the_extraction(spoken: Path) -> None:
    embed_text(spoken / "s", "speech", name="again")
    store = FeatureStore(spoken / "s")
    for video in store["speech"]:
        np.testing.assert_array_equal(store["again"].read(video).values, store["speech"].read(video).values)
    assert not isinstance(diff_stores(spoken / "s", spoken / "s")["again"], str)


def test_videos_that_were_mended_get_new_vectors_too(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", 1.0, 0)
    whole = (tmp_path / "good.mp4").read_bytes()
    (tmp_path / "bad.mp4").write_bytes(b"")
    write_rows(tmp_path / "m.jsonl", [Video(name, str(tmp_path / f"{name}.mp4")) for name in ("good", "bad")])
    settings: dict[str, Any] = {"experts": find_experts(["speech"]), "weights": "random"}
    extract(tmp_path / "m.jsonl", tmp_path / "s", **settings)
    embed_text(tmp_path / "s", "speech", name="variant")
    (tmp_path / "bad.mp4").write_bytes(whole)
    extract(tmp_path / "m.jsonl", tmp_path / "s", retry_failed=True, **settings)
    embed_text(tmp_path / "s", "speech", name="variant")
    store = FeatureStore(tmp_path / "s")
    assert store["variant"].status("bad").status == "ok"
    assert store["variant"].records("bad") == store["speech"].records("bad") != []


def test_only_experts_with_texts_get_new_vectors(manifest: Path, tmp_path: Path) -> None:
    extract(manifest, tmp_path / "s", [Count()], weights="random")
    with pytest.raises(StoreError, match="count has no texts"):
        embed_text(tmp_path / "s", "count")
