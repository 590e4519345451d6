"""What a running extraction shows: a live panel on a terminal, else a plain line every half minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.engine import Meter

LINE_EVERY = 30.0  # seconds
LOOK_EVERY = 5.0  # seconds over which it is told how busy the stages are
STAGES = ("decoding", "computing", "writing")


class Progress:
    """Shows a Meter while `showing` is open."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def showing(self, meter: Meter, shards: int, videos: int, workers: int) -> Iterator[None]:
        """Show progress towards `videos` videos in `shards` shards, decoded by `workers` workers."""
        view = _View(meter, shards, videos, workers)
        if self._console.is_terminal:
            with Live(get_renderable=view.panel, console=self._console, refresh_per_second=2, transient=True):
                yield
            return
        stop = threading.Event()
        thread = threading.Thread(target=self._lines, args=(view, stop))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _lines(self, view: _View, stop: threading.Event) -> None:
        while not stop.wait(LINE_EVERY):
            self._console.print(view.line(), highlight=False, soft_wrap=True)


class _View:
    """A Meter in words."""

    def __init__(self, meter: Meter, shards: int, videos: int, workers: int) -> None:
        self._meter, self._shards, self._videos, self._workers = meter, shards, videos, workers
        self._last = (time.perf_counter(), dict.fromkeys(STAGES, 0.0))
        self._busy = dict.fromkeys(STAGES, 0.0)

    def panel(self) -> RenderableType:
        meter = self._meter
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(max(1, self._videos), meter.sampled, width=40),
            f"{meter.sampled}/{self._videos} videos",
            f"{meter.shards}/{self._shards} shards written",
            f"ETA {self._eta()}",
        )
        return Group(bar, Text(f"{self._rate():.1f} s of video/s | {self._stages()} | {self._faults()}"))

    def line(self) -> str:
        meter = self._meter
        return (
            f"{meter.sampled}/{self._videos} videos, {meter.shards}/{self._shards} shards written, "
            f"{self._rate():.1f} s of video/s, {self._stages()}, {self._faults()}, ETA {self._eta()}"
        )

    def _rate(self) -> float:
        return self._meter.sampled_seconds / max(1e-9, time.perf_counter() - self._meter.began)

    def _stages(self) -> str:
        """How busy each stage was since the last look, the busiest marked: it sets the pace."""
        now, (before, past) = time.perf_counter(), self._last
        if now - before > LOOK_EVERY:
            spent = {stage: getattr(self._meter, stage).busy for stage in STAGES}
            lanes = {"decoding": self._workers, "computing": 1, "writing": 1}
            self._busy = {
                stage: min(1.0, (spent[stage] - past[stage]) / (now - before) / lanes[stage]) for stage in STAGES
            }
            self._last = (now, spent)
        busiest = max(self._busy, key=lambda stage: self._busy[stage])
        return " ".join(f"{stage} {share:.0%}{'*' * (stage == busiest)}" for stage, share in self._busy.items())

    def _faults(self) -> str:
        failed, truncated = self._meter.statuses["failed"], self._meter.statuses["truncated"]
        return f"{failed} failed, {truncated} truncated"

    def _eta(self) -> str:
        done = self._meter.sampled
        if not done:
            return "--:--"
        left = (time.perf_counter() - self._meter.began) / done * max(0, self._videos - done)
        return f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
