"""A file that simply ends is truncated where its own headers prove it, for every expert alike, and nowhere else."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from data_manifests import Video
from extractors import Audio, Frames
from pipeline.backends import read_index
from pipeline.media import probe
from pipeline.sampling import Ended, Request, sample_video
from tests.media_files import SOUND_RATE, Recipe, Sound, chirp, paint, steady, write_media

PICTURES = {"video": Request(Frames(0.5), torch.from_numpy)}
SOUND = {"audio": Request(Audio(16_000, 0.5, 0.5), torch.from_numpy)}


def statuses(path: Path) -> dict[str, str]:
    """How each stream goes; it is checked that it goes the same whoever else is there."""
    alone: dict[str, object] = {}
    for requests in (PICTURES, SOUND):
        alone |= {item.expert: item.status for item in sampled(path, requests)}
    together = {item.expert: item.status for item in sampled(path, PICTURES | SOUND)}
    assert together == alone
    return {name: status.status for name, status in together.items()}


def sampled(path: Path, requests: Mapping[str, Request]) -> list[Ended]:
    return [item for item in sample_video(Video("v", str(path)), requests) if isinstance(item, Ended)]


def without_tags(content: bytes) -> bytes:
    assert content.count(b"DURATION") == 2
    return content.replace(b"DURATION", b"DURATIOX")


@dataclass(frozen=True)
class Form:
    """A way to write a film; `proves` says whether its headers show that the first 60 % are not all of it."""

    name: str
    proves: bool
    recipe: Recipe = field(default_factory=Recipe)
    sound: str = "aac"
    change: Callable[[bytes], bytes] = bytes


FRAGMENTS = "frag_keyframe+empty_moov+default_base_moof"
FILMS = {
    "mp4": Form("film.mp4", True, Recipe(muxing={"movflags": "faststart"})),
    "fragments": Form("film.mp4", True, Recipe(muxing={"movflags": FRAGMENTS})),
    "dash": Form("film.mp4", True, Recipe(muxing={"movflags": f"{FRAGMENTS}+dash+global_sidx"})),
    "mkv": Form("film.mkv", True),
    "mkv without tags": Form("film.mkv", True, change=without_tags),
    "live mkv": Form("film.mkv", False, Recipe(muxing={"live": "1"})),
    "avi": Form("film.avi", True, Recipe("mpeg4"), "mp2"),
    "flv": Form("film.flv", True),
    "asf": Form("film.asf", False, Recipe("wmv2", bframes=0), "mp2"),
    "ts": Form("film.ts", False),
    "mpg": Form("film.mpg", False, Recipe("mpeg2video"), "mp2"),
    "nut": Form("film.nut", False),
}
LENGTHS = {"equal": (3, 3), "longer sound": (2, 5), "longer video": (5, 2)}


def write_film(folder: Path, form: Form, video: float, audio: float, first: int = 0, sound_first: int = 0) -> Path:
    times = steady(round(video * 25), first=first)
    sound = Sound(chirp(audio), Fraction(sound_first), form.sound)
    path = write_media(folder / form.name, times, form.recipe, sound)
    path.write_bytes(form.change(path.read_bytes()))
    return path


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=list(LENGTHS))
@pytest.mark.parametrize("form", FILMS.values(), ids=list(FILMS))
def test_streams_of_unequal_length_are_whole(tmp_path: Path, form: Form, lengths: tuple[float, float]) -> None:
    path = write_film(tmp_path, form, *lengths)
    assert statuses(path) == {"video": "ok", "audio": "ok"}


@pytest.mark.parametrize("late", [(3, 0), (0, 3), (40, 40)])
@pytest.mark.parametrize("form", FILMS.values(), ids=list(FILMS))
def test_streams_that_begin_late_are_whole(tmp_path: Path, form: Form, late: tuple[int, int]) -> None:
    assert statuses(write_film(tmp_path, form, 3, 4, *late)) == {"video": "ok", "audio": "ok"}


@pytest.mark.parametrize("form", FILMS.values(), ids=list(FILMS))
def test_of_a_film_that_is_cut_off_both_streams_are_truncated_where_that_shows(tmp_path: Path, form: Form) -> None:
    path = write_film(tmp_path, form, 8, 8)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 6 // 10 + 1])
    found = statuses(path)
    if form.proves:  # "failed" is what comes of an index of fragments of which some are not there
        assert found in ({"video": state, "audio": state} for state in ("truncated", "failed"))
    else:
        assert set(found.values()) <= {"ok", "truncated"}  # what the decoder itself finds amiss
    assert not form.proves or "failed" in found.values() or read_index(str(path)) is None


def test_fragments_from_the_midst_of_a_film_are_whole(tmp_path: Path) -> None:
    """Their time stamps begin late, and FFmpeg's duration counts from 0."""
    path = write_film(tmp_path, FILMS["fragments"], 8, 8)
    kept, fragments, content = b"", 0, path.read_bytes()
    at = 0
    while at < len(content):
        size, kind = struct.unpack_from(">I4s", content, at)
        fragments += kind == b"moof"
        if kind not in (b"moof", b"mdat") or fragments > 4:
            kept += content[at : at + size]
        at += size
    assert fragments > 8
    path.write_bytes(kept)
    assert statuses(path) == {"video": "ok", "audio": "ok"}
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.start_time is not None and stream.start_time * stream.time_base > 1


