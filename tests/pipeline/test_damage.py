"""Pictures that a decoder has mended, and those made from them, are no rows; those before them are."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.frame import PictureType
from hypothesis import given
from hypothesis import strategies as st

from data_manifests import Video
from extractors import Audio, Clips, Frames, Sampling
from feature_store import VideoStatus
from pipeline.backends import read_index
from pipeline.damage import MOST_HELD, DamageTracker
from pipeline.decode import Picture, Playback
from pipeline.media import MediaError, open_media, probe
from pipeline.sampling import Ended, Request, sample_video
from tests.media_files import Recipe, Sound, chirp, steady, write_media

FRAMES, GROUP = 150, 50  # 25 a second
LARGE = 1.0  # mean difference of pixels, of 255, from which a picture is another one


def drifting_noise() -> list[np.ndarray]:
    """Pictures of which each is much like the one before, moved, and yet takes some bytes to tell."""
    chance = np.random.default_rng(0)
    noise = chance.integers(0, 190, (9, 48, 3)).astype(np.uint8).repeat(8, 0).repeat(8, 1)
    return [noise[:64, n : n + 96] + chance.integers(0, 60, (64, 96, 3), np.uint8) for n in range(FRAMES)]


@dataclass(frozen=True)
class Film:
    """A file and its pictures as they are."""

    path: Path
    pictures: dict[Fraction, np.ndarray]

    def packets(self) -> list[Any]:
        with av.open(str(self.path)) as file:
            return [packet for packet in file.demux(video=0) if packet.size]


CODECS = {
    "h264.mp4": Recipe(gop=GROUP),
    "h264.mkv": Recipe(gop=GROUP),
    "h264.ts": Recipe(gop=GROUP),
    "mpeg4.mp4": Recipe("mpeg4", gop=GROUP),
    "mpeg4.avi": Recipe("mpeg4", gop=GROUP),
    "mpeg2.ts": Recipe("mpeg2video", gop=GROUP),
    "mpeg2.mkv": Recipe("mpeg2video", gop=GROUP),
    "flv1.flv": Recipe("flv", gop=GROUP, bframes=0),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Film]:
    folder, made = tmp_path_factory.mktemp("films"), {}

    def film(name: str) -> Film:
        if name not in made:
            path = write_media(folder / name, steady(FRAMES), CODECS[name], pictures=drifting_noise())
            made[name] = Film(path, {picture.time: picture.pixels for picture in play(path)[0]})
        return made[name]

    return film


def play(path: Path, every: str = "0.04") -> tuple[list[Picture], Playback]:
    with open_media(str(path)) as container:
        playback = Playback(container, (k * Fraction(every) for k in count()), None)
        return [event for event in playback if isinstance(event, Picture)], playback


def statuses(path: Path, wanted: dict[str, Sampling]) -> dict[str, VideoStatus]:
    requests = {name: Request(sampling, torch.from_numpy) for name, sampling in wanted.items()}
    return {
        item.expert: item.status for item in sample_video(Video("v", str(path)), requests) if isinstance(item, Ended)
    }


def overwritten(film: Film, copy: Path, numbers: list[int]) -> Path:
    """The file with zeros in the last two thirds of some packets, by their number in the file."""
    content, packets = bytearray(film.path.read_bytes()), film.packets()
    for number in numbers:
        begin, size = packets[number].pos, packets[number].size
        if film.path.suffix == ".ts":  # headers every 188 bytes
            begin, size = (begin // 188 + 1) * 188 + 40, 140
        content[begin + size // 3 : begin + size] = bytes(size - size // 3)
    copy.write_bytes(content)
    return copy


def is_wrong(film: Film, picture: Picture) -> bool:
    return float(np.abs(picture.pixels.astype(int) - film.pictures[picture.time]).mean()) > LARGE


def begins_at(film: Film, shown: list[Picture]) -> Fraction:
    """Where in the film these pictures begin; it is checked that all of them are the film's from there on."""
    first = min(film.pictures, key=lambda time: np.abs(film.pictures[time].astype(int) - shown[0].pixels).mean())
    assert not any(is_wrong(film, Picture(picture.time + first, picture.pixels)) for picture in shown)
    return first


@pytest.mark.parametrize("number", [50, 60, 140])
@pytest.mark.parametrize("name", CODECS)
def test_every_wrong_picture_is_damaged_up_to_the_next_whole_key_frame(
    films: Callable[[str], Film], tmp_path: Path, name: str, number: int
) -> None:
    film = films(name)
    shown, playback = play(overwritten(film, tmp_path / name, [number]))
    wrong = [picture.time for picture in shown if is_wrong(film, picture)]
    damaged = [picture.time for picture in shown if picture.damage]
    assert set(wrong) <= set(damaged)
    first, after = Fraction(number - number % GROUP, 25), Fraction(number - number % GROUP + GROUP, 25)
    assert all(first - Fraction(4, 25) <= time < after + Fraction(4, 25) for time in damaged)
    assert bool(damaged) == (playback.video.damaged is not None)
    if name.startswith("h264") or wrong:
        assert damaged


