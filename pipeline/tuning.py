"""What the process asks of the C library and of the kernel."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
PR_SET_PDEATHSIG = 1  # of Linux' sys/prctl.h


def usable_cores() -> int:
    """The cores that this process may use: a batch system may have allotted it fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def spare_memory() -> float:
    """Bytes that processes which work may take together, before the kernel kills: of a container, all that is in it.

    That is nine tenths of what there is, and at least 2 GB less, but half of it: the one that watches takes some,
    too, and looks only now and then. There is what the machine has, or a container or a batch system has allotted.
    """
    limits = [psutil.virtual_memory().total]
    for file in _allotted():
        with suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(file.read_text()))
    there = min(limits)
    return min(0.9 * there, max(0.5 * there, there - 2e9))


def _allotted() -> Iterator[Path]:
    """Where Linux' control groups, of version 2 or 1, say how much memory the ones that this process is in may take."""
    with suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, group = line.split(":", 2)
            if not controllers or "memory" in controllers.split(","):
                root = CGROUPS / "memory" if controllers else CGROUPS
                name = "memory.limit_in_bytes" if controllers else "memory.max"
                folder = root / group.lstrip("/")
                yield from (each / name for each in (folder, *folder.parents) if each.is_relative_to(root))


def keep_freed_memory() -> None:
    """Have freed memory kept for the next batch, where the C library is glibc.

    It gives every large block back to the system when it is freed, so that each layer of each batch has its
    memory made and cleared anew: a tenth of the time that networks take.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, 64 << 20)  # bytes; larger blocks are still given back, or gaps between
        libc.mallopt(M_TRIM_THRESHOLD, 512 << 20)  # blocks of many sizes would add up to gigabytes


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that began it ends, where it is Linux."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "prctl"):
        libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
