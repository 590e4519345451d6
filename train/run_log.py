"""The table of losses and metrics of a run, logs/metrics.csv."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from train import TrainError

SAVE_EACH = 50  # rows


class MetricsTable(Logger):
    """Writes metrics.csv anew as a whole, so that a run that is killed meanwhile keeps what it had.

    Of a table that is there already, the rows of steps before `first` stay.
    """

    def __init__(self, path: Path, first: int) -> None:
        super().__init__()
        self._path = path
        self._rows: list[dict[str, Any]] = _rows_before(path, first)

    @property
    def name(self) -> None:
        return None

    @property
    def version(self) -> None:
        return None

    @rank_zero_only
    def log_hyperparams(self, *arguments: Any, **options: Any) -> None:
        """Nothing: they are the run's recipe."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._rows.append({**metrics, "step": step})
        if len(self._rows) % SAVE_EACH == 0:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        columns = sorted(set().union(*self._rows))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_name(f"{self._path.name}.part")
        with open(part, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(self._rows)
        os.replace(part, self._path)

    def finalize(self, status: str) -> None:
        self.save()


def _rows_before(path: Path, step: int) -> list[dict[str, Any]]:
    if not step or not path.exists():
        return []
    try:
        with open(path, newline="", encoding="utf-8") as file:
            # Columns that a row lacks stay out, so that what is written again is what was read.
            rows = [{name: value for name, value in row.items() if value != ""} for row in csv.DictReader(file)]
        return [row for row in rows if int(row["step"]) < step]
    except (ValueError, LookupError, TypeError, csv.Error) as error:
        raise TrainError(
            f"{path}: is no table of metrics ({error}); delete it, and the run goes on with a new one"
        ) from None
