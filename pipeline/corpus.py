"""From files, on disk or in object storage, to a manifest: finding them, naming them, probing them."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import ValidationError

from data_manifests import ManifestError, Video
from data_manifests.folder_walk import PassedOver, find_files
from data_manifests.jsonl import reason_of
from data_manifests.text_files import read_table
from feature_store import StoreError
from feature_store.clean_processes import map_in_processes
from feature_store.places import is_url, open_place
from pipeline.fetching import local_file
from pipeline.media import MediaError, probe

MEDIA_SUFFIXES = {  # of video, then of sound, in formats that `media.SELF_CONTAINED_FORMATS` lists
    ".3g2", ".3gp", ".3gpp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".gif", ".h264", ".264", ".h265", ".265",
    ".hevc", ".ivf", ".m1v", ".m2p", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg", ".mkv", ".mov", ".mp4",
    ".mpe", ".mpeg", ".mpg", ".mpv", ".mts", ".mxf", ".nsv", ".nut", ".obu", ".ogm", ".ogv", ".ogx", ".qt", ".rm",
    ".rmvb", ".swf", ".tp", ".trp", ".ts", ".vc1", ".viv", ".vob", ".webm", ".wmv", ".wtv", ".y4m", ".aac", ".ac3",
    ".aif", ".aiff", ".amr", ".eac3", ".flac", ".m4a", ".m4b", ".mka", ".mp2", ".mp3", ".oga", ".ogg", ".opus", ".ra",
    ".spx", ".w64", ".wav", ".weba", ".wma",
}  # fmt: skip
TABLES = (".csv", ".tsv")
COLUMNS = ("path", "id", "start", "end", "duration")
SECONDS = ("start", "end", "duration")
PROBES_AT_ONCE = 4  # files


@dataclass(frozen=True)
class Probed:
    """A video of the manifest, and why it cannot be read, if so."""

    video: Video
    problem: str | None


@dataclass(frozen=True)
class Found:
    """The videos of a corpus, files that cannot be among them: (file, reason), and what was passed over, a sentence."""

    videos: list[Video]
    problems: list[tuple[str, str]]
    passed_over: str = ""


def find_videos(source: str) -> Found:
    """The videos of a folder (searched through), a glob pattern, a table, or a prefix in an object store.

    Of a folder or a prefix, files with the suffix of a media format count; links are followed. A table, .csv or .tsv,
    has a `path` column and, if it likes, `id`, `start` and `end`; other columns go to `meta`; its paths are relative
    to itself. Without ids of their own, files are called by their path within the folder, without the suffix
    unless two would then be called the same.

    Raises ManifestError if there is nothing, a row is wrong (with its line), or an id stands twice.
    """
    path = Path(source)
    if is_url(source):
        corpus = _of_store(source)
    elif path.is_dir():
        files, passed = find_files(path, MEDIA_SUFFIXES)
        corpus = replace(_named(files, path), passed_over=str(passed))
    elif path.is_file() and path.suffix.lower() in TABLES:
        corpus = Found(list(_of_table(path)), [])
    else:
        found = [Path(file) for file in sorted(glob.glob(source, recursive=True)) if os.path.isfile(file)]
        corpus = _named(found, Path(os.path.commonpath([file.parent for file in found])) if found else path)
    if not corpus.videos:
        passed_over = f"; {corpus.passed_over}" if corpus.passed_over else ""
        raise ManifestError(
            f"{source}: no videos there (a folder, a glob pattern in quotes, or a .csv or .tsv file){passed_over}"
        )
    twice = [name for name, count in Counter(video.id for video in corpus.videos).items() if count > 1]
    if twice:
        raise ManifestError(f"{source}: ids must be unique; more than one video is called {', '.join(twice[:10])}")
    return corpus


@dataclass(frozen=True)
class Grown:
    """The videos of an older manifest, in its order and by its ids, then those that are new."""

    videos: list[Video]
    added: int
    gone: list[str]  # ids of videos that were not found; they stay, since stores have their places


def grow(old: Iterable[Video], found: Sequence[Video]) -> Grown:
    """Put what was found behind the videos of an older manifest, whose paths are absolute.

    Stores know the videos of a manifest by their order, so a file that sorts between others still goes to the end.
    """
    fresh = {(video.path, video.start, video.end): video for video in found}
    videos, gone = [], []
    for video in old:
        again = fresh.pop((os.path.normpath(video.path), video.start, video.end), None)
        gone += [] if again else [video.id]
        videos.append(replace(again, id=video.id) if again else video)
    taken = {video.id for video in videos}
    for video in fresh.values():
        name = video.id if video.id not in taken else Path(video.path).name
        if name in taken:
            raise ManifestError(f"{video.path}: another video is called {name}; rename the file")
        videos.append(replace(video, id=name))
        taken.add(name)
    return Grown(videos, len(fresh), gone)


def _of_store(url: str) -> Found:
    """The objects below a prefix."""
    try:
        place = open_place(url)
    except StoreError as error:
        raise ManifestError(str(error)) from None
    names, passed = [], PassedOver()
    for name in sorted(place.sizes("")):
        if Path(name).name.startswith("."):
            passed.hidden += 1
        elif Path(name).suffix.lower() in MEDIA_SUFFIXES:
            names.append(name)
        else:
            passed.suffixes[ascii(Path(name).suffix.lower())[1:-1]] += 1
    return replace(_called({Path(name): f"{place.url}/{name}" for name in names}), passed_over=str(passed))


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


def _of_table(path: Path) -> Iterator[Video]:
    for row in read_table(path):
        fields = {name.lower() if name.lower() in COLUMNS else name: value for name, value in row.values.items()}
        if "path" not in fields:
            raise ManifestError(f"{path}:1: needs a column called path; it has {', '.join(row.values)}")
        fields = {name: value for name, value in fields.items() if name and value}
        where = f"{path}:{row.line}"
        if "path" not in fields:
            raise ManifestError(f"{where}: no path")
        named = fields.pop("path")
        numbers = {name: _seconds(fields.pop(name), where, name) for name in SECONDS if name in fields}
        duration = numbers.pop("duration", None)
        try:
            yield Video(
                id=fields.pop("id", "") or Path(named).stem,
                path=named if is_url(named) else os.path.normpath(path.parent.absolute() / named),
                meta={**fields, **({} if duration is None else {"duration": duration})},
                **numbers,
            )
        except ValidationError as error:
            raise ManifestError(f"{where}: {reason_of(error)}") from None


def _seconds(value: str, where: str, column: str) -> float:
    """A number; in some countries it is written with a comma."""
    try:
        return float(value.replace(",", ".") if value.count(",") == 1 and "." not in value else value)
    except ValueError:
        raise ManifestError(f"{where}: {column} is {value!r}; it must be a number of seconds") from None


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
