"""Videos to measure with: H.264 and AAC like those of real corpora, made once and kept in a temporary folder.

Over a cloudy texture that drifts, smaller pieces of texture wander, and grain lies over all of it;
x264 at CRF 22 makes 0.05 to 0.15 bits a pixel of that, as web video has.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import count
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from data_manifests import Video, write_rows

FPS = 25
RATE = 48_000  # Hz; 64 s of it are a whole number of AAC packets
LOOP = 64  # seconds, of which longer videos repeat
GRAIN = 3.0  # levels, standard deviation
PIECES = 6  # that wander


def make_video(height: int, seconds: int, gop: int = 250, fps: int = FPS) -> Path:
    """An MP4 of 16:9 with a key frame every `gop` frames; past 64 s its content repeats."""
    folder = Path(tempfile.gettempdir()) / f"reelcache-benchmarks-{os.getuid()}-{_version()}"
    folder.mkdir(exist_ok=True)
    path = folder / f"{height}p-{fps}fps-gop{gop}-{seconds}s.mp4"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}.part")
        if seconds > LOOP:
            _repeat(make_video(height, LOOP, gop, fps), part, seconds)
        else:
            _encode(part, height, seconds, gop, fps)
        part.rename(path)
    return path


def write_manifest(folder: str | Path, files: list[Path]) -> Path:
    """A manifest of files, in `folder`; returns its path."""
    manifest = Path(folder) / "videos.jsonl"
    write_rows(manifest, (Video(f"{number}-{file.name}", str(file.resolve())) for number, file in enumerate(files)))
    return manifest


def about(path: Path) -> str:
    """A file's size, rate and length, e.g. 1280x720 25 fps 2.1 Mb/s 20 s."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        seconds = float((file.duration or 0) / av.time_base)
        rate = 8e-6 * path.stat().st_size / seconds
        fps = float(stream.average_rate or 0)
        return f"{stream.width}x{stream.height} {fps:.3g} fps {rate:.2f} Mb/s {seconds:.0f} s"


def _version() -> str:
    """Files made by other versions of this code are not used."""
    return hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]


def _encode(path: Path, height: int, seconds: int, gop: int, fps: int) -> None:
    x264 = {"preset": "veryfast", "crf": "22", "bf": "2", "sc_threshold": "0"}
    with av.open(str(path), "w", format="mp4") as file:
        video = file.add_stream("libx264", rate=fps, options=x264)
        video.width, video.height, video.pix_fmt, video.gop_size = height * 16 // 9 // 2 * 2, height, "yuv420p", gop
        audio = file.add_stream("aac", rate=RATE, layout="stereo")
        packets = []
        for picture, _ in zip(_pictures(video.width, height, fps), range(seconds * fps), strict=False):
            packets += video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24"))
        sound = av.AudioFrame.from_ndarray(_sound(seconds), format="fltp", layout="stereo")
        sound.sample_rate = RATE
        packets += [*audio.encode(sound), *video.encode(), *audio.encode()]
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            file.mux(packet)


def _pictures(width: int, height: int, fps: int) -> Iterator[NDArray[np.uint8]]:
    """RGB frames (height, width, 3) without end."""
    rng = np.random.default_rng(0)
    scene, other = (_texture(rng, 2 * width, 2 * height) for _ in range(2))
    grain = rng.normal(0, GRAIN, (2 * height, 2 * width, 1)).round().astype(np.int16)
    phases, speeds = rng.uniform(0, 2 * np.pi, (PIECES, 2)), rng.uniform(0.3, 1.2, (PIECES, 2))
    side = height // 5
    for frame in count():
        time = frame / fps
        top, left = _place(0.15 * time, 0.1 * time, height, width)
        picture = scene[top : top + height, left : left + width].copy()
        for phase, speed in zip(phases, speeds, strict=True):
            top, left = _place(*(phase + speed * time), height - side, width - side)
            picture[top : top + side, left : left + side] = other[2 * top : 2 * top + side, left : left + side]
        top, left = rng.integers(height), rng.integers(width)
        noisy = picture + grain[top : top + height, left : left + width]
        yield noisy.clip(0, 255).astype(np.uint8)


def _place(a: float, b: float, height: int, width: int) -> tuple[int, int]:
    """A point of height x width that wanders with the angles a and b."""
    return int((1 + np.sin(a)) / 2 * height), int((1 + np.sin(b)) / 2 * width)


def _texture(rng: np.random.Generator, width: int, height: int) -> NDArray[np.int16]:
    """Clouds of all sizes (height, width, 3), each half as strong as those twice as large."""
    layers, cells = np.full((height, width, 3), 128.0, np.float32), 4
    while cells < height // 2:
        clouds = Image.fromarray(rng.integers(0, 256, (cells, 2 * cells, 3), np.uint8))
        layers += (np.asarray(clouds.resize((width, height), Image.Resampling.BICUBIC)) - 128.0) * (2 / cells**0.5)
        cells *= 2
    return layers.clip(0, 255).astype(np.int16)


def _sound(seconds: int) -> NDArray[np.float32]:
    """Two channels (2, samples): rustling that swells and ebbs, over a chord."""
    rng, time = np.random.default_rng(1), np.arange(seconds * RATE) / RATE
    rustle = rng.normal(0, 0.05, (2, len(time))) * (1 + np.sin(0.7 * time))
    chord = sum(0.1 * np.sin(2 * np.pi * pitch * time) for pitch in (220, 277, 330))
    return (rustle + chord).clip(-1, 1).astype(np.float32)


def _repeat(source: Path, path: Path, seconds: int) -> None:
    """Copy the packets of a file of LOOP seconds over and over, each time later, up to `seconds`."""
    with av.open(str(source)) as once, av.open(str(path), "w", format="mp4") as file:
        streams = {stream.index: file.add_stream_from_template(stream) for stream in once.streams}
        for turn in range(-(-seconds // LOOP)):
            once.seek(0)
            for packet in once.demux():
                time_base = packet.time_base
                late = packet.pts is None or packet.pts * time_base >= LOOP or packet.pts < 0 < turn
                if late or packet.pts * time_base + turn * LOOP >= seconds:
                    continue
                shift = int(turn * LOOP / Fraction(time_base))
                packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                packet.stream = streams[packet.stream_index]
                file.mux(packet)
