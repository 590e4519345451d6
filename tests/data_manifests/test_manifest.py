"""A manifest gives back what was written, names each bad line with its reason, and never sits in memory."""

from __future__ import annotations

import hashlib
import json
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from data_manifests import Caption, Manifest, ManifestError, Moment, Video, read_rows, write_rows

Text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
Json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | Text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Text, inner, max_size=3),
    max_leaves=6,
)
Seconds = st.floats(0, 1e6)


@st.composite
def videos(draw: st.DrawFn) -> list[Video]:
    rows = []
    for video_id in draw(st.lists(Text, min_size=1, max_size=8, unique=True)):
        start = draw(st.none() | Seconds)
        end = draw(st.none() | st.floats(start or 0, 2e6, exclude_min=True))
        rows.append(Video(video_id, draw(Text), start, end, draw(st.dictionaries(Text, Json, max_size=3))))
    return rows


ACROSS_EXAMPLES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: Path, *lines: str | dict[str, Any]) -> Path:
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_bytes("".join(line + "\n" for line in text).encode())
    return path


def problems(path: Path) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        Manifest(path)
    return str(caught.value).splitlines()


# Round trips.


@ACROSS_EXAMPLES
@given(rows=videos())
def test_what_is_written_is_read_back(tmp_path: Path, rows: list[Video]) -> None:
    path = tmp_path / "corpus.jsonl"
    assert write_rows(path, rows) == len(rows)
    assert list(read_rows(path, Video)) == rows
    manifest = Manifest(path)
    assert len(manifest) == len(rows)
    for read, written in zip(manifest, rows, strict=True):
        assert (read.id, read.start, read.end, read.meta) == (written.id, written.start, written.end, written.meta)
        assert read.path == os.path.join(tmp_path, written.path)


@ACROSS_EXAMPLES
@given(rows=videos(), bounds=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_a_slice_equals_the_same_part_of_iterating(tmp_path: Path, rows: list[Video], bounds: tuple[int, int]) -> None:
    write_rows(tmp_path / "corpus.jsonl", rows)
    manifest = Manifest(tmp_path / "corpus.jsonl")
    assert list(manifest.read(*bounds)) == list(manifest)[slice(*bounds)]


@ACROSS_EXAMPLES
@given(id=Text, text=st.text(st.characters(exclude_categories=["Cs"])), start=st.floats(0, 1e5))
def test_captions_and_moments_are_read_back(tmp_path: Path, id: str, text: str, start: float) -> None:
    rows: list[Any] = [Caption(id, text), Moment(id, text, start, start + 1, {"annotator": 3})]
    for row in rows:
        write_rows(tmp_path / "rows.jsonl", [row])
        assert list(read_rows(tmp_path / "rows.jsonl", type(row))) == [row]


def test_lines_end_with_line_feeds_only(tmp_path: Path) -> None:
    """Unicode has other line ends; they are part of a text."""
    names = ["a\u2028b", "a\u2029b", "a\x85b", "a\rb", "a\nb", "a\x0bb", "a\x1eb"]
    path = tmp_path / "corpus.jsonl"
    write_rows(path, [Video(name, "x.mp4") for name in names])
    assert path.read_bytes().count(b"\n") == len(names)
    assert [video.id for video in Manifest(path)] == names


def test_blank_lines_and_carriage_returns_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    a, b, c = (b'{"id": "%s", "path": "x.mp4"}' % name for name in (b"a", b"b", b"c"))
    path.write_bytes(b"\n" + a + b"\r\n\r\n  \n" + b + b"\r\n\n" + c)
    assert [video.id for video in Manifest(path)] == ["a", "b", "c"]
    assert [video.id for video in Manifest(path).read(1, 3)] == ["b", "c"]
    assert [video.id for video in read_rows(path, Video)] == ["a", "b", "c"]


def test_whole_seconds_may_be_written_without_a_point(tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.jsonl", {"id": "a", "path": "a.mp4", "start": 1, "end": 2})
    (video,) = Manifest(path)
    assert (video.start, video.end) == (1.0, 2.0)


def test_paths_are_taken_from_the_manifests_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "corpus.jsonl"
    write_rows(
        path, [Video("a", "a.mp4"), Video("b", "../b.mp4"), Video("c", "/data/c.mp4"), Video("d", "http://x/d.mp4")]
    )
    folder = str(tmp_path / "lists")
    expected = [f"{folder}/a.mp4", f"{folder}/../b.mp4", "/data/c.mp4", f"{folder}/http://x/d.mp4"]
    assert [video.path for video in Manifest(path)] == expected
    monkeypatch.chdir(tmp_path)
    manifest = Manifest("lists/corpus.jsonl")
    assert [video.path for video in manifest] == expected


# Bad lines.


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"path": "a.mp4"}, "id: "),
        ({"id": "a"}, "path: "),
        ({"id": "a", "path": "a.mp4", "pth": "b.mp4"}, "pth: "),
        ({"id": "", "path": "a.mp4"}, "id: String should have at least 1 character"),
        ({"id": "a", "path": ""}, "path: String should have at least 1 character"),
        ({"id": "a" * 4097, "path": "a.mp4"}, "id: String should have at most 4096 characters"),
        ({"id": 7, "path": "a.mp4"}, "id: Input should be a valid string"),
        ({"id": "a", "path": "a.mp4", "start": 3, "end": 2}, "end (2.0 s) is not after start (3.0 s)"),
        ({"id": "a", "path": "a.mp4", "start": 3, "end": 3}, "end (3.0 s) is not after start (3.0 s)"),
        ({"id": "a", "path": "a.mp4", "end": 0}, "end (0.0 s) is not after start (0.0 s)"),
        ({"id": "a", "path": "a.mp4", "start": -1}, "start: Input should be greater than or equal to 0"),
        ('{"id": "a", "path": "a.mp4", "start": NaN}', "start: Input should be a finite number"),
        ('{"id": "a", "path": "a.mp4", "end": 1e999}', "end: Input should be a finite number"),
        ({"id": "a", "path": "a.mp4", "meta": [1]}, "meta: Input should be an object"),
        ('{"id": "\\ud800", "path": "a.mp4"}', "Invalid JSON"),
        ("a.mp4", "Invalid JSON"),
        ('{"id": "a", "path": "a.mp4"', "Invalid JSON"),
        ('{"id": "a", "path": "a.mp4"} {"id": "b", "path": "b.mp4"}', "Invalid JSON"),
        ('["a", "a.mp4"]', "Input should be"),
        ("null", "Input should be"),
    ],
)
def test_a_bad_line_is_named_with_number_and_reason(tmp_path: Path, line: str | dict[str, Any], reason: str) -> None:
    good = {"id": "good", "path": "good.mp4"}
    path = write(tmp_path / "corpus.jsonl", good, "", line, {**good, "id": "other"})
    (problem,) = problems(path)
    assert problem.startswith(f"{path}:3: ")
    assert reason in problem
    with pytest.raises(ManifestError) as caught:
        list(read_rows(path, Video))
    assert str(caught.value) == problem


