"""Small corpora for tests of whole runs: generated files, and experts that are quick on two cores."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

from data_manifests import Video, write_rows
from extractors import Expert, find_experts

SIZE = 96, 64  # pixels
FPS = 12
RATE = 16_000  # Hz

QUICK = {"timm:test_resnet": {}, "s3d": {"resize": 40, "crop": 32}}
QUICK_OPTIONS = ["--set", "s3d.resize=40", "--set", "s3d.crop=32"]


def quick_experts() -> list[Expert]:
    return find_experts(QUICK, QUICK)


def write_video(path: Path, seconds: float, seed: int, sound: bool = True) -> None:
    """A moving square over noise in MPEG-4 Part 2, and a tone: cheap to write and deterministic."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 90, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", FPS)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio = container.add_stream("aac", RATE, layout="mono") if sound else None
        for number in range(round(seconds * FPS)):
            image = noise.copy()
            left = (number * 5 + seed * 7) % (SIZE[0] - 20)
            image[20:40, left : left + 20] = random.integers(100, 255, 3)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        if audio:
            tone = np.sin(np.arange(round(seconds * RATE)) * (200 + 50 * seed) * 2 * np.pi / RATE) / 2
            frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = RATE
            container.mux([*audio.encode(frame), *audio.encode()])


def make_corpus(folder: Path, videos: int = 6) -> Path:
    """Sound videos of 1 to 3 s, and, from the third on, a broken, a silent and a truncated one among them."""
    rows = []
    for number in range(videos):
        path = folder / f"v{number}.mp4"
        write_video(path, 1.0 + number * 0.7 % 2.1, number, sound=number != 3)
        if number == 2:
            path.write_bytes(b"no video at all")
        rows.append(Video(f"video {number}", str(path)))
    manifest = folder / "corpus.jsonl"
    write_rows(manifest, rows)
    return manifest
