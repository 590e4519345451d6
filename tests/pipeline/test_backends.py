"""Every decoder gives the same pictures at the same times."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from data_manifests import Video
from extractors import Audio, Clips, Frames
from pipeline import backends, media
from pipeline.backends import DecoderMissing, IndexedPlayback, read_index
from pipeline.decode import Picture
from pipeline.sampling import Ended, Request, Sample, sample_video
from tests.decoders import DECODERS, LIBRARIES
from tests.media_files import (
    Recipe,
    Sound,
    Truth,
    chirp,
    number_in,
    paint,
    set_edits,
    steady,
    truth,
    unsteady,
    write_media,
)

OPEN = {"x264-params": "open-gop=1"}
PLAIN: dict[str, tuple[list[Fraction], Recipe]] = {
    "steady.mp4": (steady(100), Recipe()),
    "gop5.mp4": (steady(100), Recipe(gop=5)),
    "uneven.mp4": (unsteady(100), Recipe()),
    "uneven.mkv": (unsteady(100, seed=1), Recipe(gop=30)),
    "without_b_frames.mov": (unsteady(60, seed=2), Recipe(bframes=0)),
    "late.mkv": (steady(100, first=10), Recipe()),
    "steady.flv": (steady(100), Recipe()),
    "vp9.webm": (steady(60), Recipe("libvpx-vp9", bframes=0, options={"deadline": "realtime", "cpu-used": "8"})),
}
NOT_PLAIN: dict[str, tuple[list[Fraction], Recipe]] = {
    "open.mp4": (steady(100), Recipe(gop=5, options=OPEN)),
    "cut_inside_group.mp4": (steady(100, first=-1), Recipe()),
    "middle_cut_out.mp4": (steady(100), Recipe()),
    "intra_refresh.mp4": (steady(100), Recipe(bframes=0, options={"x264-params": "intra-refresh=1:keyint=12"})),
    "stream.ts": (unsteady(100), Recipe()),
    "b_frames.avi": (steady(100), Recipe("mpeg4")),
    "mpeg2.mpg": (steady(100), Recipe("mpeg2video")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("films")


def film(folder: Path, name: str) -> tuple[Path, Truth]:
    path = folder / name
    if not path.exists():
        write_media(path, *(PLAIN | NOT_PLAIN)[name])
        if name == "middle_cut_out.mp4":
            set_edits(path, [(2, 0.08), (1, 3.08)])
    return path, truth(path)


def sample(path: Path, decoder: str, samples: Any, **cut: float) -> tuple[list[Sample], Ended]:
    requests = {"e": Request(samples, torch.from_numpy)}
    *came, ended = sample_video(Video("v", str(path), **cut), requests, decoder)
    assert isinstance(ended, Ended)
    return [item for item in came if isinstance(item, Sample)], ended


def numbers(samples: list[Sample]) -> list[int]:
    return [number_in(item.data.numpy()) for item in samples]


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", [*PLAIN, *NOT_PLAIN])
def test_every_decoder_shows_the_last_frame_that_began_by_then(folder: Path, name: str, decoder: str) -> None:
    path, true = film(folder, name)
    for every in (0.04, 0.1, 0.5, 1, 3):
        samples, ended = sample(path, decoder, Frames(every))
        assert numbers(samples) == true.every(every)
        assert ended.status.status == "ok"
        assert ended.status.seconds == float(true.end)


@pytest.mark.parametrize("decoder", LIBRARIES)
@pytest.mark.parametrize("name", ["uneven.mp4", "uneven.mkv", "vp9.webm", "stream.ts"])
def test_at_the_very_tick_that_a_frame_begins_it_is_the_one_shown(folder: Path, name: str, decoder: str) -> None:
    path, true = film(folder, name)
    tick = Fraction(1, 1_000_000)
    times = sorted({max(Fraction(0), start + shift) for start in true.starts for shift in (-tick, 0, tick)})
    playback = IndexedPlayback(str(path), decoder, iter(times), None)
    shown = [(event.time, number_in(event.pixels)) for event in playback if isinstance(event, Picture)]
    assert shown == [(time, true.at(time)) for time in times]


@pytest.mark.parametrize("decoder", LIBRARIES)
@pytest.mark.parametrize("name", ["steady.mp4", "uneven.mkv", "vp9.webm"])
def test_pixels_are_the_same_but_for_rounding(folder: Path, name: str, decoder: str) -> None:
    path, _ = film(folder, name)
    for ours, theirs in zip(sample(path, "av", Frames(0.5))[0], sample(path, decoder, Frames(0.5))[0], strict=True):
        assert (ours.data.int() - theirs.data.int()).abs().float().mean() < 2


@pytest.mark.parametrize("name", PLAIN)
def test_plain_files_are_played_by_the_library_asked_for(folder: Path, name: str) -> None:
    path, true = film(folder, name)
    index = read_index(str(path))
    assert index is not None
    assert [start * index.tick for start in index.starts.tolist()] == true.starts
    assert index.end == true.end


@pytest.mark.parametrize("name", NOT_PLAIN)
def test_files_that_libraries_count_or_find_frames_wrong_in_are_not(folder: Path, name: str) -> None:
    assert read_index(str(film(folder, name)[0])) is None


@pytest.mark.parametrize("decoder", DECODERS)
def test_clips_cuts_and_sound_are_the_same(tmp_path: Path, decoder: str) -> None:
    path = write_media(tmp_path / "film.mp4", unsteady(60), sound=Sound(chirp(5)))
    for samples in (Clips(4, 10, 2), Audio(16_000, 0.5, 0.25), Frames(0.3)):
        for cut in ({}, {"start": 1.04}, {"start": 0.5, "end": 2.5}, {"end": 1.01}, {"start": 60.0}):
            expected, expected_end = sample(path, "av", samples, **cut)
            came, ended = sample(path, decoder, samples, **cut)
            assert ended == expected_end
            assert [(item.row, item.start, item.end) for item in came] == [
                (item.row, item.start, item.end) for item in expected
            ]
            for item, other in zip(came, expected, strict=True):
                assert (item.data.float() - other.data.float()).abs().mean() < 2


QUADRANTS = "RGBW"  # as coded: upper left, upper right, lower left, lower right
TURNED = {0: "RGBW", 90: "GWRB", 180: "WBGR", 270: "BRWG"}  # counterclockwise


def colours() -> np.ndarray:
    picture = np.zeros((48, 96, 3), np.uint8)
    picture[:24, :48], picture[:24, 48:], picture[24:, :48], picture[24:, 48:] = (
        (220, 30, 30),
        (30, 220, 30),
        (30, 30, 220),
        (220, 220, 220),
    )
    return picture


def seen(rgb: np.ndarray) -> str:
    height, width = rgb.shape[:2]
    spots = [rgb[y * height // 4, x * width // 4] for y in (1, 3) for x in (1, 3)]
    return "".join("W" if spot.min() > 150 else "RGB"[int(spot.argmax())] for spot in spots)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(2), Fraction(1, 2)])
@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_pictures_are_upright_and_their_pixels_square(
    tmp_path: Path, turn: int, aspect: Fraction, suffix: str, decoder: str
) -> None:
    recipe = Recipe(turn=turn, pixel_aspect=aspect)
    path = write_media(tmp_path / f"film.{suffix}", steady(10), recipe, pictures=[colours()] * 10)
    shape = (48, int(96 * aspect))
    picture = sample(path, decoder, Frames(0.2))[0][1].data.numpy()
    assert seen(picture) == TURNED[turn]
    assert picture.shape[:2] == (shape if turn % 180 == 0 else shape[::-1])
    probe = media.probe(str(path))
    assert (probe.height, probe.width, probe.rotation) == (*picture.shape[:2], turn)


@pytest.mark.parametrize("decoder", DECODERS)
def test_senseless_rotation_is_ignored(tmp_path: Path, decoder: str) -> None:
    path = write_media(tmp_path / "film.mp4", steady(10), Recipe(turn=45), pictures=[colours()] * 10)
    assert seen(sample(path, decoder, Frames(1))[0][0].data.numpy()) == QUADRANTS


@pytest.mark.parametrize("decoder", DECODERS)
def test_odd_sizes_are_kept(tmp_path: Path, decoder: str) -> None:
    images = [paint(n).repeat(3, 0).repeat(3, 1)[:141, :187] for n in range(20)]
    path = write_media(tmp_path / "film.webm", steady(20), PLAIN["vp9.webm"][1], pictures=images)
    samples, _ = sample(path, decoder, Frames(0.1))
    assert samples[0].data.shape == (141, 187, 3)
    assert numbers(samples) == truth(path).every(0.1)


@pytest.mark.parametrize("decoder", LIBRARIES)
def test_a_damaged_file_gives_the_same_rows_and_status_as_with_pyav(tmp_path: Path, decoder: str) -> None:
    path = write_media(tmp_path / "film.mp4", steady(200), Recipe(muxing={"movflags": "faststart"}))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    expected, expected_end = sample(path, "av", Frames(0.5))
    came, ended = sample(path, decoder, Frames(0.5))
    assert ended == expected_end
    assert ended.status.status == "truncated"
    assert numbers(came) == numbers(expected)


@pytest.mark.parametrize("failing_call", [0, 1, 3])
def test_where_a_library_fails_pyav_goes_on(folder: Path, failing_call: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, true = film(folder, "steady.mp4")
    images = {number: paint(number) for number in range(100)}

    def open_frames(path: str, count: int) -> Any:
        calls: Iterator[int] = iter(range(100))

        def frames(numbers: list[int]) -> list[np.ndarray]:
            if next(calls) == failing_call:
                raise OSError("out of order")
            return [images[number] for number in numbers]

        return frames

    monkeypatch.setitem(backends.LIBRARIES, "decord", lambda: open_frames)
    samples, ended = sample(path, "decord", Frames(0.1))
    assert numbers(samples) == true.every(0.1)
    assert ended.status.status == "ok"


def test_a_library_that_counts_other_frames_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, true = film(folder, "steady.mp4")
    wrong = SimpleNamespace(VideoReader=lambda path, num_threads: [None] * 99)
    monkeypatch.setitem(sys.modules, "decord", wrong)
    backends._decord.cache_clear()
    try:
        assert numbers(sample(path, "decord", Frames(0.5))[0]) == true.every(0.5)
    finally:
        backends._decord.cache_clear()


def failing(error: Exception) -> SimpleNamespace:
    """A library that cannot be used, and says so when it is."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    return SimpleNamespace(VideoDecoder=fail)


