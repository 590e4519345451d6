"""What a recipe is: the files of a dataset that it reads, and the splits that they must give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from data_manifests.rows import Caption, Moment

Files = Mapping[str, tuple[Path, ...]]  # role of a source -> its files; empty where an optional one is not given


@dataclass(frozen=True)
class Source:
    """A file that a recipe reads, and how it is told from others.

    A file is this source if `name` is found in its name, case aside, and `content` in its first 4,096 characters
    (regular expressions). `many` allows several files, whose contents are then put together.
    """

    role: str
    file: str  # its usual name
    holds: str  # what it looks like
    published: str  # where its authors publish it
    name: str
    content: str = ""
    optional: bool = False
    many: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.holds}; published at {self.published}"


class Expected(NamedTuple):
    """How many videos and annotations the authors publish in a split; None where they do not say."""

    videos: int | None
    annotations: int | None


@dataclass(frozen=True)
class Split:
    """What was read of one split.

    `videos` are its ids in the published order, also those without a row. `left_out` counts annotations that are
    published but become no row; `notes` say of how many of them, and of what else, why. `durations` are seconds of
    videos, where the authors publish them.
    """

    videos: tuple[str, ...]
    rows: Sequence[Caption] | Sequence[Moment]
    left_out: int = 0
    notes: Mapping[str, int] = field(default_factory=dict)
    durations: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Dataset:
    """The splits that were read, and annotations that belong to none of them.

    `problems` are faults that a user may accept, like captions of unknown videos; `notes` are only counted. `unread`
    are the roles of sources that were given and not needed.
    """

    splits: Mapping[str, Split]
    problems: tuple[str, ...] = ()
    notes: Mapping[str, int] = field(default_factory=dict)
    unread: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Recipe:
    """How the public annotations of a dataset become rows.

    `shares_videos` says that splits have videos in common, as the authors made them; elsewhere that is a fault.
    """

    name: str
    about: str
    kind: Literal["caption", "moment"]
    sources: tuple[Source, ...]
    expected: Mapping[str, Expected]
    read: Callable[[Files], Dataset]
    shares_videos: bool = False

    def __str__(self) -> str:
        """What it reads, for people."""
        lines = [f"{self.name}: {self.about}. It reads"]
        lines += [f"  {source}{' (optional)' if source.optional else ''}" for source in self.sources]
        return "\n".join(lines)
