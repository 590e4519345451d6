"""The video stream of a file: packets in, the pictures on screen at wanted times out."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from pipeline import media
from pipeline.media import LONGEST_GAP, SETBACK, Track
from pipeline.orientation import orientation

MOST_UNDECODED = 1000  # packets read ahead; what is more in one group of pictures is decoded, wanted or not
DEEP_CODECS = {"h264", "hevc"}  # decoders that may hold back any number of frames; the others one, for B-frames


@dataclass(frozen=True)
class Picture:
    """The frame on screen at `time` seconds: (H, W, 3) RGB uint8, upright, pixels square."""

    time: Fraction
    pixels: np.ndarray


class PictureStream:
    """The video stream: packets in, wanted Pictures out. Ticks are the stream's, counted from the first frame."""

    def __init__(self, stream: Any, times: Iterator[Fraction], end: Fraction | None, track: Track) -> None:
        stream.codec_context.thread_count = 1  # videos run in parallel, not the frames of one
        self.stream, self.track = stream, track
        self.origin: int | None = None  # presentation time of the first frame, as stamped
        self.timed = not media.is_clockless(stream)  # every packet has a time stamp to be trusted
        self.tell_origin: Callable[[Fraction], None] = lambda seconds: None
        self._end = end
        self._times = times
        self._next_time()
        self._undecoded: list[Any] = []  # packets read since the last one decoded
        self._key_frames_stand_alone: bool | None = None  # not known yet
        self._intact_from = 0  # ticks: frames before it may lack the ones they refer to
        self._shown: Any = None  # the latest frame
        self._pixels: np.ndarray | None = None  # its pixels, once they were wanted
        self._refused: str | None = None  # why the first packet that could not be decoded could not be
        self._shown_at = 0  # ticks
        rate = stream.average_rate or stream.guessed_rate
        self._frame_ticks = round(1 / (rate * stream.time_base)) if rate else 0
        # Of the packets in the decoder, ascending, where these time the frames: the n-th frame by the n-th packet.
        self._decode_times: list[int] | None = None if self.timed else []
        self._may_be_decode_times = self.timed and bool(stream.codec_context.has_b_frames)
        self._reformatter = VideoReformatter()

    @property
    def done(self) -> bool:
        """Nothing of the stream is wanted any more."""
        return self.track.damage is not None or (self._time is None and self.origin is not None)

    def ticks(self, packet: Any) -> int:
        """When a packet is presented."""
        return (packet.pts if packet.pts is not None else packet.dts or 0) - (self.origin or 0)

    @property
    def reached(self) -> Fraction:
        """The time stamp, in seconds, at which the latest frame ends."""
        return self.track.seconds + (self.origin or 0) * self.stream.time_base

    def begin_at(self, packet: Any) -> None:
        """Pass over all that comes before a key frame; no earlier picture is wanted any more."""
        self._undecoded.clear()
        self.stream.codec_context.flush_buffers()
        self._shown = None
        self._shown_at = self._intact_from = self.ticks(packet)

    def feed(self, packet: Any) -> Iterator[Picture]:
        if self.done:
            return
        if packet.pts is None:
            self.timed = self._may_be_decode_times = False
        elif self._may_be_decode_times:
            # Frames that are reordered are not presented when they are decoded: these stamps, as left by programs that
            # copy AVI into MP4, say when packets are decoded. The first packet that differs shows that they do not.
            self.timed = packet.pts != packet.dts
            self._may_be_decode_times = not self.timed
            self._decode_times = None if self.timed else self._decode_times or []
        if self.track.began and (reason := self._mishap(packet)):
            yield from self._damaged(reason)
            return
        if self.origin is not None and self.timed:
            ahead = self.ticks(packet) <= self._wanted
            if ahead and self._undecoded and self._may_begin_at(packet):
                # The picture wanted next is this one or a later one: what is still undecoded never shows.
                self.begin_at(packet)
            self._undecoded.append(packet)
            if ahead and len(self._undecoded) < MOST_UNDECODED:
                return
        else:
            self._undecoded.append(packet)
        yield from self._decode()

    def finish(self) -> Iterator[Picture]:
        """The pictures that only the end of the stream decides."""
        if not self.done:
            yield from self._decode()
        if not self.done:
            yield from self._drain()
        if not self.track.began and self._refused and not self.track.damage:
            self.track.damage = f"nothing in it can be decoded: {self._refused}"
        self._set_end()

    def _mishap(self, packet: Any) -> str | None:
        """What is seen to be wrong with a packet before it is decoded."""
        # MPEG-TS calls a packet damaged where its numbering jumps, as it does where files were joined.
        if packet.is_corrupt and self.stream.container.format.name != "mpegts":
            return f"a damaged packet at {self._at(packet):.2f} s"
        back = (self._shown_at - self.ticks(packet)) * self.stream.time_base
        if packet.is_keyframe and not packet.is_discard and self.timed and back > SETBACK:
            return media.jump(self.stream, -back)
        return None

    def _may_begin_at(self, packet: Any) -> bool:
        if not packet.is_keyframe or packet.is_discard:
            return False
        if self._key_frames_stand_alone is None:
            self._key_frames_stand_alone = media.stands_alone(self.stream, packet)
        return self._key_frames_stand_alone

    def _decode(self) -> Iterator[Picture]:
        packets, self._undecoded = self._undecoded, []
        for packet in packets:
            stamp = packet.pts or 0 if packet.dts is None else packet.dts
            if self._decode_times is not None:
                insort(self._decode_times, stamp)
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if self._decode_times:
                    self._decode_times.remove(stamp)
                if self.track.began and self.ticks(packet) >= self._intact_from:
                    yield from self._damaged(f"{media.explain(error)} at {self._at(packet):.2f} s")
                    return
                self._refused = self._refused or media.explain_decoding(error, self.stream.codec_context)
                continue  # what cannot be decoded before the first good frame is no part of the video
            if self._decode_times and not frames:
                self._pass_over_empty(self._decode_times, stamp)
            for frame in frames:
                yield from self._show(frame)
                if self.done:
                    return

    def _pass_over_empty(self, decode_times: list[int], stamp: int) -> None:
        """A packet that says "as before" gives no frame, now or later: its time is not the next frame's."""
        context = self.stream.codec_context
        if context.name not in DEEP_CODECS and len(decode_times) > bool(context.has_b_frames):
            decode_times.remove(stamp)

    def _drain(self) -> Iterator[Picture]:
        """The frames that the decoder holds back, then the last one for as long as it lasts."""
        try:
            frames = self.stream.codec_context.decode(None)
        except av.error.FFmpegError:
            frames = []  # the frames of an incomplete group; nothing that was wanted whole is in them
        for frame in frames:
            yield from self._show(frame)
            if self.done:
                return
        yield from self._hold()

    def _hold(self) -> Iterator[Picture]:
        yield from self._give(self._shown_at + min(self._frame_ticks, LONGEST_GAP // self.stream.time_base))
        self._set_end()

    def _give(self, stop: int) -> Iterator[Picture]:
        """The latest frame at all that is wanted of the ticks before `stop`."""
        while self._shown is not None and self._time is not None and self._wanted < stop:
            try:
                self._pixels = self._to_rgb(self._shown) if self._pixels is None else self._pixels
            except (media.MediaError, av.error.FFmpegError) as error:
                self.track.damage = f"{media.explain(error)} at {float(self._time):.2f} s"
                return
            picture = Picture(self._time, self._pixels)
            self._next_time()
            yield picture

    def _show(self, frame: Any) -> Iterator[Picture]:
        pts = self._decode_times.pop(0) if self._decode_times else frame.pts
        at = self._shown_at + self._frame_ticks if pts is None else pts - (self.origin or 0)
        if self.origin is None:
            if frame.is_corrupt:
                return
            self.origin, at = pts or 0, 0
            self.track.began = True
            self.tell_origin(self.origin * self.stream.time_base)
        if at < self._intact_from:
            return
        at = max(at, self._shown_at)
        if self._shown is None and self._time is not None and self._wanted < at:
            self.track.damage = f"the frame at {float(self._time):.2f} s cannot be decoded"
            return
        gap = (at - self._shown_at) * self.stream.time_base
        if gap > LONGEST_GAP:
            yield from self._hold()
            if not self.done:
                self.track.damage = media.jump(self.stream, gap)
            return
        yield from self._give(at)
        self._frame_ticks = frame.duration or at - self._shown_at or self._frame_ticks
        self._shown, self._shown_at, self._pixels = frame, at, None

    def _next_time(self) -> None:
        self._time = next(self._times, None)
        if self._time is not None:
            self._wanted = self._time // self.stream.time_base  # the last tick at which its frame may begin

    def _to_rgb(self, frame: Any) -> np.ndarray:
        width, height = media.square_size(frame.width, frame.height, self.stream.sample_aspect_ratio)
        if reason := media.unfit_size(width, height):
            raise media.MediaError("decode", reason)
        # One thread: swscale's own pool costs seven times the processor time of the conversion.
        rgb = self._reformatter.reformat(frame, width=width, height=height, format="rgb24", threads=1).to_ndarray()
        return orientation(frame).upright(rgb)

    def _damaged(self, reason: str) -> Iterator[Picture]:
        """Keep what was decoded before the damage: the decoder may still hold some of it."""
        self._undecoded.clear()
        yield from self._drain()
        if not self.done:
            self.track.damage = reason

    def _set_end(self) -> None:
        if self.origin is None:
            return
        lasts = min(self._frame_ticks * self.stream.time_base, LONGEST_GAP) if self._shown is not None else 0
        self.track.seconds = self._shown_at * self.stream.time_base + lasts
        if self._end is not None and not self.track.damage:
            self.track.seconds = self._end if self._time is None else min(self._end, self.track.seconds)

    def _at(self, packet: Any) -> float:
        return float(self.ticks(packet) * self.stream.time_base)
