"""Extraction: a manifest and a list of experts become a store, shard by shard, resumably."""

from __future__ import annotations

import os
import platform
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from data_manifests import Manifest
from extractors import Clips, Expert, Finder, Loaded, Sampling, find_experts, identity, load_expert
from feature_store import ExpertWriter, ShardPlan, ShardRecord, ShardWriter, StoreWriter, VideoStatus
from feature_store.layout import COMPLETE, shard_name
from feature_store.writer import DTYPES
from pipeline.engine import PRECISIONS, Engine, Meter, RunningExpert
from pipeline.sampling import DECODERS
from pipeline.shards import ShardTask

SHARD_VIDEOS = 64
CPU_BATCH, CPU_CLIPS = 16, 2  # as fast as larger ones on a CPU, and less is computed in vain at a shard's end
GPU_BATCH, GPU_CLIPS = 128, 16
PACKAGES = (
    "av",
    "easyocr",
    "facenet-pytorch",
    "gensim",
    "numpy",
    "opencv-python-headless",
    "pillow",
    "pytorchvideo",
    "timm",
    "torch",
    "torchaudio",
    "torchvision",
    "zarr",
)


class ExtractError(ValueError):
    """Settings that cannot be used; the message names the setting and what it may be."""


@dataclass(frozen=True)
class Summary:
    """What a run did. Times in seconds; `video_seconds` is how much video became features."""

    videos: int
    shards: int
    shards_before: int  # were complete already
    rows: Mapping[str, int]
    statuses: Mapping[str, int]  # ok, truncated, failed: of videos, each by its worst expert
    reasons: Mapping[str, int]
    seconds: float
    video_seconds: float
    decoding: float  # what it took, over all workers, without neighbours on the processor
    computing: float  # the same of the networks
    writing: float
    workers: int

    @property
    def rate(self) -> float:
        """Seconds of video a second."""
        return self.video_seconds / self.seconds if self.seconds else 0.0

    @property
    def decode_ceiling(self) -> float:
        """Seconds of video a second if nothing but decoding took time."""
        return self.video_seconds * self.workers / self.decoding if self.decoding else float("inf")

    @property
    def model_ceiling(self) -> float:
        """Seconds of video a second if nothing but the networks took time."""
        return self.video_seconds / self.computing if self.computing else float("inf")


def extract(
    manifest: str | Path | Manifest,
    store: str | Path,
    experts: Sequence[str | Expert],
    *,
    weights: str = "pretrained",
    seed: int = 0,
    device: str = "auto",
    precision: str = "fp32",
    dtype: str = "float16",
    shard_videos: int = SHARD_VIDEOS,
    workers: int | None = None,
    batch_size: int | None = None,
    decoder: str = "av",
    names: Mapping[str, str] | None = None,
    retry_failed: bool = False,
    show: Any = None,
) -> Summary:
    """Extract features of all experts from every video of a manifest into a store, in one decode a video.

    Shards that are complete are left alone, so the same call resumes an interrupted run, a longer
    manifest adds its new videos, and more experts are added to an existing store.

    Args:
        experts: names (see `extractors.EXPERTS`; "timm:<model>" for any timm model) or configured experts.
        weights: "pretrained", "random", or a folder of weights; `seed` is that of random ones.
        device: "auto", "cpu", "cuda" or "cuda:<n>".
        precision: "fp32", "bf16" or "fp16", in which the networks compute.
        dtype: "float16" or "float32", in which features are stored.
        shard_videos: videos a shard, for videos not yet planned in the store.
        workers: videos decoded at once; by default what the machine bears.
        batch_size: samples a batch, for all experts; by default by device and kind of sample.
        decoder: "av", "decord" or "torchcodec".
        names: under which name to store an expert, where not its own: {"s3d": "s3d_fast"}.
        retry_failed: do the videos again that failed before, and nothing else of their shards.
        show: a function of (Meter, shards to do, videos to do, workers) that returns a context manager
            which shows progress while it is open.

    Raises:
        ExpertError, WeightsError, ManifestError, StoreError, ExtractError: before any work is done,
            each saying what to change. OSError if the disk gives out; what is complete stays.
    """
    _check(precision, dtype, decoder, shard_videos, workers, batch_size)
    target = _device(device)
    manifest = manifest if isinstance(manifest, Manifest) else Manifest(manifest)
    chosen = [find_experts([expert])[0] if isinstance(expert, str) else expert for expert in experts]
    stored = [(names or {}).get(expert.name, expert.name) for expert in chosen]
    if len(set(stored)) < len(stored) or not stored:
        raise ExtractError(f"experts must be named, and each once: {', '.join(stored) or 'none given'}")

    writer = StoreWriter(store)
    loaded = [load_expert(expert, weights, seed) for expert in chosen]
    plan = writer.plan(len(manifest), shard_videos, manifest.digest)
    targets = [
        writer.add_expert(name, provenance(expert, network, precision, dtype), _about(expert))
        for name, expert, network in zip(stored, chosen, loaded, strict=True)
    ]
    running = [
        RunningExpert(name, expert.samples, network.network.to(target), batch_size or _batch(expert.samples, target))
        for name, expert, network in zip(stored, chosen, loaded, strict=True)
    ]
    cores = os.cpu_count() or 1
    workers = workers or default_workers(target, cores)
    before = _complete_shards(plan, targets, retry_failed)
    todo = [plan.bounds(shard) for shard in range(len(plan)) if shard not in before]
    meter = Meter()
    engine = Engine(
        running,
        device=target,
        precision=precision,
        workers=workers,
        decoder=decoder,
        run_info=_run_info(target, decoder),
        meter=meter,
    )
    began = time.perf_counter()
    showing: AbstractContextManager[Any] = nullcontext()
    if show is not None:
        showing = show(meter, len(todo), sum(stop - first for first, stop in todo), workers)
    with showing, _torch_settings(target, cores, workers):
        engine.run(_tasks(manifest, plan, targets, retry_failed))
    return Summary(
        videos=meter.videos,
        shards=meter.shards,
        shards_before=len(before),
        rows=dict(meter.rows),
        statuses=dict(meter.statuses),
        reasons=dict(meter.reasons),
        seconds=time.perf_counter() - began,
        video_seconds=meter.video_seconds,
        decoding=meter.decoding.alone,
        computing=meter.computing.alone,
        writing=meter.writing.alone,
        workers=workers,
    )


