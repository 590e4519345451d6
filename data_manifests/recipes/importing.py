"""Importing a dataset: read by its recipe, check the counts, and only then write its splits."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, FiniteFloat, ValidationError

from data_manifests.jsonl import write_rows
from data_manifests.recipes.files import find_files, read_json, sha256_of
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Split
from data_manifests.rows import Id, ManifestError

RECORD, DURATIONS = "import.json", "durations.json"


def import_dataset(recipe: Recipe, paths: Iterable[str | Path], folder: str | Path, any_counts: bool = False) -> Any:
    """Write the splits of a dataset into a folder, and return the record of it, as `import.json` holds it.

    Of every split S there will be S.jsonl, its rows, and S.videos.txt, the ids of all its videos, one a line, in the
    published order. `durations.json` says how long videos are, {id: seconds}, where the authors do; `import.json` has
    the recipe's name, the files read with their SHA-256, and all counts.

    Raises ManifestError if a file is missing, not the right one or damaged, and if the counts are not those that the
    authors publish, or videos are in two splits or none; `any_counts` accepts the latter and records them.
    Nothing is written before all is read and checked.
    """
    folder = Path(folder)
    files = find_files(recipe, [Path(path) for path in paths])
    dataset = _read(recipe, files)
    problems = [*dataset.problems, *_doubles(recipe, dataset), *_wrong_counts(recipe, dataset)]
    if problems and not any_counts:
        raise ManifestError("\n".join([f"{recipe.name} is not what its authors publish:", *problems, _WAYS_ON]))
    for name, split in dataset.splits.items():
        _check_ids(name, split)
    folder.mkdir(parents=True, exist_ok=True)
    _make_way(folder, recipe)
    for name, split in dataset.splits.items():
        write_rows(folder / f"{name}.jsonl", split.rows)
        _write_text(folder / f"{name}.videos.txt", "".join(f"{video}\n" for video in split.videos))
    durations = {video: length for split in dataset.splits.values() for video, length in split.durations.items()}
    if durations:
        _write_text(folder / DURATIONS, json.dumps(durations, ensure_ascii=False, indent=0) + "\n")
    record = _record(recipe, files, dataset, problems)
    _write_text(folder / RECORD, json.dumps(record, ensure_ascii=False, indent=1) + "\n")
    return record


def read_durations(path: Path) -> dict[str, float]:
    """Seconds of videos by id, as `durations.json` has them, or DRN's `Charades_duration.json`.

    Raises ManifestError if it is no JSON of numbers above 0.
    """
    return read_json(path, dict[Id, Annotated[FiniteFloat, Field(gt=0)]])


_WAYS_ON = "Check that the files are whole and of this dataset, or import them as they are with --any-counts."


def _read(recipe: Recipe, files: Files) -> Dataset:
    try:
        return recipe.read(files)
    except ValidationError as error:  # of a row, e.g. an id of 5,000 characters
        raise ManifestError(f"{recipe.name}: {error}") from None


def _wrong_counts(recipe: Recipe, dataset: Dataset) -> list[str]:
    problems = []
    for name, split in dataset.splits.items():
        found = Expected(len(split.videos), len(split.rows) + split.left_out)
        expected = recipe.expected[name]
        for what, want, have in zip(("videos", f"{recipe.kind}s"), expected, found, strict=True):
            if want is not None and want != have:
                silent = _silent(split) if what != "videos" else 0
                why = f"; {silent:,} of its videos have none" if silent else ""
                problems.append(f"{name}: expected {want:,} {what}, found {have:,}{why}")
    return problems


def _doubles(recipe: Recipe, dataset: Dataset) -> list[str]:
    """Videos in two splits: a model would be tested on what it has learnt."""
    if recipe.shares_videos:
        return []
    first: dict[str, str] = {}
    shared: dict[tuple[str, str], list[str]] = {}
    for name, split in dataset.splits.items():
        for video in split.videos:
            if first.setdefault(video, name) != name:
                shared.setdefault((first[video], name), []).append(video)
    return [
        f"{one} and {other} have {len(videos)} videos in common: {', '.join(videos[:5])}"
        for (one, other), videos in shared.items()
    ]


def _check_ids(name: str, split: Split) -> None:
    broken = [video for video in split.videos if not video or "\n" in video]
    if broken:
        raise ManifestError(f"{name}: {broken[0]!r} cannot be the id of a video: it is empty or has a line break")


def _make_way(folder: Path, recipe: Recipe) -> None:
    """Remove what an earlier import of the same dataset wrote; until its end the new one has no record."""
    path = folder / RECORD
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError):
        raise ManifestError(f"{path}: is no record of an import; choose another folder") from None
    if there != recipe.name:
        raise ManifestError(f"{folder}: holds {there} already; choose another folder for {recipe.name}")
    path.unlink()
    (folder / DURATIONS).unlink(missing_ok=True)
    for split in recipe.expected:
        (folder / f"{split}.jsonl").unlink(missing_ok=True)
        (folder / f"{split}.videos.txt").unlink(missing_ok=True)


def _silent(split: Split) -> int:
    """How many of its videos have no row."""
    told = {row.video for row in split.rows}
    return sum(video not in told for video in split.videos)


def _record(recipe: Recipe, files: Files, dataset: Dataset, problems: list[str]) -> dict[str, Any]:
    return {
        "recipe": recipe.name,
        "kind": recipe.kind,
        "files": [
            {"role": role, "path": str(path), "sha256": sha256_of(path)}
            for role, paths in files.items()
            for path in paths
            if role not in dataset.unread
        ],
        "splits": {name: _counts(recipe, split) for name, split in dataset.splits.items()},
        "notes": dict(dataset.notes),
        "problems": problems,
    }


def _counts(recipe: Recipe, split: Split) -> dict[str, Any]:
    silent = _silent(split)
    notes: Mapping[str, int] = {f"videos without a {recipe.kind}": silent} if silent else {}
    return {
        "videos": len(split.videos),
        f"{recipe.kind}s": len(split.rows),
        "left_out": split.left_out,
        "notes": {**split.notes, **notes},
    }


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(text.encode())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