@pytest.mark.parametrize("name", CODECS)
def test_of_a_whole_film_nothing_is_damaged(films: Callable[[str], Film], name: str) -> None:
    for every in ("0.04", "0.5", "3"):
        shown, playback = play(films(name).path, every)
        assert not any(picture.damage for picture in shown)
        assert playback.video.damage is None


def test_rows_end_before_the_first_damaged_picture_and_damaged_seconds_are_told(
    films: Callable[[str], Film], tmp_path: Path
) -> None:
    path = overwritten(films("h264.mp4"), tmp_path / "film.mp4", [60])
    found = statuses(path, {"frames": Frames(0.1), "clips": Clips(4, 10, 2)})
    for status in found.values():
        assert status.status == "truncated"
        assert status.at == status.seconds and status.at is not None and 2 < status.at < 2.5
        told = re.fullmatch(r"video: .* at 2\.\d\d s; (\d+\.\d+) of 6\.00 s are damaged", str(status.reason))
        assert told and 1.5 < float(told[1]) < 2
    assert found["frames"].rows == round((found["frames"].at or 0) * 10)
    assert found["clips"].rows == (found["frames"].rows - 4) // 2 + 1


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg2.mkv", "h264.ts"])
def test_the_status_of_an_expert_is_the_same_whoever_looks_at_more_pictures(
    films: Callable[[str], Film], tmp_path: Path, name: str
) -> None:
    path = overwritten(films(name), tmp_path / name, [60, 130])
    wanted: dict[str, Sampling] = {
        "dense": Frames(0.04),
        "sparse": Frames(1.9),
        "once": Frames(4),
        "clips": Clips(3, 5, 9),
    }
    together = statuses(path, wanted)
    assert together == {name: statuses(path, {name: sampling})[name] for name, sampling in wanted.items()}
    assert together["dense"].status == "truncated"
    assert together["once"].status == "ok"  # it looks at 0 s and 4 s


def test_damage_at_the_very_beginning_leaves_no_row_and_moves_no_time(
    films: Callable[[str], Film], tmp_path: Path
) -> None:
    """Were time to begin at the first whole picture, all would be seconds early."""
    film = films("h264.mp4")
    content, packet = bytearray(film.path.read_bytes()), film.packets()[0]
    content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    for path in (overwritten(film, tmp_path / "mended.mp4", [0]), tmp_path / "lost.mp4"):
        if path.name == "lost.mp4":
            path.write_bytes(content)
        shown, _ = play(path)
        assert not any(is_wrong(film, picture) for picture in shown if not picture.damage)
        assert sum(not picture.damage for picture in shown) >= FRAMES - GROUP - 3
        status = statuses(path, {"frames": Frames(0.5)})["frames"]
        assert (status.status, status.stage) == ("failed", "decode")
        assert "at 0.00 s; 2.00 of 6.00 s are damaged" in str(status.reason)


