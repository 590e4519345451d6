"""Other decoders for pictures, held to the same time rule: decord and torchcodec. Sound stays with PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
from PIL import Image

from pipeline import media
from pipeline.decode import Picture, Playback, Sound, Track

TIMES_A_CALL = 8  # pictures asked for at once: enough to share a group of pictures, few enough to fit
TICK = 1e-7  # seconds: far below any stream's tick, above the rounding of times as doubles


class DecoderMissing(Exception):
    """A decoder that is asked for but not installed; the message says how to install it."""


@dataclass
class IndexedPlayback:
    """Like `decode.Playback`, with pictures from a library that is asked for times, and PyAV for sound."""

    path: str
    decoder: str
    times: Iterator[Fraction]
    rate: int | None
    start: Fraction = Fraction(0)
    end: Fraction | None = None
    video: Track = field(default_factory=Track)
    audio: Track = field(default_factory=Track)

    def __iter__(self) -> Iterator[Picture | Sound]:
        with media.open_media(self.path) as container:  # also the check that the file is fit to be opened
            sound = Playback(container, iter(()), self.rate, self.start, self.end, audio=self.audio)
            stream = media.video_stream(container)
            self.video.present = stream is not None
            if stream is not None:
                yield from self._pictures(stream.sample_aspect_ratio)
            yield from sound

    def _pictures(self, pixel_aspect: Fraction | None) -> Iterator[Picture]:
        try:
            frames, seconds = OPENERS[self.decoder](self.path)
        except DecoderMissing:
            raise
        except Exception as error:  # decord and torchcodec raise types of their own for bad files
            self.video.damage = _first_line(error)
            return
        self.video.began = True
        self.video.seconds = seconds if self.end is None else min(seconds, self.end)
        wanted = iter(lambda: list(islice(self.times, TIMES_A_CALL)), [])
        for times in wanted:
            times = [time for time in times if time < seconds]
            try:
                pixels = frames(times) if times else []
            except Exception as error:
                yield from self._singly(frames, times, pixel_aspect, error)
                return
            yield from (_picture(time, rgb, pixel_aspect) for time, rgb in zip(times, pixels, strict=True))
            if len(times) < TIMES_A_CALL:
                return

    def _singly(
        self, frames: FramesAt, times: list[Fraction], pixel_aspect: Fraction | None, error: Exception
    ) -> Iterator[Picture]:
        """After a failed call: keep what comes before the damage."""
        for time in times:
            try:
                rgb = frames([time])[0]
            except Exception as single:
                self.video.damage, self.video.seconds = _first_line(single), time
                self.video.began = time > self.start
                return
            yield _picture(time, rgb, pixel_aspect)
        self.video.damage, self.video.seconds = _first_line(error), times[-1]


FramesAt = Callable[[list[Fraction]], Any]


def _open_decord(path: str) -> tuple[FramesAt, Fraction]:
    try:
        import decord
    except ImportError:
        raise DecoderMissing("decord is not installed: pip install decord (Linux x86-64 only)") from None
    reader = decord.VideoReader(path, num_threads=1)
    spans = reader.get_frame_timestamp(range(len(reader))).astype(np.float64)  # (frames, 2) seconds
    starts = np.maximum.accumulate(spans[:, 0] - spans[0, 0])
    # decord keeps times as 32-bit floats: allow for their rounding, which grows with the time
    slack = np.spacing(np.abs(spans[:, 0]).max(), dtype=np.float32) + TICK

    def frames_at(times: list[Fraction]) -> list[np.ndarray]:
        shown = np.searchsorted(starts, [float(time) + slack for time in times], side="right") - 1
        return list(reader.get_batch(shown.tolist()).asnumpy())

    return frames_at, Fraction(float(spans[-1, 1] - spans[0, 0])).limit_denominator(90_000)


def _open_torchcodec(path: str) -> tuple[FramesAt, Fraction]:
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, RuntimeError, OSError):
        raise DecoderMissing(
            "torchcodec cannot be loaded: pip install 'reelcache[torchcodec]', and FFmpeg with its shared libraries"
        ) from None
    decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
    begin, end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds

    def frames_at(times: list[Fraction]) -> Any:
        return decoder.get_frames_played_at([begin + float(time) + TICK for time in times]).data.numpy()

    return frames_at, Fraction(end - begin).limit_denominator(90_000)


OPENERS: dict[str, Callable[[str], tuple[FramesAt, Fraction]]] = {
    "decord": _open_decord,
    "torchcodec": _open_torchcodec,
}


def _picture(time: Fraction, rgb: np.ndarray, pixel_aspect: Fraction | None) -> Picture:
    return Picture(time, partial(_square, rgb, pixel_aspect))


def _square(rgb: np.ndarray, pixel_aspect: Fraction | None) -> np.ndarray:
    height, width = rgb.shape[:2]
    size = media.square_size(width, height, pixel_aspect)
    return rgb if size == (width, height) else np.array(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
