"""Opening media files safely: local files only, self-contained formats only."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition

from pipeline.declared_ends import declared_end, is_guessed, stream_seconds
from pipeline.orientation import orientation

# Demuxers that read the one file they are given. Playlists and scripts (hls, dash, concat, sdp, ...)
# would have FFmpeg open what else an untrusted file names, and are refused with everything unlisted.
SELF_CONTAINED_FORMATS = (
    "aac,ac3,aiff,amr,apng,asf,asf_o,av1,avi,dv,eac3,flac,flv,gif,h261,h263,h264,hevc,ivf,live_flv,"
    "m4v,matroska,webm,mjpeg,mov,mp4,m4a,3gp,3g2,mj2,mp3,mpeg,mpegts,mpegvideo,mxf,nsv,nut,obu,ogg,"
    "rm,swf,vc1,viv,w64,wav,wtv,y4m,yuv4mpegpipe"
)
STAMPED_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "flv"}  # every frame is stored with its own time
CLOCKLESS_FORMATS = {"avi"}  # they store no presentation times; FFmpeg's guesses go astray at B-frames
LONGEST_GAP = Fraction(600)  # seconds between two frames; beyond it the time stamps are damaged
SETBACK = Fraction(1)  # seconds that time stamps may jump back; beyond it they are damaged, too
# The largest pictures of the highest levels of H.264 and HEVC (6.2), VP9 (6.2) and AV1 (6.3), beyond 8K. As RGB one
# takes 107 MB, and a decoder may hold 16 of them; without a limit a file of 40 kB can ask for gigabytes.
MOST_PIXELS = 8192 * 4352
MOST_ELONGATED = 64  # times the short side; an expert that brings the short side to 256 makes 16384x256 of it
SOUND_RATES = range(1_000, 768_001)  # Hz; a byte at 1 Hz would be a second of sound, and higher ones need vast filters
CHAIN = "the file is several Ogg files in one, of which only the first is read"
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": SELF_CONTAINED_FORMATS}
_DECODING = {"max_pixels": str(MOST_PIXELS)}
CHECKED_CODECS = {"flac", "ac3", "eac3", "ffv1"}  # with checksums, which decoders look at only if asked to
_MISLEADING = {  # what FFmpeg says of damaged files, and what it comes to
    errno.EIO: "Input/output error: what it says of itself makes no sense, or the disk fails",
    errno.ENOMEM: "Cannot allocate memory: what it says of itself makes no sense, or there is too little",
    errno.EPERM: "the decoder gives up on it",  # "Operation not permitted"
    av.error.tag_to_code(b"EXT "): "the decoder gives up on it",  # "Generic error in an external library"
    av.error.tag_to_code(b"PAWE"): "FFmpeg knows no way to read what it claims to hold",  # "Not yet implemented"
}


class MediaError(Exception):
    """A file that cannot be used: `stage` (open or decode) and the reason."""

    exit_code = 1

    def __init__(self, stage: str, reason: str) -> None:
        super().__init__(f"{stage}: {reason}")
        self.stage = stage
        self.reason = reason


@dataclass(frozen=True)
class Probe:
    """What a file's headers say. Durations in seconds, rates in Hz; None where they say nothing."""

    duration: float | None
    container: str
    width: int | None = None  # pixels, as shown: after rotation
    height: int | None = None
    fps: float | None = None
    video_codec: str | None = None
    rotation: int | None = None  # degrees counterclockwise, applied already to width and height
    audio_codec: str | None = None
    audio_rate: int | None = None
    audio_channels: int | None = None
    mirrored: bool | None = None  # True if pictures are to be mirrored left to right before they are turned


@dataclass
class Track:
    """What became of one stream; whole once decoding has ended."""

    present: bool = False
    began: bool = False  # something of it was decoded
    seconds: Fraction = Fraction(0)  # where it ended, from the video's first frame
    damaged: str | None = None  # what is wrong with the first damaged picture of those that were wanted
    stopped: str | None = None  # why decoding stopped before the stream's end

    @property
    def damage(self) -> str | None:
        """What is wrong with the stream first of all."""
        return self.damaged or self.stopped


