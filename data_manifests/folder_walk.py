"""One walk of folders, for videos, features and annotations: what is found, and what was passed over and why."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# What operating systems and file servers leave beside files.
_SYSTEM_NAMES = frozenset(
    {"@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information", "Thumbs.db", "desktop.ini"}
)
_SHOWN = 5  # suffixes, or folders, that are named


@dataclass
class PassedOver:
    """What a walk did not take."""

    suffixes: Counter[str] = field(default_factory=Counter)  # of files, in lower case
    hidden: int = 0  # files and folders of the system, and those whose names begin with a dot
    unreadable: list[str] = field(default_factory=list)  # folders
    broken: int = 0  # links to nothing, sockets, pipes and devices
    known: int = 0  # links to folders that were walked already

    def __str__(self) -> str:
        """A sentence, "" if nothing was passed over."""
        parts = []
        if self.suffixes:
            named = ", ".join(f"{suffix or 'none'} {count}" for suffix, count in self.suffixes.most_common(_SHOWN))
            more = ", ..." if len(self.suffixes) > _SHOWN else ""
            parts.append(f"{_count(self.suffixes.total(), 'file')} with other suffixes ({named}{more})")
        if self.hidden:
            parts.append(f"{self.hidden} hidden")
        if self.unreadable:
            named = ", ".join(self.unreadable[:_SHOWN]) + (", ..." if len(self.unreadable) > _SHOWN else "")
            parts.append(f"{_count(len(self.unreadable), 'folder')} that may not be read ({named})")
        if self.broken:
            parts.append(f"{self.broken} that {'is' if self.broken == 1 else 'are'} no files (broken links, pipes)")
        if self.known:
            parts.append(f"{_count(self.known, 'link')} to folders that were searched already")
        return f"passed over: {', '.join(parts)}" if parts else ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is of the system, or begins with a dot: nobody means it as data."""
    return name.startswith(".") or name in _SYSTEM_NAMES


def find_files(folder: Path, suffixes: Collection[str]) -> tuple[list[Path], PassedOver]:
    """All files below a folder whose suffix, in lower case, is among `suffixes`, sorted, and what was passed over.

    Links to files and folders are followed; a folder that is reached twice is searched once, under its own name
    rather than that of a link, so links may form loops.
    """
    found: list[Path] = []
    passed = PassedOver()
    walked: set[tuple[int, int]] = set()
    links: list[Path] = []
    folders = [folder]
    while folders or links:
        here = folders.pop() if folders else links.pop(0)
        try:
            about = os.stat(here)
            if (about.st_dev, about.st_ino) in walked:
                passed.known += 1
                continue
            walked.add((about.st_dev, about.st_ino))
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            passed.unreadable.append(ascii(str(here))[1:-1])
            continue
        for entry in entries:
            path = here / entry.name
            if is_hidden(entry.name):
                passed.hidden += 1
            elif _is(entry.is_dir):
                (links if entry.is_symlink() else folders).append(path)
            elif not _is(entry.is_file):
                passed.broken += 1
            elif path.suffix.lower() in suffixes:
                found.append(path)
            else:
                passed.suffixes[ascii(path.suffix.lower())[1:-1]] += 1
    return sorted(found), passed


def _is(question: Callable[[], bool]) -> bool:
    """What an entry answers; an entry that cannot be asked, e.g. a link to itself, is nothing."""
    try:
        return question()
    except OSError:
        return False


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number:,} {noun}s"


def below(folder: Path, files: Collection[Path]) -> Iterator[tuple[str, Path]]:
    """Files with their names within a folder."""
    return ((file.relative_to(folder).as_posix(), file) for file in files)
