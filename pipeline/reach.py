"""Telling a bad video from a file system that is gone: the first is one video's fault, the second ends the run."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from data_manifests import Video

LOST = {
    errno.ESTALE,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ETIMEDOUT,
    errno.EREMOTEIO,
    errno.ENODEV,
}


def check_reachable(path: str) -> None:
    """Raise OSError if the file system below a video no longer answers; a file that is not there is no such case."""
    try:
        os.stat(path)
    except ValueError:  # a NUL in the path
        return
    except OSError as error:
        if error.errno in LOST or (error.errno == errno.EIO and not _listable(os.path.dirname(path))):
            reason = f"the file system of the videos is lost ({error.strerror}); mount it again, then the same command"
            raise OSError(error.errno, reason, path) from None


def check_folders(videos: Iterable[Video]) -> None:
    """Raise FileNotFoundError if all folders in which these videos should be are missing, or empty.

    A video that is missing is that video's failure; but a disk that is not mounted would make failures of all.
    """
    folders = sorted({os.path.dirname(video.path) for video in videos if "://" not in video.path})
    if folders and not any(map(_there, folders)):
        reason = (
            "nothing is where these videos should be: is a disk not mounted, or is the manifest of another machine?"
        )
        raise FileNotFoundError(errno.ENOENT, reason, folders[0])


def _there(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return any(True for _ in entries)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):  # one that may not be listed, or with a NUL
        return True


def _listable(folder: str) -> bool:
    try:
        os.listdir(folder)
    except OSError:
        return False
    return True
