"""Manifests on disk: JSON Lines, read and written a row at a time, whatever their length."""

from __future__ import annotations

import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from data_manifests.rows import Caption, ManifestError, Moment, Video
from data_manifests.text_files import BOM, not_utf8

Row = TypeVar("Row", Video, Caption, Moment)

_PROBLEMS_SHOWN = 10
_HASH_BYTES = 8
_OBJECT = re.compile(r"(s3|gs|abfs)://")  # a video in object storage; all other paths are those of local files


def read_rows(path: str | Path, row_type: type[Row]) -> Iterator[Row]:
    """Yield the rows of a JSONL file one by one; blank lines are passed over.

    Raises ManifestError with file, line number and reason at the first line that is not a row.
    """
    adapter = TypeAdapter(row_type)
    for number, _, line in _lines(path):
        try:
            yield adapter.validate_json(line)
        except ValidationError as error:
            raise ManifestError(f"{path}:{number}: {_reason_of_line(line, error)}") from None


def write_rows(path: str | Path, rows: Iterable[Video | Caption | Moment]) -> int:
    """Write rows as JSONL and return how many; the file appears whole or not at all."""
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    count = 0
    try:
        with open(part, "wb") as file:
            for row in rows:
                fields = {name: value for name, value in asdict(row).items() if value not in (None, {})}
                file.write(json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n")
                count += 1
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return count


class Manifest:
    """The videos of a corpus, in order, checked once and then read from disk as needed.

    Opening reads the file through once: every line must be a `Video`, every id unique. Only 16
    bytes a video stay in memory, so a corpus of millions of videos opens on a small machine.
    Relative paths are taken from the manifest's own folder.

    Raises ManifestError listing the first bad lines, each with its number and reason.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._adapter = TypeAdapter(Video)
        self._line_starts = array("Q")  # byte offset of every row
        self._identities = bytearray()  # hash of (id, start, end) of every row
        self._scan()

    def __len__(self) -> int:
        return len(self._line_starts)

    def __iter__(self) -> Iterator[Video]:
        return self.read(0, len(self))

    def read(self, first: int, stop: int) -> Iterator[Video]:
        """Yield rows first..stop - 1, their paths made absolute; URLs of object stores stay as they are."""
        if first >= stop:
            return
        base = self.path.parent.absolute()
        with open(self.path, "rb") as file:
            for start in self._line_starts[first:stop]:
                file.seek(start)
                video = self._adapter.validate_json(file.readline())
                yield video if _OBJECT.match(video.path) else replace(video, path=os.path.join(base, video.path))

    def digest(self, first: int, stop: int) -> str:
        """SHA-256 over which videos rows first..stop - 1 are: ids and cuts, not where files lie."""
        hashes = memoryview(self._identities)[first * _HASH_BYTES : stop * _HASH_BYTES]
        return hashlib.sha256(hashes).hexdigest()

    def _scan(self) -> None:
        ids = array("q")  # hash of every id
        problems: list[str] = []
        for number, start, line in _lines(self.path):
            try:
                video = self._adapter.validate_json(line)
            except ValidationError as error:
                problems.append(f"{self.path}:{number}: {_reason_of_line(line, error)}")
                if len(problems) == _PROBLEMS_SHOWN:
                    break
            else:
                self._line_starts.append(start)
                ids.append(hash(video.id))
                self._identities += _identity(video)
        problems = problems or self._repeated_ids(ids)
        if problems:
            raise ManifestError("\n".join(problems))
        if not len(self):
            raise ManifestError(f"{self.path}: holds no videos")

    def _repeated_ids(self, hashes: array[int]) -> list[str]:
        """Name the ids that stand twice; the file is read again only if two hashes agree."""
        values, counts = np.unique(np.frombuffer(hashes, np.int64), return_counts=True)
        suspects = set(values[counts > 1].tolist())
        if not suspects:
            return []
        first_line: dict[str, int] = {}
        problems: list[str] = []
        for number, _, line in _lines(self.path):
            video_id = self._adapter.validate_json(line).id
            if hash(video_id) in suspects:
                if video_id in first_line:
                    problems.append(
                        f"{self.path}:{number}: id {video_id!r} stands already in line {first_line[video_id]}; "
                        "ids must be unique"
                    )
                    if len(problems) == _PROBLEMS_SHOWN:
                        break
                first_line.setdefault(video_id, number)
        return problems


def _lines(path: str | Path) -> Iterator[tuple[int, int, bytes]]:
    """Number, byte offset and content of each line that is not blank; a byte order mark belongs to none."""
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(BOM) if number == 1 else line
            if content.strip():
                yield number, offset + len(line) - len(content), content
            offset += len(line)


def _identity(video: Video) -> bytes:
    """Hash of the JSON of [id, start, end], put together here, since json.dumps takes three times as long."""
    start = "null" if video.start is None else repr(video.start)
    end = "null" if video.end is None else repr(video.end)
    text = f"[{encode_basestring_ascii(video.id)}, {start}, {end}]"
    return hashlib.blake2b(text.encode(), digest_size=_HASH_BYTES).digest()


def _reason_of_line(line: bytes, error: ValidationError) -> str:
    """The same of a line, which may not even be text."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return not_utf8(line)
    return reason_of(error)


def reason_of(error: ValidationError) -> str:
    """What is wrong with a row, in a sentence."""
    parts = []
    for problem in error.errors(include_url=False, include_context=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        what = problem["msg"].removeprefix("Value error, ")
        parts.append(f"{where}: {what}" if where else what)
    return "; ".join(parts)
