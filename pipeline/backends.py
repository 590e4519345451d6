"""Other decoders for pictures, held to the same time rule: decord and torchcodec. Sound stays with PyAV.

They are asked for frames by number; which number is on screen at a time is read off the file's packets.
Both count and find frames in their own ways, which go astray in many files: MPEG-TS, AVI, open groups of
pictures, edit lists, intra refresh, rotation. So they get plain files only, and PyAV plays the others.
"""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import chain, islice
from typing import Any

import av
import numpy as np

from pipeline import media
from pipeline.declared_ends import SHORTFALL, declared_end, lacks_bytes
from pipeline.decode import Picture, Playback, Sound, Track
from pipeline.orientation import Orientation, orientation

TIMES_A_CALL = 8  # pictures asked for at once: enough to share a group of pictures, few enough to fit
PLAIN_CODECS = {"h264", "hevc", "vp9", "av1", "libdav1d", "mpeg4"}  # a frame a packet


class DecoderMissing(Exception):
    """A decoder that is asked for but not installed; the message says how to install it."""

    exit_code = 1


@dataclass
class IndexedPlayback:
    """Like `decode.Playback`, with the pictures of plain files from another library."""

    path: str
    decoder: str
    times: Iterator[Fraction]
    rate: int | None
    start: Fraction = Fraction(0)
    end: Fraction | None = None
    video: Track = field(default_factory=Track)
    audio: Track = field(default_factory=Track)

    def __iter__(self) -> Iterator[Picture | Sound]:
        open_frames = LIBRARIES[self.decoder]()
        with media.open_media(self.path) as container:
            times = yield from self._pictures(open_frames)
            video = self.video if times is not None else Track()
            yield from Playback(container, times or iter(()), self.rate, self.start, self.end, video, self.audio)

    def _pictures(self, open_frames: OpenFrames) -> Generator[Picture, None, Iterator[Fraction] | None]:
        """Yields what the library shows and returns the times left to PyAV, or None if it showed all."""
        index = read_index(self.path)
        if index is None:
            return self.times
        try:
            frames = open_frames(os.path.abspath(self.path), len(index.starts))
        except Exception:  # of any type; PyAV either plays the file or tells what is wrong with it
            return self.times
        while times := list(islice(self.times, TIMES_A_CALL)):
            shown = [time for time in times if time < index.end]
            try:
                pictures = frames([index.number_at(time) for time in shown]) if shown else []
            except Exception:  # the same
                return chain(times, self.times)
            for time, rgb in zip(shown, pictures, strict=True):
                yield Picture(time, rgb)
            if len(shown) < len(times):
                break
        self.video.present = self.video.began = True
        self.video.seconds = index.end if self.end is None else min(index.end, self.end)
        return None


