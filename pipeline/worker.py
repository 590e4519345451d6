"""What one process does of a run: it loads the networks, and does the shards that it is given."""

from __future__ import annotations

import platform
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import torch

from extractors import Clips, Expert, Finder, Loaded, Sampling, identity, load_expert
from feature_store import ExpertWriter, ShardRecord, ShardWriter, StoreWriter, VideoStatus
from feature_store.layout import shard_name
from feature_store.leases import BEAT, Leases, new_holder
from pipeline.backends import check_decoder
from pipeline.engine import Engine, RunningExpert
from pipeline.errors import ExtractError
from pipeline.fetching import sweep
from pipeline.flights import Flights
from pipeline.messages import Ready
from pipeline.meter import Meter, Tally, tally_of
from pipeline.reach import check_folders
from pipeline.shards import ShardTask
from pipeline.tuning import usable_cores
from pipeline.work import Assignment, Fault, Outcome

CPU_BATCH, CPU_CLIPS = 16, 2  # as fast as larger ones on a CPU, and less is computed in vain at a shard's end
GPU_BATCH, GPU_CLIPS = 128, 16
CLEAR = 30  # beats between looks for what the dead have left
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


@dataclass(frozen=True)
class Job:
    """All that a process must know of a run, wherever it is. The fields are those of `pipeline.extract`.

    `sharers` processes share this one's machine; this is the one with number `lane`, which decides its GPU.
    """

    run: str  # what tells it from other runs
    store: str
    experts: tuple[tuple[str, Expert], ...]  # each with the name that it is stored by
    weights: str
    seed: int
    device: str
    precision: str
    dtype: str
    shard_videos: int
    decoders: int | None
    batch_size: int | None
    decoder: str
    retry_failed: bool
    time_limit: float  # seconds
    memory_limit: float | None  # GB
    sharers: int = 1
    lane: int = 0
    alone: bool = False  # one video at a time is decoded, and its rows are out before the next


