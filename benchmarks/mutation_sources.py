"""Small media files in many formats, to be spoilt: the same bytes whenever they are made."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT, FPS = 96, 64, 12
RATE = 48_000  # Hz


@dataclass(frozen=True)
class Form:
    """What a source is made of: names of encoders, or None."""

    video: str | None
    audio: str | None
    muxing: tuple[tuple[str, str], ...] = ()


FORMS = {
    "h264.mp4": Form("libx264", "aac"),
    "front.mp4": Form("libx264", "aac", (("movflags", "faststart"),)),
    "fragments.mp4": Form("libx264", "aac", (("movflags", "frag_keyframe+empty_moov"),)),
    "mpeg4.mp4": Form("mpeg4", None),
    "h264.mkv": Form("libx264", "aac"),
    "vp9.mkv": Form("libvpx-vp9", "libopus"),
    "vp8.webm": Form("libvpx", "libopus"),
    "mpeg4.avi": Form("mpeg4", "mp2"),
    "mjpeg.avi": Form("mjpeg", "pcm_s16le"),
    "h264.ts": Form("libx264", "aac"),
    "mpeg2.ts": Form("mpeg2video", "mp2"),
    "flv1.flv": Form("flv", None),
    "wmv2.asf": Form("wmv2", None),
    "picture.gif": Form("gif", None),
    "picture.apng": Form("apng", None),
    "sound.ogg": Form(None, "libopus"),
    "sound.flac": Form(None, "flac"),
    "sound.wav": Form(None, "pcm_s16le"),
    "sound.mp3": Form(None, "libmp3lame"),
}
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8", "apng": "rgb24"}


def make_sources(folder: Path, seconds: float = 2.0) -> list[Path]:
    """One small file of every form, the same whenever it is made."""
    paths = []
    for number, (name, form) in enumerate(FORMS.items()):
        paths.append(folder / name)
        _encode(paths[-1], form, seconds, number)
    return paths


def make_large(path: Path, side: int) -> Path:
    """A valid H.264 file of two frames of side x side pixels, a few hundred kilobytes large."""
    with av.open(str(path), "w") as file:
        options = {"preset": "ultrafast", "threads": "1"}
        video: Any = file.add_stream("libx264", FPS, options=options)
        video.width, video.height, video.pix_fmt = side, side, "yuv420p"
        for number in range(2):
            frame = av.VideoFrame(side, side, "yuv420p")
            for plane in frame.planes:
                plane.update(bytes([100 + number]) * plane.buffer_size)
            frame.pts = number
            file.mux(video.encode(frame))
        file.mux(video.encode())
    return path


def _encode(path: Path, form: Form, seconds: float, seed: int) -> None:
    numbers = np.random.default_rng(seed)
    packets = []
    with av.open(str(path), "w", options={"fflags": "+bitexact", **dict(form.muxing)}) as file:
        video = _video_stream(file, form.video) if form.video else None
        audio: Any = file.add_stream(form.audio, RATE, layout="mono") if form.audio else None
        if video is not None:
            noise = numbers.integers(0, 90, (HEIGHT, WIDTH, 3), dtype=np.uint8)
            for number in range(round(seconds * FPS)):
                image = noise.copy()
                left = (number * 5 + seed * 7) % (WIDTH - 20)
                image[20:40, left : left + 20] = numbers.integers(100, 255, 3)
                frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=video.pix_fmt)
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                packets += video.encode(frame)
            packets += video.encode()
        if audio is not None:
            time = np.arange(round(seconds * RATE)) / RATE
            tone = np.sin(2 * np.pi * (200 + 50 * seed) * time) / 2
            sound = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
            sound.sample_rate = RATE
            packets += [*audio.encode(sound), *audio.encode()]
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            file.mux(packet)


def _video_stream(file: Any, codec: str) -> Any:
    quick = {"libx264": {"preset": "ultrafast", "threads": "1"}, "libvpx-vp9": {"cpu-used": "8", "threads": "1"}}
    video = file.add_stream(codec, FPS, options=quick.get(codec, {}))
    video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, PIXELS.get(codec, "yuv420p")
    if codec != "gif":
        video.codec_context.gop_size = 6
    video.codec_context.thread_count = 1
    return video
