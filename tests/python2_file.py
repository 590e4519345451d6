"""Checkpoints as PyTorch 0.2 wrote them under Python 2, for tests of what reads them."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
SYSTEM = {
    "protocol_version": VERSION,
    "little_endian": True,
    "type_sizes": {"short": 2, "int": 4, "long": 4},
}


class _Storage:
    """Where a tensor's elements are: in the file they follow the pickles."""

    def __init__(self, tensor: Tensor) -> None:
        self.elements = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage())
        self.key = str(tensor.untyped_storage().data_ptr())


class _Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes text as Python 2 wrote `str`, tensors as PyTorch 0.2 did, on the device they were trained on."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: Any, storages: dict[str, _Storage]) -> None:
        super().__init__(file, protocol=2)
        self.storages = storages

    def save_str(self, text: str) -> None:
        content = text.encode("latin1")
        if len(content) < 256:
            self.write(pickle.SHORT_BINSTRING + struct.pack("<B", len(content)) + content)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[str] = save_str

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        self.storages[obj.key] = obj
        kind = {torch.float32: torch.cuda.FloatStorage, torch.int64: torch.cuda.LongStorage}[obj.elements.dtype]
        return "storage", kind, obj.key, "cuda:0", len(obj.elements), None

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor):
            where = _Storage(obj), obj.storage_offset(), tuple(obj.shape), obj.stride()
            return torch._utils._rebuild_tensor, where
        if isinstance(obj, OrderedDict):
            return OrderedDict, ([[name, value] for name, value in obj.items()],)
        return NotImplemented


def write_checkpoint(content: Any, path: Path) -> None:
    """Write `content` (tensors of float32 or int64, plain data) as PyTorch 0.2 under Python 2 would."""
    storages: dict[str, _Storage] = {}
    with path.open("wb") as file:
        for part in (MAGIC, VERSION, SYSTEM, content):
            _Python2Pickler(file, storages).dump(part)
        _Python2Pickler(file, storages).dump(list(storages))
        for storage in storages.values():
            file.write(struct.pack("<q", len(storage.elements)) + storage.elements.numpy().tobytes())


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)
