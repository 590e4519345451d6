"""Extraction: a manifest and a list of experts become a store, shard by shard, resumably."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from data_manifests import Manifest
from extractors import Expert, find_experts
from feature_store import ShardPlan, StoreWriter
from feature_store.layout import COMPLETE, node_name, shard_name
from feature_store.leases import Leases, new_holder
from feature_store.places import RUN, LocalPlace, is_url
from feature_store.writer import DTYPES, NoMetadata, complete_shards, read_plan
from pipeline.engine import PRECISIONS
from pipeline.errors import ExtractError
from pipeline.executors import Hands, in_this_process, watched_over
from pipeline.meter import Meter
from pipeline.run_log import Listener, RunLog
from pipeline.sampling import DECODERS
from pipeline.work import Outcome, Work
from pipeline.worker import Job

__all__ = ["ExtractError", "Summary", "extract"]

SHARD_VIDEOS = 64
TIME_LIMIT = 600.0  # seconds a video
LOG = "log.jsonl"
READERS = 16  # records read at once

Show = Callable[[Meter, int, int, int], AbstractContextManager[Any]]


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
    decoders: int  # videos decoded at once, over all processes
    processes: int  # that did the work
    deaths: int  # of processes that did the work, each gone on from
    elsewhere: int  # shards that other runs wrote meanwhile

    @property
    def rate(self) -> float:
        """Seconds of video a second."""
        return self.video_seconds / self.seconds if self.seconds else 0.0

    @property
    def decode_ceiling(self) -> float:
        """Seconds of video a second if nothing but decoding took time."""
        return self.video_seconds * self.decoders / self.decoding if self.decoding else float("inf")

    @property
    def model_ceiling(self) -> float:
        """Seconds of video a second if nothing but the networks took time."""
        return self.video_seconds * self.processes / self.computing if self.computing else float("inf")


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
    decoders: int | None = None,
    batch_size: int | None = None,
    decoder: str = "av",
    names: Mapping[str, str] | None = None,
    retry_failed: bool = False,
    time_limit: float = TIME_LIMIT,
    memory_limit: float | None = None,
    watched: bool = False,
    workers: int | None = None,
    scheduler: str | None = None,
    log: str | Path | None = None,
    show: Show | None = None,
    listener: Listener | None = None,
) -> Summary:
    """Extract features of all experts from every video of a manifest into a store, in one decode a video.

    Shards that are complete are left alone, so the same call resumes an interrupted run, a longer
    manifest adds its new videos, and more experts are added to an existing store. Runs at the same time
    on one store share its shards. The first Ctrl-C lets shards in flight be finished, the second stops.

    Args:
        store: a folder, or a URL in an object store, e.g. s3://bucket/corpus.zarr.
        experts: names (see `extractors.EXPERTS`; "timm:<model>" for any timm model) or configured experts.
        weights: "pretrained", "random", or a folder of weights; `seed` is that of random ones.
        device: "auto", "cpu", "cuda" or "cuda:<n>".
        precision: "fp32", "bf16" or "fp16", in which the networks compute.
        dtype: "float16" or "float32", in which features are stored.
        shard_videos: videos a shard, for videos not yet planned in the store.
        decoders: videos decoded at once by each process; by default what the machine bears.
        batch_size: samples a batch, for all experts; by default by device and kind of sample.
        decoder: "av", "decord" or "torchcodec".
        names: under which name to store an expert, where not its own: {"s3d": "s3d_fast"}.
        retry_failed: do the videos again that failed before, and nothing else of their shards.
        time_limit: seconds that a video may take beyond ten times its length, before it is given up.
        memory_limit: GB that each watched process may take, before the video that takes them is given up;
            by default nine tenths of what the machine or its container has, shared among `workers`.
        watched: work in a process of its own, which may crash or hang at a video without ending the run.
        workers: begin a Dask cluster of so many processes here, each watched; GPUs are dealt out to them.
        scheduler: join the Dask cluster at this address, e.g. "tcp://10.0.0.1:8786", instead.
        log: a file for the run's log, JSON Lines; by default .run/log.jsonl in a store on a local disk.
        show: a function of (Meter, shards to do, videos to do, decoders) that returns a context manager
            which shows progress while it is open.
        listener: is called with every event of the log.

    Raises:
        ExpertError, WeightsError, ManifestError, StoreError, ExtractError: before any work is done,
            each saying what to change. OSError if the disk gives out, WorkerLost if processes die again
            and again, KeyboardInterrupt after Ctrl-C; what is complete stays.
    """
    _check(precision, dtype, decoder, time_limit, memory_limit, workers, scheduler, seed)
    _check_positive(shard_videos=shard_videos, decoders=decoders, batch_size=batch_size, workers=workers)
    manifest = manifest if isinstance(manifest, Manifest) else Manifest(manifest)
    named = _named(experts, names or {})
    run = secrets.token_hex(4)
    job = Job(
        run=run,
        store=str(store) if is_url(str(store)) else os.path.abspath(store),  # wherever a worker is
        experts=named,
        weights=weights if weights in ("pretrained", "random") else os.path.abspath(weights),
        seed=seed,
        device=device,
        precision=precision,
        dtype=dtype,
        shard_videos=shard_videos,
        decoders=decoders,
        batch_size=batch_size,
        decoder=decoder,
        retry_failed=retry_failed,
        time_limit=time_limit,
        memory_limit=memory_limit,
    )
    meter, began = Meter(), time.perf_counter()
    with StoreWriter(store) as writer, ExitStack() as stack:
        events = RunLog(run, listener)
        hands, dashboard = stack.enter_context(_hands(job, meter, watched, workers, scheduler, events.tell))
        plan = _plan(writer, manifest, shard_videos, hands.ready.experts)
        todo = _unfinished(writer, plan, [name for name, _ in named], retry_failed)
        account = Account(events, meter)
        work = Work(manifest, plan, todo, account.heard)
        if todo:
            events.path = _log(writer, log)
            settings = {"weights": weights, "device": device, "decoders": hands.ready.decoders, "workers": workers or 1}
            events.tell(
                "run_started", store=str(store), manifest=str(manifest.path), experts=[name for name, _ in named],
                shards=len(todo), videos=work.videos, dashboard=dashboard, **settings,
            )  # fmt: skip
            _run(hands, work, account, show, meter)
    if work.left:
        raise KeyboardInterrupt
    tally = meter.tally
    return Summary(
        videos=tally.videos,
        shards=tally.shards,
        shards_before=len(plan) - len(todo),
        rows=dict(tally.rows),
        statuses=dict(tally.statuses),
        reasons=dict(tally.reasons),
        seconds=time.perf_counter() - began,
        video_seconds=tally.video_seconds,
        decoding=tally.decoding.alone,
        computing=tally.computing.alone,
        writing=tally.writing.alone,
        decoders=hands.ready.decoders,
        processes=hands.ready.processes,
        deaths=account.deaths,
        elsewhere=account.elsewhere,
    )


class Account:
    """Notes what comes of shards."""

    def __init__(self, log: RunLog, meter: Meter) -> None:
        self.log, self._meter = log, meter
        self.deaths = self.elsewhere = 0
        self._held: dict[int, str] = {}  # shards and by whom, as was told

    def heard(self, outcome: Outcome) -> None:
        self.deaths += len(outcome.deaths)
        self.elsewhere += outcome.state == "complete"
        if outcome.tally:  # whatever came of the shard
            self._meter.add(outcome.tally)
        if outcome.state == "held":
            known = self._held.get(outcome.shard) == outcome.by
            self._held[outcome.shard] = outcome.by
            if known and not outcome.deaths:
                return
        self.log.outcome(outcome)


def _run(hands: Hands, work: Work, account: Account, show: Show | None, meter: Meter) -> None:
    """Do the work, or as much of it as Ctrl-C leaves, with what is told of its beginning and end."""
    shards = work.left
    try:
        with (
            show(meter, shards, work.videos, hands.ready.decoders) if show else nullcontext(),
            _draining(work, lambda: account.log.tell("stopping", shards_left=work.left)),
        ):
            hands.run(work)
    except BaseException as error:
        reason = str(error) or type(error).__name__
        with suppress(OSError):  # of a full disk, perhaps, which is then the reason
            account.log.tell("run_failed", shards_left=work.left, reason=reason)
        raise
    if work.left:
        account.log.tell("run_stopped", shards_left=work.left)
        return
    tally = meter.tally
    account.log.tell(
        "run_ended", shards=tally.shards, videos=tally.videos, statuses=dict(tally.statuses), rows=dict(tally.rows)
    )


@contextmanager
def _draining(work: Work, told: Callable[[], None]) -> Iterator[None]:
    """Within, the first Ctrl-C or SIGTERM has no more shards begun; the second one raises KeyboardInterrupt.

    SIGTERM is how Slurm, Kubernetes and `docker stop` announce that they will kill.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    drained = False

    def stop(number: int, frame: Any) -> None:
        nonlocal drained
        if drained:
            raise KeyboardInterrupt
        drained = True
        work.drain()
        told()

    before = {each: signal.signal(each, stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextmanager
def _hands(
    job: Job, meter: Meter, watched: bool, workers: int | None, scheduler: str | None, tell: Callable[..., None]
) -> Iterator[tuple[Hands, str | None]]:
    """Who is to do the work, and the address of a page that shows it, if there is one."""
    if workers or scheduler:
        from pipeline.cluster import on_cluster  # and with it Dask

        with on_cluster(job, workers, scheduler, tell) as (cluster, dashboard):
            yield cluster, dashboard
    else:
        with (watched_over if watched else in_this_process)(job, meter) as hands:
            yield hands, None


def _plan(
    writer: StoreWriter,
    manifest: Manifest,
    shard_videos: int,
    experts: Mapping[str, tuple[dict[str, Any], dict[str, Any]]],
) -> ShardPlan:
    """The shards of the corpus, and the experts in the store. Runs that begin at once agree on both."""

    def prepare() -> ShardPlan:
        plan = writer.plan(len(manifest), shard_videos, manifest.digest)
        for name, (made_of, about) in experts.items():
            writer.add_expert(name, made_of, about)
        return plan

    if _planned(writer) >= len(manifest) and set(map(node_name, experts)) <= set(writer.place.children()):
        return prepare()  # which checks what is there, and writes nothing
    leases = Leases(writer.place, new_holder())
    leases.beat()
    try:
        with leases.held("plan"):
            return prepare()
    finally:
        leases.leave()


def _planned(writer: StoreWriter) -> int:
    """How many videos are in the store's plan."""
    try:
        return read_plan(writer.place).videos
    except NoMetadata:
        return 0


def _unfinished(writer: StoreWriter, plan: ShardPlan, experts: Sequence[str], retry_failed: bool) -> list[int]:
    """The shards with something to do, told by what is there; whether that is sound only `verify` sees."""
    done = [{shard for shard, _ in complete_shards(writer.place, node_name(expert))} for expert in experts]
    complete = set.intersection(*done)
    if retry_failed:
        shards = sorted(complete)
        with ThreadPoolExecutor(READERS) as pool:
            failed = pool.map(lambda shard: any(_has_failed(writer, expert, shard) for expert in experts), shards)
            complete -= {shard for shard, has in zip(shards, failed, strict=True) if has}
    return [shard for shard in range(len(plan)) if shard not in complete]


def _has_failed(writer: StoreWriter, expert: str, shard: int) -> bool:
    """Whether a video of a shard failed, or its record cannot be read."""
    name = f"{node_name(expert)}/{shard_name(shard)}/{COMPLETE}"
    try:
        return any(video["status"] == "failed" for video in from_json(writer.place.read(name))["videos"])
    except (ValueError, KeyError, TypeError):
        return True


def _log(writer: StoreWriter, log: str | Path | None) -> Path | None:
    if log is not None:
        return Path(log)
    return writer.place.root / RUN / LOG if isinstance(writer.place, LocalPlace) else None


def _named(experts: Sequence[str | Expert], names: Mapping[str, str]) -> tuple[tuple[str, Expert], ...]:
    """The experts, each with the name to store it by."""
    chosen = [find_experts([expert])[0] if isinstance(expert, str) else expert for expert in experts]
    stored = [names.get(expert.name, expert.name) for expert in chosen]
    if len(set(stored)) < len(stored) or not stored:
        raise ExtractError(f"experts must be named, and each once: {', '.join(stored) or 'none given'}")
    for name in stored:
        node_name(name)  # raises StoreError for one that no folder can have
    return tuple(zip(stored, chosen, strict=True))


def _check(
    precision: str,
    dtype: str,
    decoder: str,
    time_limit: float,
    memory_limit: float | None,
    workers: int | None,
    scheduler: str | None,
    seed: int,
) -> None:
    for setting, value, choice in (
        ("precision", precision, tuple(PRECISIONS)),
        ("dtype", dtype, DTYPES),
        ("decoder", decoder, DECODERS),
    ):
        if value not in choice:
            raise ExtractError(f"{setting} {value!r}: must be one of {', '.join(choice)}")
    if not time_limit > 0:
        raise ExtractError(f"time_limit {time_limit}: must be more than 0 seconds")
    if memory_limit is not None and not memory_limit > 0:
        raise ExtractError(f"memory_limit {memory_limit}: must be more than 0 GB")
    if not -(1 << 63) <= seed < 1 << 64:
        raise ExtractError(f"seed {seed}: must be a number of 64 bits")
    if scheduler == "":
        raise ExtractError("scheduler is empty: name its address, e.g. tcp://10.0.0.1:8786, or leave it out")
    if workers and scheduler:
        raise ExtractError("workers begins a cluster, and scheduler joins one: say which of the two")


def _check_positive(**settings: int | None) -> None:
    for setting, number in settings.items():
        if number is not None and number < 1:
            raise ExtractError(f"{setting} {number}: must be at least 1")
