"""Ids of any Unicode text as names of files, HDF5 groups and tar members, and back."""

from __future__ import annotations

import hashlib
from urllib.parse import quote

NAME_BYTES = 200  # file systems take 255; suffixes follow


def safe_name(text: str) -> str:
    """A name of letters, digits and `_-~%` only: `urllib.parse.unquote` gives the text back.

    A text too long for a file name is cut, and its SHA-256 added behind %%; what it was stands in the
    index of an export.
    """
    name = quote(text, safe="").replace(".", "%2E")
    if len(name) > NAME_BYTES:
        digest = hashlib.sha256(text.encode()).hexdigest()
        name = f"{name[: NAME_BYTES - 2 - len(digest)]}%%{digest}"
    return name
