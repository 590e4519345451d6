"""Captions of a split and the videos they are about, read from what `reelcache manifest import` writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from data_manifests import Caption, ManifestError, Moment, read_rows
from train import TrainError

Row = TypeVar("Row", Caption, Moment)


@dataclass(frozen=True)
class Split:
    """Captions and videos of one split.

    `videos` are the ids of all videos, also of those without a caption: what a test has to find among.
    `video_of` (captions,) int64 is the index in `videos` that each of `texts` is about. `left_out` says what was
    not taken and why, for people.
    """

    name: str
    videos: tuple[str, ...]
    texts: tuple[str, ...]
    video_of: Tensor
    left_out: tuple[str, ...] = ()

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
    """A split whose captions are about moments: `spans` (captions, 2) and the videos' `durations`, in seconds."""

    spans: Tensor = field(default_factory=lambda: torch.empty(0, 2))
    durations: Tensor = field(default_factory=lambda: torch.empty(0))

    def _rest(self, videos: Tensor, captions: Tensor) -> dict[str, Any]:
        return {"spans": self.spans[captions], "durations": self.durations[videos]}


def read_split(folder: Path, name: str) -> Split:
    """Read FOLDER/NAME.jsonl, and the videos from FOLDER/NAME.videos.txt or, without that, from the captions.

    Captions without a letter or digit are left out, and counted. Raises ManifestError for damaged lines and for
    captions of videos that are not in the split, TrainError if there is no such split or nothing in it.
    """
    path = folder / f"{name}.jsonl"
    rows, ids = _read(path, Caption)
    place = {video: index for index, video in enumerate(ids)}
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
    )


def read_moments(folder: Path, name: str) -> MomentSplit:
    """Read moments as `read_split` reads captions. How long a video is, its moments say: meta.duration, in seconds.

    A moment that goes on beyond its video ends with it, and is counted; one that begins beyond is left out. Raises
    as `read_split` does, and TrainError where a duration is not told, or not the same by all moments of a video.
    """
    path = folder / f"{name}.jsonl"
    rows, ids = _read(path, Moment)
    lengths: dict[str, float] = {}
    for row in rows:
        duration = row.meta.get("duration")
        if not isinstance(duration, int | float) or not 0 < duration < float("inf"):
            raise TrainError(
                f"{path}: a moment of {row.video} does not tell how long the video is: meta.duration, in s"
            )
        if lengths.setdefault(row.video, float(duration)) != duration:
            raise TrainError(
                f"{path}: moments of {row.video} tell it is {lengths[row.video]:g} s long, and {duration:g} s"
            )
    within = [row for row in rows if row.start < lengths[row.video]]
    spoken = [row for row in within if any(map(str.isalnum, row.text))]
    if not spoken:
        raise TrainError(f"{path}: holds no moments")
    place = {video: index for index, video in enumerate(ids)}
    cut = sum(row.end > lengths[row.video] for row in spoken)
    told = (
        (len(rows) - len(within), "moments that begin after their video's end"),
        (len(within) - len(spoken), "moments without a word"),
        (cut, "ends of moments beyond their video's end"),
    )
    return MomentSplit(
        name,
        tuple(ids),
        tuple(row.text for row in spoken),
        torch.tensor([place[row.video] for row in spoken]),
        tuple(f"{count} {what}" for count, what in told if count),
        torch.tensor([[row.start, min(row.end, lengths[row.video])] for row in spoken]),
        torch.tensor([lengths.get(video, 0.0) for video in ids]),
    )


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _read(path: Path, kind: type[Row]) -> tuple[list[Row], list[str]]:
    """The rows of a split, and the ids of its videos."""
    if not path.exists():
        there = ", ".join(sorted(each.stem for each in path.parent.glob("*.jsonl"))) or "none"
        raise TrainError(
            f"{path}: there is no split {path.stem!r}, there are: {there}; `reelcache manifest import` makes splits"
        )
    rows, listed = list(read_rows(path, kind)), path.with_suffix(".videos.txt")
    ids = _listed(listed) if listed.exists() else list(dict.fromkeys(row.video for row in rows))
    known = set(ids)
    strange = [row.video for row in rows if row.video not in known]
    if strange:
        raise ManifestError(f"{path}: {len(strange)} captions of videos that {listed.name} lacks: {some(strange)}")
    return rows, ids


def _listed(path: Path) -> list[str]:
    ids = path.read_text(encoding="utf-8").split("\n")
    ids = ids[:-1] if ids[-1] == "" else ids
    if len(set(ids)) < len(ids):
        twice = [video for video, count in Counter(ids).items() if count > 1]
        raise ManifestError(f"{path}: names videos twice: {some(twice)}")
    return ids
