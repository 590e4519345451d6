"""The audio stream of a file: packets in, mono sound at one rate out, each piece where its time stamp puts it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler

from pipeline import media
from pipeline.media import LONGEST_GAP, SETBACK, SOUND_RATES, Track

FULL_SCALE = np.float32(2**31)
SOUND_GAP = Fraction(1, 20)  # seconds that sound may be off its time stamps before it is put right
SOUND_WAITS = 4096  # packets of sound kept until the video's first frame is known


@dataclass(frozen=True)
class Sound:
    """Mono samples (n,) float32 in [-1, 1]; `first` is the first one's number, 0 being heard at time 0."""

    first: int
    samples: np.ndarray


class SoundStream:
    """The audio stream: packets in, mono Sounds at one rate out."""

    def __init__(self, stream: Any, rate: int, end: Fraction | None, track: Track) -> None:
        stream.codec_context.thread_count = 1
        self.stream, self.track = stream, track
        self._rate, self._end = rate, end
        self._stop = None if end is None else math.ceil(end * rate)  # the first sample that is not wanted
        self._origin: Fraction | None = None  # seconds: the time stamp of time 0
        self._origin_known = False
        self._waiting: list[Any] = []  # packets read before the origin was known
        self._resampler: AudioResampler | None = None
        self._form: tuple[str, str, int] | None = None  # of the sound that the resampler takes
        self._position = 0  # number of the next sample that comes out
        self._due: Fraction | None = None  # seconds: the time stamp that the next frame should carry
        self._refused: str | None = None  # why the first packet that could not be decoded could not be

    @property
    def done(self) -> bool:
        """Nothing of the stream is wanted any more."""
        return self.track.stopped is not None or (self._stop is not None and self._position >= self._stop)

    @property
    def reached(self) -> Fraction:
        """The time stamp, in seconds, at which the latest sound ends."""
        return self._due or Fraction(0)

    def set_origin(self, seconds: Fraction | None) -> None:
        """Time 0 is this time stamp; None where the first sound is the beginning."""
        if self._origin is None:
            self._origin = seconds
        self._origin_known = True

    def begin_at(self, seconds: Fraction) -> None:
        """Start afresh at a place that was sought."""
        self._waiting.clear()
        self.stream.codec_context.flush_buffers()
        self._resampler = self._form = self._due = None
        self._position = round(seconds * self._rate)

    def feed(self, packet: Any) -> Iterator[Sound]:
        if self.done:
            return
        self._waiting.append(packet)
        if self._origin_known or len(self._waiting) > SOUND_WAITS:
            yield from self._decode()

    def finish(self) -> Iterator[Sound]:
        yield from self._decode()
        if not self.done:
            yield from self._frames(None)
        yield from self._flush()
        if not self.track.began and self._refused and not self.track.stopped:
            self.track.stopped = f"nothing in it can be decoded: {self._refused}"
        self.track.seconds = Fraction(max(0, self._position), self._rate)
        if self._end is not None:
            self.track.seconds = min(self.track.seconds, self._end)

    def _decode(self) -> Iterator[Sound]:
        packets, self._waiting = self._waiting, []
        for packet in packets:
            if self.done:
                return
            yield from self._frames(packet)

    def _frames(self, packet: Any | None) -> Iterator[Sound]:
        if packet is not None and (encrypted := media.encryption(packet)):
            self._refused = self._refused or encrypted
            if self.track.began:
                self.track.stopped = f"{encrypted} at {self._position / self._rate:.2f} s of sound"
            return
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.error.FFmpegError as error:
            if self.track.began and packet is not None:
                self.track.stopped = f"{media.explain(error)} at {self._position / self._rate:.2f} s of sound"
            elif packet is not None:
                self._refused = self._refused or media.explain(error)
            return  # what cannot be decoded before the first sound is no part of it
        for frame in frames:
            if not self.done:
                yield from self._hear(frame)

    def _hear(self, frame: Any) -> Iterator[Sound]:
        if frame.sample_rate not in SOUND_RATES:
            self.track.stopped = f"sound at {frame.sample_rate} Hz, which no recording has"
            return
        due = Fraction(0) if self._due is None else self._due
        stamp = due if frame.pts is None else frame.pts * frame.time_base
        if self._origin is None:
            self._origin = stamp
        if self._due is None or abs(stamp - due) > SOUND_GAP:
            yield from self._flush()
            gap = stamp - self._origin - Fraction(self._position, self._rate)
            if gap > LONGEST_GAP or (self._due is not None and gap < -SETBACK):
                self.track.stopped = media.jump(self.stream, gap)
                return
            self._position = round((stamp - self._origin) * self._rate)
            due = stamp
        self.track.began = True
        self._due = due + Fraction(frame.samples, frame.sample_rate)
        frame.pts = None  # the resampler would fill gaps in its own way
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        if form != self._form:  # also where the stream changes it midway
            yield from self._flush()
            # To whole numbers FFmpeg mixes channels by their mean; to floats by their sum, up to twice as loud.
            self._resampler = AudioResampler(format="s32", layout="mono", rate=self._rate)
            self._form = form
        yield from self._resample(frame)

    def _flush(self) -> Iterator[Sound]:
        yield from self._resample(None)
        self._resampler = self._form = None

    def _resample(self, frame: Any | None) -> Iterator[Sound]:
        try:
            resampled = self._resampler.resample(frame) if self._resampler else []
        except av.error.FFmpegError as error:
            self._resampler = None
            self.track.stopped = (
                self.track.stopped or f"{media.explain(error)} at {self._position / self._rate:.2f} s of sound"
            )
            return
        for part in resampled:
            samples = part.to_ndarray()[0].astype(np.float32) / FULL_SCALE
            if self._stop is not None:
                samples = samples[: max(0, self._stop - self._position)]
            yield Sound(self._position, samples)
            self._position += len(samples)
