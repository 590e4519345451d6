"""What a running extraction shows: a live panel on a terminal, else a plain line every half minute."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.meter import Meter
from pipeline.show import plain

LINE_EVERY = 30.0  # seconds
LOOK_EVERY = 5.0  # seconds over which it is told how busy the stages are
STAGES = ("decoding", "computing", "writing")


class Progress:
    """Shows a Meter while `showing` is open, and events that people should know of."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def showing(self, meter: Meter, shards: int, videos: int, decoders: int) -> Iterator[None]:
        """Show progress towards `videos` videos in `shards` shards, `decoders` of them decoded at once."""
        view = _View(meter, shards, videos, decoders)
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

    def tell(self, event: Mapping[str, Any]) -> None:
        """Say what a person should know of an event of the run's log at once."""
        match event["event"]:
            case "run_started" if event["dashboard"]:
                text = f"dashboard: {event['dashboard']}"
            case "no_workers":
                text = f"the cluster at {event['scheduler']} has no workers now; the run goes on as soon as one comes"
            case "process_died" if event["left_out"]:
                text = f"video {event['video']!r} is left out: {event['why']}"
            case "process_died":
                at = f" at video {event['video']!r}" if event["video"] else ""
                text = f"a process that works died{at}: {event['why']}; another one goes on"
            case "shard_held":
                text = (
                    f"shard {event['shard']} is done by {event['by'] or 'another process'}; it is looked at again later"
                )
            case "stopping":
                text = "stopping once the shards in flight are written; Ctrl-C again stops now"
            case _:
                return
        self._console.print(plain(text), soft_wrap=True)

    def _lines(self, view: _View, stop: threading.Event) -> None:
        while not stop.wait(LINE_EVERY):
            self._console.print(view.line(), highlight=False, soft_wrap=True)


class _View:
    """A Meter in words."""

    def __init__(self, meter: Meter, shards: int, videos: int, decoders: int) -> None:
        self._meter, self._shards, self._videos, self._decoders = meter, shards, videos, decoders
        self._last = (time.perf_counter(), dict.fromkeys(STAGES, 0.0))
        self._busy = dict.fromkeys(STAGES, 0.0)

    def panel(self) -> RenderableType:
        tally = self._meter.tally
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            ProgressBar(max(1, self._videos), self._sampled, width=40),
            f"{self._sampled}/{self._videos} videos",
            f"{tally.shards}/{self._shards} shards written",
            f"ETA {self._eta()}",
        )
        return Group(bar, Text(f"{self._rate():.1f} s of video/s | {self._stages()} | {self._faults()}"))

    def line(self) -> str:
        tally = self._meter.tally
        return (
            f"{self._sampled}/{self._videos} videos, {tally.shards}/{self._shards} shards written, "
            f"{self._rate():.1f} s of video/s, {self._stages()}, {self._faults()}, ETA {self._eta()}"
        )

    @property
    def _sampled(self) -> int:
        """Videos of shards that were begun anew count twice."""
        return min(self._meter.tally.sampled, self._videos)

    def _rate(self) -> float:
        return self._meter.tally.sampled_seconds / max(1e-9, time.perf_counter() - self._meter.began)

    def _stages(self) -> str:
        """How busy each stage was since the last look, the busiest marked: it sets the pace."""
        now, (before, past) = time.perf_counter(), self._last
        if now - before > LOOK_EVERY:
            spent = {stage: getattr(self._meter.tally, stage).busy for stage in STAGES}
            lanes = {"decoding": self._decoders, "computing": 1, "writing": 1}
            self._busy = {
                stage: min(1.0, (spent[stage] - past[stage]) / (now - before) / lanes[stage]) for stage in STAGES
            }
            self._last = (now, spent)
        busiest = max(self._busy, key=lambda stage: self._busy[stage])
        return " ".join(f"{stage} {share:.0%}{'*' * (stage == busiest)}" for stage, share in self._busy.items())

    def _faults(self) -> str:
        failed, truncated = self._meter.tally.statuses["failed"], self._meter.tally.statuses["truncated"]
        return f"{failed} failed, {truncated} truncated"

    def _eta(self) -> str:
        done = self._sampled
        if not done:
            return "--:--"
        left = (time.perf_counter() - self._meter.began) / done * max(0, self._videos - done)
        return f"{int(left) // 3600}:{int(left) // 60 % 60:02d}:{int(left) % 60:02d}"
