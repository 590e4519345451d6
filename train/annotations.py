"""Captions of a split and the videos they are about, read from what `reelcache manifest import` writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_manifests import Caption, ManifestError, read_rows
from train import TrainError


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

    def captions_of(self) -> list[list[int]]:
        """The indices of each video's captions."""
        captions: list[list[int]] = [[] for _ in self.videos]
        for caption, video in enumerate(self.video_of.tolist()):
            captions[video].append(caption)
        return captions


def read_split(folder: Path, name: str) -> Split:
    """Read FOLDER/NAME.jsonl, and the videos from FOLDER/NAME.videos.txt or, without that, from the captions.

    Captions without a letter or digit are left out, and counted. Raises ManifestError for damaged lines and for
    captions of videos that are not in the split, TrainError if there is no such split or nothing in it.
    """
    path, listed = folder / f"{name}.jsonl", folder / f"{name}.videos.txt"
    if not path.exists():
        there = ", ".join(sorted(each.stem for each in folder.glob("*.jsonl"))) or "none"
        raise TrainError(f"{path}: there is no split {name!r} ({there}); `reelcache manifest import` makes splits")
    rows = list(read_rows(path, Caption))
    spoken = [row for row in rows if any(map(str.isalnum, row.text))]
    ids = _listed(listed) if listed.exists() else list(dict.fromkeys(row.video for row in rows))
    place = {video: index for index, video in enumerate(ids)}
    strange = [row.video for row in rows if row.video not in place]
    if strange:
        raise ManifestError(f"{path}: {len(strange)} captions of videos that {listed.name} lacks: {some(strange)}")
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


def keep_videos(split: Split, keep: Iterable[bool], why: str) -> Split:
    """The split without the videos for which `keep` is false, and without their captions."""
    kept = torch.tensor(list(keep))
    if bool(kept.all()):
        return split
    new_place = kept.cumsum(0) - 1
    captions = kept[split.video_of].nonzero()[:, 0].tolist()
    return Split(
        split.name,
        tuple(video for video, stays in zip(split.videos, kept.tolist(), strict=True) if stays),
        tuple(split.texts[caption] for caption in captions),
        new_place[split.video_of[captions]],
        (*split.left_out, f"{int((~kept).sum())} videos {why}"),
    )


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _listed(path: Path) -> list[str]:
    ids = path.read_text(encoding="utf-8").split("\n")
    ids = ids[:-1] if ids[-1] == "" else ids
    if len(set(ids)) < len(ids):
        twice = [video for index, video in enumerate(ids) if video in set(ids[:index])]
        raise ManifestError(f"{path}: names videos twice: {some(twice)}")
    return ids
