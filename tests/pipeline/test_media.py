"""Only local, self-contained media files are opened; all else is refused with a reason, and nothing else touched."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import pytest

from pipeline.media import MediaError, Probe, open_media, packets, probe, square_size
from tests.media_files import HEIGHT, WIDTH, Recipe, Sound, chirp, rewrite_box, steady, write_media


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("film") / "film.mp4", steady(50), sound=Sound(chirp(2)))


def refusal(path: str | Path) -> str:
    with pytest.raises(MediaError) as caught, open_media(str(path)):
        pass
    assert caught.value.stage == "open"
    assert str(caught.value) == f"open: {caught.value.reason}"
    return caught.value.reason


# What is opened.


@pytest.mark.parametrize(
    "name",
    [
        "a b.mp4",
        "фильм 電影 🎬.mp4",
        "-i.mp4",
        "concat:a.mp4|b.mp4",
        "100%d.mp4",
        "http:",
        "file:x.mp4",
        "a\nb.mp4",
        "a'\"\\.mp4",
    ],
)
def test_any_name_is_just_a_name(film: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    os.link(film, name)
    for path in (name, str(tmp_path / name)):
        with open_media(path) as container:
            assert len(container.streams) == 2


def test_a_name_that_is_not_unicode_is_a_name_too(film: Path, tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.mp4")
    os.link(film, path)
    with open_media(path) as container:
        assert len(container.streams) == 2
    assert "surrogates" in refusal("\ud800.mp4")  # no file system has such a name


def test_a_link_to_a_file_is_followed(film: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mp4").symlink_to(film)
    with open_media(str(tmp_path / "link.mp4")) as container:
        assert len(container.streams) == 2


# What is not.


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert refusal(path) == "the file is empty"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "not a regular file"


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "missing.mp4")


def test_a_link_to_nowhere_or_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nowhere.mp4").symlink_to(tmp_path / "missing.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    assert "No such file" in refusal(tmp_path / "nowhere.mp4")
    assert "symbolic links" in refusal(tmp_path / "loop.mp4")


def test_a_path_with_nul_or_too_long_is_refused(tmp_path: Path) -> None:
    assert "null" in refusal("a\0b.mp4")
    assert "too long" in refusal("a" * 5000)


def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "pipe.mp4"
    os.mkfifo(path)
    refusing = threading.Thread(target=refusal, args=(path,), daemon=True)
    refusing.start()
    refusing.join(5)
    assert not refusing.is_alive()


def test_devices_are_refused() -> None:
    assert refusal("/dev/zero") == "not a regular file"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "secret.mp4"
    path.write_bytes(film.read_bytes())
    path.chmod(0)
    assert "denied" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"not a video", b"\0" * 5000, b"<html></html>", b"RIFF", b"\x1a\x45\xdf\xa3", b"{}"]
)
def test_what_is_no_media_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(content)
    assert "not a self-contained media file" in refusal(path)


def test_a_file_with_its_head_damaged_is_refused(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(film.read_bytes()[: film.stat().st_size // 2])  # what says where everything is stands at the end
    assert "headers are damaged" in refusal(path)


SCRIPTS = {
    "list.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{film}\n#EXT-X-ENDLIST\n",
    "remote.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2.0,\n{url}\n#EXT-X-ENDLIST\n",
    "list.m3u": "#EXTM3U\n#EXTINF:2,film\n{film}\n",
    "script.ffconcat": "ffconcat version 1.0\nfile '{film}'\n",
    "session.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
    "manifest.mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'mediaPresentationDuration="PT2S" minBufferTime="PT1S" profiles="urn:mpeg:dash:profile:isoff-main:2011"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>",
    "stream.asx": '<asx version="3.0"><entry><ref href="{url}"/></entry></asx>',
    "vapour.vpy": "import os\n",
    "image_%d.png": "{film}",
    "song.cue": 'FILE "{film}" WAVE\n',
}


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        yield server


@pytest.mark.parametrize("extension", [None, ".mp4", ".ts"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_playlists_and_scripts_are_refused_and_what_they_name_is_not_touched(
    film: Path, tmp_path: Path, name: str, extension: str | None, listening: socket.socket
) -> None:
    named = tmp_path / "named.mp4"
    os.link(film, named)
    os.utime(named, (1, 1))
    port = listening.getsockname()[1]
    script = tmp_path / (name if extension is None else name + extension)
    script.write_text(SCRIPTS[name].format(film=named, url=f"http://127.0.0.1:{port}/film.mp4", port=port))
    assert "not a self-contained media file" in refusal(script)
    with pytest.raises(TimeoutError):
        listening.accept()


def test_addresses_are_no_paths(listening: socket.socket) -> None:
    port = listening.getsockname()[1]
    for scheme in ("http", "https", "tcp", "rtsp", "rtmp", "ftp", "concat", "data"):
        assert "only local files are read" in refusal(f"{scheme}://127.0.0.1:{port}/film.mp4")
    with pytest.raises(TimeoutError):
        listening.accept()


@pytest.mark.parametrize(
    "address", ["concat:{film}", "subfile,,start,0,end,0,,:{film}", "cache:{film}", "file:{film}", "data:,x"]
)
def test_ffmpeg_protocols_are_no_paths(film: Path, address: str) -> None:
    assert "only local files are read" in refusal(address.format(film=film))


def test_a_movie_that_keeps_its_samples_in_another_file_gets_none_from_there(film: Path, tmp_path: Path) -> None:
    """An MP4 may name the file that holds its pictures. This one names an intact film; its own pictures are zeros."""
    other = tmp_path / "other.mp4"
    os.link(film, other)
    location = b"\0\0\0\0" + f"file://{other}".encode() + b"\0"  # flags 0: not in this file
    entry = (len(location) + 8).to_bytes(4, "big") + b"url " + location
    references = b"\0\0\0\0" + (1).to_bytes(4, "big") + entry
    path = tmp_path / "film.mp4"
    boxes = (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref")
    path.write_bytes(rewrite_box(without_samples(film), boxes, lambda _: references))
    with pytest.raises(MediaError, match="no frame of the video can be decoded"):
        probe(str(path))


def without_samples(film: Path) -> bytes:
    return rewrite_box(film.read_bytes(), (b"mdat",), lambda samples: bytes(len(samples)))


def test_pyav_stumbling_over_a_stream_that_came_in_midway_is_the_end() -> None:
    """It asks, when all is read, whether the new stream was wanted, of memory that was never set."""

    class Container:
        def demux(self, streams: list[Any]) -> Iterator[SimpleNamespace]:
            yield from (SimpleNamespace(size=size) for size in (7, 9, 0))
            raise IndexError("list index out of range")

    assert [packet.size for packet in packets(Container(), [])] == [7, 9]  # type: ignore[arg-type]


# What probing tells.


def test_probing_tells_what_the_headers_say(film: Path) -> None:
    expected = Probe(2.0, "mov,mp4,m4a,3gp,3g2,mj2", WIDTH, HEIGHT, 25.0, "h264", 0, "aac", 44_100, 1)
    assert probe(str(film)) == expected


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4", "film.ts", "film.flv", "film.webm"])
@pytest.mark.parametrize("first", [0, 10])
def test_the_duration_is_counted_from_the_first_frame(tmp_path: Path, name: str, first: int) -> None:
    recipe = Recipe("libvpx-vp9", bframes=0, options={"cpu-used": "8"}) if name == "film.webm" else Recipe()
    path = write_media(tmp_path / name, steady(100, first=first), recipe)
    assert probe(str(path)).duration == pytest.approx(4, abs=0.1)


def test_probing_sound_tells_no_size(tmp_path: Path) -> None:
    path = write_media(tmp_path / "song.flac", sound=Sound(chirp(2), codec="flac"))
    assert probe(str(path)) == Probe(2.0, "flac", audio_codec="flac", audio_rate=44_100, audio_channels=1)


def test_probing_pictures_tells_no_sound(tmp_path: Path) -> None:
    found = probe(str(write_media(tmp_path / "film.mp4", steady(25))))
    assert (found.audio_codec, found.audio_rate, found.audio_channels) == (None, None, None)


def test_probing_a_file_whose_pictures_do_not_decode_says_so(film: Path, tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(without_samples(film))
    with pytest.raises(MediaError, match="no frame of the video can be decoded") as caught:
        probe(str(path))
    assert caught.value.stage == "decode"


def test_a_file_without_video_and_audio_is_refused_by_probing(tmp_path: Path) -> None:
    path = tmp_path / "words.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_mux_stream("subrip")
        packet = av.Packet(b"hello")
        packet.stream, packet.time_base, packet.pts, packet.dts, packet.duration = stream, Fraction(1, 1000), 0, 0, 1000
        file.mux(packet)
    with pytest.raises(MediaError, match="holds neither video nor audio"):
        probe(str(path))


@pytest.mark.parametrize(
    ("aspect", "size"),
    [(None, (64, 48)), (Fraction(0), (64, 48)), (Fraction(4, 3), (85, 48)), (Fraction(1, 1000), (1, 48))],
)
def test_square_pixels_stretch_the_width(aspect: Fraction | None, size: tuple[int, int]) -> None:
    assert square_size(64, 48, aspect) == size
