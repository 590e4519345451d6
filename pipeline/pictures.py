"""The video stream of a file: packets in, the pictures on screen at wanted times out."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from pipeline import media
from pipeline.damage import DamageTracker, Judged
from pipeline.declared_ends import MOV
from pipeline.media import LONGEST_GAP, SETBACK, Track
from pipeline.orientation import orientation

MOST_UNDECODED = 1000  # packets read ahead; what is more in one group of pictures is decoded, wanted or not
LATE_START = Fraction(1, 2)  # seconds missing at the beginning from which a video counts as damaged there
RECORDINGS = {"mpegts", "mpeg"}  # may begin anywhere, as a receiver is turned on
# Codecs whose decoders make a grey picture, of no type, where there is none to refer to.
GREY_STARTS = {"mpeg4", "h263", "flv", "msmpeg4v1", "msmpeg4v2", "msmpeg4", "wmv1", "wmv2"}
DEEP_CODECS = {"h264", "hevc"}  # decoders that may hold back any number of frames; the others one, for B-frames


@dataclass(frozen=True)
class Picture:
    """The frame on screen at `time` seconds: (H, W, 3) RGB uint8, upright, pixels square.

    Where `damage` says what is wrong, and since when, the pixels are no more than the decoder's best guess.
    """

    time: Fraction
    pixels: np.ndarray
    damage: str | None = None


class PictureStream:
    """The video stream: packets in, wanted Pictures out. Ticks are the stream's, counted from the first frame."""

    def __init__(self, stream: Any, times: Iterator[Fraction], end: Fraction | None, track: Track) -> None:
        stream.codec_context.thread_count = 1  # videos run in parallel, not the frames of one
        self.stream, self.track = stream, track
        self._format = stream.container.format.name
        self.origin: int | None = None  # presentation time of the first frame, as stamped
        self.timed = not media.is_clockless(stream)  # every packet has a time stamp to be trusted
        self.tell_origin: Callable[[Fraction], None] = lambda seconds: None
        self._end = end
        self._times = times
        self._next_time()
        self._undecoded: list[Any] = []  # packets read since the last one decoded
        self._key_frames_stand_alone: bool | None = None  # not known yet
        self._intact_from = 0  # ticks: frames before it may lack the ones they refer to
        self._damage = DamageTracker(stream.codec_context, stream.time_base)
        self._doubtful: list[int] = []  # ticks of packets that are damaged, unless a key frame follows
        self._due_at: int | None = None  # stamp at which the first picture is due
        self._awaits_key = False  # frames at the beginning are damaged, or refer to some that are
        self._came_at = 0  # ticks: when the latest frame that came out of the decoder is presented
        self._shown: Any = None  # the latest frame that is known to be damaged or not
        self._shown_damage: str | None = None
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
        return self.track.stopped is not None or (self._time is None and self.origin is not None)

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
        self._damage.reset()
        self._doubtful.clear()
        self._shown = self._shown_damage = None
        self._came_at = self._shown_at = self._intact_from = self.ticks(packet)

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
        back = (self._shown_at - self.ticks(packet)) * self.stream.time_base
        if self.track.began and packet.is_keyframe and not packet.is_discard and self.timed and back > SETBACK:
            self._undecoded.clear()
            yield from self._drain()
            if not self.done:
                self.track.stopped = media.jump(self.stream, -back)
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
        if not self.track.began and self._refused and not self.track.stopped:
            self.track.stopped = f"nothing in it can be decoded: {self._refused}"
        self._set_end()

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
            at = self.ticks(packet) if self._decode_times is None else stamp - (self.origin or 0)
            # FFmpeg does not call a damaged packet a key frame; that MP4 begins with one is certain all the same.
            if self._due_at is None and not packet.is_discard and (packet.is_keyframe or self._format == MOV):
                self._due_at = at
            encrypted = media.encryption(packet)
            self._note_damage(packet, at, encrypted)
            if encrypted:
                self._refused = self._refused or encrypted
                continue
            if self._decode_times is not None:
                insort(self._decode_times, stamp)
            try:
                frames = packet.decode()
            except av.error.FFmpegError as error:
                if self._decode_times:
                    self._decode_times.remove(stamp)
                if self.track.began and at >= self._intact_from:
                    self._damage.note(at, media.explain(error))
                self._refused = self._refused or media.explain_decoding(error, self.stream.codec_context)
                continue  # what cannot be decoded before the first good frame is no part of the video
            if self._decode_times and not frames:
                self._pass_over_empty(self._decode_times, stamp)
            for frame in frames:
                yield from self._take(frame)
                if self.done:
                    return

    def _note_damage(self, packet: Any, at: int, encrypted: str | None) -> None:
        """Note what is seen to be wrong with a packet before it is decoded; at first there is nothing to be wrong."""
        if packet.is_keyframe:
            self._doubtful.clear()
        elif len(self._doubtful) == 2:
            for doubtful in self._doubtful:
                self._damage.note(doubtful, "a damaged packet")
            self._doubtful.clear()
        elif self._doubtful:
            self._doubtful.append(at)
        if not self.track.began:
            return
        if encrypted:
            self._damage.note(at, encrypted)
        elif packet.is_corrupt and self._format == "mpegts":
            # The numbering of its packets jumps where some are lost, but also where files were joined. Then a key frame
            # follows, after this packet or the next one: FFmpeg's parser is one behind.
            self._doubtful.append(at)
        elif packet.is_corrupt:
            self._damage.note(at, "a damaged packet")

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
            yield from self._take(frame)
            if self.done:
                return
        for judged in self._damage.rest():
            yield from self._show(judged)
            if self.done:
                return
        yield from self._hold()

    def _hold(self) -> Iterator[Picture]:
        if self._shown is None and self._shown_damage:
            self.track.stopped = self._shown_damage
        yield from self._give(self._shown_at + min(self._frame_ticks, LONGEST_GAP // self.stream.time_base))
        self._set_end()

    def _give(self, stop: int) -> Iterator[Picture]:
        """The latest frame at all that is wanted of the ticks before `stop`."""
        while self._shown is not None and self._time is not None and self._wanted < stop:
            try:
                self._pixels = self._to_rgb(self._shown) if self._pixels is None else self._pixels
            except (media.MediaError, av.error.FFmpegError) as error:
                self.track.stopped = f"{media.explain(error)} at {float(self._time):.2f} s"
                return
            picture = Picture(self._time, self._pixels, self._shown_damage)
            self.track.damaged = self.track.damaged or self._shown_damage
            self._next_time()
            yield picture

    def _take(self, frame: Any) -> Iterator[Picture]:
        """A frame from the decoder: when it is presented, and whether it is damaged."""
        pts = self._decode_times.pop(0) if self._decode_times else frame.pts
        if self.origin is None:
            pts = pts or 0
            if not self._begins(frame, pts):
                return
        at = self._came_at + self._frame_ticks if pts is None else pts - (self.origin or 0)
        if at < self._intact_from:
            return
        self._came_at = max(at, self._came_at)
        for judged in self._damage.judge(frame, self._came_at):
            yield from self._show(judged)
            if self.done:
                return

    def _begins(self, frame: Any, stamp: int) -> bool:
        """Whether the video begins with this frame, or before it; what is not decoded before that is no part of it."""
        name = self.stream.codec_context.name
        damaged = frame.is_corrupt or (frame.pict_type == PictureType.NONE and name in GREY_STARTS)
        recording = self._format in RECORDINGS
        if damaged and (recording or not frame.key_frame):
            self._refused = self._refused or "every picture is damaged"
            self._awaits_key |= frame.key_frame or name not in DEEP_CODECS
            return False
        if self._awaits_key and not frame.key_frame:
            return False
        self.origin = stamp
        late = 0 if self._due_at is None or recording else (stamp - self._due_at) * self.stream.time_base
        if late > LATE_START:
            self.origin, self._shown_damage = self._due_at, f"{self._refused or 'no picture'} at 0.00 s"
        self.track.began = True
        self.tell_origin((self.origin or 0) * self.stream.time_base)
        return True

    def _show(self, judged: Judged) -> Iterator[Picture]:
        """Give the times up to this frame to the one before."""
        frame, at = judged.frame or self._shown, max(judged.at, self._shown_at)
        if frame is None:  # after a seek, whose key frame did not come
            self._shown_damage = self._shown_damage or judged.damage
            return
        if self._shown is None and self._time is not None and self._wanted < at:
            self._shown, self._pixels = frame, None
            self._shown_damage = self._shown_damage or f"no picture at {float(self._time):.2f} s"
        gap = (at - self._shown_at) * self.stream.time_base
        if gap > LONGEST_GAP:
            yield from self._hold()
            if not self.done:
                self.track.stopped = media.jump(self.stream, gap)
            return
        yield from self._give(at)
        if judged.frame is None:
            self._shown_at, self._shown_damage = at, judged.damage
            return
        self._frame_ticks = frame.duration or at - self._shown_at or self._frame_ticks
        self._shown, self._shown_at, self._shown_damage, self._pixels = frame, at, judged.damage, None

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

    def _set_end(self) -> None:
        if self.origin is None:
            return
        lasts = min(self._frame_ticks * self.stream.time_base, LONGEST_GAP) if self._shown is not None else 0
        self.track.seconds = self._shown_at * self.stream.time_base + lasts
        if self._end is not None and not self.track.stopped:
            self.track.seconds = self._end if self._time is None else min(self._end, self.track.seconds)
