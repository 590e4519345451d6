"""Features as others publish them: a reader a format, each in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from feature_store.foreign.bigfile import open_bigfile
from feature_store.foreign.ce_pickle import open_ce_pickle
from feature_store.foreign.drn_pt import open_drn_pt
from feature_store.foreign.hdf5 import open_hdf5
from feature_store.foreign.hgr_hdf5 import hgr_spellings, open_hgr_hdf5
from feature_store.foreign.mmt_h5 import open_mmt_h5
from feature_store.foreign.npy import open_npy
from feature_store.foreign.source import ImportUsageError, Rows, Source, read_rows
from feature_store.foreign.tan_hdf5 import open_tan_hdf5, tan_spellings

__all__ = ["FORMATS", "Format", "ImportUsageError", "Rows", "Source", "read_rows"]


def _as_it_is(video: str) -> Iterator[str]:
    yield video


@dataclass(frozen=True)
class Format:
    """How to read a format: `open(paths, key, expert)`, `key` naming one of several features in it.

    `spellings` gives the ways in which the format may write a video's id.
    """

    open: Callable[[Sequence[Path], str | None, str], Source]
    spellings: Callable[[str], Iterator[str]] = _as_it_is


FORMATS = {
    "bigfile": Format(open_bigfile),
    "mmt-h5": Format(open_mmt_h5),
    "ce-pickle": Format(open_ce_pickle),
    "hgr-hdf5": Format(open_hgr_hdf5, hgr_spellings),
    "tan-hdf5": Format(open_tan_hdf5, tan_spellings),
    "drn-pt": Format(open_drn_pt),
    "npy": Format(open_npy),
    "hdf5": Format(open_hdf5),
}