def provenance(expert: Expert, loaded: Loaded, precision: str, dtype: str) -> dict[str, Any]:
    """What decides an expert's features: runs may continue each other only if all of this is equal."""
    return {
        "kind": expert.kind,
        **identity(expert),
        "weights": {"source": loaded.source, "sha256": loaded.sha256},
        "precision": "fp32" if isinstance(loaded.network, Finder) else precision,
        **({"records": True} if isinstance(loaded.network, Finder) else {}),
        "dim": loaded.network.dim,
        "dtype": dtype,
    }


def default_workers(device: torch.device, cores: int) -> int:
    """Videos decoded at once: on a GPU box decoding is what takes the time, on a CPU the networks."""
    return max(1, cores - 1) if device.type == "cuda" else max(1, cores // 4)


def _tasks(
    manifest: Manifest, plan: ShardPlan, experts: Sequence[ExpertWriter], retry_failed: bool
) -> Iterator[ShardTask]:
    for shard in range(len(plan)):
        writers: dict[str, ShardWriter] = {}
        kept: dict[tuple[str, int], VideoStatus] = {}
        earlier: dict[str, list[dict[str, Any]]] = {}
        for expert in experts:
            record = expert.complete(shard)
            if record is None:
                writers[expert.name] = expert.begin(shard)
            elif retry_failed and (failed := _failed(record)):
                writers[expert.name] = expert.redo(record, failed)
                videos = enumerate(record.videos)
                kept |= {(expert.name, number): video for number, video in videos if number not in failed}
                earlier[expert.name] = record.run.get("passes", [])
        if writers:
            yield ShardTask(shard, list(manifest.read(*plan.bounds(shard))), writers, kept, earlier)


def _failed(record: ShardRecord) -> set[int]:
    return {number for number, video in enumerate(record.videos) if video.status == "failed"}


def _complete_shards(plan: ShardPlan, experts: Sequence[ExpertWriter], retry_failed: bool) -> set[int]:
    """Shards with nothing to do, told by what is there; whether it is sound is seen when they come up."""

    def done(expert: ExpertWriter, shard: int) -> bool:
        if not retry_failed:
            return (expert.folder / shard_name(shard) / COMPLETE).exists()
        record = expert.complete(shard)
        return record is not None and not _failed(record)

    return {shard for shard in range(len(plan)) if all(done(expert, shard) for expert in experts)}


def _check(
    precision: str, dtype: str, decoder: str, shard_videos: int, workers: int | None, batch_size: int | None
) -> None:
    for setting, value, choice in (
        ("precision", precision, tuple(PRECISIONS)),
        ("dtype", dtype, DTYPES),
        ("decoder", decoder, DECODERS),
    ):
        if value not in choice:
            raise ExtractError(f"{setting} {value!r}: must be one of {', '.join(choice)}")
    for setting, number in (("shard_videos", shard_videos), ("workers", workers), ("batch_size", batch_size)):
        if number is not None and number < 1:
            raise ExtractError(f"{setting} {number}: must be at least 1")


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ExtractError(f"device {name!r}: must be auto, cpu, cuda or cuda:<number>") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ExtractError(f"device {name!r}: torch sees no CUDA device here; use cpu")
    return device


def _batch(samples: Sampling, device: torch.device) -> int:
    if device.type == "cuda":
        return GPU_CLIPS if isinstance(samples, Clips) else GPU_BATCH
    return CPU_CLIPS if isinstance(samples, Clips) else CPU_BATCH


@contextmanager
def _torch_settings(device: torch.device, cores: int, workers: int) -> Iterator[None]:
    """Within, torch computes with the cores that decoding leaves, but no fewer than two, and exactly.

    With a single thread torch gives up oneDNN for the separable convolutions of video networks, which
    makes them three times slower than with two; and on a CPU decoding is idle most of the time.
    """
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(max(min(2, cores), cores - workers) if device.type == "cpu" else 1)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32


def _about(expert: Expert) -> dict[str, Any]:
    packages = {package: version(package) for package in PACKAGES}
    return {"weights": asdict(expert.weights), "packages": packages, "python": platform.python_version()}


def _run_info(device: torch.device, decoder: str) -> dict[str, Any]:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "device": name,
        "decoder": decoder,
    }
