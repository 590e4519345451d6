"""From files, on disk or in object storage, to a manifest: finding them, naming them, probing them."""

from __future__ import annotations

import csv
import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from data_manifests import ManifestError, Video
from feature_store import StoreError
from feature_store.clean_processes import map_in_processes
from feature_store.places import is_url, open_place
from pipeline.fetching import local_file
from pipeline.media import MediaError, probe

MEDIA_SUFFIXES = frozenset(  # a table to read, hence one string
    [
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".dv",
        ".f4v",
        ".flv",
        ".gif",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mjpeg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".nut",
        ".ogm",
        ".ogv",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".aac",
        ".flac",
        ".m4a",
        ".mka",
        ".mp3",
        ".oga",
        ".ogg",
        ".opus",
        ".wav",
        ".wma",
    ]
)
PROBES_AT_ONCE = 4  # files


@dataclass(frozen=True)
class Probed:
    """A video of the manifest, and why it cannot be read, if so."""

    video: Video
    problem: str | None


@dataclass(frozen=True)
class Found:
    """The videos of a corpus, and files that cannot be among them: (file, reason)."""

    videos: list[Video]
    problems: list[tuple[str, str]]


def find_videos(source: str) -> Found:
    """The videos of a folder (searched through), a glob pattern, a CSV file, or a prefix in an object store.

    Of a folder or a prefix, files with the suffix of a media format count. A CSV file has a `path` column and, if
    it likes, `id`, `start` and `end`; other columns go to `meta`; its paths are relative to itself.
    Without ids of their own, files are called by their path within the folder, without the suffix
    unless two would then be called the same.

    Raises ManifestError if there is nothing, a CSV row is wrong (with its line), or an id stands twice.
    """
    path = Path(source)
    if is_url(source):
        corpus = _of_store(source)
    elif path.is_dir():
        found = [file for file in path.rglob("*") if file.suffix.lower() in MEDIA_SUFFIXES and file.is_file()]
        corpus = _named(sorted(found), path)
    elif path.is_file() and path.suffix.lower() == ".csv":
        corpus = Found(list(_from_csv(path)), [])
    else:
        found = [Path(file) for file in sorted(glob.glob(source, recursive=True)) if os.path.isfile(file)]
        corpus = _named(found, Path(os.path.commonpath([file.parent for file in found])) if found else path)
    if not corpus.videos:
        raise ManifestError(f"{source}: no videos there (a folder, a glob pattern in quotes, or a .csv file)")
    twice = [name for name, count in Counter(video.id for video in corpus.videos).items() if count > 1]
    if twice:
        raise ManifestError(f"{source}: ids must be unique; more than one video is called {', '.join(twice[:10])}")
    return corpus


def _of_store(url: str) -> Found:
    """The objects below a prefix."""
    try:
        place = open_place(url)
    except StoreError as error:
        raise ManifestError(str(error)) from None
    names = [name for name in sorted(place.sizes("")) if Path(name).suffix.lower() in MEDIA_SUFFIXES]
    return _called({Path(name): f"{place.url}/{name}" for name in names})


def _named(files: list[Path], root: Path) -> Found:
    return _called({file.relative_to(root): str(file.absolute()) for file in files})


def _called(paths: Mapping[Path, str]) -> Found:
    """Videos called by their paths within what was searched."""
    stems = Counter(whole.with_suffix("").as_posix() for whole in paths)
    videos, problems = [], []
    for whole, path in paths.items():
        stem = whole.with_suffix("").as_posix()
        name = stem if stems[stem] == 1 else whole.as_posix()
        try:
            videos.append(Video(name, path))
        except ValueError:
            problems.append((ascii(path), "its name is not UTF-8, so no manifest can hold it: rename it"))
    return Found(videos, problems)


def _from_csv(path: Path) -> Iterator[Video]:
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.DictReader(file)
        if "path" not in (rows.fieldnames or ()):
            raise ManifestError(f"{path}:1: needs a column called path; it has {', '.join(rows.fieldnames or ())}")
        for row in rows:
            fields = {name: value for name, value in row.items() if name is not None and value not in (None, "")}
            try:
                named = fields.pop("path")
                target = named if is_url(named) else str(path.parent.absolute() / named)
                yield Video(
                    id=fields.pop("id", None) or Path(target).stem,
                    path=target,
                    start=float(fields.pop("start")) if "start" in fields else None,
                    end=float(fields.pop("end")) if "end" in fields else None,
                    meta=fields,
                )
            except (KeyError, ValueError) as error:
                reason = "no path" if isinstance(error, KeyError) else str(error).splitlines()[-1].strip()
                raise ManifestError(f"{path}:{rows.line_num}: {reason}") from None


def probe_videos(videos: Iterable[Video], workers: int) -> Iterator[Probed]:
    """Probe files in `workers` processes and yield them in order, what was found being in `meta`.

    A file at which its process crashes is one that cannot be read.
    """
    return map_in_processes(_probe, videos, workers, PROBES_AT_ONCE, _crashed)


def relative_to(folder: Path, video: Video) -> str:
    """The video's path as a manifest in `folder` should name it: relative if it lies below, so that both can move."""
    path = Path(video.path)
    if is_url(video.path):
        return video.path
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


def _probe(video: Video) -> Probed:
    try:
        with local_file(video.path) as path:
            found = {name: value for name, value in asdict(probe(path)).items() if value is not None}
    except MediaError as error:
        return _unreadable(video, str(error))
    return Probed(replace(video, meta={**video.meta, **found}), None)


def _crashed(video: Video, how: str) -> Probed:
    return _unreadable(video, f"open: {how}")


def _unreadable(video: Video, problem: str) -> Probed:
    return Probed(replace(video, meta={**video.meta, "problem": problem}), problem)
