"""One pass over a file with PyAV: the pictures on screen at wanted times, and the sound.

The time rule, the same for every backend: time runs from the video's first frame, and the picture
at t is the last frame whose presentation time is <= t. Times are compared in exact stream ticks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, partial
from typing import Any

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from pipeline import media

SEEK_OVER = Fraction(20)  # seconds: a cut that starts later is sought, not read up to
SEEK_MARGIN = Fraction(10)  # seconds before such a cut to read from, for sound stored late
SHORTFALL = Fraction(1)  # seconds missing at the end from which a file counts as truncated
LONGEST_GAP = Fraction(600)  # seconds between two frames; beyond it the time stamps are damaged
SOUND_GAP = Fraction(1, 20)  # seconds between two sound frames from which silence is filled in
CLOCKLESS_FORMATS = {"avi"}  # they store no presentation times; FFmpeg's guesses go astray at B-frames
SOUND_WAITS = 4096  # packets of sound kept until the video's first frame is known


@dataclass(frozen=True)
class Picture:
    """The frame on screen at `time` seconds. `pixels()` gives (H, W, 3) RGB uint8, upright, pixels square."""

    time: Fraction
    pixels: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Sound:
    """Mono samples (n,) float32 in [-1, 1]; `first` is the first one's number, 0 being heard at time 0."""

    first: int
    samples: np.ndarray


@dataclass
class Track:
    """What became of one stream; whole once decoding has ended."""

    present: bool = False
    began: bool = False  # something of it was decoded
    seconds: Fraction = Fraction(0)  # where it ended, from the video's first frame
    damage: str | None = None  # why decoding stopped before the stream's end


