"""Playback shows at every time the last frame that began by then, and decodes no more than that takes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import decode, media, pictures
from pipeline.decode import Picture, Playback
from pipeline.media import open_media
from tests.media_files import Recipe, Truth, number_in, paint, set_edits, steady, truth, unsteady, write_media

OPEN = {"x264-params": "open-gop=1"}
X265 = {"preset": "ultrafast", "x265-params": "log-level=none:bframes=2:keyint=12:pools=1:frame-threads=1"}
VP9 = Recipe("libvpx-vp9", bframes=0, options={"deadline": "realtime", "cpu-used": "8"})
VP8 = Recipe("libvpx", bframes=0, gop=30, options={"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "4"})
NOT_SHIFTED = {"avoid_negative_ts": "disabled"}

FILMS: dict[str, tuple[list[Fraction], Recipe]] = {
    "gop12.mp4": (steady(100), Recipe()),
    "gop5.mp4": (steady(100), Recipe(gop=5)),
    "gop250.mp4": (steady(300), Recipe(gop=250)),
    "without_b_frames.mp4": (steady(60), Recipe(bframes=0)),
    "ntsc.mp4": ([Fraction(1001 * n, 30_000) for n in range(100)], Recipe(fps=30)),
    "open5.mp4": (steady(100), Recipe(gop=5, options=OPEN)),
    "open12.mp4": (steady(100), Recipe(options=OPEN)),
    "open12.mkv": (steady(100), Recipe(options=OPEN)),
    "open12.ts": (steady(100), Recipe(options=OPEN)),
    "intra_refresh.mp4": (steady(100), Recipe(bframes=0, options={"x264-params": "intra-refresh=1:keyint=12"})),
    "hevc.mp4": (steady(100), Recipe("libx265", options=X265)),  # open groups by default
    "vp9.webm": (steady(100), VP9),
    "vp8.webm": (steady(100), VP8),
    "plain.mkv": (steady(100), Recipe()),
    "plain.ts": (steady(100), Recipe()),
    "plain.flv": (steady(100), Recipe()),
    "mpeg2.ts": (steady(100), Recipe("mpeg2video")),
    "mpeg2.mpg": (steady(100), Recipe("mpeg2video")),
    "b_frames.avi": (steady(100), Recipe("mpeg4")),
    "motion_jpeg.avi": (steady(100), Recipe("mjpeg", bframes=0)),
    "raw.h264": (steady(100), Recipe()),
    "uneven.mp4": (unsteady(100), Recipe()),
    "uneven.mkv": (unsteady(100, seed=1), Recipe()),
    "uneven.ts": (unsteady(100, seed=2), Recipe()),
    "uneven_open5.mkv": (unsteady(100, seed=3), Recipe(gop=5, options=OPEN)),
    "late.mp4": (unsteady(100, first=10), Recipe()),
    "late.mkv": (steady(100, first=10), Recipe()),
    "late.ts": (steady(100, first=1000), Recipe()),
    "negative.ts": (steady(100, first=-1), Recipe(muxing=NOT_SHIFTED)),
    "cut_inside_group.mp4": (steady(100, first=-1), Recipe()),  # by an edit list
    "cut_uneven.mov": (unsteady(100, first=-1), Recipe()),
    "fragmented.mp4": (steady(100), Recipe(muxing={"movflags": "frag_keyframe+empty_moov"})),
}
EDITS = {
    "begins_late.mp4": [(1.5, -1), (4, 0.08)],
    "middle_cut_out.mp4": [(2, 0.08), (1, 3.08)],
    "cut_inside_groups.mp4": [(1.9, 0.08), (1, 3.25)],
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Films:
    return Films(tmp_path_factory.mktemp("films"))


@dataclass(frozen=True)
class Films:
    """The films, each made when it is first asked for, with the truth about it."""

    folder: Path
    made: dict[str, tuple[Path, Truth]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> tuple[Path, Truth]:
        if name not in self.made:
            path = self.folder / name
            write_media(path, *FILMS.get(name, (steady(100), Recipe())))
            if name in EDITS:
                set_edits(path, EDITS[name])
            self.made[name] = path, truth(path)
        return self.made[name]


@pytest.fixture
def counted_packets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the trial of a key frame take CountingPackets."""
    stands_alone = media.stands_alone
    monkeypatch.setattr(media, "stands_alone", lambda stream, packet: stands_alone(stream, packet.packet))


def grid(every: float) -> Iterator[Fraction]:
    k = 0
    while True:
        yield k * Fraction(str(every))
        k += 1


def play(path: Path, times: Iterator[Fraction], **cut: Fraction) -> tuple[list[tuple[Fraction, int]], Playback]:
    with open_media(str(path)) as container:
        playback = Playback(container, times, None, **cut)
        shown = [(event.time, number_in(event.pixels)) for event in playback if isinstance(event, Picture)]
    return shown, playback