class Worker:
    """The networks of a job, loaded.

    Raises ExpertError, WeightsError or ExtractError if they cannot be; DecoderMissing if the job's decoder cannot.
    """

    def __init__(self, job: Job, meter: Meter, flights: Flights) -> None:
        self.job, self.meter = job, meter
        self._flights = flights
        check_decoder(job.decoder)
        self._device = _device(job)
        self._cores = max(1, usable_cores() // job.sharers)
        loaded = {name: load_expert(expert, job.weights, job.seed) for name, expert in job.experts}
        self.ready = Ready(
            1 if job.alone else job.decoders or default_decoders(self._device, self._cores),
            {
                name: (provenance(expert, loaded[name], job.precision, job.dtype), _about(expert))
                for name, expert in job.experts
            },
        )
        self._running = [
            RunningExpert(
                name,
                expert.samples,
                loaded[name].network.to(self._device),
                job.batch_size or _batch(expert.samples, self._device),
            )
            for name, expert in job.experts
        ]

    def run(self, assignments: Iterable[Assignment | None], tell: Callable[[Outcome], None]) -> None:
        """Do the shards that are assigned and not yet done, and tell what came of each."""
        holder = new_holder()
        sweep()
        with StoreWriter(self.job.store, holder) as store:
            part = Part(self, store, Leases(store.place, holder), tell)
            engine = Engine(
                self._running,
                device=self._device,
                precision=self.job.precision,
                decoders=self.ready.decoders,
                decoder=self.job.decoder,
                one_by_one=self.job.alone,
                finish=part.finish,
                meter=self.meter,
                flights=self._flights,
            )
            with part.present(), torch_settings(self._device, self._cores, self.ready.decoders):
                engine.run(part.tasks(assignments))

    def run_info(self) -> dict[str, Any]:
        """What a shard's record says of the run, for people."""
        return {
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "host": socket.gethostname(),
            "device": self.device_name,
            "decoder": self.job.decoder,
        }

    @property
    def device_name(self) -> str:
        return torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"

    def at_hand(self) -> list[tuple[str, str, float]]:
        """The videos that threads are at: shard, id, and seconds of work."""
        return [(shard_name(at.shard), at.video, round(at.work, 1)) for at in self._flights.now()]


class Part:
    """A worker's part in the work on a store: shards are taken, done, and given back."""

    def __init__(self, worker: Worker, store: StoreWriter, leases: Leases, tell: Callable[[Outcome], None]) -> None:
        self._worker, self._store, self._leases, self._tell = worker, store, leases, tell
        self._experts: list[ExpertWriter] = []
        self._taken: set[int] = set()
        self._done = Tally()
        self._began = time.monotonic()
        self._ended = threading.Event()

    @contextmanager
    def present(self) -> Iterator[None]:
        """Within, others on the store see that this process is alive, once it has something to do."""
        beating = threading.Thread(target=self._beat, daemon=True)
        beating.start()
        try:
            yield
        finally:
            self._ended.set()
            beating.join()
            if self._experts:
                with suppress(OSError):  # a disk that gave out is told of already; others find us dead
                    for shard in list(self._taken):
                        self._leases.release(shard_name(shard))
                    self._leases.leave()

    def tasks(self, assignments: Iterable[Assignment | None]) -> Iterator[ShardTask | None]:
        """What of the assignments is to be done here; what is not is told of at once."""
        for assignment in assignments:
            if assignment is None:
                yield None
                continue
            if not self._experts:
                self._leases.beat(self._about())
                self._leases.clear()
                with self._leases.held("plan"):
                    experts = self._worker.ready.experts.items()
                    self._experts = [self._store.add_expert(name, *about) for name, about in experts]
            holder = self._leases.take(shard_name(assignment.shard))
            if holder is not None:
                self._tell(Outcome(assignment.shard, "held", holder))
                continue
            self._taken.add(assignment.shard)
            task = self._task(assignment)
            if task is None:
                self._give_back(assignment.shard)
                self._tell(Outcome(assignment.shard, "complete"))
            else:
                yield task

    def finish(self, task: ShardTask) -> None:
        """Write a shard of which all is there, unless another process has taken it meanwhile."""
        name = shard_name(task.shard)
        if not self._leases.holds(name):
            task.give_up()
            self._taken.discard(task.shard)
            self._tell(Outcome(task.shard, "held", "another process, while this one stood still"))
            return
        if task.missing_files:
            check_folders(task.videos)  # before the failures are for good
        videos = task.finish(self._worker.run_info())
        tally = tally_of(videos)
        self._worker.meter.add(tally)
        self._done.add(tally)
        self._give_back(task.shard)
        faults = tuple(
            Fault(video.id, expert, video.status, video.stage, video.reason)
            for by_expert in videos
            for expert, video in by_expert.items()
            if video.status in ("failed", "truncated")
        )
        self._tell(Outcome(task.shard, "written", self._leases.holder, tally.videos, dict(tally.rows), faults))

    def _task(self, assignment: Assignment) -> ShardTask | None:
        """What is missing of a shard; None if nothing is."""
        writers: dict[str, ShardWriter] = {}
        kept: dict[tuple[str, int], VideoStatus] = {}
        earlier: dict[str, list[dict[str, Any]]] = {}
        for expert in self._experts:
            record = expert.complete(assignment.shard)
            if record is None:
                writers[expert.name] = expert.begin(assignment.shard)
            elif self._worker.job.retry_failed and (failed := failed_videos(record)):
                writers[expert.name] = expert.redo(record, failed)
                videos = enumerate(record.videos)
                kept |= {(expert.name, number): video for number, video in videos if number not in failed}
                earlier[expert.name] = record.run.get("passes", [])
        if not writers:
            return None
        check_folders(assignment.videos)
        return ShardTask(assignment.shard, assignment.videos, writers, kept, earlier, assignment.left_out)

    def _give_back(self, shard: int) -> None:
        self._leases.release(shard_name(shard))
        self._taken.discard(shard)

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(BEAT):
            if self._experts:
                beats += 1
                # A beat that cannot be written ends nothing: whoever then takes us for dead does our shards, and
                # before any of them is written we look whether it is still ours.
                with suppress(OSError):
                    self._leases.beat(self._about())
                    if beats % CLEAR == 0:
                        self._leases.clear()

    def _about(self) -> dict[str, Any]:
        return {
            "run": self._worker.job.run,
            "device": self._worker.device_name,
            "shards": sorted(self._taken),
            "at": self._worker.at_hand(),
            "videos": self._done.videos,
            "video_seconds": self._done.video_seconds,
            "failed": self._done.statuses["failed"],
            "rate": self._done.video_seconds / max(1e-9, time.monotonic() - self._began),
        }


def failed_videos(record: ShardRecord) -> set[int]:
    """The numbers of the videos in a shard that failed."""
    return {number for number, video in enumerate(record.videos) if video.status == "failed"}


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


def default_decoders(device: torch.device, cores: int) -> int:
    """Videos decoded at once: on a GPU box decoding is what takes the time, on a CPU the networks."""
    return max(1, cores - 1) if device.type == "cuda" else max(1, cores // 4)


@contextmanager
def torch_settings(device: torch.device, cores: int, decoders: int) -> Iterator[None]:
    """Within, torch computes with the cores that decoding leaves, but no fewer than two, and exactly.

    With a single thread torch gives up oneDNN for the separable convolutions of video networks, which
    makes them three times slower than with two; and on a CPU decoding is idle most of the time.
    """
    threads, tf32 = torch.get_num_threads(), torch.backends.cudnn.allow_tf32
    torch.set_num_threads(max(min(2, usable_cores()), cores - decoders) if device.type == "cpu" else 1)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.allow_tf32 = tf32


def _device(job: Job) -> torch.device:
    """Processes that share a machine each take a GPU of their own, as far as there are."""
    found = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(found if job.device == "auto" else job.device)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ExtractError(f"device {job.device!r}: must be auto, cpu, cuda or cuda:<number>")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ExtractError(f"device {job.device!r}: torch sees no CUDA device here; use cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ExtractError(f"device {job.device!r}: torch sees {torch.cuda.device_count()} CUDA devices here")
    if device.type == "cuda" and device.index is None and job.sharers > 1:
        return torch.device("cuda", job.lane % torch.cuda.device_count())
    return device


def _batch(samples: Sampling, device: torch.device) -> int:
    if device.type == "cuda":
        return GPU_CLIPS if isinstance(samples, Clips) else GPU_BATCH
    return CPU_CLIPS if isinstance(samples, Clips) else CPU_BATCH


def _about(expert: Expert) -> dict[str, Any]:
    packages = {package: version(package) for package in PACKAGES}
    return {"weights": asdict(expert.weights), "packages": packages, "python": platform.python_version()}
