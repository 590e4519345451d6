"""Which seconds imported rows cover: as stored, as told, spread over the video, as the format has it, or unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from feature_store.foreign.source import ImportUsageError, Rows

Times = Literal["stored", "given", "spread", "format", "unknown"]


@dataclass(frozen=True)
class Timing:
    """Where times come from.

    `given` and by `format`: row k covers k * every to k * every + window. `spread`: rows are of equal
    length and cover all of their video.
    """

    times: Times
    every: float = 0.0
    window: float = 0.0

    def document(self) -> dict[str, Any]:
        """What provenance says of it."""
        spaced = {"every": self.every, "window": self.window} if self.times in ("given", "format") else {}
        return {"of": "imported", "times": self.times, **spaced}

    def known_of(self, every: float | None) -> Timing:
        """The same, where a format is known to have a row every so many seconds, and nobody says otherwise."""
        return replace(self, times="format", every=every, window=every) if every and self.times == "stored" else self

    def check(self, rows: Rows, where: str) -> None:
        """Raise ImportUsageError if nobody tells the times of a video's rows."""
        if self.times == "stored" and rows.times is None:
            raise ImportUsageError(
                f"{where}: nothing says which seconds its rows cover: say --every SECONDS (and --window SECONDS "
                "if rows overlap or leave gaps), --spread if together they cover the video, or --untimed"
            )

    def of(self, rows: Rows, duration: float) -> np.ndarray:
        """The (T, 2) seconds of the rows of a video of `duration` seconds, which counts for `spread` only."""
        if self.times == "unknown":
            return np.zeros((len(rows.values), 2))
        if self.times == "stored":
            assert rows.times is not None, "checked"
            return rows.times
        if self.times == "spread":
            ends = np.linspace(0.0, duration, len(rows.values) + 1)
            return np.stack([ends[:-1], ends[1:]], axis=1)
        starts = np.arange(len(rows.values)) * self.every
        return np.stack([starts, starts + self.window], axis=1)


def timing(every: float | None, window: float | None, untimed: bool, spread: bool) -> Timing:
    """From the options of an import. Raises ImportUsageError if they contradict each other."""
    for name, seconds in (("every", every), ("window", window)):
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise ImportUsageError(f"--{name} {seconds}: must be more than 0 seconds")
    if (every is not None) + untimed + spread > 1:
        raise ImportUsageError("--every, --spread and --untimed say different things of the times of rows: choose one")
    if every is None:
        if window is not None:
            raise ImportUsageError("--window says how long a row is; say with --every how often there is one, too")
        return Timing("unknown" if untimed else "spread" if spread else "stored")
    return Timing("given", every, window or every)