def open_media(path: str) -> InputContainer:
    """Open a local file for demuxing; the caller closes it.

    Raises MediaError for what is no readable regular file, a playlist or script, or no media at all.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise MediaError("open", f"{error.strerror}: only local files are read") from None
    except ValueError as error:  # a NUL in the path
        raise MediaError("open", str(error)) from None
    if not stat.S_ISREG(mode):
        raise MediaError("open", "not a regular file")
    if os.path.getsize(path) == 0:
        raise MediaError("open", "the file is empty")
    try:
        container = av.open(
            f"file:{os.path.abspath(path)}", options=_DECODING, container_options=_OPTIONS, metadata_errors="replace"
        )
    except (av.error.InvalidDataError, av.error.ArgumentError):  # the latter is for a format that is not listed
        raise MediaError("open", "not a self-contained media file, or its headers are damaged") from None
    except av.error.EOFError:
        raise MediaError("open", "the file ends within its headers") from None
    except (av.error.FFmpegError, OSError) as error:
        raise MediaError("open", explain(error)) from None
    for stream in (*container.streams.video, *container.streams.audio):
        if stream.codec_context is not None:
            checks = {"err_detect": "crccheck+explode"} if stream.codec_context.name in CHECKED_CODECS else {}
            stream.codec_context.options = _DECODING | checks
    return container


def video_stream(container: InputContainer) -> Any | None:
    """The stream that players would show, or None; cover pictures of audio files do not count."""
    best = container.streams.best("video")
    moving = [stream for stream in container.streams.video if Disposition.attached_pic not in stream.disposition]
    return best if best in moving else next(iter(moving), None)


def audio_stream(container: InputContainer) -> Any | None:
    """The stream that players would sound, or None."""
    return container.streams.best("audio")


def played_streams(container: InputContainer) -> list[Any]:
    """The one video and the one audio stream that players would play, as far as there are such."""
    return [stream for stream in (video_stream(container), audio_stream(container)) if stream is not None]


def is_clockless(stream: Any) -> bool:
    """Whether packets carry no presentation times: in AVI, and in its tracks in Matroska (V_MS/VFW/FOURCC)."""
    name, fourcc = stream.container.format.name, stream.codec_context.codec_tag.strip("\0")
    return name in CLOCKLESS_FORMATS or (name == "matroska,webm" and fourcc != "")


def packets(container: InputContainer, streams: list[Any]) -> Iterator[Any]:
    """The streams' packets in file order, without end marks: a decoder would take one for the end."""
    with suppress(IndexError):  # PyAV's at the very end, if streams came in midway
        for packet in container.demux(streams):
            if packet.size:
                yield packet


def jump(stream: Any, seconds: Fraction) -> str:
    """What is wrong where the time stamps of a stream jump by so many seconds."""
    if seconds < 0 and stream.container.format.name == "ogg":
        return CHAIN
    return f"time stamps jump by {float(seconds):.0f} s"


def explain(error: Exception) -> str:
    """An error in its own words, without the path, which stands beside it anyway."""
    if isinstance(error, MediaError):
        return error.reason
    if isinstance(error, av.error.FFmpegError) and error.errno in _MISLEADING:
        return _MISLEADING[error.errno]
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return _MISLEADING[errno.EPERM] if words.startswith("Error number") else words  # "Error number -50 occurred"


def encryption(packet: Any) -> str | None:
    """That a packet is encrypted, and by which scheme ("cenc", "cbcs"); no key is had here."""
    if not packet.has_sidedata("encryption_info"):
        return None
    scheme = bytes(packet.get_sidedata("encryption_info"))[:4].decode("ascii", "replace")
    return f"it is encrypted ({scheme})" if scheme.isprintable() else "it is encrypted"


def explain_decoding(error: Exception, context: Any) -> str:
    """Why a decoder gave no frame: "Invalid argument" is what it says of a size, which it then sets to 0."""
    if isinstance(error, av.error.ArgumentError) and not (context.width and context.height):
        return f"pictures of no size, or of more than {MOST_PIXELS / 1e6:.1f} million pixels, as in 8192x4352"
    return explain(error)