@dataclass
class Playback:
    """Plays the wanted parts of one file: iterating gives Pictures and Sounds in the file's order.

    `times` yields the wanted picture times, ascending seconds; the stream's end ends them, too. `rate`
    is that of the wanted sound in Hz, or None. What lies outside `start` and `end` (seconds) is not
    wanted. Afterwards `video` and `audio` tell how the streams ended. Groups of pictures in which no
    time is wanted are read over undecoded, which equals seeking from keyframe to keyframe.

    Raises MediaError if the file holds neither video nor audio.
    """

    container: InputContainer
    times: Iterator[Fraction]
    rate: int | None
    start: Fraction = Fraction(0)
    end: Fraction | None = None
    video: Track = field(default_factory=Track)
    audio: Track = field(default_factory=Track)

    def __iter__(self) -> Iterator[Picture | Sound]:
        pictures, sounds = self._streams()
        if pictures and sounds:
            pictures.tell_origin = sounds.set_origin
        elif sounds:
            sounds.set_origin(None)
        reached = Fraction(0)
        try:
            for packet in self._packets(pictures, sounds):
                for part in (pictures, sounds):
                    if part and packet.stream_index == part.stream.index:
                        yield from part.feed(packet)
                if packet.pts is not None:
                    reached = max(reached, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if all(part is None or part.done for part in (pictures, sounds)):
                    break
        except av.error.FFmpegError as error:
            for track in (self.video, self.audio):
                track.damage = track.damage or f"reading stopped: {media.explain(error)}"
        for part in (pictures, sounds):
            if part:
                yield from part.finish()
                self._notice_shortfall(part, reached)

    def _streams(self) -> tuple[PictureStream | None, SoundStream | None]:
        video, audio = media.video_stream(self.container), media.audio_stream(self.container)
        self.video.present, self.audio.present = video is not None, audio is not None
        if video is None and audio is None:
            raise media.MediaError("open", "holds neither video nor audio")
        # Sound needs the video's first frame, too: it is where time begins.
        pictures = PictureStream(video, self.times, self.end, self.video) if video else None
        if pictures and self.container.format.name in CLOCKLESS_FORMATS:
            pictures.trust_only_order()
        sounds = SoundStream(audio, self.rate, self.end, self.audio) if audio and self.rate else None
        return pictures, sounds

    def _packets(self, pictures: PictureStream | None, sounds: SoundStream | None) -> Iterator[Any]:
        """All packets in file order; for a late cut those up to the first frame, then those around the cut."""
        parts = [part for part in (pictures, sounds) if part]
        streams = [part.stream for part in parts]
        if pictures and self.start > SEEK_OVER:
            for packet in self.container.demux(streams):
                yield packet
                if pictures.origin is not None:
                    break
            for part in parts:
                part.forget()
            stream = pictures.stream
            target = (pictures.origin or 0) + int((self.start - SEEK_MARGIN) / stream.time_base)
            try:
                self.container.seek(target, stream=stream, backward=True)
            except av.error.FFmpegError:  # a file without an index: read up to the cut
                self.container.seek(stream.start_time or 0, stream=stream, backward=True)
        for packet in self.container.demux(streams):
            if packet.size or packet.dts is not None:  # else the demuxer's end mark
                yield packet

    def _notice_shortfall(self, part: PictureStream | SoundStream, reached: Fraction) -> None:
        """A file that simply ends too early raises nothing: hold its end against what its header says."""
        track = part.track
        if part.done or track.damage or not track.began:
            return
        have, declared = track.seconds, media.declared_seconds(part.stream)
        if declared is None and self.container.duration is not None:
            declared = Fraction(self.container.duration, av.time_base)
            have = max(have, reached - Fraction(self.container.start_time or 0, av.time_base))
        if declared is not None and declared - have > SHORTFALL:
            track.damage = f"the file ends at {float(have):.2f} s, though its header says {float(declared):.2f} s"


class PictureStream:
    """The video stream: packets in, wanted Pictures out."""

    def __init__(self, stream: Any, times: Iterator[Fraction], end: Fraction | None, track: Track) -> None:
        stream.codec_context.thread_count = 1  # videos run in parallel, not the frames of one
        self.stream, self.track = stream, track
        self.origin: int | None = None  # ticks: presentation time of the first frame
        self.tell_origin: Callable[[Fraction], None] = lambda seconds: None
        self._end = end
        self._times = times
        self._next_time()
        self._undecoded: list[Any] = []  # packets read since the last one decoded
        self._skips = True  # until a packet without a time stamp comes
        self._intact_from = -1  # ticks: frames before it may lack the ones they refer to
        self._shown: Any = None  # the latest frame
        self._shown_at = 0  # ticks from origin
        rate = stream.average_rate or stream.guessed_rate
        self._frame_ticks = round(1 / (rate * stream.time_base)) if rate else 0
        self._decode_times: deque[int] | None = None
        self._reformatter = VideoReformatter()

    @property
    def done(self) -> bool:
        """Nothing of the stream is wanted any more."""
        return self.track.damage is not None or (self._time is None and self.origin is not None)

    def trust_only_order(self) -> None:
        """Time the n-th frame that comes out by the n-th packet that went in, not by time stamps."""
        self._skips = False
        self._decode_times = deque()

    def feed(self, packet: Any) -> Iterator[Picture]:
        if self.done:
            return
        if packet.pts is None:
            self._skips = False
        if packet.is_corrupt and self.track.began:
            yield from self._damaged(f"a damaged packet at {self._at(packet):.2f} s")
            return
        if self.origin is not None and self._skips:
            if self._undecoded and packet.is_keyframe and packet.pts <= self._wanted + self.origin:
                # The picture wanted next is this one or a later one: what is still undecoded never shows.
                self._undecoded.clear()
                self.stream.codec_context.flush_buffers()
                self._intact_from = packet.pts
            self._undecoded.append(packet)
            if packet.pts <= self._wanted + self.origin:
                return
        else:
            self._undecoded.append(packet)
        yield from self._decode()

    def finish(self) -> Iterator[Picture]:
        """The pictures that only the end of the stream decides."""
        if not self.done:
            yield from self._decode()
            yield from self._drain()
        self._set_end()

    def forget(self) -> None:
        """Start afresh at a place that was sought; the origin stays."""
        self._undecoded.clear()
        self.stream.codec_context.flush_buffers()
        self._shown = None

    def _decode(self) -> Iterator[Picture]:
        packets, self._undecoded = self._undecoded, []
        for packet in packets:
            if self._decode_times is not None:
                self._decode_times.append(packet.dts)
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if self._decode_times:
                    self._decode_times.pop()
                before_intact = packet.pts is not None and packet.pts < self._intact_from
                if self.track.began and not before_intact:
                    yield from self._damaged(f"{media.explain(error)} at {self._at(packet):.2f} s")
                    return
                continue  # what cannot be decoded before the first good frame is no part of the video
            for frame in frames:
                yield from self._show(frame)
                if self.done:
                    return

    def _drain(self) -> Iterator[Picture]:
        """The frames that the decoder holds back, then the last one for as long as it lasts."""
        try:
            frames = self.stream.codec_context.decode(None)
        except av.error.FFmpegError:
            frames = []  # the frames of an incomplete group; nothing that was wanted whole is in them
        for frame in frames:
            yield from self._show(frame)
        self._set_end()
        while self._shown is not None and self._time is not None and self._time < self.track.seconds:
            yield self._picture()

    def _show(self, frame: Any) -> Iterator[Picture]:
        pts = self._decode_times.popleft() if self._decode_times else frame.pts
        if self.origin is None:
            if frame.is_corrupt:
                return
            self.origin = pts or 0
            self.track.began = True
            self.tell_origin(self.origin * self.stream.time_base)
        elif frame.is_corrupt and (pts is None or pts < self._intact_from):
            return
        at = self._shown_at + self._frame_ticks if pts is None else pts - self.origin
        at = max(at, self._shown_at)
        if (at - self._shown_at) * self.stream.time_base > LONGEST_GAP and self._shown is not None:
            gap = (at - self._shown_at) * self.stream.time_base
            self.track.damage = f"time stamps jump by {float(gap):.0f} s"
            return
        while self._time is not None and self._wanted < at and self._shown is not None:
            yield self._picture()
        self._frame_ticks = frame.duration or at - self._shown_at or self._frame_ticks
        self._shown, self._shown_at = frame, at

    def _picture(self) -> Picture:
        assert self._time is not None
        picture = Picture(self._time, self._pixels_of_shown())
        self._next_time()
        return picture

    def _next_time(self) -> None:
        self._time = next(self._times, None)
        if self._time is not None:
            self._wanted = self._time // self.stream.time_base  # the last tick at which its frame may begin

    def _pixels_of_shown(self) -> Callable[[], np.ndarray]:
        if getattr(self, "_pixels_frame", None) is not self._shown:
            self._pixels_frame = self._shown
            self._pixels: Callable[[], np.ndarray] = cache(partial(self._to_rgb, self._shown))
        return self._pixels

    def _to_rgb(self, frame: Any) -> np.ndarray:
        width, height = media.square_size(frame.width, frame.height, self.stream.sample_aspect_ratio)
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24").to_ndarray()
        turns = media.quarter_turns(frame)
        return np.ascontiguousarray(np.rot90(rgb, turns)) if turns else rgb

    def _damaged(self, reason: str) -> Iterator[Picture]:
        """Keep what was decoded before the damage: the decoder may still hold some of it."""
        self._undecoded.clear()
        yield from self._drain()
        self.track.damage = reason

    def _set_end(self) -> None:
        if self.origin is None:
            return
        lasts = min(self._frame_ticks * self.stream.time_base, LONGEST_GAP)
        self.track.seconds = self._shown_at * self.stream.time_base + lasts
        if self._end is not None and not self.track.damage:
            self.track.seconds = self._end if self._time is None else min(self._end, self.track.seconds)

    def _at(self, packet: Any) -> float:
        ticks = packet.pts if packet.pts is not None else packet.dts
        return float(((ticks or 0) - (self.origin or 0)) * self.stream.time_base)


class SoundStream:
    """The audio stream: packets in, mono Sounds at one rate out, each where its time stamp puts it."""

    def __init__(self, stream: Any, rate: int, end: Fraction | None, track: Track) -> None:
        stream.codec_context.thread_count = 1
        self.stream, self.track = stream, track
        self._rate, self._end = rate, end
        self._origin: Fraction | None = None  # seconds: the time stamp of time 0
        self._origin_known = False
        self._waiting: list[Any] = []  # packets read before the origin was known
        self._resampler: AudioResampler | None = None
        self._position = 0  # number of the next sample that comes out
        self._due: Fraction | None = None  # seconds: the time stamp that the next frame should carry

    @property
    def done(self) -> bool:
        past_end = self._end is not None and self._position >= self._end * self._rate
        return self.track.damage is not None or past_end

    def set_origin(self, seconds: Fraction | None) -> None:
        """Time 0 is this time stamp; None where the first sound is the beginning."""
        self._origin, self._origin_known = seconds, True

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
        self.track.seconds = Fraction(max(0, self._position), self._rate)
        if self._end is not None:
            self.track.seconds = min(self.track.seconds, self._end)

    def forget(self) -> None:
        """Start afresh at a place that was sought."""
        self._waiting.clear()
        self.stream.codec_context.flush_buffers()
        self._resampler, self._due = None, None

    def _decode(self) -> Iterator[Sound]:
        packets, self._waiting = self._waiting, []
        for packet in packets:
            if self.done:
                return
            yield from self._frames(packet)

    def _frames(self, packet: Any | None) -> Iterator[Sound]:
        try:
            frames = self.stream.codec_context.decode(packet)
        except av.error.FFmpegError as error:
            if self.track.began and packet is not None:
                self.track.damage = f"{media.explain(error)} at {self._position / self._rate:.2f} s of sound"
            return  # what cannot be decoded before the first sound is no part of it
        for frame in frames:
            yield from self._hear(frame)

    def _hear(self, frame: Any) -> Iterator[Sound]:
        stamp = self._due if frame.pts is None else frame.pts * frame.time_base
        stamp = stamp if stamp is not None else Fraction(0)
        if self._origin is None:
            self._origin = stamp
        if self._due is None or abs(stamp - self._due) > SOUND_GAP:
            yield from self._flush()
            position = round((stamp - self._origin) * self._rate)
            if self.track.began and position - self._position > LONGEST_GAP * self._rate:
                self.track.damage = f"time stamps of the sound jump by {(position - self._position) / self._rate:.0f} s"
                return
            self._position = position
            self._resampler = AudioResampler(format="flt", layout="mono", rate=self._rate)
        self.track.began = True
        self._due = stamp + Fraction(frame.samples, frame.sample_rate)
        assert self._resampler is not None
        frame.pts = None  # the resampler would fill gaps in its own way
        try:
            resampled = self._resampler.resample(frame)
        except ValueError:  # the stream changes its format midway
            yield from self._flush()
            self._resampler = AudioResampler(format="flt", layout="mono", rate=self._rate)
            resampled = self._resampler.resample(frame)
        yield from self._place(resampled)

    def _flush(self) -> Iterator[Sound]:
        if self._resampler is not None:
            yield from self._place(self._resampler.resample(None))
            self._resampler = None

    def _place(self, frames: list[Any]) -> Iterator[Sound]:
        for frame in frames:
            samples = frame.to_ndarray()[0]
            yield Sound(self._position, samples)
            self._position += len(samples)
