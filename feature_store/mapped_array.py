"""Arrays of Zarr whose chunks are uncompressed: their files are mapped into memory and sliced."""

from __future__ import annotations

import errno
import json
import math
from operator import index
from pathlib import Path

import numpy as np
import zarr

from feature_store.layout import METADATA, NOT_OFFERED

MAPPED = ("float16", "float32", "float64", "int32", "int64", "uint8")  # types of numbers in stores and indexes


class MappedArray:
    """An array chunked along its first axis only, its chunk files mapped as they are needed.

    Raises ValueError for metadata of another kind of array: a type of objects, say, would be read as addresses.
    """

    def __init__(self, folder: Path) -> None:
        try:
            metadata = json.loads((folder / METADATA).read_bytes())
            self.shape = tuple(map(index, metadata["shape"]))
            self._chunk = tuple(map(index, metadata["chunk_grid"]["configuration"]["chunk_shape"]))
            codecs = [codec["name"] for codec in metadata["codecs"]]
            dtype = metadata["data_type"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise ValueError(f"{folder.name}/{METADATA} is not the metadata of an array") from None
        sound = len(self.shape) == len(self._chunk) > 0 and min(self.shape) >= 0 and min(self._chunk) > 0
        if not sound or dtype not in MAPPED:
            raise ValueError(f"{folder.name}/{METADATA} tells of {dtype!r} {self.shape} in chunks of {self._chunk}")
        self._dtype = np.dtype(dtype)
        self._folder = folder
        self._chunks: dict[int, np.ndarray] = {}
        mappable = codecs in (["bytes", "crc32c"], ["bytes"]) and self._chunk[1:] == self.shape[1:]
        self._unmapped = None if mappable else zarr.open_array(folder, mode="r")

    def rows(self, first: int, stop: int) -> np.ndarray:
        """Rows first..stop - 1: a view of the file where they lie in one chunk."""
        if self._unmapped is not None:
            return np.asarray(self._unmapped[first:stop])
        size = self._chunk[0]
        if first // size == (stop - 1) // size:
            start = first - first // size * size
            return self._map(first // size)[start : start + stop - first]
        if first >= stop:
            return np.empty((0, *self.shape[1:]), self._dtype)
        parts = []
        while first < stop:
            chunk, start = divmod(first, size)
            parts.append(self._map(chunk)[start : start + stop - first])
            first += len(parts[-1])
        return np.concatenate(parts)

    def _map(self, chunk: int) -> np.ndarray:
        if chunk not in self._chunks:
            path = self._folder.joinpath("c", str(chunk), *["0"] * (len(self.shape) - 1))
            try:
                self._chunks[chunk] = np.memmap(path, self._dtype, "c", shape=self._chunk).view(np.ndarray)
            except OSError as error:
                if error.errno not in (*NOT_OFFERED, errno.ENODEV):
                    raise
                # a disk that maps no files
                self._chunks[chunk] = np.fromfile(path, self._dtype, math.prod(self._chunk)).reshape(self._chunk)
        return self._chunks[chunk]