def probe(path: str) -> Probe:
    """Read a file's headers and its first frame's rotation.

    Raises MediaError if it cannot be opened, holds neither video nor audio, or gives no first frame.
    """
    with open_media(path) as container:
        video, audio = video_stream(container), audio_stream(container)
        if video is None and audio is None:
            raise MediaError("open", "holds neither video nor audio")
        duration = _duration(container)
        found: dict[str, Any] = {}
        if audio is not None:
            context = audio.codec_context
            found |= {"audio_codec": context.name, "audio_rate": context.rate, "audio_channels": context.channels}
        if video is not None:
            found |= _probe_video(container, video)
        return Probe(None if duration is None else float(duration), container.format.name, **found)


def _duration(container: InputContainer) -> Fraction | None:
    """Seconds that a file lasts, as well as can be known without reading it; FFmpeg's guesses are not."""
    streams = played_streams(container)
    for stream in streams:
        if (end := declared_end(stream)) is not None:
            return end - (stream.start_time or 0) * stream.time_base
    if is_guessed(container):
        return None
    for stream in streams:
        if (seconds := stream_seconds(stream)) is not None:
            return seconds
    return None if container.duration is None else Fraction(container.duration, av.time_base)


def _probe_video(container: InputContainer, stream: Any) -> dict[str, Any]:
    frame = first_frame(container, stream)
    width, height = square_size(frame.width, frame.height, stream.sample_aspect_ratio)
    if reason := unfit_size(width, height):
        raise MediaError("decode", reason)
    shown = orientation(frame)
    if shown.turns % 2:
        width, height = height, width
    rate = stream.average_rate or stream.guessed_rate
    return {
        "width": width,
        "height": height,
        "fps": round(float(rate), 3) if rate else None,
        "video_codec": stream.codec_context.name,
        "rotation": shown.turns * 90,
        "mirrored": shown.mirrored or None,
    }


def first_frame(container: InputContainer, stream: Any) -> Any:
    """The first frame that decodes, packets before it that do not being passed over. Raises MediaError."""
    reason = "no frame in the stream"
    try:
        for packet in packets(container, [stream]):
            if encrypted := encryption(packet):
                reason = encrypted
                continue
            try:
                for frame in packet.decode():
                    return frame
            except av.error.FFmpegError as error:
                reason = explain_decoding(error, stream.codec_context)
    except av.error.FFmpegError as error:
        reason = explain(error)
    raise MediaError("decode", f"no frame of the video can be decoded: {reason}")


def stands_alone(stream: Any, packet: Any) -> bool:
    """Whether a key frame is whole by itself; in H.264 with intra refresh it takes a run of frames to be."""
    if stream.codec_context.name != "h264":
        return True
    decoder = av.CodecContext.create(stream.codec_context.name, "r")
    decoder.options = _DECODING
    decoder.extradata = stream.codec_context.extradata
    try:
        frames = [*decoder.decode(packet), *decoder.decode(None)]
    except av.error.FFmpegError:
        return True  # it is damaged, as who begins there will find
    return any(not frame.is_corrupt for frame in frames)


def unfit_size(width: int, height: int) -> str | None:
    """What is wrong with a picture of that size, or None; what an expert makes of the others fits into memory."""
    size = f"pictures of {width}x{height} with square pixels"
    if width * height > MOST_PIXELS:
        return f"{size} are not read: at most {MOST_PIXELS / 1e6:.1f} million pixels, as in 8192x4352"
    if max(width, height) > MOST_ELONGATED * min(width, height):
        return f"{size} are not read: one side is more than {MOST_ELONGATED} times the other"
    return None


def square_size(width: int, height: int, pixel_aspect: Fraction | None) -> tuple[int, int]:
    """Width and height with square pixels: the width follows the pixels' aspect ratio."""
    if not pixel_aspect or pixel_aspect == 1:
        return width, height
    return max(1, round(width * pixel_aspect)), height