def test_bytes_that_are_no_text_are_named_with_their_line(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(b'{"id": "a", "path": "a.mp4"}\n{"id": "\xff", "path": "b.mp4"}\n')
    assert problems(path)[0].startswith(f"{path}:2: ")


def test_rows_before_a_bad_line_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", {"video": "a", "text": "one"}, {"video": "a"})
    rows = read_rows(path, Caption)
    assert next(rows) == Caption("a", "one")
    with pytest.raises(ManifestError, match=r"rows\.jsonl:2: text: "):
        next(rows)


def test_the_first_bad_lines_are_named_together(tmp_path: Path) -> None:
    path = write(tmp_path / "corpus.jsonl", *[f"bad {n}" for n in range(30)])
    found = problems(path)
    assert 3 <= len(found) < 30
    assert [problem.split(":")[1] for problem in found] == [str(n + 1) for n in range(len(found))]


def test_ids_that_stand_twice_are_named_with_both_lines(tmp_path: Path) -> None:
    rows = [{"id": name, "path": "x.mp4"} for name in ("a", "b", "a", "c", "b", "a")]
    path = write(tmp_path / "corpus.jsonl", rows[0], "", *rows[1:])
    assert problems(path) == [
        f"{path}:4: id 'a' stands already in line 1; ids must be unique",
        f"{path}:6: id 'b' stands already in line 3; ids must be unique",
        f"{path}:7: id 'a' stands already in line 1; ids must be unique",
    ]


def test_ids_that_only_look_alike_are_different(tmp_path: Path) -> None:
    names = ["é", "e\u0301", "E", "e", "e ", " e", "\uff45", "1", "01", "a/b", "a\\b", "a\u200bb", "ab"]
    path = tmp_path / "corpus.jsonl"
    write_rows(path, [Video(name, "x.mp4") for name in names])
    assert [video.id for video in Manifest(path)] == names


@pytest.mark.parametrize("content", [b"", b"\n\n \r\n"])
def test_a_manifest_without_videos_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_bytes(content)
    assert problems(path) == [f"{path}: holds no videos"]


def test_rows_that_could_not_be_written_cannot_be_made() -> None:
    for row in ({"id": "\ud800", "path": "a.mp4"}, {"id": "a", "path": "\udcff.mp4"}, {"id": "", "path": "a.mp4"}):
        with pytest.raises(ValidationError):
            Video(**row)
    with pytest.raises(ValidationError, match=r"end \(1.0 s\) is not after start \(2.0 s\)"):
        Moment("a", "text", 2, 1)
    with pytest.raises(ValidationError):
        Caption("a", "half of a pair: \ud83c")


# Identity.


def digest(path: Path, *rows: Video) -> str:
    write_rows(path, rows)
    return Manifest(path).digest(0, len(rows))


def test_the_digest_tells_ids_cuts_and_order_but_not_where_files_lie(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    a, b = Video("a", "a.mp4"), Video("b", "b.mp4")
    known = digest(path, a, b)
    assert digest(path, Video("a", "moved/a.mp4", meta={"fps": 25}), b) == known
    others = [
        digest(path, *rows)
        for rows in (
            (b, a),
            (a,),
            (a, b, Video("c", "c.mp4")),
            (a, Video("B", "b.mp4")),
            (a, Video("b", "b.mp4", start=0.5)),
            (a, Video("b", "b.mp4", end=0.5)),
            (a, Video("b", "b.mp4", start=0.25, end=0.5)),
        )
    ]
    assert len({known, *others}) == 8


def test_videos_added_at_the_end_do_not_change_the_digest_of_those_before(tmp_path: Path) -> None:
    rows = [Video(f"v{n}", "x.mp4") for n in range(10)]
    before = digest(tmp_path / "corpus.jsonl", *rows[:6])
    write_rows(tmp_path / "corpus.jsonl", rows)
    manifest = Manifest(tmp_path / "corpus.jsonl")
    assert manifest.digest(0, 6) == before
    assert manifest.digest(0, 10) != before
    assert manifest.digest(1, 7) != before


def test_how_lines_are_written_does_not_change_the_digest(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", '{"id": "é", "path": "a.mp4", "start": 1}')
    other = write(tmp_path / "other.jsonl", "", '  {"start":1.0,"path":"b.mp4","id":"\\u00e9"}\r')
    assert Manifest(one).digest(0, 1) == Manifest(other).digest(0, 1)


def test_digests_are_those_that_stores_hold_already(tmp_path: Path) -> None:
    path = write(
        tmp_path / "corpus.jsonl",
        {"id": "video7010", "path": "a.mp4"},
        {"id": 'é\u2028"\\/\x01😀', "path": "b.mp4", "start": 1},
        {"id": "c", "path": "c", "start": 0.1, "end": 5e21},
        {"id": "d", "path": "c", "start": 1e-7},
        {"id": "e", "path": "c", "end": 123456789.125},
    )
    assert Manifest(path).digest(0, 5) == "9dc6f0e59cd2b7b7ba8768a46f4a23789cb641dfc0b4e4bf9a86f7d476df863a"


@ACROSS_EXAMPLES
@given(rows=videos(), bounds=st.tuples(st.integers(0, 9), st.integers(0, 9)))
def test_the_digest_is_over_hashes_of_ids_and_cuts_as_json(
    tmp_path: Path, rows: list[Video], bounds: tuple[int, int]
) -> None:
    write_rows(tmp_path / "corpus.jsonl", rows)
    identities = [json.dumps([video.id, video.start, video.end]).encode() for video in rows[slice(*bounds)]]
    hashes = b"".join(hashlib.blake2b(identity, digest_size=8).digest() for identity in identities)
    assert Manifest(tmp_path / "corpus.jsonl").digest(*bounds) == hashlib.sha256(hashes).hexdigest()


# Writing and memory.


@pytest.mark.parametrize("there_before", [False, True])
def test_writing_that_fails_leaves_everything_as_it_was(tmp_path: Path, there_before: bool) -> None:
    path = tmp_path / "corpus.jsonl"
    if there_before:
        write_rows(path, [Video("old", "old.mp4")])

    def rows() -> Iterator[Video]:
        yield Video("a", "a.mp4")
        raise RuntimeError("the disk is on fire")

    with pytest.raises(RuntimeError, match="on fire"):
        write_rows(path, rows())
    assert [file.name for file in tmp_path.iterdir()] == ["corpus.jsonl"] * there_before
    if there_before:
        assert [video.id for video in Manifest(path)] == ["old"]


def test_what_json_cannot_hold_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_rows(tmp_path / "corpus.jsonl", [Video("a", "a.mp4", meta={"fps": float("nan")})])
    assert not list(tmp_path.iterdir())


def test_a_manifest_may_be_rewritten_from_itself(tmp_path: Path) -> None:
    path = tmp_path / "corpus.jsonl"
    write_rows(path, [Video(f"v{n}", f"{n}.mp4") for n in range(5)])
    assert write_rows(path, (video for video in read_rows(path, Video) if video.id != "v2")) == 4
    assert [video.id for video in Manifest(path)] == ["v0", "v1", "v3", "v4"]


def test_a_long_manifest_takes_a_few_bytes_a_video(tmp_path: Path) -> None:
    def bytes_held(count: int) -> int:
        path = tmp_path / f"{count}.jsonl"
        with open(path, "w") as file:
            file.writelines(f'{{"id": "video{n}", "path": "videos/{n}.mp4"}}\n' for n in range(count))
        tracemalloc.start()
        manifest = Manifest(path)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(manifest) == count
        assert [video.id for video in manifest.read(count - 1, count)] == [f"video{count - 1}"]
        return held

    # Reading JSON caches some 16,000 strings; what more videos take is the manifest's.
    assert bytes_held(40_000) - bytes_held(20_000) < 30 * 20_000
