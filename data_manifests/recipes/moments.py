"""Moments into splits, by the rule of the published loaders for times that cannot be.

The loaders of 2D-TAN (Charades-STA, ActivityNet Captions, TACoS) set a start before 0 to 0 and an end beyond the
video to its duration, and then leave out moments that do not end after they start. VSLNet and DRN cut likewise.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from data_manifests.recipes.recipe import Split
from data_manifests.rows import Moment

CUT = "moments cut at the end of their video"
BACKWARDS = "moments left out, which do not end after they start"
EMPTY = "moments left out, whose sentence holds no text"


class Published(NamedTuple):
    """A moment as it is published, times and duration in seconds."""

    video: str
    sentence: str
    start: float
    end: float
    duration: float


def split_of(videos: Iterable[str], published: Iterable[Published]) -> Split:
    """The split of these videos with their moments; each row's meta holds the duration of its video, in seconds."""
    published = list(published)
    rows, notes = rows_of(published)
    durations = {each.video: each.duration for each in published}
    left_out = notes[BACKWARDS] + notes[EMPTY]
    return Split(tuple(videos), rows, left_out, {why: n for why, n in notes.items() if n}, durations)


def rows_of(published: Iterable[Published]) -> tuple[list[Moment], Counter[str]]:
    """The moments that the rule leaves, and how many it cut or left out."""
    rows: list[Moment] = []
    notes: Counter[str] = Counter()
    for each in published:
        start, end = max(0.0, each.start), min(each.end, each.duration)
        if end <= start:
            notes[BACKWARDS] += 1
        elif not each.sentence.strip():
            notes[EMPTY] += 1
        else:
            notes[CUT] += end < each.end
            rows.append(Moment(each.video, each.sentence.strip(), start, end, {"duration": each.duration}))
    return rows, notes
