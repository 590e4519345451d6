"""Videos in object storage: brought to a temporary file, since FFmpeg may open nothing but local ones."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from feature_store import StoreError
from feature_store.places import OBJECT_STORES, fetch_object, is_url
from pipeline.media import MediaError

REFUSED = {"AccessDenied", "AllAccessDisabled", "403", "InvalidObjectState"}  # answers about an object, not a user
KEY_BYTES = 1024  # of an object's key, at most
PREFIX, LOCK = "reelcache-video-", "lock"  # of folders with copies, which are for this user alone, and in them
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{1,254}")  # with "@", as Azure has it
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,8}")  # by which FFmpeg tells some formats


class NotFetched(OSError):
    """A video could not be brought here, and others will not be either: it ends the run, which can be resumed."""


@contextmanager
def local_file(path: str) -> Iterator[str]:
    """Where a video lies on this machine while the context is open: its own path, or a copy of an object.

    Raises MediaError for an object that is not there or may not be read, and for a URL of no object store;
    NotFetched, an OSError, if the network or the disk of the temporary folder gives out.
    """
    if not is_url(path):
        yield path
        return
    check_url(path)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, open(Path(folder) / LOCK, "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        suffix = os.path.splitext(path)[1]
        copy = Path(folder) / f"video{suffix if _SUFFIX.fullmatch(suffix) else ''}"
        _fetch(path, copy)
        yield str(copy)


def sweep() -> None:
    """Remove the copies of processes of this user that were killed: nobody holds the locks of those any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Others' folders are left: another user's, one that is being used or made, one that somebody just removes.
        with suppress(OSError), open(folder / LOCK, "r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder)


def check_url(url: str) -> None:
    """Raise MediaError for one that names no object of a store that we know."""
    protocol, _, rest = url.partition("://")
    bucket, _, key = rest.partition("/")
    if protocol not in OBJECT_STORES or "::" in url:
        known = ", ".join(f"{name}://" for name in OBJECT_STORES)
        raise MediaError("open", f"only local files and objects ({known}) are read")
    odd = any(part in (".", "..") for part in key.split("/")) or any(ord(char) < 32 for char in key)
    if not _BUCKET.fullmatch(bucket) or ".." in bucket or not key.strip("/") or key.endswith("/") or odd:
        raise MediaError("open", f"it names no object: write {protocol}://bucket/name")
    if len(key.encode()) > KEY_BYTES:
        raise MediaError("open", f"its name is longer than {KEY_BYTES} bytes, so no object is called so")


def _fetch(url: str, copy: Path) -> None:
    try:
        fetch_object(url, copy)
    except FileNotFoundError:
        raise MediaError("open", "there is no such object") from None
    except PermissionError as error:
        if not REFUSED & set(_codes(error)):  # credentials that have expired are no fault of the video
            raise NotFetched(f"{url}: {error}") from error
        raise MediaError("open", "reading the object is not allowed") from None
    except (OSError, StoreError) as error:
        raise NotFetched(str(error)) from error


def _codes(error: BaseException | None) -> Iterator[str]:
    """The codes with which an S3 store answered, of an error and of those that led to it."""
    while error is not None:
        yield str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))
        error = error.__cause__