def test_a_tag_that_outlasts_the_file_is_not_of_this_file(tmp_path: Path) -> None:
    path = write_film(tmp_path, FILMS["mkv"], 3, 3)
    content = path.read_bytes()
    stale = re.sub(rb"00:00:03\.", b"00:00:09.", content)
    assert stale != content
    path.write_bytes(stale)
    assert statuses(path) == {"video": "ok", "audio": "ok"}


def test_a_matroska_file_that_lacks_only_its_index_is_whole_by_its_own_tags(tmp_path: Path) -> None:
    path = write_film(tmp_path, FILMS["mkv"], 3, 3)
    path.write_bytes(path.read_bytes()[:-20])
    assert statuses(path) == {"video": "ok", "audio": "ok"}


# Sound alone.

QUIET_THEN_LOUD = np.concatenate([np.zeros(4 * SOUND_RATE, np.float32), chirp(4)])
NO_HEADER = {"write_xing": "0"}


def write_sound(path: Path, codec: str, muxing: Mapping[str, str] | None = None) -> Path:
    recipe = Recipe(muxing=muxing or {})
    return write_media(path, recipe=recipe, sound=Sound(QUIET_THEN_LOUD, codec=codec))


@pytest.mark.parametrize(("name", "codec", "muxing"), [("a.aac", "aac", {}), ("a.mp3", "libmp3lame", NO_HEADER)])
def test_a_length_guessed_from_the_bit_rate_proves_nothing(
    tmp_path: Path, name: str, codec: str, muxing: dict[str, str]
) -> None:
    path = write_sound(tmp_path / name, codec, muxing)
    assert statuses(path)["audio"] == "ok"
    assert probe(str(path)).duration is None


@pytest.mark.parametrize(
    ("name", "codec", "muxing", "proves"),
    [
        ("a.wav", "pcm_s16le", {}, True),
        ("a.flac", "flac", {}, True),
        ("a.aiff", "pcm_s16be", {}, True),
        ("a.w64", "pcm_s16le", {}, True),
        ("a.mp3", "libmp3lame", {}, True),
        ("a.mp3", "libmp3lame", NO_HEADER, False),
        ("a.ogg", "flac", {}, False),
    ],
)
def test_sound_that_is_cut_off_is_truncated_where_its_header_says_so(
    tmp_path: Path, name: str, codec: str, muxing: dict[str, str], proves: bool
) -> None:
    path = write_sound(tmp_path / name, codec, muxing)
    assert statuses(path)["audio"] == "ok"
    if proves:
        assert probe(str(path)).duration == pytest.approx(8, abs=0.1)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    assert statuses(path)["audio"] == ("truncated" if proves else "ok")


@pytest.mark.parametrize("size", [0, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_file_that_was_streamed_does_not_know_its_size(tmp_path: Path, size: int) -> None:
    path = write_sound(tmp_path / "a.wav", "pcm_s16le")
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.find(b"data") + 4, size)
    path.write_bytes(content)
    assert statuses(path)["audio"] == "ok"


@pytest.mark.parametrize("part", [1, 0.7])
def test_a_wav_file_of_more_than_4_gb_says_its_size_elsewhere(tmp_path: Path, part: float) -> None:
    path = write_sound(tmp_path / "a.wav", "pcm_s16le", {"rf64": "always"})
    content = path.read_bytes()
    assert content[:4] == b"RF64"
    path.write_bytes(content[: round(len(content) * part)])
    assert statuses(path)["audio"] == ("ok" if part == 1 else "truncated")


def test_an_mp3_file_that_begins_with_tags_still_counts_its_frames(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.mp3", "libmp3lame", {"id3v2_version": "0"})
    content = path.read_bytes()
    path.write_bytes(b"ID3\4\0\0\0\0\x01\x48" + bytes(200) + content[: len(content) * 7 // 10])
    assert statuses(path)["audio"] == "truncated"


@pytest.mark.parametrize("pictures", [False, True])
def test_of_ogg_files_in_a_chain_the_first_is_read_and_the_others_are_told(tmp_path: Path, pictures: bool) -> None:
    """Theora has no encoder in PyAV; VP8 in Ogg is timed in the same way."""
    if pictures:
        recipe = Recipe("libvpx", bframes=0, options={"cpu-used": "8"})
        images = [paint(n).repeat(2, 0).repeat(2, 1) for n in range(50)]
        path = write_media(tmp_path / "a.ogg", steady(50), recipe, Sound(chirp(2), codec="flac"), images)
    else:
        path = write_media(tmp_path / "a.ogg", sound=Sound(chirp(2), codec="flac"))
    path.write_bytes(2 * path.read_bytes())
    for ended in sampled(path, PICTURES | SOUND if pictures else SOUND):
        assert ended.status.status == "truncated" and 3 <= ended.status.rows <= 6
        assert "several Ogg files in one" in str(ended.status.reason)