def test_a_recording_that_begins_within_a_group_begins_with_the_next_key_frame(
    films: Callable[[str], Film], tmp_path: Path
) -> None:
    for name in ("h264.ts", "mpeg2.ts"):
        film, path = films(name), tmp_path / name
        path.write_bytes(film.path.read_bytes()[film.packets()[20].pos // 188 * 188 :])
        shown, playback = play(path)
        assert playback.video.damage is None
        assert begins_at(film, shown) in (2, Fraction(51, 25))


def test_frames_of_mpeg_4_before_the_first_key_frame_are_grey_and_no_part_of_the_video(
    films: Callable[[str], Film], tmp_path: Path
) -> None:
    film = films("mpeg4.mp4")
    path = tmp_path / "film.mkv"
    with av.open(str(film.path)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number > 20:
                packet.stream = stream
                target.mux(packet)
    assert begins_at(film, play(path)[0]) in (2, Fraction(51, 25))


def test_lost_packets_of_mpeg_ts_are_damage(films: Callable[[str], Film], tmp_path: Path) -> None:
    for name in ("h264.ts", "mpeg2.ts"):
        film, path = films(name), tmp_path / name
        content = film.path.read_bytes()
        chance = Random(1)
        parts = [content[at : at + 188] for at in range(0, len(content), 188)]
        path.write_bytes(
            b"".join(part for n, part in enumerate(parts) if n < len(parts) // 3 or chance.random() > 0.01)
        )
        shown, _ = play(path)
        wrong = [picture for picture in shown if picture.time in film.pictures and is_wrong(film, picture)]
        assert len(wrong) > 10
        assert sum(picture.damage is None for picture in wrong) <= 2  # those before the loss was seen


def test_pictures_that_are_all_damaged_fail_and_say_so(films: Callable[[str], Film], tmp_path: Path) -> None:
    path = overwritten(films("h264.mp4"), tmp_path / "film.mp4", [*range(FRAMES)])
    status = statuses(path, {"frames": Frames(0.5)})["frames"]
    assert (status.status, status.rows) == ("failed", 0)
    assert "6.00 of 6.00 s are damaged" in str(status.reason)


@pytest.mark.parametrize("scheme", ["cenc", "cbcs"])
def test_encrypted_streams_fail_and_say_so(tmp_path: Path, scheme: str) -> None:
    muxing = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    path = write_media(tmp_path / "film.mp4", steady(50), Recipe(muxing=muxing), Sound(chirp(2)))
    content = path.read_bytes()
    assert content.count(b"schm\0\0\0\0cenc") == 2
    path.write_bytes(content.replace(b"schm\0\0\0\0cenc", b"schm\0\0\0\0" + scheme.encode()))
    for status in statuses(path, {"video": Frames(0.5), "audio": Audio(16_000, 0.5, 0.5)}).values():
        assert (status.status, status.stage, status.rows) == ("failed", "decode", 0)
        assert f"it is encrypted ({scheme})" in str(status.reason)
    with pytest.raises(MediaError, match=rf"encrypted \({scheme}\)"):
        probe(str(path))
    assert read_index(str(path)) is None


@pytest.mark.parametrize(("name", "codec"), [("sound.mkv", "flac"), ("sound.mp4", "ac3"), ("sound.mkv", "eac3")])
def test_sound_whose_checksum_is_wrong_ends_there(tmp_path: Path, name: str, codec: str) -> None:
    """A decoder that is not asked to look at it gives noise, and says nothing."""
    path = write_media(tmp_path / name, sound=Sound(chirp(4), codec=codec))
    with av.open(str(path)) as file:
        packets = [packet for packet in file.demux(audio=0) if packet.size]
    content, packet = bytearray(path.read_bytes()), packets[len(packets) // 2]
    content[content.index(bytes(packet)) + packet.size // 2] ^= 16
    path.write_bytes(content)
    status = statuses(path, {"audio": Audio(16_000, 0.5, 0.5)})["audio"]
    assert status.status == "truncated" and 1.8 < (status.at or 0) < 2.1


# The tracker by itself.

KEY, REFERRED, B = PictureType.I, PictureType.P, PictureType.B


@given(
    frames=st.lists(
        st.tuples(st.sampled_from([KEY, REFERRED, REFERRED, B, B, B]), st.sampled_from([False] * 9 + [True])),
        max_size=60,
    ),
    lost=st.sets(st.integers(0, 60), max_size=3),
    codec=st.sampled_from(["h264", "mpeg2video"]),
)
def test_frames_come_out_in_order_and_only_those_that_may_refer_to_damage_are_damaged(
    frames: list[tuple[PictureType, bool]], lost: set[int], codec: str
) -> None:
    """Frame k is presented at 2k; packets that gave none lie between, at odd ticks."""
    tracker = DamageTracker(SimpleNamespace(name=codec, has_b_frames=True), Fraction(1, 25))
    came, most = [], 0
    for number in lost:
        tracker.note(2 * number + 1, "lost")
    for k, (kind, corrupt) in enumerate(frames):
        frame = SimpleNamespace(pict_type=kind, is_corrupt=corrupt, key_frame=kind == KEY)
        came += list(tracker.judge(frame, 2 * k))
        most = max(most, k + 1 - sum(judged.frame is not None for judged in came))
    came += list(tracker.rest())
    assert most <= MOST_HELD
    assert [judged.at for judged in came] == sorted([*range(0, 2 * len(frames), 2), *(2 * n + 1 for n in lost)])
    damaged = {judged.at for judged in came if judged.damage}
    roots = {2 * n + 1 for n in lost} | {2 * k for k, (_, corrupt) in enumerate(frames) if corrupt}
    assert roots <= damaged
    for at in damaged:
        before = [root for root in roots if root <= at]
        clean = [2 * k for k, (kind, corrupt) in enumerate(frames) if kind == KEY and not corrupt and 2 * k <= at]
        spread = before and max(before) > max(clean, default=-1)
        ahead = at % 2 == 0 and frames[at // 2][0] == B and any(at < root for root in roots)
        assert spread or ahead
