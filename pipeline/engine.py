"""The stages of extraction, overlapped: decoding threads -> batches across videos -> network -> shard writer.

Queues are bounded by a number of samples, so memory does not grow with a video's length. Batches always
have their full size (the last one is filled up by repetition): a feature is then computed in the same
way whoever shares its batch, and a resumed run gives the bytes of an unbroken one.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from extractors import Finder, Finding, Network, Sampling, TimedSample, Watch
from feature_store import VideoStatus
from feature_store.places import is_url
from pipeline.flights import Flights, late_reason
from pipeline.meter import Meter
from pipeline.reach import check_reachable
from pipeline.sampling import Ended, Request, Sample, sample_video
from pipeline.shards import Rows, ShardTask

SHARDS_AHEAD = 3  # shards begun and not yet written, beside the one each decoding thread may be at
SAMPLES_WAITING = 8  # a decoding thread, between decoding and the network
BLOCKS_WAITING = 32  # batches of features, between the network and the writer
FETCHING = 3600.0  # seconds more that a video may take which is to be fetched first
POLL = 0.2  # seconds between looks at whether the run was stopped

T = TypeVar("T")

PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class RunningExpert:
    """An expert ready to run, under the name its features are stored by."""

    name: str
    samples: Sampling
    network: Network | Finder
    batch_size: int


@dataclass(frozen=True)
class Heard:
    """Something a decoding thread says of video `number` of a shard."""

    task: ShardTask
    number: int
    item: Sample | Ended


@dataclass
class Watched:
    """A video that a finder looks at: samples that wait to be looked at together, and the rows found so far."""

    watch: Watch
    waiting: list[TimedSample] = field(default_factory=list)
    rows: int = 0
    fault: str | None = None


class Stopped(Exception):
    """Raised inside stages when the run has ended for another reason."""


class Engine:
    """Runs shard tasks through the stages. `finish` is called, in the writing thread, with each that is ready.

    With `one_by_one` a video's rows are computed before its thread begins another one.
    """

    def __init__(
        self,
        experts: Sequence[RunningExpert],
        *,
        device: torch.device,
        precision: str,
        decoders: int,
        decoder: str,
        one_by_one: bool,
        finish: Callable[[ShardTask], None],
        meter: Meter,
        flights: Flights,
    ) -> None:
        self._experts = {expert.name: expert for expert in experts}
        self._device, self._autocast = device, PRECISIONS[precision]
        self._decoders, self._decoder, self._one_by_one = decoders, decoder, one_by_one
        self._finish, self._meter, self._flights = finish, meter, flights
        self._heard: queue.Queue[Heard | ShardTask | threading.Event | BaseException | None] = queue.Queue(
            decoders * SAMPLES_WAITING
        )
        self._to_write: queue.Queue[tuple[ShardTask, Rows] | ShardTask | None] = queue.Queue(BLOCKS_WAITING)
        self._stop = threading.Event()
        self._slots = threading.Semaphore(decoders + SHARDS_AHEAD)
        self._waiting: dict[str, list[Heard]] = {name: [] for name in self._experts}
        self._in_flight: deque[tuple[Tensor, list[Heard]]] = deque()
        self._watched: dict[tuple[str, ShardTask, int], Watched] = {}
        self._write_error: BaseException | None = None

    def run(self, tasks: Iterable[ShardTask | None]) -> None:
        """Do all tasks; None among them means that the next is not known yet.

        Raises the first error of any stage; shards written by then stay.
        """
        videos = Shared(self._videos(tasks))
        threads = [threading.Thread(target=self._decode, args=(videos,)) for _ in range(self._decoders)]
        threads.append(threading.Thread(target=self._write))
        for thread in threads:
            thread.start()
        try:
            self._compute()
            self._put(self._to_write, None)
            threads[-1].join()
        except Stopped:
            pass  # the writer failed; its error is raised below
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()
        if self._write_error:
            raise self._write_error

    # Decoding threads, one video at a time each.

    def _videos(self, tasks: Iterable[ShardTask | None]) -> Iterator[tuple[ShardTask, int]]:
        for task in tasks:
            if task is None:
                if self._stop.wait(POLL):
                    return
                continue
            while not self._slots.acquire(timeout=POLL):
                if self._stop.is_set():
                    return
            if task.ended:  # nothing of it is to be decoded
                self._put(self._heard, task)
            for number in range(len(task.videos)):
                if task.wanted(number):
                    yield task, number

    def _decode(self, videos: Shared[tuple[ShardTask, int]]) -> None:
        torch.set_num_threads(1)  # of this thread: frames are resized beside the networks, not against them
        try:
            for task, number in videos:
                self._decode_video(task, number)
            self._put(self._heard, None)
        except Stopped:
            pass  # whoever stopped the run tells why
        except BaseException as error:
            self._put_error(error)

    def _decode_video(self, task: ShardTask, number: int) -> None:
        video = task.videos[number]
        requests = {name: self._request(self._experts[name]) for name in task.wanted(number)}
        seconds = 0.0
        items = sample_video(video, requests, self._decoder)
        fetching = FETCHING if is_url(video.path) else 0.0
        with self._flights.at(task.shard, number, video.id, fetching) as flight, closing(items):
            while True:
                with flight.working(), self._meter.at_work("decoding"):
                    item = next(items, None)
                if item is None:
                    break
                if isinstance(item, Ended):
                    if item.status.status in ("failed", "truncated"):
                        check_reachable(video.path)
                    seconds = max(seconds, item.status.seconds)
                    requests.pop(item.expert)
                else:
                    flight.reached = item.end
                self._put(self._heard, Heard(task, number, item))
                if self._flights.late(flight):
                    break
            if self._one_by_one:
                self._await_rows()
        late = VideoStatus(video.id, "failed", stage="decode", reason=late_reason(self._flights.limit))
        for expert in requests:  # those that have not ended
            self._put(self._heard, Heard(task, number, Ended(expert, late)))
        self._meter.count_sampled(seconds)

    def _await_rows(self) -> None:
        out = threading.Event()
        self._put(self._heard, out)
        while not out.wait(POLL):
            if self._stop.is_set():
                raise Stopped

    def _request(self, expert: RunningExpert) -> Request:
        return Request(expert.samples, lambda frame: expert.network.prepare(frame, self._device))

    def _put_error(self, error: BaseException) -> None:
        with suppress(Stopped):  # if another error was first
            self._put(self._heard, error)

    # The networks, in the thread that called `run`.

    def _compute(self) -> None:
        working = self._decoders
        while working:
            heard = self._get(self._heard)
            if heard is None:
                working -= 1
            elif isinstance(heard, BaseException):
                raise heard
            elif isinstance(heard, ShardTask):
                self._complete(heard)
            elif isinstance(heard, threading.Event):
                self._flush(self._experts)
                heard.set()
            elif isinstance(heard.item, Ended):
                heard.task.end(heard.item.expert, heard.number, self._end(heard, heard.item))
                if heard.task.ended:
                    self._complete(heard.task)
            elif isinstance(self._experts[heard.item.expert].network, Finder):
                self._watch(heard, heard.item)
            else:
                waiting = self._waiting[heard.item.expert]
                waiting.append(heard)
                if len(waiting) == self._experts[heard.item.expert].batch_size:
                    self._forward(heard.item.expert)

    # Experts with a row a sample.

    def _forward(self, name: str) -> None:
        expert = self._experts[name]
        batch, self._waiting[name] = self._waiting[name], []
        data = [heard.item.data for heard in batch if isinstance(heard.item, Sample)]
        inputs = torch.stack(data + [data[-1]] * (expert.batch_size - len(data)))
        on_gpu = self._device.type != "cpu"
        with self._meter.at_work("computing", on_gpu), torch.inference_mode(), self._precision():
            if inputs.device.type != self._device.type:
                inputs = inputs.pin_memory().to(self._device, non_blocking=True)
            self._in_flight.append((expert.network(inputs), batch))
        # A GPU computes on while older features are fetched and newer samples gathered.
        self._deliver(leave=1 if on_gpu else 0)

    def _deliver(self, leave: int) -> None:
        while len(self._in_flight) > leave:
            features, batch = self._in_flight.popleft()
            with self._meter.at_work("computing", self._device.type != "cpu"):
                values = features[: len(batch)].cpu().numpy()
            for task, rows in _scatter(values, batch):
                self._put(self._to_write, (task, rows))

    # Experts that find things, which look at each video by itself.

    def _watch(self, heard: Heard, sample: Sample) -> None:
        finder = cast(Finder, self._experts[sample.expert].network)
        watched = self._watched.setdefault((sample.expert, heard.task, heard.number), Watched(finder.watch()))
        watched.waiting.append(TimedSample(sample.data, sample.start, sample.end))
        if len(watched.waiting) >= finder.group(sample.data):
            self._look(heard, sample.expert, watched)

    def _look(self, heard: Heard, expert: str, watched: Watched, finish: bool = False) -> None:
        """Look at what waits. What third parties' code stumbles over in one video is that video's fault.

        Not so what the machine lacks: that would fail every other video as well.
        """
        samples, watched.waiting = watched.waiting, []
        if watched.fault:
            return
        computing = self._meter.at_work("computing", self._device.type != "cpu")
        flight = self._flights.at(heard.task.shard, heard.number, heard.task.videos[heard.number].id)
        try:
            with flight as progress, progress.working(), computing, torch.inference_mode():
                found = watched.watch.look(samples) if samples else []
                if finish:
                    found += watched.watch.finish()
        except (torch.OutOfMemoryError, torch.AcceleratorError, MemoryError, OSError):
            raise
        except Exception as error:
            watched.fault = f"{type(error).__name__}: {error}"
        else:
            if found:
                self._put(self._to_write, (heard.task, _rows(expert, heard.number, watched.rows, found)))
                watched.rows += len(found)

    def _end(self, heard: Heard, ended: Ended) -> VideoStatus:
        """How the video went, with the rows that were found where those are not the samples."""
        if not isinstance(self._experts[ended.expert].network, Finder):
            return ended.status
        watched = self._watched.pop((ended.expert, heard.task, heard.number), None)
        if watched is None or ended.status.status not in ("ok", "truncated"):
            return replace(ended.status, rows=0)
        self._look(heard, ended.expert, watched, finish=True)
        if watched.fault:
            return VideoStatus(ended.status.id, "failed", stage="expert", reason=watched.fault)
        return replace(ended.status, rows=watched.rows)

    def _complete(self, task: ShardTask) -> None:
        """All of a shard is sampled: compute what still waits for a full batch, and have it written."""
        self._flush(task.writers)
        self._put(self._to_write, task)

    def _flush(self, experts: Iterable[str]) -> None:
        """Compute what waits for a full batch."""
        for name in experts:
            if self._waiting[name]:
                self._forward(name)
        self._deliver(leave=0)

    def _precision(self) -> AbstractContextManager[Any]:
        return torch.autocast(self._device.type, self._autocast) if self._autocast else nullcontext()

    # The writer.

    def _write(self) -> None:
        try:
            while (item := self._get(self._to_write)) is not None:
                with self._meter.at_work("writing"):
                    if isinstance(item, ShardTask):
                        self._finish(item)
                        self._slots.release()
                    else:
                        task, rows = item
                        task.append(rows)
        except Stopped:
            pass  # an error elsewhere; the unfinished shards are done anew by the next run
        except BaseException as error:
            self._write_error = error
            self._stop.set()

    # Queues that give up when the run has ended.

    def _put(self, to: queue.Queue[Any], item: Any) -> None:
        while not self._stop.is_set():
            try:
                return to.put(item, timeout=POLL)
            except queue.Full:
                continue
        raise Stopped

    def _get(self, source: queue.Queue[Any]) -> Any:
        while not self._stop.is_set():
            try:
                return source.get(timeout=POLL)
            except queue.Empty:
                continue
        raise Stopped


class Shared(Generic[T]):
    """An iterator that several threads draw from."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items, self._lock = items, threading.Lock()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)


def _scatter(features: np.ndarray, batch: list[Heard]) -> Iterator[tuple[ShardTask, Rows]]:
    """The rows of a batch, a run of rows of one video at a time, each with its shard."""
    for (task, number), run in groupby(enumerate(batch), key=lambda entry: (entry[1].task, entry[1].number)):
        places, heard = zip(*run, strict=True)
        samples = [cast(Sample, one.item) for one in heard]
        times = np.array([(sample.start, sample.end) for sample in samples])
        rows = features[places[0] : places[-1] + 1]
        yield task, Rows(samples[0].expert, number, samples[0].row, rows, times)


def _rows(expert: str, number: int, first: int, found: list[Finding]) -> Rows:
    features = np.stack([finding.feature for finding in found])
    times = np.array([(finding.start, finding.end) for finding in found])
    return Rows(expert, number, first, features, times, [finding.record for finding in found])
