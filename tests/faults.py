"""What decoders and libraries do to the process they are in, on purpose."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable


def crash() -> None:
    ctypes.string_at(0)


def hang() -> None:
    """As in an endless loop that never lets go of the interpreter."""
    ctypes.PyDLL(None).sleep(1000)


def wait() -> None:
    """As in an endless loop of a library that lets other threads run."""
    time.sleep(1000)


def leave() -> None:
    os._exit(3)


def be_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def swell() -> None:
    """As a decoder does that believes a file's claims."""
    taken = bytearray(1_000_000_000)
    time.sleep(1000)
    del taken


FAULTS: dict[str, Callable[[], None]] = {
    "crash": crash,
    "hang": hang,
    "wait": wait,
    "leave": leave,
    "killed": be_killed,
    "swell": swell,
    "slow": lambda: time.sleep(4),
    "good": lambda: None,
}
