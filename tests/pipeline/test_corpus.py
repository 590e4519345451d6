"""From folders and tables to manifests: what is taken, what is refused in a sentence, and corpora that grow."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from corpora import write_video
from data_manifests import Manifest, ManifestError
from feature_store import FeatureStore
from pipeline import extract
from pipeline.cli import app
from pipeline.corpus import MEDIA_SUFFIXES, find_videos


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    write_video(path, 1.0, 0)
    return path


def of_table(folder: Path, content: str | bytes, name: str = "t.csv") -> list[dict[str, Any]]:
    """What a table says of videos."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    videos = find_videos(str(path)).videos
    return [{"id": each.id, "start": each.start, "end": each.end, "meta": each.meta} for each in videos]


def row(id: str = "a", start: float | None = None, end: float | None = None, **meta: Any) -> dict[str, Any]:
    return {"id": id, "start": start, "end": end, "meta": meta}


TAKEN: dict[str, tuple[str | bytes, list[dict[str, Any]]]] = {
    "spaces after commas": ("path, start, end\na.mp4, 0.5, 1.5\n", [row(start=0.5, end=1.5)]),
    "spaces before commas": ("path ,start ,end\na.mp4 ,0.5 ,1.5\n", [row(start=0.5, end=1.5)]),
    "a mark of UTF-8": (b"\xef\xbb\xbfpath,id\na.mp4,x\n", [row("x")]),
    "semicolons and decimal commas": ("path;start;end\na.mp4;0,5;1,5\n", [row(start=0.5, end=1.5)]),
    "tabs": ("path\tstart\na b.mp4\t1\n", [row("a b", 1.0)]),
    "capitals": ("Path,ID,Start\na.mp4,x,1\n", [row("x", 1.0)]),
    "a duration": ("path,duration\na.mp4,12.5\n", [row(duration=12.5)]),
    "Windows' ends of lines": ("path,id\r\na.mp4,x\r\n\r\n", [row("x")]),
    "a quoted line break": ('path,note\n"a.mp4","two\nlines"\n', [row(note="two\nlines")]),
    "empty cells": ("path,id,start,note\na.mp4,,,\n", [row()]),
    "trailing commas": ("path,id\na.mp4,x,,\n", [row("x")]),
    "other columns": ("path,title\na.mp4,A dog\n", [row(title="A dog")]),
}


@pytest.mark.parametrize("what", TAKEN)
def test_tables_are_taken_as_people_write_them(what: str, tmp_path: Path) -> None:
    content, expected = TAKEN[what]
    assert of_table(tmp_path, content) == expected
    assert of_table(tmp_path, content, "t.TSV") == expected