@pytest.mark.parametrize("name", [*FILMS, *EDITS])
def test_every_time_before_the_end_shows_the_last_frame_that_began_by_then(films: Films, name: str) -> None:
    path, true = films[name]
    for every in (0.1, 0.5, 1, 3):
        shown, playback = play(path, grid(every))
        assert [time for time, _ in shown] == list(islice(grid(every), len(shown)))
        assert [number for _, number in shown] == true.every(every)
        assert playback.video.damage is None
        assert playback.video.seconds == true.end


@pytest.mark.parametrize("name", FILMS)
def test_the_oracle_finds_the_frames_where_they_were_put(films: Films, name: str) -> None:
    times, _recipe = FILMS[name]
    _, true = films[name]
    first = true.numbers[0]
    assert true.numbers == list(range(first, len(times)))
    assert first == 0 or times[first] >= 0 > times[first - 1]  # an edit list cuts off what is before 0
    written = [float(time - times[first]) for time in times[first:]]
    np.testing.assert_allclose([float(start) for start in true.starts], written, atol=0.001)


@pytest.mark.parametrize("name", ["open5.mp4", "uneven.mkv", "uneven.ts", "gop250.mp4", "b_frames.avi", "hevc.mp4"])
@settings(max_examples=25)
@given(data=st.data())
def test_any_ascending_times_show_the_last_frame_that_began_by_then(films: Films, name: str, data: Any) -> None:
    path, true = films[name]
    anywhere = st.fractions(0, true.end + 1, max_denominator=90_000)
    times = sorted(data.draw(st.lists(st.sampled_from(true.starts) | anywhere, min_size=1, max_size=12)))
    shown, _ = play(path, iter(times))
    assert shown == [(time, true.at(time)) for time in times if time < true.end]


@pytest.mark.parametrize("name", ["gop5.mp4", "open5.mp4", "uneven.mkv", "plain.ts", "hevc.mp4", "vp9.webm"])
def test_skipping_gives_the_same_pictures_as_decoding_everything(films: Films, name: str) -> None:
    path, true = films[name]
    times = list(takewhile(lambda time: time < true.end, grid(1)))
    with av.open(str(path)) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    all_pictures = {number_in(frame): frame for frame in frames}
    with open_media(str(path)) as container:
        for picture in Playback(container, iter(times), None):
            assert isinstance(picture, Picture)
            np.testing.assert_array_equal(picture.pixels, all_pictures[true.at(picture.time)])


@pytest.mark.parametrize(("name", "packets_a_group"), [("gop5.mp4", 5), ("gop12.mp4", 12), ("open12.ts", 12)])
@pytest.mark.usefixtures("counted_packets")
def test_groups_without_a_wanted_time_are_not_decoded(films: Films, name: str, packets_a_group: int) -> None:
    path, _ = films[name]
    with open_media(str(path)) as container:
        counting = CountingContainer(container)
        list(Playback(counting, iter([Fraction(1), Fraction(3)]), None))  # type: ignore[arg-type]
    # The first frame, then the groups that hold the two times and the frames by which they are seen to be over.
    assert counting.decoded <= 6 + 2 * (packets_a_group + 6)


@pytest.mark.usefixtures("counted_packets")
def test_nothing_is_read_after_the_last_wanted_time(films: Films) -> None:
    path, _ = films["gop5.mp4"]
    with open_media(str(path)) as container:
        counting = CountingContainer(container)
        list(Playback(counting, iter([Fraction(1)]), None))  # type: ignore[arg-type]
    assert counting.read < 50


