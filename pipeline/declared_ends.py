"""Where a file's own headers say that a stream ends: the proof that one which simply ends has been cut off.

Of the durations that FFmpeg gives, only those that a header keeps for each stream are such. Others are the whole file's
(FLV, ASF, Matroska without tags), were measured at its end (MPEG-TS, Ogg), or guessed from the bit rate (AAC, raw
streams).
"""

from __future__ import annotations

import os
import struct
from fractions import Fraction
from typing import Any, BinaryIO

MOV, MATROSKA = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
EACH_ITS_OWN = {MOV, "mxf", "aiff", "flac", "ivf"}  # formats whose headers say of each stream how long it is
# Whose end FFmpeg guesses from the bit rate of the beginning; of MP3 only where no header counts its frames.
GUESSED = {
    "aac",
    "ac3",
    "eac3",
    "amr",
    "h261",
    "h263",
    "h264",
    "hevc",
    "m4v",
    "mpegvideo",
    "mjpeg",
    "vc1",
    "obu",
    "mp3",
}
# Here a packet may be incomplete though the file is not: packets are lost on the air, and sizes are left open.
OPEN_ENDED = {"mpegts", "mpeg", "wav"}
SHORTFALL = Fraction(1)  # seconds missing at the end from which a stream counts as cut off
LINEAR_WAV = {1, 3, 6, 7, 0xFFFE}  # PCM, floats, A-law, mu-law, extensible: as many bytes for every second
LARGEST_RIFF = 0x7FFF_0000  # bytes; writers that do not know the size put something larger there, or 0


def declared_end(stream: Any) -> Fraction | None:
    """The time stamp, in seconds, at which the stream's own header says that it ends, or None."""
    container, seconds = stream.container, stream_seconds(stream)
    format = container.format.name
    if format == MATROSKA:
        return _tagged_end(stream)
    if format == "wav":
        return _wav_seconds(container)
    if seconds is None or not (format in EACH_ITS_OWN or (format == "mp3" and _counts_frames(container))):
        return None
    if is_fragmented(stream):
        return seconds  # fragments carry time stamps of their own, and FFmpeg takes the last one's end
    return (stream.start_time or 0) * stream.time_base + seconds


def stream_seconds(stream: Any) -> Fraction | None:
    """FFmpeg's idea of how long a stream is."""
    return None if stream.duration is None or not stream.time_base else stream.duration * stream.time_base


def is_guessed(container: Any) -> bool:
    """Whether all durations of a file are guesses from its bit rate."""
    return container.format.name in GUESSED and not (container.format.name == "mp3" and _counts_frames(container))


def is_fragmented(stream: Any) -> bool:
    """Whether a stream of MP4 is in fragments: what is known of its end may be no more than where the last one ends."""
    return stream.container.format.name == MOV and stream.frames == 0


def is_cut_within(packet: Any) -> bool:
    """Whether the last packet of a file ends before its time, which is to say that the file does."""
    return packet.is_corrupt and packet.stream.container.format.name not in OPEN_ENDED


def lacks_bytes(container: Any) -> bool:
    """Whether a Matroska or AVI file is shorter than it says; FFmpeg reads on to the end as if there were no more."""
    if container.format.name not in (MATROSKA, "avi"):
        return False
    with _opened(container) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        return (_segment_end(file) if container.format.name == MATROSKA else _riff_end(file)) > size


def _segment_end(file: BinaryIO) -> int:
    """Where the segment of a Matroska file ends, which is all but its header; 0 if it does not say."""
    end = 0
    for name in (b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"):  # the header, the segment
        file.seek(end)
        head = file.read(5)
        length = 9 - head[4].bit_length() if len(head) == 5 and head[:4] == name else 9
        if length > 8:
            return 0
        number = int.from_bytes(head[4:] + file.read(length - 1), "big") - (1 << 7 * length)
        if number == (1 << 7 * length) - 1:  # written while it was not known
            return 0
        end = file.tell() + number
    return end


def _riff_end(file: BinaryIO) -> int:
    """Where the first, or only, part of an AVI file ends; 0 if it does not say."""
    head = file.read(8)
    size = struct.unpack_from("<I", head, 4)[0] if len(head) == 8 else 0
    return size + 8 if size < LARGEST_RIFF else 0


def _tagged_end(stream: Any) -> Fraction | None:
    """Of Matroska: the tag that muxers write for each track, "00:01:02.345000000"."""
    try:
        hours, minutes, seconds = (Fraction(part) for part in stream.metadata.get("DURATION", "").split(":"))
    except (ValueError, ZeroDivisionError):
        return None
    end = hours * 3600 + minutes * 60 + seconds
    whole = stream.container.duration  # microseconds; programs that cut files may leave the tags as they were
    return None if whole is not None and end > Fraction(whole, 1_000_000) + SHORTFALL else end


def _counts_frames(container: Any) -> bool:
    """Of MP3: whether its first frame is a header (Xing, Info or VBRI) that says how many frames follow."""
    with _opened(container) as file:
        head = file.read(10)
        tag = 0
        if head[:3] == b"ID3" and len(head) == 10:
            tag = 10 + sum((byte & 127) << 7 * place for place, byte in enumerate(reversed(head[6:])))
        file.seek(tag)
        frame = file.read(64)
    if frame[36:40] == b"VBRI":
        return True
    places = (13, 21, 36)  # after 4 bytes and the side information: of MPEG-2 mono, of one of both, of MPEG-1 stereo
    return any(frame[at : at + 4] in (b"Xing", b"Info") and frame[at + 7] & 1 for at in places if len(frame) > at + 7)


def _wav_seconds(container: Any) -> Fraction | None:
    """Of WAV: what the size of its data comes to."""
    rate = 0
    with _opened(container) as file:
        if file.read(4) not in (b"RIFF", b"RF64", b"BW64"):
            return None
        large = 0
        file.seek(12)
        while len(head := file.read(8)) == 8:
            name, size = struct.unpack("<4sI", head)
            if name == b"data":
                size = large if size == 0xFFFF_FFFF else size
                return Fraction(size, rate) if rate and size > 0 and (large or size < LARGEST_RIFF) else None
            content = file.read(min(size, 40))
            if name == b"fmt " and len(content) >= 16:
                kind, _, samples, _, block = struct.unpack_from("<HHIIH", content)
                rate = samples * block if kind in LINEAR_WAV else 0
            elif name == b"ds64" and len(content) >= 16:
                large = struct.unpack_from("<Q", content, 8)[0]
            file.seek(size + size % 2 - len(content), os.SEEK_CUR)
    return None


def _opened(container: Any) -> BinaryIO:
    return open(container.name.removeprefix("file:"), "rb")
