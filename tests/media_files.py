"""Small media files for tests, written with PyAV: every frame has its number painted into it.

`Truth` tells what is on screen when, the slow and plain way: by decoding everything.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import numpy as np

BLOCK, COLUMNS, ROWS = 16, 4, 3  # pixels; the blocks are the bits of a frame's number
WIDTH, HEIGHT = BLOCK * COLUMNS, BLOCK * ROWS
SOUND_RATE = 44_100  # Hz
LAYOUTS = {1: "mono", 2: "stereo"}
CLOCK = Fraction(1, 90_000)  # seconds a tick, in which times are written


def paint(number: int) -> np.ndarray:
    """(H, W, 3) uint8: bit i of the number is block i, bright or dark, in reading order."""
    bits = number >> np.arange(COLUMNS * ROWS) & 1
    grey = np.where(bits, 220, 30).reshape(ROWS, COLUMNS).repeat(BLOCK, 0).repeat(BLOCK, 1)
    return grey.astype(np.uint8)[..., None].repeat(3, -1)


def number_in(rgb: np.ndarray) -> int:
    """The number painted into a decoded picture, whatever its size."""
    height, width = rgb.shape[:2]
    rows = (np.arange(ROWS) * 2 + 1) * height // (2 * ROWS)
    columns = (np.arange(COLUMNS) * 2 + 1) * width // (2 * COLUMNS)
    bits = rgb[rows][:, columns].mean(-1).ravel() > 125
    return int((bits << np.arange(bits.size)).sum())


def steady(frames: int, fps: int = 25, first: Fraction | float = 0) -> list[Fraction]:
    """Presentation times, seconds, at a constant rate."""
    return [Fraction(first) + Fraction(n, fps) for n in range(frames)]


def unsteady(frames: int, seed: int = 0, first: Fraction | float = 0) -> list[Fraction]:
    """Presentation times, seconds, that are 1 ms to 0.4 s apart; most are near 40 ms."""
    steps = np.random.default_rng(seed).choice([1, 7, 33, 40, 41, 50, 120, 400], frames - 1)
    return [Fraction(first) + Fraction(int(ms), 1000) for ms in accumulate(steps, initial=0)]


@dataclass(frozen=True)
class Sound:
    """A sound track: mono samples (n,) float32 at SOUND_RATE, the first heard at `first` seconds.

    `gaps` are (from, to) seconds of the track of which nothing is stored.
    """

    samples: np.ndarray
    first: Fraction = Fraction(0)
    codec: str = "aac"
    channels: int = 1  # each with the same samples
    gaps: Sequence[tuple[float, float]] = ()


def chirp(seconds: float) -> np.ndarray:
    """A tone that rises from 200 Hz by 100 Hz a second, so that every moment sounds its own way."""
    t = np.arange(round(seconds * SOUND_RATE)) / SOUND_RATE
    return (0.4 * np.sin(2 * np.pi * (200 * t + 50 * t * t))).astype(np.float32)


@dataclass(frozen=True)
class Recipe:
    """How a file is encoded and muxed; the defaults give a small MP4 with B-frames."""

    codec: str = "libx264"
    gop: int = 12
    bframes: int = 2
    options: Mapping[str, str] = field(default_factory=dict)  # of the encoder
    format: str | None = None  # by the file's name
    muxing: Mapping[str, str] = field(default_factory=dict)  # options of the muxer
    pixel_aspect: Fraction = Fraction(1)
    turn: int = 0  # degrees counterclockwise that a player is to turn the pictures by
    matrix: Sequence[int] = ()  # of the display, 9 numbers, instead of a turn
    fps: int = 25  # as declared


def write_media(
    path: Path,
    times: Sequence[Fraction] = (),
    recipe: Recipe | None = None,
    sound: Sound | None = None,
    pictures: Iterable[np.ndarray] | None = None,
) -> Path:
    """Write a frame at each of `times`, its number painted into it unless `pictures` are given, and the sound."""
    recipe = recipe or Recipe()
    packets = []
    with av.open(str(path), "w", format=recipe.format, options=dict(recipe.muxing)) as file:
        if times:
            images = list(pictures) if pictures is not None else [paint(n) for n in range(len(times))]
            video = _video_encoder(file, recipe, *images[0].shape[:2])
        if sound is not None:
            audio = file.add_stream(sound.codec, rate=SOUND_RATE, layout=LAYOUTS[sound.channels])
        if times:
            packets += list(_encode_pictures(video, times, images))
        if sound is not None:
            packets += list(_encode_sound(audio, sound))
        for packet in sorted(packets, key=lambda packet: packet.dts * packet.time_base):
            file.mux(packet)
    return path


def _video_encoder(file: Any, recipe: Recipe, height: int, width: int) -> Any:
    x264 = {"preset": "ultrafast", "crf": "18", "threads": "1", "bf": str(recipe.bframes)}
    plain = {"bf": str(recipe.bframes)} if recipe.bframes else {}
    options = (x264 if recipe.codec == "libx264" else plain) | dict(recipe.options)
    video = file.add_stream(recipe.codec, rate=recipe.fps, options=options)
    video.width, video.height, video.pix_fmt = width, height, "yuv420p"
    if recipe.codec == "mjpeg":
        video.pix_fmt = "yuvj420p"
    elif recipe.codec in ("mpeg4", "mpeg2video"):
        video.codec_context.bit_rate = 2_000_000
    video.codec_context.gop_size = recipe.gop
    video.codec_context.thread_count = 1
    video.codec_context.sample_aspect_ratio = recipe.pixel_aspect
    if recipe.turn:
        video.set_display_rotation(recipe.turn)
    if recipe.matrix:
        video.set_display_matrix(recipe.matrix)
    video.codec_context.time_base = CLOCK if recipe.codec.startswith("lib") else Fraction(1, recipe.fps)
    return video


def _encode_pictures(video: Any, times: Sequence[Fraction], images: Sequence[np.ndarray]) -> Iterator[Any]:
    clock = video.codec_context.time_base
    for time, image in zip(times, images, strict=True):
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame.pts, frame.time_base = round(time / clock), clock
        yield from video.encode(frame)
    yield from video.encode()


def _encode_sound(audio: Any, sound: Sound) -> Iterator[Any]:
    size = 1024
    form = audio.codec_context.format.name
    for start in range(0, len(sound.samples), size):
        if any(a * SOUND_RATE <= start < b * SOUND_RATE for a, b in sound.gaps):
            continue
        samples = sound.samples[start : start + size]
        if form in ("s16", "s16p"):
            samples = np.round(samples * 32767).astype(np.int16)
        elif form in ("s32", "s32p"):
            samples = np.round(samples.astype(np.float64) * (2**31 - 1)).astype(np.int32)
        planes = samples[None].repeat(sound.channels, 0)  # (channels, samples)
        planes = planes if form.endswith("p") else planes.T.reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(planes, format=form, layout=LAYOUTS[sound.channels])
        frame.sample_rate, frame.time_base = SOUND_RATE, Fraction(1, SOUND_RATE)
        frame.pts = start + round(sound.first * SOUND_RATE)
        yield from audio.encode(frame)
    yield from audio.encode()


@dataclass(frozen=True)
class Truth:
    """What a file shows: frame `numbers[i]` from `starts[i]` on, until `end`; seconds from the first frame."""

    starts: list[Fraction]
    numbers: list[int]
    end: Fraction

    def at(self, time: Fraction) -> int:
        return self.numbers[bisect_right(self.starts, time) - 1]

    def every(self, seconds: float | Fraction) -> list[int]:
        """The numbers at 0, `seconds`, 2 * `seconds` ... before the end."""
        step = Fraction(str(seconds))
        return [self.at(k * step) for k in range(-(-self.end // step))]


def truth(path: Path, number: Callable[[np.ndarray], int] = number_in) -> Truth:
    """Decode all of a file. Where no presentation times are stored, the n-th frame is at n over the frame rate."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = list(file.decode(stream))
        if file.format.name in ("avi", "h264"):
            starts = [n / stream.average_rate for n in range(len(frames))]
        else:
            starts = [frame.pts * stream.time_base for frame in frames]
        last_gap = starts[-1] - starts[-2]
        lasts = frames[-1].duration * stream.time_base or last_gap
        numbers = [number(frame.to_ndarray(format="rgb24")) for frame in frames]
    return Truth([start - starts[0] for start in starts], numbers, starts[-1] + lasts - starts[0])


def rewrite_box(data: bytes, path: Sequence[bytes], change: Callable[[bytes], bytes]) -> bytes:
    """MP4 bytes with the content of the first box at `path` changed. Boxes of samples must stand before it."""
    written, at, found = b"", 0, False
    while at < len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        content = data[at + 8 : at + size]
        if kind == path[0] and not found:
            content = rewrite_box(content, path[1:], change) if len(path) > 1 else change(content)
            found = True
        written += struct.pack(">I4s", len(content) + 8, kind) + content
        at += size
    assert found, path
    return written


def set_edits(path: Path, edits: Sequence[tuple[float, float]]) -> Path:
    """Have an MP4 show these parts of its video: (seconds long, second of the media it begins at or -1 for none)."""
    entries = b"".join(
        struct.pack(">IiI", round(lasts * 1000), -1 if begins < 0 else round(begins / CLOCK), 1 << 16)
        for lasts, begins in edits
    )
    edit_list = struct.pack(">II", 0, len(edits)) + entries
    changed = rewrite_box(path.read_bytes(), (b"moov", b"trak", b"edts", b"elst"), lambda _: edit_list)
    path.write_bytes(changed)
    return path
