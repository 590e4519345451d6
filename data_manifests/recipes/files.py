"""Finding the files of a recipe among the paths given, and reading them with errors that say where."""

from __future__ import annotations

import csv
import gzip
import hashlib
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from data_manifests.folder_walk import find_files as walk
from data_manifests.recipes.recipe import Files, Recipe, Source
from data_manifests.rows import ManifestError
from data_manifests.text_files import BOM, not_utf8

T = TypeVar("T")

_SUFFIXES = {".json", ".jsonl", ".txt", ".csv", ".tsv", ".npy", ".gz"}  # looked at in folders
_HEAD_CHARACTERS = 4096
_SHOWN = 3


# Finding.


def find_files(recipe: Recipe, paths: list[Path]) -> Files:
    """Tell which of the files is which source; of folders, all files in them are looked at, whatever their depth.

    Files named outright come before those of folders. Raises ManifestError for a path that is not there, a named
    file that the recipe does not read, two files that could be the same source, and a source that is missing.
    """
    named: dict[str, list[Path]] = {source.role: [] for source in recipe.sources}
    found: dict[str, list[Path]] = {source.role: [] for source in recipe.sources}
    passed: list[str] = []
    for path in paths:
        if path.is_dir():
            below, beside = walk(path, _SUFFIXES)
            passed += [f"  in {path} {beside}"] if str(beside) else []
            for file in below:
                if source := _source_of(recipe, file):
                    found[source.role].append(file)
        elif path.is_file():
            source = _source_of(recipe, path)
            if source is None:
                raise ManifestError(_not_read(recipe, path))
            named[source.role].append(path)
        else:
            raise ManifestError(f"{path}: there is no such file or folder")
    files = {source.role: _chosen(source, named[source.role] or found[source.role]) for source in recipe.sources}
    missing = [source for source in recipe.sources if not files[source.role] and not source.optional]
    if missing:
        lines = [f"{recipe.name} needs {len(missing)} more of its files:", *(f"  {source}" for source in missing)]
        lines += passed
        raise ManifestError("\n".join(lines))
    return files


def sha256_of(path: Path) -> str:
    """SHA-256 of the file as it lies there."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source_of(recipe: Recipe, path: Path) -> Source | None:
    head = None
    for source in recipe.sources:
        if re.search(source.name, path.name, re.IGNORECASE):
            head = _head(path) if head is None else head
            if re.search(source.content, head, re.MULTILINE):
                return source
    return None


def _head(path: Path) -> str:
    content = _bytes(path, _HEAD_CHARACTERS).removeprefix(BOM)
    if b"\0" in content and path.suffix != ".npy":
        raise ManifestError(f"{path}: {not_utf8(content)}")
    return content.decode("utf-8", errors="replace")


def _not_read(recipe: Recipe, path: Path) -> str:
    named_like = [source for source in recipe.sources if re.search(source.name, path.name, re.IGNORECASE)]
    if named_like:
        return f"{path}: is named like {named_like[0].file}, but does not look like it ({named_like[0].holds})"
    return f"{path}: is none of the files that are read here.\n{recipe}"


def _chosen(source: Source, files: list[Path]) -> tuple[Path, ...]:
    different: dict[str, Path] = {}
    for file in files:
        different.setdefault(sha256_of(file), file)
    if len(different) > 1 and not source.many:
        names = ", ".join(map(str, different.values()))
        raise ManifestError(f"{names}: each could be {source.file} ({source.holds}); give the one that you mean")
    return tuple(different.values())


# Reading.


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (number from 1, line without its end) of a UTF-8 text; blank lines are passed over.

    Lines end with a line feed and nothing else: captions hold other characters that Python would end lines at.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError:
                raise ManifestError(f"{path}:{number}: {not_utf8(line)}") from None
            text = text.removeprefix("\ufeff") if number == 1 else text
            if text.strip():
                yield number, text.rstrip("\r\n")


def read_json(path: Path, shape: type[T]) -> T:
    """Read a JSON file, plain or gzipped, which must be of the shape; what it holds besides is passed over."""
    return parse_json(_bytes(path).removeprefix(BOM), TypeAdapter(shape), str(path))


def parse_json(content: str | bytes, shape: TypeAdapter[T], where: str) -> T:
    """Parse JSON; `where` it stands begins the message of an error."""
    try:
        return shape.validate_json(content)
    except ValidationError as error:
        if isinstance(content, bytes) and not _is_utf8(content):
            raise ManifestError(f"{where}: {not_utf8(content)}") from None
        problems = error.errors(include_url=False, include_context=False, include_input=False)
        told = [f"{_place(problem['loc'])}{problem['msg']}" for problem in problems[:_SHOWN]]
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ManifestError(f"{where}: {'; '.join(told)}{more}") from None


def read_table(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Yield (number of the line, the wanted columns) of a CSV file whose first line names its columns."""
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        try:
            lacking = [column for column in columns if column not in (rows.fieldnames or ())]
            if lacking:
                raise ManifestError(f"{path}:1: has no column {', '.join(lacking)}")
            for row in rows:
                values = tuple(row[column] for column in columns)
                if None in values:
                    raise ManifestError(f"{path}:{rows.line_num}: has too few columns")
                yield rows.line_num, values
        except UnicodeDecodeError:
            raise ManifestError(f"{path}: {not_utf8(path.read_bytes())}") from None
        except csv.Error as error:
            raise ManifestError(f"{path}:{rows.line_num}: {error}") from None


def read_ids(path: Path) -> tuple[str, ...]:
    """Video ids, in order: of a text with one a line, of a CSV with a column video_id, or of an array of NumPy.

    Raises ManifestError for an id that stands there twice.
    """
    if path.suffix == ".npy":
        numbered = list(enumerate(_ids_of_array(path), 1))
    else:
        numbered = [(number, line.strip()) for number, line in read_lines(path)]
        numbered = numbered[1:] if numbered and numbered[0][1] == "video_id" else numbered
    first: dict[str, int] = {}
    for number, video in numbered:
        if video in first:
            raise ManifestError(f"{path}:{number}: {video} stands already in line {first[video]}")
        first[video] = number
    return tuple(first)


def _ids_of_array(path: Path) -> list[str]:
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ManifestError(f"{path}: is no array of ids ({error}); ids in a text, one a line, are read too") from None
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise ManifestError(f"{path}: is no list of ids: {array.dtype}, shape {array.shape}")
    return [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in array.tolist()]


def _bytes(path: Path, size: int = -1) -> bytes:
    """The first bytes of a file, plain or gzipped, or all of them."""
    if path.suffix != ".gz":
        with open(path, "rb") as file:
            return file.read(size)
    try:
        with gzip.open(path, "rb") as file:
            return file.read(size)
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise ManifestError(f"{path}: is not, or not all of, a gzip file") from None


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return b"\0" not in content


def _place(location: tuple[int | str, ...]) -> str:
    """How pydantic's location is written: sentences[3].caption."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{place.removeprefix('.')}: " if place else ""
