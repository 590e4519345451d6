"""A manifest that means harm: whatever its ids and paths say, only the files it names are read, and only the store is
written; what is refused has a reason, and the run goes on to its end."""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from corpora import write_video
from feature_store import Features, FeatureStore, VideoStatus, verify
from tests.media_files import rewrite_box

EXPERT = "timm:test_resnet"
NOT_MEDIA = "not a self-contained media file"
NOT_REGULAR = "not a regular file"
ONLY_LOCAL = "only local files"
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]")

IDS = {
    "going up": "../../../../outside",
    "absolute": "/etc/passwd",
    "dots": "..",
    "a file of the store": "shard-000000/complete.json",
    "another system's path": "C:\\Windows\\win.ini",
    "NUL": "a\0b",
    "right to left": "\u202egpj.exe",
    "of no width": "a\u200bb\ufeff",
    "composed": "caf\u00e9",
    "decomposed": "cafe\u0301",
    "steering the terminal": "\x1b[31mred\x1b]0;title\x07\x9b2J",
    "an option": "--help",
    "as long as may be": "x" * 4096,
    "many bytes": "\U0001f3ac" * 4096,
    "white": " \n\t",
    "markup": "[bold red]loud[/] [link=http://x]x[/link]",
}
FAILING = "\x1b[2J\x9b\u202e\u200b failing"  # sorts before all others


