"""Checkpoints that PyTorch wrote under Python 2, read without running anything that they carry.

Such a file is a row of pickles (magic number, version, system, the object itself, keys of storages)
and then, for each key, the number of elements and the elements. Tensors in the object point to
storages by persistent ids. Strings are bytes, read as Latin-1. `torch.load(weights_only=True)` reads
most of these files, but neither strings over 255 bytes nor such that are not UTF-8.
"""

from __future__ import annotations

import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

MAGIC = 0x1950A86A20F9469CFC6C  # of torch.serialization
VERSION = 1001
ZIP = b"PK"  # how files of PyTorch 1.6 and later begin

DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
}


def load_checkpoint(path: Path) -> Any:
    """What a file of PyTorch holds, as long as that is tensors and plain data: an old file, or a newer one.

    Raises pickle.UnpicklingError for anything else that a file carries, and other errors where it is damaged.
    """
    with path.open("rb") as file:
        if file.read(len(ZIP)) == ZIP:
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:  # whose message says how to run what the file carries
                raise pickle.UnpicklingError("it is damaged, or carries other things than tensors") from error
        file.seek(0)
        return _load_legacy(file, path.stat().st_size)


def _load_legacy(file: BinaryIO, size: int) -> Any:
    storages: dict[str, Tensor] = {}
    if _TensorUnpickler(file, storages, size).load() != MAGIC:
        raise pickle.UnpicklingError("it is no file of PyTorch")
    if _TensorUnpickler(file, storages, size).load() != VERSION:
        raise pickle.UnpicklingError("it is of an unknown version of PyTorch's format")
    system = _TensorUnpickler(file, storages, size).load()
    if not system.get("little_endian", True):
        raise pickle.UnpicklingError("its numbers are big-endian")
    loaded = _TensorUnpickler(file, storages, size).load()
    keys = _TensorUnpickler(file, storages, size).load()
    if sorted(keys) != sorted(storages):
        raise pickle.UnpicklingError("its tensors and its storages do not belong together")
    for key in keys:
        _fill(storages[key], file)
    return loaded


def _fill(storage: Tensor, file: BinaryIO) -> None:
    (count,) = struct.unpack("<q", file.read(8))
    if count != storage.numel():
        raise pickle.UnpicklingError(f"a storage has {count} elements instead of {storage.numel()}")
    content = file.read(count * storage.itemsize)
    if len(content) != count * storage.itemsize:
        raise EOFError("it ends early")
    if count:
        storage.copy_(torch.frombuffer(bytearray(content), dtype=storage.dtype))


class _TensorUnpickler(pickle.Unpickler):
    """Unpickles tensors, ordered dictionaries and plain data. Storages are filled later; tensors are views of them."""

    def __init__(self, file: BinaryIO, storages: dict[str, Tensor], size: int) -> None:
        super().__init__(file, encoding="latin1")
        self.storages = storages
        self.room = size  # bytes that storages may still take: no more than the file has

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) in (("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v2")):
            return _rebuild_tensor
        if module in ("torch", "torch.cuda") and name in DTYPES:
            return DTYPES[name]
        raise pickle.UnpicklingError(f"it carries {module}.{name}, which is no tensor")

    def persistent_load(self, pid: Any) -> Tensor:
        kind, dtype, key, _, count, view = pid  # the fourth is the device that it was on
        if kind != "storage" or view is not None:
            raise pickle.UnpicklingError(f"it refers to a {kind} that is no plain storage")
        if key not in self.storages:
            self.room -= count * dtype.itemsize
            if count < 0 or self.room < 0:
                raise pickle.UnpicklingError(f"storage {key} would have {count} elements, more than the file")
            self.storages[key] = torch.zeros(count, dtype=dtype)
        return self.storages[key]


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset)
