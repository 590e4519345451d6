"""Files that came from AVI store no presentation times: the n-th picture is shown at the n-th packet's time.

tests/media/xvid_packed.mkv: 50 numbered frames by XviD with two B-frames, packed (a B-frame shares the packet of the
frame it refers to, and an empty packet takes its place), put from AVI into Matroska by mkvmerge (V_MS/VFW/FOURCC).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Any

import av
import pytest

from pipeline.backends import read_index
from pipeline.decode import Picture, Playback
from pipeline.media import open_media
from tests.media_files import Recipe, Truth, number_in, steady, truth, write_media

PACKED = Path(__file__).parents[1] / "media" / "xvid_packed.mkv"


def by_order(path: Path) -> Truth:
    """The frames in the order in which they are decoded, at the times of the packets in theirs."""
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
        starts = sorted(packet.dts * packet.time_base for packet in packets)
    with av.open(str(path)) as file:
        numbers = [number_in(frame.to_ndarray(format="rgb24")) for frame in file.decode(video=0)]
    assert len(numbers) == len(starts)
    return Truth([start - starts[0] for start in starts], numbers, starts[-1] + Fraction(1, 25) - starts[0])


def check(path: Path, true: Truth) -> None:
    for every in (0.04, 0.3, 0.5, 1):
        with open_media(str(path)) as container:
            playback = Playback(container, (k * Fraction(str(every)) for k in count()), None)
            shown = [number_in(event.pixels) for event in playback if isinstance(event, Picture)]
        assert shown == true.every(every)
        assert playback.video.damage is None
        assert playback.video.seconds == pytest.approx(true.end, abs=0.05)
    assert read_index(str(path)) is None  # other libraries would trust the stamps


def copied(path: Path, copy: Path, stamp: Callable[[Any], int | tuple[int, int]], extradata: bytes = b"") -> Path:
    """The same packets, stamped with one time as if it were that of presentation and decoding, or with both."""
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = source.streams.video[0]
        written = target.add_stream_from_template(stream)
        if extradata:
            written.codec_context.extradata = extradata
        for packet in source.demux(stream):
            if packet.size:
                stamps = stamp(packet)
                packet.pts, packet.dts = stamps if isinstance(stamps, tuple) else (stamps, stamps)
                packet.stream = written
                target.mux(packet)
    return copy


def test_packed_b_frames_in_a_video_for_windows_track_of_matroska_are_shown_in_order() -> None:
    true = by_order(PACKED)
    assert true.numbers == [*range(47), 48]
    check(PACKED, true)


@pytest.mark.parametrize("name", ["copied.mp4", "copied.mov", "copied.avi"])
def test_packed_b_frames_copied_into_other_formats_are_shown_in_order(tmp_path: Path, name: str) -> None:
    check(copied(PACKED, tmp_path / name, lambda packet: packet.dts), by_order(PACKED))


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
@pytest.mark.parametrize("name", ["copied.mp4", "copied.mov"])
def test_b_frames_stamped_with_when_they_are_decoded_are_shown_in_order(tmp_path: Path, name: str, codec: str) -> None:
    film = write_media(tmp_path / "film.mp4", steady(100), Recipe(codec))
    with av.open(str(film)) as file:
        first = min(packet.dts for packet in file.demux(video=0) if packet.size)
    check(copied(film, tmp_path / name, lambda packet: packet.dts - first), truth(film))


def test_h264_in_avi_is_shown_in_order(tmp_path: Path) -> None:
    check(write_media(tmp_path / "film.avi", steady(100), Recipe()), Truth(steady(100), [*range(100)], Fraction(4)))


@pytest.mark.parametrize("stamped_with", ["decoding", "presentation"])
def test_a_video_for_windows_track_may_be_stamped_in_either_way(tmp_path: Path, stamped_with: str) -> None:
    """Programs that put AVI into Matroska stamp packets as they are decoded; those that put MP4 there, as presented."""
    film = write_media(tmp_path / "film.mp4", steady(100), Recipe("mpeg4"))
    with av.open(str(film)) as file:
        extradata = file.streams.video[0].codec_context.extradata
        first = min(packet.dts for packet in file.demux(video=0) if packet.size)
    assert extradata is not None
    header = struct.pack("<IiiHH4sIiiII", 40 + len(extradata), 64, 48, 1, 24, b"XVID", 64 * 48 * 3, 0, 0, 0, 0)
    film_in_matroska = copied(
        film,
        tmp_path / "native.mkv",
        lambda packet: packet.dts - first if stamped_with == "decoding" else (packet.pts, packet.dts),
        header + extradata,
    )
    content = film_in_matroska.read_bytes()
    assert content.count(b"V_MPEG4/ISO/ASP") == 1
    path = tmp_path / "film.mkv"
    path.write_bytes(content.replace(b"V_MPEG4/ISO/ASP", b"V_MS/VFW/FOURCC"))
    check(path, truth(film))
