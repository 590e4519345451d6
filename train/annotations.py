"""Captions and moments of a split and the videos they are about, as `reelcache manifest import` writes them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from pydantic import ConfigDict, FiniteFloat, model_validator
from pydantic.dataclasses import dataclass as checked
from torch import Tensor

from data_manifests import Caption, ManifestError, Moment, read_rows
from data_manifests.recipes.moments import BACKWARDS, CUT, Published, rows_of
from data_manifests.text_files import read_text
from train import TrainError

Row = TypeVar("Row", Caption, Moment)


@checked(frozen=True, slots=True, config=ConfigDict(extra="forbid"))
class AnyMoment(Moment):
    """A moment as people write it down, whatever its times; which of them can be, `read_moments` decides."""

    start: FiniteFloat
    end: FiniteFloat

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        return self


@dataclass(frozen=True)
class Split:
    """Captions and videos of one split.

    `videos` are the ids of all videos, also of those without a caption: what a test has to find among.
    `video_of` (captions,) int64 is the index in `videos` that each of `texts` is about. `left_out` says what was
    not taken and why, for people. `digest` is of the videos and captions as the files have them.
    """

    name: str
    videos: tuple[str, ...]
    texts: tuple[str, ...]
    video_of: Tensor
    left_out: tuple[str, ...] = ()
    digest: str = ""

    def keep(self, videos: Iterable[bool], why: str) -> Self:
        """The split with the videos that are true, and their captions only; `why` the others go."""
        kept = torch.tensor(list(videos))
        if bool(kept.all()):
            return self
        captions = kept[self.video_of].nonzero()[:, 0]
        return replace(
            self,
            videos=tuple(video for video, stays in zip(self.videos, kept.tolist(), strict=True) if stays),
            texts=tuple(self.texts[caption] for caption in captions.tolist()),
            video_of=(kept.cumsum(0) - 1)[self.video_of[captions]],
            left_out=(*self.left_out, f"{int((~kept).sum())} videos {why}"),
            **self._rest(kept, captions),
        )

    def _rest(self, videos: Tensor, captions: Tensor) -> dict[str, Any]:
        """What further fields are of the videos (a mask) and captions (indices) that stay."""
        return {}


@dataclass(frozen=True)
class MomentSplit(Split):
    """A split whose captions are about moments: `spans` (captions, 2) and the videos' `durations`, in seconds.

    `windows` (captions, W, 2) are all moments that a caption is about, the span first, then [0, 0] where there are
    fewer: QVHighlights has up to 24.
    """

    spans: Tensor = field(default_factory=lambda: torch.empty(0, 2))
    windows: Tensor = field(default_factory=lambda: torch.empty(0, 1, 2))
    durations: Tensor = field(default_factory=lambda: torch.empty(0))

    def _rest(self, videos: Tensor, captions: Tensor) -> dict[str, Any]:
        return {"spans": self.spans[captions], "windows": self.windows[captions], "durations": self.durations[videos]}


def read_split(folder: Path, name: str) -> Split:
    """Read FOLDER/NAME.jsonl, and the videos from FOLDER/NAME.videos.txt or, without that, from the captions.

    Captions without a letter or digit are left out, and counted. Raises ManifestError for damaged lines and for
    captions of videos that are not in the split, TrainError if there is no such split or nothing in it.
    """
    path = folder / f"{name}.jsonl"
    rows, ids = _read(path, Caption)
    place = {video: index for index, video in enumerate(ids)}
    strange = [row.video for row in rows if row.video not in place]
    if strange:
        raise ManifestError(f"{path}: {len(strange)} captions of videos that {name}.videos.txt lacks: {some(strange)}")
    spoken = [row for row in rows if any(map(str.isalnum, row.text))]
    if not spoken:
        raise TrainError(f"{path}: holds no captions")
    empty = len(rows) - len(spoken)
    return Split(
        name,
        tuple(ids),
        tuple(row.text for row in spoken),
        torch.tensor([place[row.video] for row in spoken]),
        (f"{empty} captions without a word",) if empty else (),
        _digest(ids, rows),
    )


def read_moments(folder: Path, name: str) -> MomentSplit:
    """Read moments as `read_split` reads captions. How long a video is, its moments say: meta.duration, in seconds.

    Times that cannot be are treated as by the published loaders (data_manifests.recipes.moments): cut to the video,
    then left out if the moment does not end after it starts. So are moments of videos that are not in the split. All
    of these are counted. Raises ManifestError for damaged lines, TrainError if there is no such split or nothing in
    it, and where a duration is not told, or not the same by all moments of a video.
    """
    path = folder / f"{name}.jsonl"
    rows, ids = _read(path, AnyMoment)
    place = {video: index for index, video in enumerate(ids)}
    strange = [row.video for row in rows if row.video not in place]
    digest = _digest(ids, rows)
    rows = [row for row in rows if row.video in place]
    lengths = _durations(path, rows)
    spoken = [row for row in rows if any(map(str.isalnum, row.text))]
    taken: list[Moment] = []
    windows: list[list[tuple[float, float]]] = []
    notes: Counter[str] = Counter()
    for row in spoken:
        kept, changed = rows_of([Published(row.video, row.text, row.start, row.end, lengths[row.video])])
        notes.update(changed)
        taken += kept
        windows += [[(first.start, first.end), *_further_windows(row, lengths[row.video])] for first in kept]
    told = (
        (len(strange), f"moments of videos that {name}.videos.txt lacks: {some(strange)}"),
        (len(rows) - len(spoken), "moments without a word"),
        (notes[BACKWARDS], "moments that do not end after they start, or begin beyond their video"),
        (sum(row.start < 0 < row.end for row in spoken), "starts of moments before 0 s"),
        (notes[CUT], "ends of moments beyond their video's end"),
    )
    left_out = tuple(f"{count} {what}" for count, what in told if count)
    if not taken:
        raise TrainError(f"{path}: holds no moments{''.join(f'; {each}' for each in left_out)}")
    return MomentSplit(
        name,
        tuple(ids),
        tuple(row.text for row in taken),
        torch.tensor([place[row.video] for row in taken]),
        left_out,
        digest,
        torch.tensor([[row.start, row.end] for row in taken]),
        _padded(windows),
        torch.tensor([lengths.get(video, 0.0) for video in ids]),
    )


def _further_windows(row: Moment, duration: float) -> list[tuple[float, float]]:
    """The moments of a row beside its first, as `manifest import qvhighlights` writes them; within the video."""
    windows = row.meta.get("windows", [])
    try:
        cut = [(max(0.0, float(start)), min(float(end), duration)) for start, end in windows]
    except (TypeError, ValueError):
        raise ManifestError(f"meta.windows of {row.video!r} must be pairs of seconds: {row.text!r}") from None
    return [(start, end) for start, end in cut if start < end and (start, end) != (row.start, min(row.end, duration))]


def _padded(windows: Sequence[Sequence[tuple[float, float]]]) -> Tensor:
    """(captions, W, 2)"""
    most = max(map(len, windows))
    return torch.tensor([[*each, *[(0.0, 0.0)] * (most - len(each))] for each in windows])


def moment_texts(folder: Path) -> list[str]:
    """What is said of moments in all splits of a folder; files that begin with something else are passed over."""
    return [row.text for path in sorted(folder.glob("*.jsonl")) if _holds_moments(path) for row in _moments(path)]


def _holds_moments(path: Path) -> bool:
    try:
        return next(_moments(path), None) is not None
    except ManifestError:
        return False  # parses of captions, or of no concern: the split that a run reads tells what is wrong with it


def _moments(path: Path) -> Iterator[Moment]:
    return read_rows(path, AnyMoment)


def _durations(path: Path, moments: Iterable[Moment]) -> dict[str, float]:
    """How long videos are, by their moments."""
    lengths: dict[str, float] = {}
    untold = []
    for each in moments:
        duration = each.meta.get("duration")
        if not isinstance(duration, int | float) or not 0 < duration < float("inf"):
            untold.append(each.video)
        elif lengths.setdefault(each.video, float(duration)) != duration:
            raise TrainError(
                f"{path}: moments of {each.video} tell it is {lengths[each.video]:g} s long, and {duration:g} s"
            )
    if untold:
        raise TrainError(
            f"{path}: {len(untold)} moments do not tell how long their video is, meta.duration in s: those of "
            f"{some(untold)}"
        )
    return lengths


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _digest(videos: Sequence[str], rows: Sequence[Caption | Moment]) -> str:
    """SHA-256 of a split: which captions, in which order, of which videos."""
    kept = ("video", "text", "start", "end")
    content = json.dumps([videos, [[getattr(row, name, None) for name in kept] for row in rows]])
    return hashlib.sha256(content.encode()).hexdigest()


def _read(path: Path, kind: type[Row]) -> tuple[list[Row], list[str]]:
    """The rows of a split, and the ids of its videos."""
    if not path.parent.is_dir():
        raise TrainError(f"{path.parent}: there is no such folder of annotations; name another with --annotations PATH")
    if not path.is_file():
        there = ", ".join(sorted(each.stem for each in path.parent.glob("*.jsonl"))) or "none"
        raise TrainError(
            f"{path}: there is no split {path.stem!r}, there are: {there}; `reelcache manifest import` makes splits"
        )
    rows, listed = list(read_rows(path, kind)), path.with_suffix(".videos.txt")
    ids = _listed(listed) if listed.exists() else list(dict.fromkeys(row.video for row in rows))
    return rows, ids


def read_ids(path: Path) -> list[str]:
    """The ids of videos in a text file, one a line. Raises ManifestError for text that is not UTF-8."""
    return [line for line in (each.removesuffix("\r") for each in read_text(path).split("\n")) if line]


def _listed(path: Path) -> list[str]:
    ids = read_ids(path)
    if len(set(ids)) < len(ids):
        twice = [video for video, count in Counter(ids).items() if count > 1]
        raise ManifestError(f"{path}: names videos twice: {some(twice)}")
    return ids
