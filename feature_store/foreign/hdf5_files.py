"""HDF5 files of unknown origin: what they name outside themselves is never opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from feature_store.foreign.source import Rows, Source, check_ids, check_shape, choose, find_files
from feature_store.layout import StoreError

SUFFIXES = (".hdf5", ".h5")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Within, what h5py finds wrong with a file is told as a StoreError naming it."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise StoreError(f"{path}: not a readable HDF5 file ({error}); it may be cut off: fetch it again") from error


def open_file(path: Path) -> Any:
    """The file, opened for reading."""
    import h5py  # here, since most commands on a store do without it

    with reading(path):
        return h5py.File(path, "r")


def has(group: Any, name: str, path: Path) -> bool:
    """Whether a group has a member of that name; unlike `in`, looks at no link's other end."""
    with reading(path):
        return group.get(name, getlink=True) is not None


def child(group: Any, name: str, path: Path) -> Any:
    """A member of a group of the file. Raises StoreError if it is a link to somewhere else."""
    import h5py

    with reading(path):
        link = group.get(name, getlink=True)
        if isinstance(link, h5py.HardLink):
            return group[name]
    raise StoreError(
        f"{path}: {name!r} is a {type(link).__name__}: features must lie in the file itself. "
        "If you trust it, make a copy without links: h5repack, or h5copy -f ext"
    )


def read_dataset(dataset: Any, where: str, path: Path) -> np.ndarray:
    """A dataset's values. Raises StoreError if they lie in other files, or are no features."""
    if dataset.is_virtual or dataset.external:
        raise StoreError(f"{where}: its values lie in other files; make a copy that holds them: h5repack")
    check_shape(where, dataset.shape or (), dataset.dtype)
    with reading(path):
        return np.asarray(dataset[()])


def open_one_member_a_video(paths: Sequence[Path], key: str | None, expert: str) -> Source:
    """Files of which each top-level dataset is a video's (rows, dim), named by its id.

    A video may be a group instead, with its features in one dataset, or in the one named `key`.
    """
    import h5py

    files = find_files(paths, SUFFIXES)
    opened: list[Any] = []
    places: dict[str, tuple[Any, Path]] = {}
    ids: list[tuple[str, str]] = []

    def close() -> None:
        for file in opened:
            file.close()

    def read(video: str) -> Rows:
        file, path = places[video]
        where = f"{path}, video {video!r}"
        member = child(file, video, path)
        if isinstance(member, h5py.Group):
            member = _in_group(member, key, where, path)
        if not isinstance(member, h5py.Dataset):
            raise StoreError(f"{where}: a {type(member).__name__}, not a dataset")
        return Rows(read_dataset(member, where, path))

    try:
        for _, path in files:
            file = open_file(path)
            opened.append(file)
            with reading(path):
                names = list(file)
            if not names:
                raise StoreError(f"{path}: holds no videos; the tool that wrote it may have failed")
            ids += [(name, str(path)) for name in names]
            places |= dict.fromkeys(names, (file, path))
        check_ids(ids)
    except BaseException:  # whatever it is goes on, but no file is left open
        close()
        raise
    return Source(tuple(places), tuple(files), read, lambda video: str(places[video][1]), close)


def _in_group(group: Any, key: str | None, where: str, path: Path) -> Any:
    with reading(path):
        names = list(group)
    return child(group, choose(names, key, "", where), path)
