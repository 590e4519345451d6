"""Which pictures are damaged: those that a decoder flags or cannot make, and those after them that may refer to them.

Decoders hide damage: they fill in what they cannot read from pictures nearby, and go on. FFmpeg flags the pictures it
has so mended, but not those that are then made from them.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from av.video.frame import PictureType

MOST_HELD = 8  # B-frames held until the frame after them, which they may refer to, is known
# Codecs whose B-frames may be referred to, or are not told from others; those of MPEG-1 to MPEG-4 and VC-1 never are.
B_FRAMES_REFERRED_TO = {"h264", "hevc", "vvc"}


@dataclass
class Judged:
    """A frame and when it is presented, in ticks; without a frame, that of a packet that gave none."""

    frame: Any | None
    at: int
    damage: str | None  # what is wrong, and where that began


class DamageTracker:
    """Frames in, in the order in which they are presented; the same frames out, a few later, with their damage."""

    def __init__(self, context: Any, tick: Fraction) -> None:
        self._context, self._tick = context, tick
        self.reset()

    def reset(self) -> None:
        """What comes next refers to nothing before it."""
        self._packets: list[tuple[int, str]] = []  # that are damaged, in the order of their presentation
        self._held: list[Judged] = []
        self._damage: str | None = None  # of what is referred to by the next frame, as far as is known

    def note(self, at: int, reason: str) -> None:
        """The packet to be presented then is damaged or could not be decoded."""
        insort(self._packets, (at, f"{reason} at {self._seconds(at):.2f} s"))

    def judge(self, frame: Any, at: int) -> Iterator[Judged]:
        """Take the next frame; yield those that are now decided."""
        damage = None
        while self._packets and self._packets[0][0] <= at:
            begins, reason = self._packets.pop(0)
            if begins < at:
                yield from self._place(None, begins, reason)
            else:
                damage = damage or reason
        if frame.is_corrupt:
            damage = damage or f"a damaged picture at {self._seconds(at):.2f} s"
        yield from self._place(frame, at, damage)

    def rest(self) -> Iterator[Judged]:
        """What is left when no frame will follow."""
        packets, self._packets = self._packets, []
        for begins, reason in packets:
            yield from self._place(None, begins, reason)
        held, self._held = self._held, []
        yield from held

    def _place(self, frame: Any | None, at: int, damage: str | None) -> Iterator[Judged]:
        kind = PictureType.NONE if frame is None else frame.pict_type
        alone = kind == PictureType.B and self._context.name not in B_FRAMES_REFERRED_TO
        if damage and not alone:
            self._damage = self._damage or damage
        if damage and kind != PictureType.B:  # the B-frames just before it were decoded after it
            for judged in self._held:
                judged.damage = judged.damage or damage
        if frame is not None and not damage and frame.key_frame and kind in (PictureType.NONE, PictureType.I):
            self._damage = None
        self._held.append(Judged(frame, at, damage if alone and damage else self._damage))
        waiting = MOST_HELD if kind == PictureType.B and self._context.has_b_frames else 0
        while len(self._held) > waiting:
            yield self._held.pop(0)

    def _seconds(self, ticks: int) -> float:
        return float(ticks * self._tick)
