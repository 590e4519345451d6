"""Watching a store grow from another terminal: what is done, who is at work on what, and when it will be over."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ConfigDict, FiniteFloat, NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked
from pydantic_core import from_json
from rich.console import Console
from rich.live import Live
from rich.text import Text

from feature_store.leases import Leases, read_holders
from feature_store.places import Place, open_place
from feature_store.survey import StoreSummary, Survey
from pipeline.show import status_line, status_panel, stored_videos, time_left

SILENT = 60.0  # seconds without a beat; a process beats every ten
WINDOW = 600.0  # seconds of progress from which the rest is told


@checked(frozen=True, config=ConfigDict(extra="ignore", coerce_numbers_to_str=True))
class Heartbeat:
    """What a process that extracts says of itself; processes of other versions may say less, or more.

    `at` holds shard, video and seconds of work so far; `rate` is in seconds of video a second.
    """

    host: str = ""
    pid: int = 0
    device: str = ""
    at: tuple[tuple[str, str, FiniteFloat], ...] = ()
    videos: NonNegativeInt = 0  # done
    video_seconds: NonNegativeFloat = 0.0
    failed: NonNegativeInt = 0
    rate: NonNegativeFloat = 0.0


@dataclass(frozen=True)
class Holder:
    """A process at work on a store. `silent` ones have not been heard of for so long that they may be dead."""

    name: str
    says: Heartbeat
    silent: bool


@dataclass(frozen=True)
class View:
    """A store that is being watched, at one moment. `left` is in seconds, None while it cannot be told."""

    summary: StoreSummary
    holders: tuple[Holder, ...]
    left: float | None


class Holders:
    """The processes that say they are at work on a store."""

    def __init__(self, place: Place, silent: float = SILENT) -> None:
        self._place = place
        self._leases = Leases(place, "", silent)  # it takes none

    def look(self) -> tuple[Holder, ...]:
        """All of them, by name."""
        said = sorted(read_holders(self._place))
        return tuple(Holder(name, _heartbeat(content), self._leases.dead(name)) for name, content in said)


class Watcher:
    """Looks at a store again and again; a look costs what is new since the last one.

    `silent` is in seconds. Raises StoreError if there is no store.
    """

    def __init__(self, store: str | Path, silent: float = SILENT, clock: Callable[[], float] = time.monotonic) -> None:
        self._survey = Survey(store)
        self._holders = Holders(open_place(store), silent)
        self._pace = _Pace()
        self._clock = clock

    def look(self) -> View:
        summary, holders = self._survey.refresh(), self._holders.look()
        stored = stored_videos(summary)
        rate = self._pace.rate(self._clock(), stored, holders)
        return View(summary, holders, (summary.videos - stored) / rate if rate else None)


@dataclass
class _Pace:
    """Progress in videos, from what processes say, which is sooner known than that a shard is complete."""

    _said: dict[str, int] = field(default_factory=dict)  # by process: its videos at the last look
    _heard: int = 0  # videos done while watching, by what was said
    _looks: deque[tuple[float, int, int]] = field(default_factory=deque)  # time, videos heard of, videos in the store

    def rate(self, now: float, stored: int, holders: tuple[Holder, ...]) -> float:
        """Videos a second of late; zero while nothing is known."""
        said = {holder.name: holder.says.videos for holder in holders}
        self._heard += sum(max(0, videos - self._said.get(name, videos)) for name, videos in said.items())
        self._said = said
        self._looks.append((now, self._heard, stored))
        while len(self._looks) > 2 and now - self._looks[1][0] >= WINDOW:
            self._looks.popleft()
        then, heard, stored_then = self._looks[0]
        return max(self._heard - heard, stored - stored_then, 0) / (now - then) if now > then else 0.0


def watch(store: str | Path, console: Console, every: float) -> None:
    """Show a store until the process is interrupted: on a terminal in place, else a line whenever something changed.

    `every` is how many seconds pass between two looks. Raises StoreError.
    """
    views = _views(Watcher(store), every)
    if console.is_terminal:
        with Live(Text("reading what is there ..."), console=console, auto_refresh=False) as live:
            for view in views:
                live.update(status_panel(view), refresh=True)
        return
    last = ""
    for view in views:
        line = status_line(view)
        if line != last:
            console.print(f"{line}; {time_left(view)}", markup=False, highlight=False, soft_wrap=True)
        last = line


def _views(watcher: Watcher, every: float) -> Iterator[View]:
    while True:
        yield watcher.look()
        time.sleep(every)


_adapter = TypeAdapter(Heartbeat)


def _heartbeat(content: bytes) -> Heartbeat:
    """What cannot be understood counts as not said; that a file changes shows a process that is alive all the same."""
    try:
        document = from_json(content)
        try:
            return _adapter.validate_python(document)
        except ValidationError as error:
            wrong = {problem["loc"][:1] for problem in error.errors()}
            return _adapter.validate_python({key: value for key, value in document.items() if (key,) not in wrong})
    except (ValueError, AttributeError):
        return Heartbeat()
