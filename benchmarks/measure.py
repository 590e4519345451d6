"""Times of several things measured side by side, so that a busy machine slows all of them alike."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The runs of one candidate: processor and elapsed seconds of each."""

    cpu: list[float]
    wall: list[float]


def interleave(candidates: Mapping[str, Callable[[], object]], rounds: int, passes: int = 1) -> dict[str, Timing]:
    """Time every candidate once a round, each round in the other order, after one untimed call of each.

    A timing is the mean of `passes` calls.
    """
    timings = {name: Timing([], []) for name in candidates}
    for call in candidates.values():
        call()
    for number in range(rounds):
        for name in list(candidates)[:: -1 if number % 2 else 1]:
            cpu, wall = time.process_time(), time.perf_counter()
            for _ in range(passes):
                candidates[name]()
            timings[name].cpu.append((time.process_time() - cpu) / passes)
            timings[name].wall.append((time.perf_counter() - wall) / passes)
    return timings


def ratios(times: Sequence[float], baseline: Sequence[float]) -> list[float]:
    """Times over the baseline's, round by round."""
    return [a / b for a, b in zip(times, baseline, strict=True)]


def total(times: Sequence[Sequence[float]]) -> list[float]:
    """The sum over cases, round by round."""
    return [sum(of_round) for of_round in zip(*times, strict=True)]


def spread(numbers: Sequence[float], form: str = ".2f") -> str:
    """The median with the least and the greatest: 1.07 (1.02-1.10)."""
    return f"{statistics.median(numbers):{form}} ({min(numbers):{form}}-{max(numbers):{form}})"


def table(rows: Sequence[Sequence[str]]) -> None:
    """Print rows, the first of which is the heading, in aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if not place else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells))


def verdict(text: str, holds: bool) -> None:
    """Print the last line, and end the script with 1 if the claim does not hold."""
    print(text if holds else f"{text} - DOES NOT HOLD", flush=True)
    sys.exit(not holds)
