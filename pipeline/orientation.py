"""Which way up a picture is shown: the eight orientations that a display matrix may ask for."""

from __future__ import annotations

from dataclasses import dataclass
from math import radians, tan
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type

SLANT = tan(radians(1))  # by how much an axis may be off and still count as upright, as with ffmpeg


@dataclass(frozen=True)
class Orientation:
    """How to make a decoded picture upright: mirror it left to right if `mirrored`, then turn it by `turns`."""

    turns: int = 0  # by 90 degrees counterclockwise, 0 to 3
    mirrored: bool = False

    def upright(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) as decoded -> (H, W, 3) or (W, H, 3) as shown, contiguous."""
        return np.ascontiguousarray(np.rot90(pixels[:, ::-1] if self.mirrored else pixels, self.turns))


def orientation(frame: Any) -> Orientation:
    """What a frame's display matrix asks for, as ffmpeg and players apply it; slanted and singular ones count as none.

    The matrix brings the pixel in column x and row y to column a * x + c * y and row b * x + d * y, but for its offset.
    """
    try:
        data = frame.side_data.get(Type.DISPLAYMATRIX)
    except ValueError:  # PyAV refuses to list side data when there is a kind among them that it does not know
        return Orientation(frame.rotation // 90 % 4 if frame.rotation % 90 == 0 and abs(frame.rotation) <= 360 else 0)
    if data is None:
        return Orientation()
    a, b, _, c, d, *_ = memoryview(data).cast("i")
    mirrored = a * d < b * c
    if mirrored:
        a, b = -a, -b  # what is left is a turn
    for turns, (along, across) in enumerate([(a, b), (-b, a), (-a, b), (b, a)]):
        if a * d != b * c and along > 0 and abs(across) <= SLANT * along:
            return Orientation(turns, mirrored)
    return Orientation()
