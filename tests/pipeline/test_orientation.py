"""Pictures are shown the way up that the display matrix asks for, as ffmpeg and players do."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from av.sidedata.sidedata import Type
from hypothesis import given
from hypothesis import strategies as st

from pipeline.backends import read_index
from pipeline.decode import Picture, Playback
from pipeline.media import open_media, probe
from pipeline.orientation import Orientation, orientation
from tests.media_files import Recipe, steady, write_media

ONE = 1 << 16
# a, b, c, d of the matrix: the pixel at x, y is shown at a * x + c * y, b * x + d * y. As coded, the quarters are
# red, green in the upper row and blue, white in the lower one; what ffmpeg's autorotate makes of them, in that order.
EIGHT = {
    (1, 0, 0, 1): "RGBW",
    (-1, 0, 0, 1): "GRWB",
    (-1, 0, 0, -1): "WBGR",
    (1, 0, 0, -1): "BWRG",
    (0, 1, 1, 0): "RBGW",
    (0, 1, -1, 0): "BRWG",
    (0, -1, -1, 0): "WGBR",
    (0, -1, 1, 0): "GWRB",
}
NONE = {"singular": (0, 0, 0, 0), "flat": (1, 1, 1, 1), "slanted": (0.7, 0.7, -0.7, 0.7)}


def matrix(a: float, b: float, c: float, d: float) -> list[int]:
    return [round(a * ONE), round(b * ONE), 0, round(c * ONE), round(d * ONE), 0, 0, 0, 1 << 30]


def write(path: Path, a: float, b: float, c: float, d: float) -> Path:
    picture = np.full((48, 96, 3), 30, np.uint8)
    picture[:24, :48, 0] = picture[:24, 48:, 1] = picture[24:, :48, 2] = 220
    picture[24:, 48:] = 220
    return write_media(path, steady(5), Recipe(matrix=matrix(a, b, c, d)), pictures=[picture] * 5)


def shown(path: Path) -> np.ndarray:
    with open_media(str(path)) as container:
        (picture,) = Playback(container, iter([Fraction(0)]), None)
    assert isinstance(picture, Picture)
    return picture.pixels


def quarters(rgb: np.ndarray) -> str:
    height, width = rgb.shape[:2]
    spots = [rgb[y * height // 4, x * width // 4] for y in (1, 3) for x in (1, 3)]
    return "".join("W" if spot.min() > 150 else "RGB"[int(spot.argmax())] for spot in spots)


@pytest.mark.parametrize(("entries", "expected"), EIGHT.items())
def test_all_eight_orientations_are_shown_as_players_show_them(
    tmp_path: Path, entries: tuple[int, ...], expected: str
) -> None:
    path = write(tmp_path / "film.mp4", *entries)
    pixels = shown(path)
    assert quarters(pixels) == expected
    assert pixels.flags.c_contiguous
    assert pixels.shape == ((48, 96, 3) if entries[0] else (96, 48, 3))
    found = probe(str(path))
    assert (found.height, found.width) == pixels.shape[:2]
    assert bool(found.mirrored) == (entries[0] * entries[3] - entries[1] * entries[2] < 0)
    upright = found.rotation == 0 and not found.mirrored
    assert upright == (expected == "RGBW")
    assert (read_index(str(path)) is not None) == upright  # other libraries show mirrored pictures in their own ways


@pytest.mark.parametrize("entries", NONE.values(), ids=list(NONE))
def test_a_matrix_that_is_no_orientation_is_passed_over(tmp_path: Path, entries: tuple[float, ...]) -> None:
    assert quarters(shown(write(tmp_path / "film.mp4", *entries))) == "RGBW"


def frame_with(data: list[int]) -> Any:
    return SimpleNamespace(side_data={Type.DISPLAYMATRIX: np.array(data, np.int32).tobytes()})


@given(
    entries=st.sampled_from(list(EIGHT)),
    width=st.integers(100, 30_000),
    height=st.integers(100, 30_000),
    slant=st.integers(-1, 1),
)
def test_scales_and_rounding_in_a_matrix_do_not_matter(
    entries: tuple[int, ...], width: int, height: int, slant: int
) -> None:
    a, b, c, d = entries
    scaled = [a * width + (slant if b else 0), b * width, 0, c * height, d * height, 0, 5, -7, 1 << 30]
    assert orientation(frame_with(scaled)) == orientation(frame_with(matrix(*entries)))


class StrangeFrame:
    """A frame with side data that PyAV does not know: it then lists none."""

    def __init__(self, rotation: int) -> None:
        self.rotation = rotation

    @property
    def side_data(self) -> Any:
        raise ValueError("29 is not a valid Type")


@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (-180, 2), (-90, 3), (45, 0), (-(2**31), 0)])
def test_beside_side_data_that_pyav_does_not_know_the_angle_counts(degrees: int, turns: int) -> None:
    assert orientation(StrangeFrame(degrees)) == Orientation(turns)