@dataclass(frozen=True)
class FrameIndex:
    """When each frame is shown, from the first one on: `starts` (frames,) int64 ticks, ascending; `end` in seconds."""

    starts: np.ndarray
    tick: Fraction  # seconds
    end: Fraction

    def number_at(self, time: Fraction) -> int:
        return int(np.searchsorted(self.starts, time // self.tick, side="right")) - 1


def read_index(path: str) -> FrameIndex | None:
    """Index the frames of a plain file by its packets; None for any other file."""
    with media.open_media(path) as container:
        if not _looks_plain(container):
            return None
    with media.open_media(path) as container:
        stream: Any = media.video_stream(container)
        try:
            stamps = _plain_stamps(container, stream)
        except av.error.FFmpegError:
            return None
        tick, declared = stream.time_base, declared_end(stream)
    if stamps is None:
        return None
    starts, lasts = stamps
    end = (int(starts[-1]) + lasts) * tick
    if declared is not None and declared - end > SHORTFALL:
        return None
    origin = int(starts[0])
    return FrameIndex(starts - origin, tick, end - origin * tick)


def _looks_plain(container: Any) -> bool:
    stream = media.video_stream(container)
    if stream is None or stream.codec_context is None:
        return False
    try:
        frame = media.first_frame(container, stream)
    except media.MediaError:
        return False
    upright = frame.rotation == 0 and orientation(frame) == Orientation()
    square = media.square_size(2, 2, stream.sample_aspect_ratio) == (2, 2)
    fits = media.unfit_size(frame.width, frame.height) is None
    stamped = container.format.name in media.STAMPED_FORMATS and not media.is_clockless(stream)
    whole = not lacks_bytes(container)
    return upright and square and fits and stamped and whole and stream.codec_context.name in PLAIN_CODECS


def _plain_stamps(container: Any, stream: Any) -> tuple[np.ndarray, int] | None:
    """The time stamps of all frames in order, and how long the last one lasts; None where one is out of the plain."""
    stamps, key_frames = array("q"), 0
    key = last = None
    reordered = not stream.codec_context.has_b_frames
    for packet in media.packets(container, media.played_streams(container)):
        if packet.is_corrupt:
            return None
        if packet.stream_index != stream.index:
            continue
        if packet.pts is None or packet.is_discard or media.encryption(packet):
            return None
        if packet.is_keyframe:
            key_frames += 1
            key = packet.pts
            if key_frames == 2 and not media.stands_alone(stream, packet):
                return None
        if key is None or packet.pts < key:  # an open group: it needs frames from before its key frame
            return None
        stamps.append(packet.pts)
        reordered |= packet.pts != packet.dts
        if last is None or packet.pts > last.pts:
            last = packet
    if last is None or not reordered:  # else they are stamped with when they are decoded
        return None
    starts = np.sort(np.frombuffer(stamps, np.int64))
    gaps = np.diff(starts)
    if not gaps.all() or gaps.max(initial=0) * stream.time_base > media.LONGEST_GAP:
        return None
    lasts = last.duration or int(gaps[-1] if len(gaps) else 0)
    return (starts, lasts) if lasts else None


FramesAt = Callable[[list[int]], Any]  # numbers of frames, ascending -> (frames, H, W, 3) uint8
OpenFrames = Callable[[str, int], FramesAt]  # of a path whose file holds so many frames


@cache
def _decord() -> OpenFrames:
    try:
        import decord
    except ImportError:
        raise DecoderMissing("decord is not installed: pip install decord (Linux x86-64 only)") from None

    def open_frames(path: str, count: int) -> FramesAt:
        reader = decord.VideoReader(path, num_threads=1)
        _check_count(len(reader), count)
        return lambda numbers: reader.get_batch(numbers).asnumpy()

    return open_frames


_GET_FFMPEG = "with its shared libraries (Debian and Ubuntu: apt-get install ffmpeg)"


@cache
def _torchcodec() -> OpenFrames:
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(b"no video", seek_mode="approximate")  # some versions load FFmpeg only now
    except ModuleNotFoundError:
        raise DecoderMissing(f"torchcodec is not installed: pip install torchcodec, and FFmpeg {_GET_FFMPEG}") from None
    except (ImportError, RuntimeError, OSError, ValueError) as error:
        if isinstance(error, ImportError | OSError) or "libtorchcodec" in str(error):
            raise DecoderMissing(_why_not_loaded(error)) from None

    def open_frames(path: str, count: int) -> FramesAt:
        decoder = VideoDecoder(path, dimension_order="NHWC", num_ffmpeg_threads=1, seek_mode="exact")
        _check_count(len(decoder), count)
        return lambda numbers: decoder.get_frames_at(numbers).data.numpy()

    return open_frames


def _why_not_loaded(error: Exception) -> str:
    """What an installed torchcodec lacks: it tries one version of FFmpeg after the other, and names all faults."""
    fault: str | None
    if isinstance(error, RuntimeError):
        faults = re.findall(r"^OSError: (?!Could not load this library)(.+)", str(error), re.MULTILINE)
        fault = next((fault for fault in faults if not re.match(r"lib(av|sw|postproc)", fault)), None)
    else:
        fault = str(error.__cause__ or error).splitlines()[0]
    if fault is None:
        versions = sorted(map(int, re.findall(r"^FFmpeg version (\d+)", str(error), re.MULTILINE)))
        which = f" of a version from {versions[0]} to {versions[-1]}" if versions else ""
        return f"torchcodec finds no FFmpeg: install one{which} {_GET_FFMPEG}"
    return f"torchcodec cannot be loaded ({fault}): it must be made for the PyTorch that is installed, and for its CUDA"


LIBRARIES: dict[str, Callable[[], OpenFrames]] = {"decord": _decord, "torchcodec": _torchcodec}


def check_decoder(decoder: str) -> None:
    """Raise DecoderMissing if a decoder cannot be used on this machine."""
    if decoder in LIBRARIES:
        LIBRARIES[decoder]()


def _check_count(counted: int, count: int) -> None:
    if counted != count:
        raise ValueError(f"the library counts {counted} frames of {count}")
