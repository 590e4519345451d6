"""Captions of videos into splits: what the recipes of captioned datasets have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from data_manifests.recipes.recipe import Split
from data_manifests.rows import Caption

EMPTY = "captions left out, which hold no text"


def split_of(videos: Iterable[str], captions: Mapping[str, Sequence[str]]) -> Split:
    """The split of these videos with all their captions, video by video; a video without captions stays."""
    videos = tuple(videos)
    published = [(video, caption.strip()) for video in videos for caption in captions.get(video, ())]
    rows = [Caption(video, caption) for video, caption in published if caption]
    empty = len(published) - len(rows)
    return Split(videos, rows, empty, {EMPTY: empty} if empty else {})


def outside(captions: Mapping[str, Sequence[str]], splits: Iterable[Split]) -> dict[str, int]:
    """The videos with captions that are in none of the splits, and how many captions each has."""
    inside = {video for split in splits for video in split.videos}
    return {video: len(texts) for video, texts in captions.items() if video not in inside}


def strangers(counts: Mapping[str, int], where: str) -> tuple[str, ...]:
    """The problem that captions are of videos in no split, where every video should be in one."""
    if not counts:
        return ()
    examples = ", ".join(list(counts)[:5]) + (", ..." if len(counts) > 5 else "")
    return (f"{where}: {sum(counts.values())} captions are of {len(counts)} videos in no split: {examples}",)


def group(pairs: Iterable[tuple[str, str]], key: Callable[[str], str] = str) -> dict[str, list[str]]:
    """(video, caption) pairs -> the captions of each video, in order."""
    captions: dict[str, list[str]] = {}
    for video, caption in pairs:
        captions.setdefault(key(video), []).append(caption)
    return captions
