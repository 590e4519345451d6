"""What experts can ask of a video: frames, clips of frames, windows of sound."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

FASTEST = 1000.0  # samples a second that can be asked for; videos have fewer frames
LONGEST_CLIP = 1024  # frames, all of which are in memory at once


def exact(seconds: float) -> Fraction:
    """The decimal number that was written: 0.1 is a tenth, not the double next to it."""
    return Fraction(str(seconds))


@dataclass(frozen=True)
class Frames:
    """One frame every `every` seconds: the one on screen at k * every, for every time before the end."""

    every: float = 0.5

    def __str__(self) -> str:
        return f"1 frame every {self.every:g} s"


@dataclass(frozen=True)
class Clips:
    """Clips of `length` frames taken at `fps`, a new one every `hop` frames.

    Frame j of clip k is the one on screen at (k * hop + j) / fps seconds. Only whole clips count, but a
    video shorter than one clip gives one all the same, its last frame held.
    """

    length: int
    fps: float
    hop: int

    def __str__(self) -> str:
        return f"{self.length} frames at {self.fps:g} fps, every {self.hop / self.fps:g} s"


@dataclass(frozen=True)
class Audio:
    """Windows of mono sound at `rate` Hz: `window` seconds long, one every `hop` seconds.

    `context` more seconds come along for transforms that look past the window's end. Only whole
    windows count, but a track shorter than one gives one all the same, filled up with silence. With
    `rest`, what is left at the end makes a last window, as short as it is.
    """

    rate: int = 16_000
    window: float = 0.96
    hop: float = 0.96
    context: float = 0.0
    rest: bool = False

    def __str__(self) -> str:
        return f"{self.window:g} s of sound, every {self.hop:g} s"


Sampling = Frames | Clips | Audio