@pytest.mark.usefixtures("counted_packets")
def test_a_group_too_long_to_keep_is_decoded_on_the_way(films: Films, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MOST_UNDECODED", 20)
    path, true = films["gop250.mp4"]
    with open_media(str(path)) as container:
        counting = CountingContainer(container)
        playback = Playback(counting, grid(3), None)  # type: ignore[arg-type]
        shown = [number_in(event.pixels) for event in playback if isinstance(event, Picture)]
    assert shown == true.every(3)
    assert counting.most_waiting < 45  # of which 20 are passed over, and stay undecoded, at the second key frame


def test_times_that_show_the_same_frame_share_its_pixels(films: Films) -> None:
    path, _ = films["gop12.mp4"]
    with open_media(str(path)) as container:
        first, second = islice(Playback(container, grid(0.01), None), 2)
        assert isinstance(first, Picture) and isinstance(second, Picture)
        assert first.pixels is second.pixels


SOUGHT = "gop12.mp4 open12.mp4 open12.ts open12.mkv hevc.mp4 intra_refresh.mp4 gop250.mp4 vp9.webm mpeg2.ts mpeg2.mpg"
ALSO_SOUGHT = "b_frames.avi plain.flv late.mkv uneven.ts negative.ts raw.h264 cut_inside_group.mp4 middle_cut_out.mp4"


@pytest.mark.parametrize("name", [*SOUGHT.split(), *ALSO_SOUGHT.split()])
@pytest.mark.parametrize("start", ["1.5", "2.02", "2.9"])
def test_a_late_cut_is_sought_and_shows_the_same_as_reading_up_to_it(
    films: Films, name: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode, "SEEK_OVER", Fraction(1))
    monkeypatch.setattr(decode, "SEEK_MARGIN", Fraction(1, 2))
    path, true = films[name]
    begin = Fraction(start)
    shown, playback = play(path, (begin + time for time in grid(0.1)), start=begin)
    wanted = takewhile(lambda time: time < true.end, (begin + time for time in grid(0.1)))
    assert shown == [(time, true.at(time)) for time in wanted]
    assert playback.video.damage is None
    assert playback.video.seconds == true.end


@pytest.mark.usefixtures("counted_packets")
def test_a_late_cut_does_not_read_what_comes_long_before_it(tmp_path: Path) -> None:
    path = write_media(tmp_path / "long.mp4", steady(1000), Recipe(gop=25))  # 40 s
    with open_media(str(path)) as container:
        counting = CountingContainer(container)
        list(Playback(counting, iter([Fraction(39)]), None, start=Fraction(39)))  # type: ignore[arg-type]
    assert counting.read < 350
    assert counting.decoded < 50


def test_frames_that_an_avi_leaves_out_do_not_shift_the_others(tmp_path: Path) -> None:
    kept = [time for n, time in enumerate(steady(100)) if n % 7 not in (2, 3)]
    path = write_media(tmp_path / "gaps.avi", kept, Recipe("mpeg4", bframes=0))
    shown, _ = play(path, grid(0.04))
    assert [number for _, number in shown] == [
        max(n for n, begin in enumerate(kept) if begin <= time) for time in steady(100)
    ]


def test_frames_that_only_say_as_before_do_not_shift_the_others(tmp_path: Path) -> None:
    """XviD writes such frames where the picture stands still; a decoder gives nothing for them."""
    path = write_media(tmp_path / "film.avi", steady(60), Recipe("mpeg4", bframes=0, gop=10))
    still = bytes([0, 0, 1, 0xB6, 0b01_0_1_0000, 0b0_1_0_01111])  # P, no second passed, time 0, not coded
    path = with_packets(path, tmp_path / "still.avi", still, after={20, 21, 33})
    shown, playback = play(path, grid(0.04))
    expected = [n for n in range(60) for _ in range(2 if n in (20, 21, 33) else 1)]
    assert [number for _, number in shown] == expected
    assert playback.video.damage is None


def with_packets(path: Path, copy: Path, content: bytes, after: set[int]) -> Path:
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = source.streams.video[0]
        written = target.add_stream_from_template(stream)
        place = 0
        for number, packet in enumerate(packet for packet in source.demux(stream) if packet.size):
            for part in [packet] + [av.Packet(content)] * (number in after):
                part.stream, part.time_base = written, stream.time_base
                part.pts = part.dts = place
                place += 1
                target.mux(part)
    return copy


def test_a_picture_of_another_size_midway_is_shown_too(tmp_path: Path) -> None:
    small = write_media(tmp_path / "small.ts", steady(50, first=10))
    images = [paint(n).repeat(2, 0).repeat(2, 1) for n in range(50, 100)]
    large = write_media(tmp_path / "large.ts", steady(50, first=12), pictures=images)
    joined = tmp_path / "joined.ts"
    joined.write_bytes(small.read_bytes() + large.read_bytes())
    with open_media(str(joined)) as container:
        seen = [
            (number_in(picture.pixels), picture.pixels.shape)
            for picture in Playback(container, grid(0.5), None)
            if isinstance(picture, Picture)
        ]
    assert seen[0] == (0, (48, 64, 3))
    assert seen[-1] == (87, (96, 128, 3))


@dataclass
class CountingContainer:
    """A container that counts the packets read and the packets decoded."""

    container: Any
    read: int = 0
    decoded: int = 0
    most_waiting: int = 0  # packets read and not yet decoded

    def __getattr__(self, name: str) -> Any:
        return getattr(self.container, name)

    def demux(self, streams: Any) -> Iterator[CountingPacket]:
        for packet in self.container.demux(streams):
            self.read += 1
            self.most_waiting = max(self.most_waiting, self.read - self.decoded)
            yield CountingPacket(packet, self)


@dataclass
class CountingPacket:
    packet: Any
    counter: CountingContainer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.packet, name)

    def decode(self) -> Any:
        self.counter.decoded += 1
        return self.packet.decode()
