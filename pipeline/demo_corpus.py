"""A demo corpus of real MP4 files whose captions and moments are true by construction.

Each video is a sequence of two to four events. In an event a coloured shape moves in one way, one
sound is heard and one word stands on screen; no two events of a video share any of these, so a
sentence about an event fits that event only. Video i depends on (seed, i) alone, to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from data_manifests.jsonl import write_rows
from data_manifests.rows import Caption, Moment, Video

FPS = 24
GOP = 2 * FPS  # frames from one key frame to the next, at most
MIN_FRAMES, MAX_FRAMES = 6 * FPS, 12 * FPS  # of a video
SAMPLE_RATE = 44_100  # Hz
PEAK = 0.5  # of full scale; the loudest sample of every sound
FADE_SECONDS = 0.01  # at both ends of a sound, so that borders do not click

WIDTH, HEIGHT = 320, 240  # px
STAGE_HEIGHT = 184  # px; shapes move above this line, words stand below it
SMALL, LARGE = 14, 86  # px; radius of a growing shape when it begins and ends
TURNS_PER_SECOND = 0.6  # of a spinning shape

SPLITS = ("train", "train", "train", "train", "val", "test")  # video i is in SPLITS[i % 6]
_PLAN, _CAPTIONS, _MOMENTS, _PICTURE, _SOUND = range(5)  # independent random streams of one video


def _polygon(corners: int, inner: float = 1.0, turn: float = 0.0) -> NDArray[np.float64]:
    """Corners (N, 2), x right and y down, at radius 1 and every second one at `inner`, from the top on."""
    angles = 2 * np.pi * (np.arange(corners) / corners + turn)
    radii = np.where(np.arange(corners) % 2, inner, 1.0)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)


COLOURS = {
    "red": (230, 30, 30),
    "green": (30, 200, 50),
    "blue": (40, 70, 240),
    "yellow": (245, 220, 30),
    "purple": (170, 40, 210),
    "white": (245, 245, 245),
}
SHAPES = {
    "circle": _polygon(48),
    "square": _polygon(4, turn=1 / 8),
    "triangle": _polygon(3),
    "star": _polygon(10, inner=0.4),
    "diamond": _polygon(4, inner=0.5),
}
MOTIONS = {
    "left": ("moves left", "slides to the left"),
    "right": ("moves right", "slides to the right"),
    "up": ("moves up", "rises to the top"),
    "down": ("moves down", "sinks to the bottom"),
    "spinning": ("spins", "turns around and around"),
    "growing": ("grows", "gets bigger and bigger"),
}
SOUNDS = {
    "hum": ("a low hum drones", "a deep hum is heard"),
    "beep": ("a high beep repeats", "high beeps are heard"),
    "sweep": ("a tone sweeps upward", "a rising tone is heard"),
    "rain": ("rain falls", "the noise of rain is heard"),
    "bell": ("a bell rings", "a ringing bell is heard"),
    "clicks": ("a clock ticks", "ticking clicks are heard"),
    "bird": ("a bird chirps", "a chirping bird is heard"),
}
WORDS = ("STOP", "OPEN", "FIRE", "MOON", "FISH", "BOOK", "EXIT", "GOLD", "TAXI", "MILK", "JAZZ", "HELP")
CLAUSES = (  # about one event; together they mention all that is in it, and all but the last its shape
    "{shape} {motion} while {sound}",
    "the word {word} appears as {shape} {motion}",
    "{sound} and {shape} {motion} above the word {word}",
    "{sound} while the word {word} is on screen",
)
JOINS = (", then ", "; after that ", ", and then ", "; next, ")  # one for each caption of a video


@dataclass(frozen=True, slots=True)
class Event:
    """What is seen and heard from one frame of a video up to another."""

    start: float  # s, from the video's first frame to the event's
    end: float  # s, from there to the frame after the event's last
    colour: str
    shape: str
    motion: str
    sound: str
    word: str
    radius: int  # px; of a shape that neither spins nor grows


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """All that decides a video: its events, in order and without gaps, and what its chance grows from."""

    id: str
    path: str  # from the manifest's folder
    split: str  # train, val or test
    events: tuple[Event, ...]
    entropy: tuple[int, int]  # (seed, index)


def make_demo_corpus(
    directory: Path, videos: int = 24, seed: int = 0, progress: Callable[[int], None] | None = None
) -> Path:
    """Write `videos` MP4 files of 6 to 12 seconds with their manifest, captions and moments.

    Into `directory` go `videos/<id>.mp4` (H.264 320x240 at 24 fps, AAC mono at 44.1 kHz),
    `captions.jsonl` (about whole videos), `moments.jsonl` (about events; seconds), both also by split in the folders
    `captions` and `moments`, as `reelcache manifest import` lays them out, and, last, `corpus.jsonl`, whose path is
    returned. `progress` is told the number of videos done after each.
    """
    directory = Path(directory)
    (directory / "videos").mkdir(parents=True, exist_ok=True)
    plans = [plan_video(index, seed) for index in range(videos)]
    for done, plan in enumerate(plans, 1):
        _write_mp4(plan, directory / plan.path)
        if progress:
            progress(done)
    for name, rows_of in (("captions", captions_of), ("moments", moments_of)):
        write_rows(directory / f"{name}.jsonl", (row for plan in plans for row in rows_of(plan)))
        _write_splits(directory / name, plans, rows_of)
    manifest = directory / "corpus.jsonl"
    write_rows(manifest, (_row(plan) for plan in plans))
    return manifest


def _write_splits(
    folder: Path, plans: Sequence[VideoPlan], rows_of: Callable[[VideoPlan], Iterator[Caption | Moment]]
) -> None:
    folder.mkdir(exist_ok=True)
    for split in dict.fromkeys(SPLITS):
        of_split = [plan for plan in plans if plan.split == split]
        write_rows(folder / f"{split}.jsonl", (row for plan in of_split for row in rows_of(plan)))
        (folder / f"{split}.videos.txt").write_text("".join(f"{plan.id}\n" for plan in of_split))


def plan_video(index: int, seed: int = 0) -> VideoPlan:
    """Decide what happens in video `index` of the corpus of `seed`, and when (whole frames, in seconds)."""
    rng = np.random.default_rng((seed, index, _PLAN))
    count = int(rng.integers(2, 5))
    shortest, longest = MIN_FRAMES // count + 1, MAX_FRAMES // count - 1
    lengths = [n for n in range(shortest, longest + 1) if 2 * n % FPS]  # no multiples of 0.5 s
    borders = (np.cumsum([0, *rng.choice(lengths, count)]) / FPS).tolist()

    def draw(names: Iterable[str]) -> list[str]:
        return [str(name) for name in rng.permutation(list(names))[:count]]

    shapes, motions = draw(SHAPES), draw(MOTIONS)
    while ("circle", "spinning") in zip(shapes, motions, strict=True):  # would look still
        motions = draw(MOTIONS)
    colours, sounds, words = draw(COLOURS), draw(SOUNDS), draw(WORDS)
    radii = rng.integers(42, 53, count).tolist()
    events = tuple(map(Event, borders[:-1], borders[1:], colours, shapes, motions, sounds, words, radii))
    name = f"demo{index:03d}"
    return VideoPlan(name, f"videos/{name}.mp4", SPLITS[index % len(SPLITS)], events, (seed, index))


def captions_of(plan: VideoPlan) -> Iterator[Caption]:
    """Yield four captions, each of all events in order.

    Event e of caption c is told in clause (c + e) % 4, so together they mention all of every event.
    """
    rng = np.random.default_rng((*plan.entropy, _CAPTIONS))
    for number, join in enumerate(JOINS):
        clauses = [_clause(event, number + place, rng) for place, event in enumerate(plan.events)]
        yield Caption(plan.id, join.join(clauses))


def moments_of(plan: VideoPlan) -> Iterator[Moment]:
    """Yield one or two sentences for each event, the first with its shape; times in seconds."""
    rng = np.random.default_rng((*plan.entropy, _MOMENTS))
    for event in plan.events:
        first, sentences = rng.integers(len(CLAUSES) - 1), rng.integers(1, 3)
        for number in range(first, first + sentences):
            yield Moment(
                plan.id, _clause(event, number, rng), event.start, event.end, {"duration": plan.events[-1].end}
            )


def _clause(event: Event, number: int, rng: np.random.Generator) -> str:
    return CLAUSES[number % len(CLAUSES)].format(
        shape=f"a {event.colour} {event.shape}",
        motion=rng.choice(MOTIONS[event.motion]),
        sound=rng.choice(SOUNDS[event.sound]),
        word=event.word,
    )


def _row(plan: VideoPlan) -> Video:
    return Video(plan.id, plan.path, meta={"split": plan.split, "events": [asdict(e) for e in plan.events]})


def _write_mp4(plan: VideoPlan, path: Path) -> None:
    """Encode so that the bytes are the same on each run: without dates, on one thread, and with SSE2.

    Left to choose, x264 takes AVX-512 where it can, and then we saw 1 encode in 40 come out different.
    """
    x264 = {"preset": "veryfast", "crf": "20", "bf": "2", "threads": "1", "x264-params": "asm=SSE2"}
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as file:
        video = file.add_stream("libx264", rate=FPS, options=x264)
        video.width, video.height, video.pix_fmt, video.gop_size = WIDTH, HEIGHT, "yuv420p", GOP
        audio = file.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        packets = []
        for number, picture in enumerate(_pictures(plan)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            packets += video.encode(frame)
        sound = av.AudioFrame.from_ndarray(_sound_track(plan)[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = SAMPLE_RATE, 0
        packets += audio.encode(sound)
        packets += video.encode() + audio.encode()  # what the encoders still hold
        for packet in sorted(packets, key=lambda packet: (packet.dts or 0) * packet.time_base):
            file.mux(packet)


def _pictures(plan: VideoPlan) -> Iterator[NDArray[np.uint8]]:
    """Yield RGB frames (H, W, 3), frame k as the video is k / FPS seconds after its first."""
    background = _background(np.random.default_rng((*plan.entropy, _PICTURE)))
    font = ImageFont.load_default(size=52)
    for event in plan.events:
        scene = background.copy()
        place = (WIDTH / 2, (STAGE_HEIGHT + HEIGHT) / 2)
        ImageDraw.Draw(scene).text(place, event.word, fill="white", font=font, anchor="mm")
        frames = round((event.end - event.start) * FPS)
        for frame in range(frames):
            mask = Image.new("L", (2 * WIDTH, 2 * STAGE_HEIGHT))  # twice as fine, for smooth edges
            corners = 2 * _corners(event, frame / FPS, frame / (frames - 1))
            ImageDraw.Draw(mask).polygon(corners.ravel().tolist(), fill=255)
            picture = scene.copy()
            picture.paste(COLOURS[event.colour], (0, 0), mask.reduce(2))
            yield np.asarray(picture)


def _background(rng: np.random.Generator) -> Image.Image:
    """A dark tint with clouds and grain."""
    tint = rng.uniform(30, 70, size=3)
    clouds = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    clouds = clouds.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
    grain = rng.normal(0, 3, (HEIGHT, WIDTH, 1))
    picture = tint + (np.asarray(clouds) / 255 - 0.5) * 40 + grain  # (H, W, 3)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def _corners(event: Event, age: float, done: float) -> NDArray[np.float64]:
    """Corners (N, 2) in px of the shape `age` seconds into its event; `done` goes from 0 to 1 in it."""
    across = {"left": 1 - done, "right": done}.get(event.motion, 0.5)
    down = {"up": 1 - done, "down": done}.get(event.motion, 0.5)
    sizes = {"growing": SMALL + (LARGE - SMALL) * done, "spinning": 0.85 * LARGE}
    radius = sizes.get(event.motion, event.radius)
    centre = radius + (np.array([WIDTH, STAGE_HEIGHT]) - 2 * radius) * (across, down)
    angle = 2 * np.pi * TURNS_PER_SECOND * age * (event.motion == "spinning")
    turn = np.array([(np.cos(angle), np.sin(angle)), (-np.sin(angle), np.cos(angle))])
    return np.asarray(centre + radius * SHAPES[event.shape] @ turn)


def _sound_track(plan: VideoPlan) -> NDArray[np.float32]:
    """Samples (N,) of a whole video in [-1, 1], sample n to be heard n / SAMPLE_RATE seconds in."""
    rng = np.random.default_rng((*plan.entropy, _SOUND))
    parts = []
    for event in plan.events:
        samples = round(event.end * SAMPLE_RATE) - round(event.start * SAMPLE_RATE)
        t = np.arange(samples) / SAMPLE_RATE
        wave = _wave(event.sound, t, rng.normal(size=samples).clip(-3, 3))
        fade = np.minimum(1, np.minimum(t, t[::-1]) / FADE_SECONDS)
        parts.append(PEAK * fade * wave / np.abs(wave).max())
    return np.concatenate(parts).astype(np.float32)


def _wave(sound: str, t: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Samples (N,) of a sound, at any level, at the times t (N,) in seconds since it began."""

    def sine(cycles: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.sin(2 * np.pi * cycles))

    match sound:
        case "hum":
            return sine(90 * t) + sine(180 * t) / 4 + sine(270 * t) / 9
        case "beep":
            return sine(2000 * t) * (t % 0.4 < 0.2)
        case "sweep":  # five octaves up from 150 Hz
            return sine(150 * 2 ** (5 * t / t[-1]) * t[-1] / (5 * np.log(2)))
        case "rain":
            return noise
        case "bell":  # struck every 0.8 s
            since = t % 0.8
            partials = (np.exp(-2 * p * since) * sine(440 * p * since) for p in (1, 2, 2.4, 3, 4, 5.3))
            return sum(partials, np.zeros_like(t))
        case "clicks":
            return noise * np.exp(-(t % 0.16) / 0.004)
        case "bird":  # every 0.2 s a chirp of 0.12 s, falling from 5500 Hz to 3100 Hz
            since = (t % 0.2).clip(max=0.12)
            return sine(since / 0.24) ** 2 * sine((5500 - 10_000 * since) * since)
    raise KeyError(sound)
