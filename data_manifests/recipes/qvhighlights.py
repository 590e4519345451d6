"""QVHighlights: 150 s clips of YouTube vlogs and news; a sentence may have several moments (Lei et al., NeurIPS 2021).

Published are `highlight_train_release.jsonl` and `highlight_val_release.jsonl`, an object a line: "qid", "query",
"vid", "duration" in seconds, "relevant_windows" in seconds of the clip, and saliency scores, which are not taken here.
The test's moments are public since 2026, in `highlight_test_with_gt.jsonl`; `highlight_test_release.jsonl` has none. A
clip is `YOUTUBEID_FIRST_LAST`, seconds of the whole video.

A row is a query, of 7,218, 1,550 and 1,542; its start and end are those of the first window, and `windows` in its meta
are all of them. `qid` is in the meta as well.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat, TypeAdapter
from pydantic.dataclasses import dataclass

from data_manifests.recipes import moments
from data_manifests.recipes.files import parse_json, read_lines
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source, Split
from data_manifests.rows import Id, Moment


def _source(split: str, file: str, optional: bool = False) -> Source:
    return Source(
        role=split,
        file=file,
        holds='a JSON object a line: {"qid", "query", "duration", "vid", "relevant_windows", ...}',
        published="github.com/jayleicn/moment_detr, data",
        name=rf"{split}.*\.jsonl$",
        content=r'\A\s*\{[^\n]*"relevant_windows"',
        optional=optional,
    )


@dataclass
class _Query:
    qid: int
    query: str
    duration: FiniteFloat  # seconds
    vid: Id
    relevant_windows: Annotated[list[tuple[FiniteFloat, FiniteFloat]], Field(min_length=1)]  # seconds


def _read(files: Files) -> Dataset:
    return Dataset({split: _split(path) for split, paths in files.items() for path in paths})


def _split(path: Path) -> Split:
    shape = TypeAdapter(_Query)
    queries = [parse_json(line, shape, f"{path}:{number}") for number, line in read_lines(path)]
    rows: list[Moment] = []
    notes: Counter[str] = Counter()
    for query in queries:
        published = [
            moments.Published(query.vid, query.query, *times, query.duration) for times in query.relevant_windows
        ]
        windows, changed = moments.rows_of(published)
        notes.update(changed)
        if windows:
            meta = {"qid": query.qid, "windows": [[window.start, window.end] for window in windows]}
            rows.append(replace(windows[0], meta={**windows[0].meta, **meta}))
    videos = tuple(dict.fromkeys(query.vid for query in queries))
    durations = {query.vid: query.duration for query in queries}
    return Split(videos, rows, len(queries) - len(rows), {why: n for why, n in notes.items() if n}, durations)


RECIPES = (
    Recipe(
        name="qvhighlights",
        about="QVHighlights, 7,218 / 1,550 / 1,542 queries (train, val, test)",
        kind="moment",
        sources=(
            _source("train", "highlight_train_release.jsonl"),
            _source("val", "highlight_val_release.jsonl"),
            _source("test", "highlight_test_with_gt.jsonl", optional=True),
        ),
        expected={"train": Expected(7100, 7218), "val": Expected(1519, 1550), "test": Expected(1529, 1542)},
        read=_read,
    ),
)
