"""Pickles of unknown origin, read for their arrays: whatever a hostile one asks for, nothing of it runs.

A pickle is a program that calls what it names. Here all it can name are plain containers, and stand-ins
of what NumPy's arrays are made of. NumPy's own are left out, since what they are given goes unchecked to
C: an array of objects whose type is said to be of plain bytes takes these bytes for addresses.
"""

from __future__ import annotations

import collections
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from feature_store.layout import StoreError

_NUMBERS = re.compile(r"[<>=|]?[fiub][1248]")
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_CONTAINERS = (dict, list, tuple, set, frozenset, bytes, bytearray, str, int, float, bool)
_BUILTINS = {kind.__name__: kind for kind in _CONTAINERS}


def load_arrays(path: Path) -> Any:
    """What a pickle of containers, numbers, texts and arrays holds, arrays as `PickledArray`.

    Texts of Python 2 are taken for Latin-1. Raises StoreError, naming the file, at anything else.
    """
    try:
        with open(path, "rb") as file:
            return _Unpickler(file, encoding="latin1").load()
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        reason = str(error) or type(error).__name__
        raise StoreError(f"{path}: not a pickle of plain arrays ({reason:.200})") from error


class PickledArray:
    """Stands for numpy.ndarray: what its state says, as an array over the pickle's own bytes."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array = np.empty(0)

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, content = state
        self.array = _array(content, dtype, shape, "F" if fortran else "C")


class PickledType:
    """Stands for numpy.dtype: numbers only."""

    __slots__ = ("dtype",)

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not isinstance(code, str) or not _NUMBERS.fullmatch(code):
            raise pickle.UnpicklingError(f"values of type {code!r}: only arrays of plain numbers are read")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "=", "|") or state[2] is not None or state[4] is not None:
            raise pickle.UnpicklingError("a structured type: only arrays of plain numbers are read")
        self.dtype = self.dtype.newbyteorder(order)


def _array(content: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """The array that these bytes are; raises if they are not as many as its shape needs."""
    if not isinstance(dtype, PickledType) or order not in ("C", "F"):
        raise pickle.UnpicklingError("an array whose type is not told")
    content = content.encode("latin1") if isinstance(content, str) else content
    if not isinstance(content, bytes | bytearray):
        raise pickle.UnpicklingError(f"an array made from a {type(content).__name__}")
    if not isinstance(shape, tuple) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise pickle.UnpicklingError(f"an array of shape {shape!r:.80}")
    return np.frombuffer(content, dtype.dtype).reshape(shape, order=order)


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """What a pickle gets for a name. Made anew each time, so that no pickle can change it for the next."""
        found = _stand_in(module, name)
        if found is None:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which features do not need: refused")
        return found

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of it")


def _stand_in(module: str, name: str) -> Callable[..., Any] | None:
    if module in ("builtins", "__builtin__"):
        return _BUILTINS.get(name)
    if module == "collections" and name in ("OrderedDict", "defaultdict"):
        return collections.OrderedDict if name == "OrderedDict" else collections.defaultdict
    if (module, name) == ("numpy", "dtype"):
        return lambda *arguments: PickledType(*arguments)
    if (module, name) == ("numpy", "ndarray"):
        return lambda *arguments: PickledArray()  # only ever named, as the first argument of _reconstruct
    if module in _MULTIARRAY and name == "_reconstruct":
        return lambda *arguments: PickledArray()
    if module in _MULTIARRAY and name == "scalar":
        return lambda dtype, content: _array(content, dtype, ())[()]
    if module in _NUMERIC and name == "_frombuffer":
        return lambda content, dtype, shape, order: _pickled(_array(content, dtype, shape, order))
    if (module, name) == ("_codecs", "encode"):
        return lambda text, encoding: _latin1(text, encoding)
    return None


def _pickled(array: np.ndarray) -> PickledArray:
    stand_in = PickledArray()
    stand_in.array = array
    return stand_in


def _latin1(text: Any, encoding: Any) -> bytes:
    """How pickles of Python 3 in the format of Python 2 write bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError("text in an encoding other than Latin-1")
    return text.encode("latin1")
