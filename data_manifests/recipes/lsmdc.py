"""LSMDC: clips of 2 to 5 s from 200 movies, described by audio description or script (Rohrbach et al., IJCV 2017).

Retrieval uses the release of 2016: `LSMDC16_annos_training.csv` with 101,079 lines to train, and
`LSMDC16_challenge_1000_publictect.csv` (the misspelling is theirs) with 1,000 clips to test; both come with the
movies, after a signed agreement. They are called CSV but separate by tabs and have no header: clip id, four times,
sentence. A quotation mark is a character like others. Times are of the movie and of no use for a clip.

Pitfalls: MMT drops five training clips for which it has no caption; here the clip of a line without a sentence stays
among the videos, and the line is counted. A clip id may stand in several lines and then has several captions. People
are "SOMEONE". There is no validation split; MMT draws 1,000 training clips for it at random.
"""

from __future__ import annotations

from pathlib import Path

from data_manifests.recipes.captions import group, split_of
from data_manifests.recipes.files import read_lines
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source
from data_manifests.rows import ManifestError

_COLUMNS = 6
_SENTENCE = 5


def _source(split: str, file: str, name: str) -> Source:
    return Source(
        role=split,
        file=file,
        holds="tab-separated lines: clip id, four times, sentence; no header",
        published="sites.google.com/site/describingmovies/download (with the movies, after an agreement)",
        name=name,
        content=r"\A[^\t\n]+\t",
    )


def _read(files: Files) -> Dataset:
    splits = {}
    for name, paths in files.items():
        captions = group(pair for path in paths for pair in _captions(path))
        splits[name] = split_of(captions, captions)
    return Dataset(splits)


def _captions(path: Path) -> list[tuple[str, str]]:
    """(clip, sentence) of each line; the sentence is "" where there is none, its tab perhaps lost as well."""
    pairs = []
    for number, line in read_lines(path):
        columns = line.split("\t")
        if len(columns) not in (_COLUMNS - 1, _COLUMNS) or not columns[0].strip():
            raise ManifestError(f"{path}:{number}: has {len(columns)} columns separated by tabs, not {_COLUMNS}")
        pairs.append((columns[0].strip(), columns[_SENTENCE] if len(columns) == _COLUMNS else ""))
    return pairs


RECIPES = (
    Recipe(
        name="lsmdc",
        about="LSMDC 2016, 101,079 / 1,000",
        kind="caption",
        sources=(
            _source("train", "LSMDC16_annos_training.csv", r"training.*\.csv$"),
            _source("test", "LSMDC16_challenge_1000_publictect.csv", r"challenge_1000.*\.csv$"),
        ),
        expected={"train": Expected(None, 101079), "test": Expected(1000, 1000)},
        read=_read,
    ),
)
