"""One pass over a file with PyAV: the pictures on screen at wanted times, and the sound.

The time rule, the same for every backend: time runs from the video's first frame, and the picture
at t is the last frame whose presentation time is <= t. Times are compared in exact stream ticks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Any

import av
from av.container import InputContainer

from pipeline import media
from pipeline.declared_ends import SHORTFALL, declared_end, is_cut_within, is_fragmented, lacks_bytes
from pipeline.media import Track
from pipeline.pictures import Picture, PictureStream
from pipeline.sound import Sound, SoundStream

SEEK_OVER = Fraction(20)  # seconds: a cut that starts later is sought, not read up to
SEEK_MARGIN = Fraction(10)  # seconds before such a cut to read from, for sound stored late


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
        parts = [part for part in (pictures, sounds) if part]
        reached = Fraction(0)  # the latest time stamp of any stream, seconds
        stopped = packet = None
        try:
            for packet in self._packets(pictures, sounds):
                for part in parts:
                    if packet.stream_index == part.stream.index:
                        yield from part.feed(packet)
                if packet.pts is not None:
                    reached = max(reached, (packet.pts + (packet.duration or 0)) * packet.time_base)
                if all(part.done for part in parts):
                    break
        except av.error.FFmpegError as error:
            chain = self.container.format.name == "ogg" and isinstance(error, av.error.PatchWelcomeError)
            stopped = media.CHAIN if chain else f"reading stopped: {media.explain(error)}"
        cut = (packet is not None and is_cut_within(packet)) or lacks_bytes(self.container)
        for part in parts:
            yield from part.finish()
            if not part.done:
                part.track.stopped = stopped or _shortfall(part, reached if cut else None)

    def _streams(self) -> tuple[PictureStream | None, SoundStream | None]:
        video, audio = media.video_stream(self.container), media.audio_stream(self.container)
        self.video.present, self.audio.present = video is not None, audio is not None
        if video is None and audio is None:
            raise media.MediaError("open", "holds neither video nor audio")
        # Sound needs the video's first frame, too: it is where time begins.
        pictures = PictureStream(video, self.times, self.end, self.video) if _decodable(video, self.video) else None
        heard = self.rate and _decodable(audio, self.audio)
        sounds = SoundStream(audio, self.rate, self.end, self.audio) if self.rate and heard else None
        if pictures and sounds:
            pictures.tell_origin = sounds.set_origin
        elif sounds:
            sounds.set_origin(None)
        return pictures, sounds

    def _packets(self, pictures: PictureStream | None, sounds: SoundStream | None) -> Iterator[Any]:
        """All packets in file order; for a late cut those up to the first frame, then those around the cut."""
        packets = self._demux()
        if pictures and self.start > SEEK_OVER:
            for packet in packets:
                yield packet
                if pictures.origin is not None:
                    break
            if pictures.timed and self.container.format.name in media.STAMPED_FORMATS:  # true wherever one begins
                packets = self._around_cut(pictures, sounds)
        yield from packets

    def _around_cut(self, pictures: PictureStream, sounds: SoundStream | None) -> Iterator[Any]:
        """The packets on from before the cut, those of the video from a key frame on that is not behind it."""
        key: Any = None
        for place in (self.start - SEEK_MARGIN, Fraction(0)):
            packets, heard, key = self._sought(pictures, place)
            if key is not None and pictures.ticks(key) * pictures.stream.time_base <= self.start:
                break
        if sounds:
            sounds.begin_at(place)
        if key is None:
            return iter(heard)
        pictures.begin_at(key)
        return chain(heard, [key], packets)

    def _sought(self, pictures: PictureStream, place: Fraction) -> tuple[Iterator[Any], list[Any], Any | None]:
        """Go to a place: what can be read there, once the sound before the first key frame and that are read."""
        stream, heard = pictures.stream, []
        with suppress(av.error.FFmpegError):  # a file without an index; the place is looked at before it is used
            self.container.seek(int(place / stream.time_base) + (pictures.origin or 0), stream=stream)
        packets = self._demux()
        for packet in packets:
            if packet.stream_index != stream.index:
                heard.append(packet)
            elif packet.is_keyframe:
                return packets, heard, packet
        return packets, heard, None

    def _demux(self) -> Iterator[Any]:
        # Of both streams, whichever is wanted: where the file ends must not depend on that.
        return media.packets(self.container, media.played_streams(self.container))


def _shortfall(part: PictureStream | SoundStream, cut: Fraction | None) -> str | None:
    """What shows that a stream ends too early, which raises nothing: its own header, or that the file is cut off.

    `cut` is where the last packet of a file that is cut off ends, seconds; None of any other file.
    """
    if not part.track.began:
        return None
    have, declared, ends = part.reached, declared_end(part.stream), part.track.seconds
    if declared is not None and declared - have > SHORTFALL:
        return f"the file ends at {float(ends):.2f} s, though its header says {float(ends + declared - have):.2f} s"
    if cut is None or cut - have > SHORTFALL or (declared is not None and not is_fragmented(part.stream)):
        return None  # it had ended before the file did, or is all there by its own header
    return f"the file is cut off at {float(ends):.2f} s"


def _decodable(stream: Any | None, track: Track) -> bool:
    if stream is not None and stream.codec_context is None:
        track.stopped = "there is no decoder for its codec"
    return stream is not None and stream.codec_context is not None
