"""Which seconds imported rows cover: as stored, as told, as the format is known to do it, or unknown."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from feature_store.foreign.source import ImportUsageError, Rows

Times = Literal["stored", "given", "format", "unknown"]


@dataclass(frozen=True)
class Timing:
    """Where times come from; row k covers k * every to k * every + window unless they are stored or unknown."""

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

    def of(self, rows: Rows, where: str) -> np.ndarray:
        """The (T, 2) seconds of a video's rows. Raises ImportUsageError if nobody tells them."""
        if self.times == "unknown":
            return np.zeros((len(rows.values), 2))
        if self.times == "stored":
            if rows.times is None:
                raise ImportUsageError(
                    f"{where}: nothing says which seconds its rows cover: say --every SECONDS (and --window SECONDS "
                    "if rows overlap or leave gaps), or --untimed if nobody knows"
                )
            return rows.times
        starts = np.arange(len(rows.values)) * self.every
        return np.stack([starts, starts + self.window], axis=1)


def timing(every: float | None, window: float | None, untimed: bool) -> Timing:
    """From the options of an import. Raises ImportUsageError if they contradict each other."""
    for name, seconds in (("every", every), ("window", window)):
        if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
            raise ImportUsageError(f"--{name} {seconds}: must be more than 0 seconds")
    if untimed and (every or window):
        raise ImportUsageError("--untimed says that nobody knows the times of rows; leave out --every and --window")
    if every is None:
        if window is not None:
            raise ImportUsageError("--window says how long a row is; say with --every how often there is one, too")
        return Timing("unknown" if untimed else "stored")
    return Timing("given", every, window or every)
