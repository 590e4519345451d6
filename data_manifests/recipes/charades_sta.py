"""Charades-STA: sentences for moments of Charades, videos of half a minute of daily life (Gao et al., ICCV 2017).

`charades_sta_train.txt` and `charades_sta_test.txt` hold `VIDEO start end##sentence.` a line, seconds, 12,408 and
3,720 of them. There is no validation split: published models choose their checkpoint by the test, or hold training
videos back.

Lengths of videos come from elsewhere: the column `length` of `Charades_v1_train.csv` and `Charades_v1_test.csv` of
Charades itself (as 2D-TAN takes them), or `Charades_duration.json` of DRN, which says up to a second more or less.
One of the two is needed; where both are given, the CSV files are read. By these lengths 1,805 training and 562 test
moments end after their video, and are cut; four training moments do not end after they start, and are left out (three
of them are of the 1,805), which leaves 12,404, and two of 5,338 training videos without any. The full stop that ends
every line is no part of its sentence, as in 2D-TAN's loader.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from pathlib import Path

from pydantic import FiniteFloat

from data_manifests.recipes import moments
from data_manifests.recipes.files import read_json, read_lines, read_table
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source
from data_manifests.rows import ManifestError

UNKNOWN = "moments left out, whose video's length is not known"
SHOWN = 5
_TAN = "github.com/microsoft/VideoX, 2D-TAN/data/Charades-STA"


def _sentences(split: str) -> Source:
    return Source(
        role=f"{split} sentences",
        file=f"charades_sta_{split}.txt",
        holds="`VIDEO start end##sentence.` a line, seconds",
        published=f"github.com/jiyanggao/TALL; also {_TAN}",
        name=rf"{split}.*\.txt$",
        content=r"\A\S+ \S+ \S+##",
    )


def _lengths(split: str) -> Source:
    return Source(
        role=f"{split} lengths",
        file=f"Charades_v1_{split}.csv",
        holds="a CSV with the columns id and length, seconds",
        published=f"prior.allenai.org/projects/charades; also {_TAN}",
        name=rf"{split}.*\.csv$",
        content=r"\Aid,.*\blength\b",
        optional=True,
    )


_DURATIONS = Source(
    role="durations",
    file="Charades_duration.json",
    holds="JSON {video: seconds}",
    published="github.com/Alvin-Zeng/DRN, data/dataset/Charades",
    name=r"\.json$",
    content=r'\A\s*\{\s*"\w{5}"\s*:\s*[\d.]+\s*[,}]',
    optional=True,
)


def _read(files: Files) -> Dataset:
    durations, unread = _durations(files)
    splits, problems = {}, []
    for name in EXPECTED:
        told = [each for path in files[f"{name} sentences"] for each in _sentences_of(path)]
        published = [moments.Published(*each, durations[each[0]]) for each in told if each[0] in durations]
        split = moments.split_of(dict.fromkeys(video for video, *_ in told), published)
        if unknown := len(told) - len(published):
            strange = list(dict.fromkeys(video for video, *_ in told if video not in durations))
            more = f" and {len(strange) - SHOWN} more" if len(strange) > SHOWN else ""
            problems.append(f"{name}: {unknown} {UNKNOWN}: {', '.join(strange[:SHOWN])}{more}")
            split = replace(split, left_out=split.left_out + unknown, notes={**split.notes, UNKNOWN: unknown})
        splits[name] = split
    return Dataset(splits, tuple(problems), unread=unread)


def _durations(files: Files) -> tuple[dict[str, float], frozenset[str]]:
    """Seconds of each video, and the sources of lengths that are given but not read."""
    tables = [f"{split} lengths" for split in EXPECTED]
    if all(files[table] for table in tables):
        lengths = [pair for table in tables for path in files[table] for pair in _table(path)]
        return dict(lengths), frozenset([_DURATIONS.role])
    if files[_DURATIONS.role]:
        return read_json(files[_DURATIONS.role][0], dict[str, FiniteFloat]), frozenset(tables)
    needed = "\n  ".join(str(_lengths(split)) for split in EXPECTED)
    raise ManifestError(f"charades-sta needs the lengths of its videos. Give\n  {needed}\nor\n  {_DURATIONS}")


def _table(path: Path) -> Iterator[tuple[str, float]]:
    for number, (video, length) in read_table(path, ("id", "length")):
        try:
            yield video, _seconds(length)
        except ValueError:
            raise ManifestError(f"{path}:{number}: length {length!r} is no number of seconds") from None


def _sentences_of(path: Path) -> Iterator[tuple[str, str, float, float]]:
    """Video, sentence, start and end of each line."""
    for number, line in read_lines(path):
        try:
            when, sentence = line.split("##")
            video, start, end = when.split()
            told = video, sentence.strip().removesuffix("."), _seconds(start), _seconds(end)
        except ValueError:
            raise ManifestError(f"{path}:{number}: is not `VIDEO start end##sentence.`: {line[:60]}") from None
        yield told


def _seconds(text: str) -> float:
    """Raises ValueError for what is no number, or not a finite one."""
    seconds = float(text)
    if not isfinite(seconds):
        raise ValueError(text)
    return seconds


EXPECTED = {"train": Expected(5338, 12408), "test": Expected(1334, 3720)}
RECIPES = (
    Recipe(
        name="charades-sta",
        about="Charades-STA, 12,408 / 3,720 moments",
        kind="moment",
        sources=(
            *(_sentences(split) for split in EXPECTED),
            *(_lengths(split) for split in EXPECTED),
            _DURATIONS,
        ),
        expected=EXPECTED,
        read=_read,
    ),
)