@dataclass(frozen=True)
class Place:
    """Where the corpus lies, and what surrounds it: a film that it may name, and secret ones that it does not."""

    folder: Path
    film: Path
    secret: Path
    port: int

    def made(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    def link(self, name: str, target: str | Path) -> str:
        (self.folder / name).symlink_to(target)
        return str(self.folder / name)


def fifo(place: Place) -> str:
    os.mkfifo(place.folder / "pipe.mp4")
    return str(place.folder / "pipe.mp4")


def unix_socket(place: Place) -> str:
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(place.folder)  # a socket's whole path may have but 107 bytes
        try:
            listening.bind("socket.mp4")
        finally:
            os.chdir(here)
    return str(place.folder / "socket.mp4")


def referring(place: Place) -> str:
    """An MP4 whose samples are zeros and whose data reference names the secret film."""
    location = b"\0\0\0\0" + f"file://{place.secret}".encode() + b"\0"
    references = bytes(4) + (1).to_bytes(4, "big") + (len(location) + 8).to_bytes(4, "big") + b"url " + location
    data = rewrite_box(place.film.read_bytes(), (b"mdat",), lambda samples: bytes(len(samples)))
    boxes = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    return place.made("referring.mp4", rewrite_box(data, boxes, lambda _: references))


def linking(place: Place) -> str:
    """A Matroska file that says it goes on in the secret one: its Title is made a NextFilename."""
    path = place.folder / "linking.mkv"
    with av.open(str(place.film)) as film, av.open(str(path), "w") as file:
        file.metadata["title"] = "X" + str(place.secret)
        stream = file.add_stream_from_template(film.streams.video[0])
        for packet in film.demux(film.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    size = len(str(place.secret))
    title = b"\x7b\xa9" + bytes([0x80 | size + 1]) + b"X"
    data = path.read_bytes()
    assert data.count(title) == 1
    return place.made("linking.mkv", data.replace(title, b"\x3e\x83\xbb" + bytes([0x80 | size])))


# By name: what puts the file there and tells the path to write in the manifest, and what the reason says, None if
# there are to be the features of the film.
PATHS: dict[str, tuple[Callable[[Place], str], str | None]] = {
    "a link to the film": (lambda place: place.link("link.mp4", place.film), None),
    "a path through ..": (lambda place: f"../{place.folder.name}/film.mp4", None),
    "a name like an option": (lambda place: os.path.basename(place.link("-y.mp4", place.film)), None),
    "a name like an address": (lambda place: os.path.basename(place.link("pipe:0", place.film)), None),
    "a name with a line break": (lambda place: place.link("a\nb.mp4", place.film), None),
    "a name that turns round": (lambda place: place.link("\u202e4pm.film", place.film), None),
    "a Matroska file that goes on in another": (linking, None),
    "an MP4 whose samples lie in another": (referring, "decoded"),
    "a link to a device": (lambda place: place.link("zero.mp4", "/dev/zero"), NOT_REGULAR),
    "a link to a pipe": (lambda place: place.link("piped.mp4", "other.fifo"), "No such file|" + NOT_REGULAR),
    "a link to itself": (lambda place: place.link("loop.mp4", "loop.mp4"), "symbolic links"),
    "a pipe": (fifo, NOT_REGULAR),
    "a socket": (unix_socket, NOT_REGULAR),
    "a folder": (lambda place: str(place.folder), NOT_REGULAR),
    "an endless device": (lambda place: "/dev/zero", NOT_REGULAR),
    "the terminal": (lambda place: "/dev/tty", NOT_REGULAR + "|No such"),
    "standard input": (lambda place: "/dev/stdin", NOT_REGULAR),
    "an open file": (lambda place: "/proc/self/fd/0", NOT_REGULAR),
    "its own memory": (lambda place: "/proc/self/mem", "empty|denied"),
    "its own environment": (lambda place: "/proc/self/environ", "empty|denied"),
    "the kernel's version": (lambda place: "/proc/version", "empty"),
    "passwords": (lambda place: "/etc/passwd", NOT_MEDIA),
    "an address of a file": (lambda place: f"file://{place.secret}", ONLY_LOCAL),
    "an address": (lambda place: f"http://127.0.0.1:{place.port}/film.mp4", ONLY_LOCAL),
    "another address": (lambda place: f"tcp://127.0.0.1:{place.port}", ONLY_LOCAL),
    "an address of two protocols": (lambda place: f"simplecache::file://{place.secret}", ONLY_LOCAL),
    "a store in memory": (lambda place: "memory://film.mp4", ONLY_LOCAL),
    "files in a row": (lambda place: f"concat:{place.secret}|{place.secret}", ONLY_LOCAL),
    "a part of a file": (lambda place: f"subfile,,start,0,end,9,,:{place.secret}", ONLY_LOCAL),
    "a cached file": (lambda place: f"cache:{place.secret}", ONLY_LOCAL),
    "data": (lambda place: "data:video/mp4;base64,AAAAHGZ0eXBpc29t", ONLY_LOCAL),
    "an option": (lambda place: "--help", ONLY_LOCAL),
    "NUL": (lambda place: f"film.mp4\0{place.secret}", "null"),
    "too long": (lambda place: "x/" * 5000, "too long"),
    "white": (lambda place: " ", ONLY_LOCAL),
    "home": (lambda place: "~/film.mp4", ONLY_LOCAL),
    "a variable": (lambda place: "$HOME/film.mp4", ONLY_LOCAL),
    "a pattern": (lambda place: "*.mp4", ONLY_LOCAL),
    "a numbered pattern": (lambda place: "%d.mp4", ONLY_LOCAL),
    "a playlist": (
        lambda place: place.made("list.m3u8", f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{place.secret}\n"),
        NOT_MEDIA,
    ),
    "a playlist in disguise": (
        lambda place: place.made(
            "list.mp4", f"#EXTM3U\n#EXTINF:2.0,\nhttp://127.0.0.1:{place.port}/a.ts\n#EXT-X-ENDLIST\n"
        ),
        NOT_MEDIA,
    ),
    "a script": (lambda place: place.made("a.ffconcat", f"ffconcat version 1.0\nfile '{place.secret}'\n"), NOT_MEDIA),
    "a script in disguise": (
        lambda place: place.made("b.mp4", f"ffconcat version 1.0\nfile '{place.secret}'\n"),
        NOT_MEDIA,
    ),
    "a session": (
        lambda place: place.made(
            "session.sdp", f"v=0\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {place.port} RTP/AVP 96\na=rtpmap:96 H264/90000\n"
        ),
        NOT_MEDIA,
    ),
    "steering the terminal": (lambda place: place.made("\x1b[31m.mp4", "\x1b[2J"), NOT_MEDIA),
}


@dataclass(frozen=True)
class Ran:
    """A finished run over all that is above."""

    store: FeatureStore
    code: int
    printed: str
    shown: str  # by status
    changed: set[str]  # files outside the store
    touched: bool  # a secret film was
    asked: bool  # a request came in
    own: Features  # of the film


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    root = tmp_path_factory.mktemp("hostile")
    for name in ("corpus", "secret", "home", "temporary", "working"):
        (root / name).mkdir()
    write_video(root / "corpus" / "film.mp4", 1.5, seed=1)
    write_video(root / "secret" / "secret.mp4", 1.5, seed=2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        place = Place(
            root / "corpus", root / "corpus" / "film.mp4", root / "secret" / "secret.mp4", server.getsockname()[1]
        )
        rows = [("film", "film.mp4"), *((one, "film.mp4") for one in IDS.values())]
        rows.append((FAILING, "missing"))
        rows += [(f"path: {name}", make(place)) for name, (make, _) in PATHS.items()]
        manifest = root / "corpus" / "corpus.jsonl"
        manifest.write_text("".join(json.dumps({"id": one, "path": path}) + "\n" for one, path in rows))
        before = snapshot(root)
        watch = Watch([place.secret])
        chosen = ["--experts", EXPERT, "--weights", "random"]
        done = reelcache(root, "extract", str(manifest), str(root / "corpus.zarr"), *chosen)
        touched = watch.happened()
        place.secret.read_bytes()
        assert watch.happened(), "reading a secret film does not show"
        changed = {path for path, _ in snapshot(root) ^ before if not path.startswith("corpus.zarr")}
        shown = reelcache(root, "status", str(root / "corpus.zarr"))
        store = FeatureStore(root / "corpus.zarr")
        own = store[EXPERT].read("film")
        yield Ran(store, done.returncode, done.stdout, shown.stdout, changed, touched, asked(server), own)


def reelcache(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HOME": str(root / "home"), "TMPDIR": str(root / "temporary"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pipeline.cli", *arguments]
    return subprocess.run(
        command,
        env=environment,
        cwd=root / "working",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        timeout=300,
    )


def snapshot(root: Path) -> set[tuple[str, tuple[int, int, int]]]:
    """Every path below, with what changes when it is written to."""
    found = set()
    for path in root.rglob("*"):
        about = path.lstat()
        content = (0, 0) if path.is_dir() else (about.st_size, about.st_mtime_ns)
        found.add((str(path.relative_to(root)), (about.st_mode, *content)))
    return {(path, about) for path, about in found if "torchinductor" not in path}  # a folder that torch makes


class Watch:
    """Notices when a file is opened, by whatever process and library: Linux' inotify."""

    IN_ACCESS, IN_OPEN = 1, 32

    def __init__(self, files: list[Path]) -> None:
        if sys.platform != "linux":
            pytest.skip("needs inotify")
        libc = ctypes.CDLL(None, use_errno=True)
        self._descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for file in files:
            watched = libc.inotify_add_watch(self._descriptor, os.fsencode(file), self.IN_ACCESS | self.IN_OPEN)
            assert watched >= 0, os.strerror(ctypes.get_errno())

    def happened(self) -> bool:
        try:
            return bool(os.read(self._descriptor, 1 << 16))
        except BlockingIOError:
            return False


def asked(server: socket.socket) -> bool:
    try:
        server.accept()[0].close()
    except BlockingIOError:
        return False
    return True


def status_of(ran: Ran, video: str) -> VideoStatus:
    return ran.store[EXPERT].status(video)


def test_the_run_ends_well_and_the_store_is_sound(ran: Ran) -> None:
    assert ran.code == 0, ran.printed
    assert verify(ran.store.path).damaged == ()
    assert len(ran.own.values) == 3
    assert len(ran.store[EXPERT]) == 2 + len(IDS) + len(PATHS)


@pytest.mark.parametrize("name", IDS)
def test_any_text_is_just_an_id(ran: Ran, name: str) -> None:
    found = ran.store[EXPERT].read(IDS[name])
    assert found.status.id == IDS[name]
    np.testing.assert_array_equal(found.values, ran.own.values)


@pytest.mark.parametrize("name", [name for name, (_, reason) in PATHS.items() if reason is None])
def test_a_path_to_the_film_gives_its_features(ran: Ran, name: str) -> None:
    found = ran.store[EXPERT].read(f"path: {name}")
    assert found.status.reason is None
    np.testing.assert_array_equal(found.values, ran.own.values)


@pytest.mark.parametrize("name", [name for name, (_, reason) in PATHS.items() if reason is not None])
def test_a_path_to_anything_else_is_refused_with_a_reason(ran: Ran, name: str) -> None:
    status = status_of(ran, f"path: {name}")
    assert (status.status, status.rows) == ("failed", 0)
    assert re.search(str(PATHS[name][1]), str(status.reason)), status.reason


def test_nothing_is_written_outside_the_store(ran: Ran) -> None:
    assert ran.changed == set()


def test_nothing_is_read_that_the_manifest_does_not_name(ran: Ran) -> None:
    assert not ran.touched
    assert not ran.asked


def test_names_of_files_in_the_store_come_from_no_id(ran: Ran) -> None:
    names = {part for path in ran.store.path.rglob("*") for part in path.relative_to(ran.store.path).parts}
    assert not names & set(IDS.values())
    assert all(name.isascii() and len(name) < 64 for name in names)


def test_nothing_that_steers_a_terminal_is_printed(ran: Ran) -> None:
    for printed in (ran.printed, ran.shown):
        assert not CONTROLS.search(printed), ascii(CONTROLS.findall(printed))
    assert ascii(FAILING)[1:-1] in ran.shown


# Manifests that cannot be used.

GOOD_ROW = '{"id": "film", "path": "film.mp4"}'
ROWS = {
    '{"id": "' + "x" * 10_000 + '", "path": "film.mp4"}': "id.*at most 4096 characters",
    '{"id": "", "path": "film.mp4"}': "id.*at least 1 character",
    '{"id": "a", "path": ""}': "path.*at least 1 character",
    '{"id": "a"}': "path",
    '{"id": 7, "path": "film.mp4"}': "id.*string",
    '{"id": "a", "path": ["film.mp4"]}': "path.*string",
    '{"id": "a", "path": "film.mp4", "exec": "rm"}': "exec",
    '{"id": "a", "path": "film.mp4", "start": NaN}': "start",
    '{"id": "a", "path": "film.mp4", "start": 1e400}': "start",
    '{"id": "a", "path": "film.mp4", "start": -1}': "start",
    '{"id": "a", "path": "film.mp4", "start": 2, "end": 1}': "end",
    '{"id": "\\ud800", "path": "film.mp4"}': "hex escape",
    '{"id": "a", "path": "film.mp4", "meta": ' + "[" * 100_000 + "]" * 100_000 + "}": "recursion|meta",
    '{"id": "a", "path": "film.mp4"} {"id": "b"}': "trailing",
    '["a", "film.mp4"]': "object|dict",
    "film.mp4": "JSON",
    GOOD_ROW: "stands already in line 1",
}


@pytest.mark.parametrize("row", ROWS, ids=range(len(ROWS)))
def test_a_manifest_that_cannot_be_used_is_refused_with_the_line(row: str, tmp_path: Path) -> None:
    code, printed = refused(tmp_path, f"{GOOD_ROW}\n\n{row}\n".encode())
    assert code == 1
    assert f"{tmp_path / 'corpus.jsonl'}:3: " in printed
    assert re.search(ROWS[row], printed), printed
    assert len(printed) < 1000


@pytest.mark.parametrize("row", [b'{"id": "\xff", "path": "film.mp4"}', b'{"id": "a\x00b", "path": "film.mp4"}', b"\0"])
def test_bytes_that_are_no_text_are_refused_with_the_line(row: bytes, tmp_path: Path) -> None:
    code, printed = refused(tmp_path, GOOD_ROW.encode() + b"\n" + row + b"\n")
    assert code == 1
    assert f"{tmp_path / 'corpus.jsonl'}:2: " in printed


def test_a_message_about_a_manifest_does_not_steer_the_terminal(tmp_path: Path) -> None:
    for row in (
        '{"id": "a", "path": "film.mp4", "\\u001b[2J\\u009b\\u202e": 1}',
        '{"id": "\\u001b[2J", "path": "film.mp4"}\n{"id": "\\u001b[2J", "path": "film.mp4"}',
    ):
        code, printed = refused(tmp_path, row.encode())
        assert code == 1
        assert not CONTROLS.search(printed), ascii(printed)


def test_a_manifest_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "corpus.jsonl").mkdir()
    code, printed = extract_here(tmp_path)
    assert code == 1
    assert "Is a directory" in printed


def refused(folder: Path, content: bytes) -> tuple[int, str]:
    """The exit code, and all that is printed; there must be no store."""
    (folder / "corpus.jsonl").write_bytes(content)
    found = extract_here(folder)
    assert not (folder / "corpus.zarr").exists()
    return found


def extract_here(folder: Path) -> tuple[int, str]:
    from typer.testing import CliRunner

    from pipeline.cli import app

    arguments = [str(folder / "corpus.jsonl"), str(folder / "corpus.zarr"), "--experts", EXPERT, "--weights", "random"]
    result = CliRunner().invoke(app, ["extract", *arguments])
    return result.exit_code, result.output
