"""The log of a run: JSON Lines, an event a line, which scripts can follow and people can read."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_store.places import naming
from pipeline.work import Outcome

Listener = Callable[[dict[str, Any]], None]


class RunLog:
    """Tells events to a listener, and writes them to the file at `path`, as soon as one is named.

    Every event has "time" (UTC), "run" and "event"; docs/scaling.md lists them with what else they say.
    """

    def __init__(self, run: str, listener: Listener | None = None) -> None:
        self._run, self._listener = run, listener
        self.path: Path | None = None

    def tell(self, event: str, **about: Any) -> None:
        """Note an event. Raises OSError if the file cannot be written."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        document = {"time": now, "run": self._run, "event": event, **about}
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Names of files need not be Unicode text; what is no text of them is escaped, which JSON can be.
            line = json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"
            file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)  # less the umask
            try:
                with naming(self.path):
                    os.write(file, line)  # in one piece, so that runs that share a log do not mix their lines
            finally:
                os.close(file)
        if self._listener:
            self._listener(document)

    def outcome(self, outcome: Outcome) -> None:
        """Note what came of a shard, and of the videos in it that did not go well."""
        for death in outcome.deaths:
            self.tell("process_died", **asdict(death))
        for fault in outcome.faults:
            self.tell(f"video_{fault.status}", shard=outcome.shard, **_without(asdict(fault), "status"))
        about = {"videos": outcome.videos, "rows": dict(outcome.rows)} if outcome.state == "written" else {}
        self.tell(f"shard_{outcome.state}", shard=outcome.shard, by=outcome.by, **about)


def _without(document: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name != key}
