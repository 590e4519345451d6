"""What a process that does the work and the one that watches over it say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.flights import Flight
from pipeline.meter import Tally


@dataclass(frozen=True)
class Lane:
    """Which of several processes on its machine one is, and whether it is to have one video in hand at a time."""

    number: int
    alone: bool


@dataclass(frozen=True)
class Ready:
    """The networks are loaded, in all of `processes`, and `decoders` videos will be decoded at once.

    `experts` say of each what decides its features, and what else is to be known of it.
    """

    decoders: int
    experts: Mapping[str, tuple[dict[str, Any], dict[str, Any]]]
    processes: int = 1


@dataclass(frozen=True)
class Handling:
    """A thread begins a video, or is done with it."""

    flight: Flight
    begins: bool


@dataclass(frozen=True)
class Pulse:
    """Still alive: what was counted since the last pulse, and how far the videos at hand are."""

    tally: Tally
    flights: tuple[Flight, ...]


@dataclass(frozen=True)
class Failed:
    """The run cannot go on: the error of any other stage than a video's own."""

    error: BaseException
