"""Who is at work on a store: leases on shards, and the heartbeats of the processes that hold them.

    .run/holders/<holder>.json    what a process says of itself, written anew at every beat
    .run/leases/<what>-<n>        the name of a holder; made once

Of several processes that make a lease at once, one succeeds, and the one with the greatest n holds the shard. A holder
whose heartbeat does not change for STALE seconds of the clock of whoever waits is taken for dead, and whoever makes
n + 1 holds the shard instead: no two clocks need to agree. On its own machine a dead process is known at once.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from feature_store.places import RUN, Place

HOLDERS, LEASES = f"{RUN}/holders", f"{RUN}/leases"
BEAT = 10.0  # seconds
STALE = 180.0  # seconds; clients of NFS may see a file as it was a minute ago
FORGOTTEN = 3600.0  # seconds of silence after which what a process left is removed
POLL = 0.2  # seconds between two tries of who waits


_NAME = re.compile(r"[A-Za-z0-9.-]{1,200}")
_HOLDER = re.compile(r"[A-Za-z0-9.-]+-\d+-[0-9a-f]{8}")


def new_holder() -> str:
    """A name for a process that works on a store: its host and number, and what nobody else has."""
    host = re.sub(r"[^A-Za-z0-9.]+", "-", socket.gethostname())[:60]
    return f"{host}-{os.getpid()}-{secrets.token_hex(4)}"


class Leases:
    """What one process holds of a store. `stale` seconds without a beat make another one dead."""

    def __init__(self, place: Place, holder: str, stale: float = STALE) -> None:
        self.place, self.holder = place, holder
        self._stale = stale
        self._seen: dict[str, tuple[bytes, float]] = {}  # heartbeats of others, and since when they are as they are
        self._beats = 0

    def beat(self, about: Mapping[str, Any] | None = None) -> None:
        """Say that this process is alive, and `about` what. The first beat comes before the first lease."""
        self._beats += 1
        document = {"holder": self.holder, **_process(), "beat": self._beats, **(about or {})}
        self.place.write(_heartbeat(self.holder), json.dumps(document, ensure_ascii=False).encode())

    def leave(self) -> None:
        """Say no more: the process holds nothing and ends."""
        self.place.remove(_heartbeat(self.holder))

    def take(self, what: str) -> str | None:
        """Hold something from now on; if a living process holds it already, its name instead.

        Who comes to hold it must look once more whether it is still to be done.
        """
        generations = self._generations(what)
        if generations:
            other = self._read(what, generations[-1])
            if other == self.holder:
                return None
            # What is no name, e.g. zeros after a power cut, holds nothing: who made it would not know it again either.
            # An empty one may be about to be written, on a disk without hard links.
            if (not other or _NAME.fullmatch(other)) and not self.dead(other):
                return other
        made = generations[-1] + 1 if generations else 0
        if self.place.create(_lease(what, made), self.holder.encode()):
            return None
        return self._read(what, made) or "another process"

    def holds(self, what: str) -> bool:
        """Whether this process holds it still: while it stood still, another one may have taken it for dead."""
        generations = self._generations(what)
        return bool(generations) and self._read(what, generations[-1]) == self.holder

    def release(self, what: str) -> None:
        """Hold it no longer. Does nothing to what another one holds."""
        if self.holds(what):
            for generation in self._generations(what):
                self.place.remove(_lease(what, generation))

    @contextmanager
    def held(self, what: str) -> Iterator[None]:
        """Hold something within, once nobody else does."""
        while self.take(what) is not None:
            time.sleep(POLL)
        try:
            yield
        finally:
            self.release(what)

    def dead(self, holder: str) -> bool:
        """Whether a process is known to have ended, or has shown no sign of life for too long."""
        try:
            content = self.place.read(_heartbeat(holder))
        except FileNotFoundError:
            content = b""
        now = time.monotonic()
        before, since = self._seen.get(holder, (None, now))
        if content != before:
            self._seen[holder] = (content, now)
            since = now
        return _ended_here(content) or now - since >= self._stale

    def clear(self) -> None:
        """Remove what processes have left here that ended without leaving."""
        left = [name.removesuffix(".json") for name in self.place.children(HOLDERS) if name.endswith(".json")]
        # What lies in a store may be anybody's: only what is a name of ours is made a path.
        others = [holder for holder in left if _HOLDER.fullmatch(holder) and holder != self.holder]
        dead = [holder for holder in others if self.dead(holder)]
        if dead:
            for name in self.place.children(LEASES):
                what, _, generation = name.rpartition("-")
                if generation.isdigit() and self._read(what, int(generation)) in dead:
                    self.place.remove(f"{LEASES}/{name}")
        for holder in dead:
            if not self._gone(holder):
                continue  # it may only sleep, and go on with what lies in its scratch
            self.place.clear_scratch(holder)
            self.place.remove(_heartbeat(holder))

    def _gone(self, holder: str) -> bool:
        content, since = self._seen[holder]
        return _ended_here(content) or time.monotonic() - since >= max(self._stale, FORGOTTEN)

    def _generations(self, what: str) -> list[int]:
        found = (name.rpartition("-") for name in self.place.children(LEASES))
        return sorted(int(number) for name, _, number in found if name == what and number.isdigit())

    def _read(self, what: str, generation: int) -> str:
        with suppress(FileNotFoundError):
            return self.place.read(_lease(what, generation)).decode(errors="replace")
        return ""


def read_holders(place: Place) -> Iterator[tuple[str, bytes]]:
    """The names of all processes that say they are at work, with what they say, JSON as a rule."""
    for name in place.children(HOLDERS):
        if name.endswith(".json"):
            with suppress(FileNotFoundError):
                yield name.removesuffix(".json"), place.read(f"{HOLDERS}/{name}")


def _heartbeat(holder: str) -> str:
    return f"{HOLDERS}/{holder}.json"


def _lease(what: str, generation: int) -> str:
    return f"{LEASES}/{what}-{generation}"


@cache
def _machine() -> str:
    """What tells this start of this machine, and this view of its processes, from all others; "" if nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": _machine(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def _started(pid: int) -> int | None:
    """When a process began, in ticks since the machine did; None if there is none (any more)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def _ended_here(heartbeat: bytes) -> bool:
    """Whether a heartbeat is of a process of this machine that is there no more."""
    try:
        document = json.loads(heartbeat)
        machine, pid, started = document["machine"], int(document["pid"]), document["started"]
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):  # nothing that one of us wrote
        return False
    return bool(machine) and machine == _machine() and _started(pid) != started
