"""Downloads: resumed where they broke off, tried again, checked by their digest, done once however many ask."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
from filelock import FileLock
from huggingface_hub import get_session
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

PATIENCE = 20.0  # seconds that a server may be silent
TRIES = 5  # in a row that bring nothing new
TRIES_UNANSWERED = 2  # while no server has answered at all: most likely there is no network
PAUSE = 1.0  # seconds before the second try; doubled before each further one
BLOCK = 1 << 16  # bytes; of a connection that breaks, less than one is lost
PASSING = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses that another try may not meet


class DownloadError(Exception):
    """A file that could not be had; the message says why."""

    exit_code = 1


class _Broken(Exception):
    """A try that failed, after which another is worth it."""


def download(url: str, path: Path, sha256: str = "") -> str:
    """Put the file published at `url` at `path`, and return its SHA-256.

    What came is kept in `path`.part, from which a later call goes on, until the whole file agrees with
    `sha256`, which may be the beginning of a digest; only then it gets its name. Without a digest the
    server must say that the file is still the one that the part is of, or it starts over. Of several
    callers for one path, in any process, one downloads and the others find the file there. Raises
    DownloadError.
    """
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"only http and https addresses are fetched, not {url or 'none'}")
    with locked(path):
        if path.exists():
            return file_digest(path)
        transfer = _Transfer(url, path.with_name(f"{path.name}.part"), checked=bool(sha256))
        resumed = transfer.size > 0
        with _shown(path.name) as show:
            digest = transfer.run(show)
            if resumed and not digest.startswith(sha256):  # the old part may have been of another file
                transfer.drop()
                digest = transfer.run(show)
        if not digest.startswith(sha256):
            transfer.drop()
            raise DownloadError(
                f"what came is damaged or another file: its SHA-256 begins with {digest[: len(sha256)]}, "
                f"the published one's with {sha256}. It was deleted"
            )
        settle(transfer.part, path)
        transfer.drop()
    return digest


def again(fetch: Callable[[], Path]) -> Path:
    """Call what fetches from the hub until it succeeds, as long as its failures are of a passing kind."""
    problem: Exception
    for failures in range(TRIES):
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))
        try:
            return fetch()
        except LocalEntryNotFoundError as error:  # nobody said where the file is, for a cause that this hides
            problem = error.__cause__ if isinstance(error.__cause__, Exception) else error
        except HfHubHTTPError as error:
            problem = error
            if error.response.status_code not in PASSING:
                break
    raise DownloadError(f"{type(problem).__name__}: {next(iter(str(problem).splitlines()), '')}") from problem


LOCK_MODE = 0o666  # less the umask: who shares a cache must be able to lock its files


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one, thread or process, who makes this file; its folder is made if it is not there."""
    locks = path.parent / ".locks"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{path.name}.lock", mode=LOCK_MODE):
        yield


def knock(url: str) -> None:
    """Raise soon if nobody answers at `url`; the hub's client only does so after minutes of trying."""
    get_session().head(url, timeout=PATIENCE)


def settle(part: Path, path: Path) -> None:
    """Give a finished file its name, so that after a power cut either the whole file is there or none."""
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class _Transfer:
    """One file on its way into `part`."""

    url: str
    part: Path
    checked: bool  # against a digest, in the end
    answered: bool = False

    @property
    def size(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    @property
    def mark(self) -> Path:
        """Where the server's mark of the content is kept that `part` is of, if there is no digest to check it by."""
        return self.part.with_name(f"{self.part.name}.mark")

    def drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.mark.unlink(missing_ok=True)

    def run(self, show: Callable[[int, int | None], None]) -> str:
        """Complete `part`, in as many tries as bring something, and return its digest."""
        most, failures = self.size, 0
        while True:
            try:
                self._go_on(show)
                return file_digest(self.part)
            except _Broken as broken:
                failures = 1 if self.size > most else failures + 1
                most = max(most, self.size)
                if failures >= (TRIES if self.answered else TRIES_UNANSWERED):
                    kept = f"; the {self.size / 1e6:.1f} MB that came are kept, the next try goes on from there"
                    raise DownloadError(f"{broken}, {failures} times in a row{kept if self.size else ''}") from broken
            time.sleep(PAUSE * 2 ** (failures - 1))

    def _go_on(self, show: Callable[[int, int | None], None]) -> None:
        """One request for what is missing."""
        mark = self.mark.read_text() if self.mark.exists() else ""
        if not (self.checked or mark):
            self.drop()
        have = self.size
        headers = {"Accept-Encoding": "identity"}  # lengths and digests are of the file itself
        if have:
            headers["Range"] = f"bytes={have}-"
            if not self.checked:
                headers["If-Range"] = mark
        try:
            with requests.get(self.url, headers=headers, stream=True, timeout=PATIENCE) as answer:
                self._take(answer, have, show)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _Broken(_said(error)) from error
        except requests.RequestException as error:
            raise DownloadError(_said(error)) from error

    def _take(self, answer: requests.Response, have: int, show: Callable[[int, int | None], None]) -> None:
        """Write an answer's body behind the `have` bytes that are there, or from the start if it is the whole file."""
        self.answered = True
        if answer.status_code in PASSING:
            raise _Broken(f"the server answers {answer.status_code} {answer.reason}")
        sent = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if answer.status_code == 416 and sent and sent[2] == str(have):
            return  # a process that died after the last byte left the whole file
        fits = answer.status_code == 206 and sent and sent[1] == str(have)
        if have and not fits and answer.status_code in (206, 416):
            self.drop()
            raise _Broken("the server has another part than asked for")
        if not (fits or answer.status_code == 200):
            raise DownloadError(f"the server answers {answer.status_code} {answer.reason}")
        if answer.headers.get("Content-Type", "").startswith("text/html"):
            raise DownloadError("the server, or something in between, sends a web page instead of the file")
        start = have if fits else 0
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        if not start:
            self.drop()
            mark = answer.headers.get("ETag", "")
            if mark.startswith('"') and not self.checked:  # a weak one does not speak of bytes
                self.mark.write_text(mark)
        with self.part.open("r+b" if start else "wb", buffering=0) as file:
            file.seek(start)
            show(start, total)
            for block in answer.iter_content(BLOCK):
                file.write(block)
                show(file.tell(), total)
        if total is not None and self.size < total:
            raise _Broken(f"the connection broke off after {self.size} of {total} bytes")
        if not self.size:
            raise DownloadError("the server sends an empty file")


def _said(error: Exception) -> str:
    """An error in a phrase; of a connection that failed, why, without the objects that say so."""
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection broke off"
    if isinstance(error, requests.exceptions.InvalidSchema):
        return f"the server sends on to another kind of address, and only http and https ones are fetched ({error})"
    cause = getattr(error.args[0] if error.args else None, "reason", None) or error
    reason = re.sub(r"^HTTPS?Connection(Pool)?\(.*?\): ", "", str(cause))
    return f"{type(error).__name__}: {reason}"


@contextmanager
def _shown(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """A progress bar for bytes done and in all, where somebody looks at it."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(
        TextColumn("{task.description}", markup=False), *columns, console=Console(stderr=True), transient=True
    ) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