REFUSED: dict[str, tuple[str | bytes, str]] = {
    "end before start": ("path,start,end\na.mp4,2,1\n", r"t\.csv:2: end \(1\.0 s\) is not after start \(2\.0 s\)"),
    "negative": ("path,start,end\na.mp4,-1,1\n", r"t\.csv:2: start: Input should be greater than or equal to 0"),
    "not a number": ("path,start\na.mp4,soon\n", r"t\.csv:2: start is 'soon'; it must be a number of seconds"),
    "NaN": ("path,start\na.mp4,nan\n", r"t\.csv:2: start: Input should be a finite number"),
    "a duration of words": ("path,duration\na.mp4,1 min\n", r"t\.csv:2: duration is '1 min'; it must be a number"),
    "Latin-1": (b"path,id\na.mp4,caf\xe9\n", r"t\.csv:2: is not UTF-8 text, but ISO-8859-1 as it seems: .*iconv"),
    "UTF-16": ("path,start\na.mp4,1\n".encode("utf-16"), r"t\.csv:1: is not UTF-8 text, but UTF-16 as it seems"),
    "UTF-16 without a mark": ("path,start\na.mp4,1\n".encode("utf-16-le"), r"is not UTF-8 text, but UTF-16LE as it"),
    "NUL": (b"path,id\na.mp4,x\0\n", r"t\.csv:2: holds NUL characters: it is damaged"),
    "empty": ("", r"t\.csv: is empty; its first line must name the columns"),
    "no path column": ("file,id\na.mp4,x\n", r"t\.csv:1: needs a column called path; it has file, id"),
    "no path": ("path,id\n,x\n", r"t\.csv:2: no path"),
    "a column twice": ("path,id,id\na.mp4,x,y\n", r"t\.csv:1: the column 'id' is there twice"),
    "too many cells": ("path,start\na.mp4,0,5\n", r"t\.csv:2: has 3 cells, and the heading has 2; numbers with a"),
    "too few cells": ("path,start,end\na.mp4,1\n", r"t\.csv:2: has 2 cells, and the heading has 3"),
    "an open quote": ('path,id\n"a.mp4,x\n', r"t\.csv:2: unexpected end of data"),
    "ids twice": ("path,id\na.mp4,x\nb.mp4,x\n", r"ids must be unique; more than one video is called x"),
    "heading only": ("path,id\n", "no videos there"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_wrong_in_a_table_is_told_in_a_sentence_with_its_line(what: str, tmp_path: Path) -> None:
    content, message = REFUSED[what]
    with pytest.raises(ManifestError, match=message) as error:
        of_table(tmp_path, content)
    assert "pydantic" not in str(error.value) and "http" not in str(error.value)


def test_manifests_may_begin_with_the_mark_of_utf8_and_other_encodings_are_named(tmp_path: Path) -> None:
    line = '{"id": "a", "path": "a.mp4"}\n{"id": "b", "path": "b.mp4"}\n'
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line.encode())
    assert [video.id for video in Manifest(path)] == ["a", "b"]
    path.write_bytes(line.encode("utf-16"))
    with pytest.raises(ManifestError, match=r"m\.jsonl:1: is not UTF-8 text, but UTF-16 as it seems"):
        Manifest(path)


def test_all_suffixes_of_common_videos_and_sounds_count(tmp_path: Path) -> None:
    for number, suffix in enumerate([".m2t", ".mpe", ".3gpp", ".m4b", ".amr", ".MP4", ".qt", ".hevc", ".mp2", ".ac3"]):
        (tmp_path / f"{number}{suffix}").write_bytes(b"x")
    assert len(find_videos(str(tmp_path)).videos) == 10
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in MEDIA_SUFFIXES)


def build(*arguments: str) -> str:
    ended = CliRunner().invoke(app, ["manifest", "build", *arguments, "--workers", "1"])
    assert ended.exit_code == 0, ended.output
    return ended.stdout


def test_a_corpus_that_grows_keeps_its_order_and_its_store(clip: Path, tmp_path: Path) -> None:
    videos, manifest = tmp_path / "videos", tmp_path / "m.jsonl"
    videos.mkdir()
    for name in ("a.mp4", "c.mp4", "-mMP6uEThbw.mp4"):
        shutil.copy(clip, videos / name)
    build(str(videos), "-o", str(manifest))
    before = [video.id for video in Manifest(manifest)]
    settings: dict[str, Any] = {"weights": "random", "experts": ["timm:test_resnet"]}
    extract(manifest, tmp_path / "s", **settings)
    for name in ("b.mp4", "a.mkv"):  # one sorts between the others, one is called like another
        shutil.copy(clip, videos / name)
    printed = build(str(videos), "-o", str(manifest))
    assert "3 videos as before; 2 new" in printed
    assert [video.id for video in Manifest(manifest)] == [*before, "a.mkv", "b"]
    assert extract(manifest, tmp_path / "s", **settings).videos == 2
    assert list(FeatureStore(tmp_path / "s")["timm:test_resnet"]) == [*before, "a.mkv", "b"]

    (videos / "c.mp4").unlink()
    printed = build(str(videos), "-o", str(manifest))
    assert "5 videos as before, 1 of them gone (c); --fresh leaves them out; 0 new" in printed
    assert extract(manifest, tmp_path / "s", **settings).videos == 0
    build(str(videos), "-o", str(manifest), "--fresh")
    assert [video.id for video in Manifest(manifest)] == ["-mMP6uEThbw", "a.mkv", "a.mp4", "b"]


def test_a_manifest_says_what_was_passed_over(clip: Path, tmp_path: Path) -> None:
    shutil.copy(clip, tmp_path / "a.mp4")
    (tmp_path / "._a.mp4").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        ")
    (tmp_path / "notes.txt").write_text("x")
    assert "passed over: 1 file with other suffixes (.txt 1), 1 hidden" in build(str(tmp_path), "-o", f"{tmp_path}/m")