def not_loaded(lacking: dict[int, str]) -> RuntimeError:
    """What torchcodec 0.10 to 0.17 raises: what each version of FFmpeg, newest first, was found to lack."""
    tries = "\n".join(
        f"FFmpeg version {version}:\n"
        "Traceback (most recent call last):\n"
        f"OSError: {library}\n\n"
        "The above exception was the direct cause of the following exception:\n\n"
        "Traceback (most recent call last):\n"
        f"OSError: Could not load this library: torchcodec/libtorchcodec_core{version}.so\n"
        for version, library in lacking.items()
    )
    return RuntimeError(
        "Could not load libtorchcodec. Likely causes:\n          1. FFmpeg is not properly installed\n\n"
        f"[start of libtorchcodec loading traceback]\n{tries}[end of libtorchcodec loading traceback]."
    )


NOWHERE = "cannot open shared object file: No such file or directory"
NO_FFMPEG = {version: f"libavutil.so.{52 + version}: {NOWHERE}" for version in range(9, 3, -1)}


@pytest.mark.parametrize(
    ("decoder", "module", "reason"),
    [
        ("decord", None, "decord is not installed: pip install"),
        ("torchcodec", None, "torchcodec is not installed: pip install torchcodec, and FFmpeg"),
        (
            "torchcodec",
            failing(not_loaded(NO_FFMPEG)),
            "torchcodec finds no FFmpeg: install one of a version from 4 to 9 with its shared libraries .*apt-get",
        ),
        (
            "torchcodec",
            failing(not_loaded(NO_FFMPEG | {5: f"libavdevice.so.59: {NOWHERE}"})),  # some of FFmpeg's libraries
            "torchcodec finds no FFmpeg",
        ),
        (
            "torchcodec",
            failing(not_loaded(NO_FFMPEG | {5: "torchcodec/libtorchcodec_core5.so: undefined symbol: _ZN3c10"})),
            r"torchcodec cannot be loaded \(.*undefined symbol: _ZN3c10\): it must be made for the PyTorch",
        ),
        (
            "torchcodec",
            failing(not_loaded(dict.fromkeys(range(9, 3, -1), f"libnvrtc.so.13: {NOWHERE}"))),
            r"torchcodec cannot be loaded \(libnvrtc.so.13: cannot open .*\): it must be made for the PyTorch",
        ),
        (
            "torchcodec",
            failing(ImportError(f"libc10_cuda.so: {NOWHERE}")),
            r"torchcodec cannot be loaded \(libc10_cuda.so: cannot open .*\): it must be made for the PyTorch",
        ),
    ],
)
def test_a_decoder_that_is_missing_stops_the_run_and_says_how_to_get_it(
    folder: Path, decoder: str, module: Any, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, _ = film(folder, "stream.ts")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders" if decoder == "torchcodec" else "decord", module)
    for load in (backends._decord, backends._torchcodec):
        load.cache_clear()
    try:
        with pytest.raises(DecoderMissing, match=reason) as missing:
            sample(path, decoder, Frames(1))
        assert "\n" not in str(missing.value)
    finally:
        for load in (backends._decord, backends._torchcodec):
            load.cache_clear()


@pytest.mark.parametrize("decoder", LIBRARIES)
def test_a_file_named_like_an_address_is_the_file_of_that_name(
    tmp_path: Path, decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("concat:a.mp4|b.mp4", "-i.mp4", "subfile,,start,0,end,0,,:x.mp4", "100%d.mp4"):
        write_media(tmp_path / "film.mp4", steady(25)).rename(tmp_path / name)
        assert numbers(sample(Path(name), decoder, Frames(0.5))[0]) == [0, 12]
