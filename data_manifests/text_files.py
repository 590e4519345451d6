"""Text that people bring: UTF-8 with or without a mark, or a sentence that says what it seems to be."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from data_manifests.rows import ManifestError

BOM = b"\xef\xbb\xbf"
_MARKS = {b"\xff\xfe\x00\x00": "UTF-32", b"\x00\x00\xfe\xff": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_DELIMITERS = ",;\t"


def not_utf8(content: bytes) -> str:
    """What text that is not UTF-8 seems to be, and how to convert it; the message's end."""
    encoding = next((name for mark, name in _MARKS.items() if content.startswith(mark)), None)
    if encoding is None:
        encoding = "UTF-16LE" if _alternates(content) else "ISO-8859-1"
    return f"is not UTF-8 text, but {encoding} as it seems: convert it, e.g. iconv -f {encoding} -t UTF-8"


def _alternates(content: bytes) -> bool:
    """Every other byte is 0, as in English text of 16 bits a character."""
    odd = content[1:1000:2]
    return bool(odd) and odd.count(0) > len(odd) / 2


def read_text(path: Path) -> str:
    """A UTF-8 text, its mark taken off. Raises ManifestError for another encoding, with the line."""
    content = path.read_bytes().removeprefix(BOM)
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ManifestError(f"{path}:{line}: {not_utf8(content)}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        why = not_utf8(content) if _alternates(content) else "holds NUL characters: it is damaged"
        raise ManifestError(f"{path}:{line}: {why}")
    return text


@dataclass(frozen=True)
class TableRow:
    """A row of a table: the number of its line, and what its columns hold, without spaces around."""

    line: int
    values: Mapping[str, str]


def read_table(path: Path) -> Iterator[TableRow]:
    """The rows of a CSV file with a heading, whose cells commas, semicolons or tabs part.

    Spaces around cells do not count, blank lines are passed over. Raises ManifestError, with the line, for another
    encoding, a heading with a column twice, and a row with more or fewer cells than the heading.
    """
    text = read_text(path)
    heading = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=heading.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    columns: list[str] = []
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            if not columns:
                columns = cells
                twice = sorted({column for column in columns if columns.count(column) > 1})
                if twice:
                    raise ManifestError(f"{path}:{rows.line_num}: the column {twice[0]!r} is there twice")
                continue
            while len(cells) > len(columns) and not cells[-1]:
                cells.pop()
            if len(cells) != len(columns):
                decimals = "; numbers with a comma must stand in quotes, or have a point" if delimiter == "," else ""
                raise ManifestError(
                    f"{path}:{rows.line_num}: has {len(cells)} cells, and the heading has {len(columns)}{decimals}"
                )
            yield TableRow(rows.line_num, dict(zip(columns, cells, strict=True)))
    except csv.Error as error:
        raise ManifestError(f"{path}:{rows.line_num}: {error}") from None
    if not columns:
        raise ManifestError(f"{path}: is empty; its first line must name the columns")
