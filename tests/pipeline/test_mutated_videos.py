"""Spoilt files: whatever their bytes say, each ends with rows or a reason, in little time and memory."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from benchmarks.mutation_sources import make_sources
from benchmarks.mutations import MUTATIONS, resized_sps
from data_manifests import Video
from extractors import Audio, Frames
from feature_store import VideoStatus
from pipeline.media import MOST_ELONGATED, MOST_PIXELS, unfit_size
from pipeline.sampling import Ended, Request, Sample, sample_video
from tests.decoders import LIBRARIES
from tests.media_files import Recipe, steady, write_media

SEEDS = range(3)
SECONDS = 1.0
ABSURD_RATES = (1, 99_999_989, 499_999_993)  # Hz; resampling from the last would take gigabytes
GB = 1 << 30


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_sources(tmp_path_factory.mktemp("sources"), SECONDS)


def small(frame: np.ndarray) -> torch.Tensor:
    assert frame.ndim == 3 and frame.dtype == np.uint8
    return torch.from_numpy(frame[:8, :8].copy())


def sampled(path: Path, decoder: str = "av") -> dict[str, VideoStatus]:
    """How the pictures and the sound of a file go; every row is checked to be counted."""
    requests = {"pictures": Request(Frames(0.25), small), "sound": Request(Audio(16_000, 0.25, 0.25), small)}
    rows = dict.fromkeys(requests, 0)
    ended: dict[str, VideoStatus] = {}
    for item in sample_video(Video("spoilt", str(path)), requests, decoder):
        if isinstance(item, Ended):
            ended[item.expert] = item.status
        else:
            assert isinstance(item, Sample) and item.row == rows[item.expert]
            rows[item.expert] += 1
    assert {name: status.rows for name, status in ended.items()} == {
        name: rows[name] if status.status in ("ok", "truncated") else 0 for name, status in ended.items()
    }
    return ended


def spoilt(sources: list[Path], how: str, seed: int) -> Iterator[tuple[Path, bytes]]:
    """A few files that can be spoilt so, with their new bytes."""
    random = Random(f"{how} {seed}")
    for source in random.sample(sources, len(sources)):
        content = MUTATIONS[how](random, source.read_bytes(), random.choice(sources).read_bytes())
        if content is not None:
            yield source, content


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("how", MUTATIONS)
def test_a_spoilt_file_has_rows_or_a_reason(sources: list[Path], how: str, seed: int, tmp_path: Path) -> None:
    source, content = next(spoilt(sources, how, seed))
    path = tmp_path / source.name
    path.write_bytes(content)
    for name, status in sampled(path).items():
        if status.status in ("failed", "truncated"):
            assert status.reason and len(status.reason) > 10, name
            assert "patches welcome" not in status.reason
            assert status.reason.isprintable()
        assert (status.status == "failed") == bool(status.stage)
        assert status.status != "ok" or status.rows


@pytest.mark.parametrize("decoder", LIBRARIES)
def test_other_decoders_are_asked_for_no_picture_that_is_too_large(tmp_path: Path, decoder: str) -> None:
    wide = write_media(tmp_path / "wide.mp4", steady(4), pictures=[np.zeros((16, 16 * 80, 3), np.uint8)] * 4)
    found = sampled(wide, decoder)["pictures"]
    assert (found.status, found.rows) == ("failed", 0)
    assert f"more than {MOST_ELONGATED} times" in str(found.reason)


# Sizes.


@pytest.mark.parametrize(
    ("width", "height", "fits"),
    [
        (1, 1, True),
        (7680, 4320, True),
        (4352, 8192, True),
        (8192, 8192, False),
        (640, 10, True),
        (641, 10, False),
        (10, 641, False),
        (2**31, 1, False),
    ],
)
def test_pictures_up_to_8k_that_are_no_ribbons_fit(width: int, height: int, fits: bool) -> None:
    assert (unfit_size(width, height) is None) == fits


def test_pixels_that_are_absurdly_wide_are_refused_before_the_picture_is_made(tmp_path: Path) -> None:
    data = write_media(tmp_path / "film.mp4", steady(5), Recipe("mpeg4")).read_bytes()
    for aspect in ((60, 1), (10_000, 1), (2**31 - 1, 1), (0, 0), (1, 60)):
        at = data.find(b"pasp") + 4
        path = tmp_path / "pixels.mp4"
        path.write_bytes(data[:at] + struct.pack(">II", *aspect) + data[at + 8 :])
        found = sampled(path)["pictures"]
        if aspect in ((0, 0), (1, 60)):  # none at all, and 1x48
            assert found.status == "ok"
        else:
            assert found.status == "failed"
            assert re.search("times the other|million pixels", str(found.reason))


# A process of its own, whose peak of memory is that of the files it samples; getrusage's would be that of who began it.
MEASURE = """
import re, sys
sys.path[:0] = [{root!r}, {root!r} + "/tests"]
from pathlib import Path
from tests.pipeline.test_mutated_videos import sampled
sampled(Path({good!r}))
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
before = peak()
for path in sys.argv[1:]:
    for name, status in sampled(Path(path)).items():
        print(path.rsplit("/")[-1], name, status.status, status.reason, sep="|")
print(before, peak())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads a process's peak of memory from /proc")
def test_pictures_and_rates_that_nobody_has_take_little_memory(sources: list[Path], tmp_path: Path) -> None:
    paths = []
    for seed in SEEDS:
        for source, content in spoilt(sources, "absurd size", seed):
            if source.name not in ("fragments.mp4", "h264.mp4"):  # the same as front.mp4
                paths.append(tmp_path / f"{len(paths)}-{source.name}")
                paths[-1].write_bytes(content)
    wav = bytearray(next(source for source in sources if source.suffix == ".wav").read_bytes())
    for rate in ABSURD_RATES:
        struct.pack_into("<I", wav, wav.find(b"fmt ") + 12, rate)
        paths.append(tmp_path / f"{rate}.wav")
        paths[-1].write_bytes(wav)
    script = MEASURE.format(root=str(Path(__file__).parents[2]), good=str(sources[0]))
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], stdout=subprocess.PIPE, text=True, check=True
    )
    *lines, peaks = done.stdout.splitlines()
    assert len(lines) == 2 * len(paths) > 40
    before, after = map(int, peaks.split())
    assert after - before < 0.3 * GB and after < 2 * GB
    assert sum("million pixels" in line for line in lines) > 5
    assert sum("which no recording has" in line for line in lines) == len(ABSURD_RATES)


@pytest.mark.parametrize(("profile", "number"), [("baseline", 66), ("high", 100)])
def test_a_sequence_parameter_set_is_given_another_size_and_keeps_the_rest(
    profile: str, number: int, tmp_path: Path
) -> None:
    """By which absurd sizes of H.264 are made: a size that it had before gives the bytes that it had before."""
    options = {"profile": profile, "8x8dct": "1" if profile == "high" else "0"}
    data = write_media(tmp_path / "film.mp4", steady(3), Recipe(options=options, bframes=0)).read_bytes()
    at = data.find(b"avcC") + 10
    parameters = data[at + 2 : at + 2 + int.from_bytes(data[at : at + 2], "big")]
    assert parameters[1] == number
    assert resized_sps(resized_sps(parameters, 1008, 1008), 4, 3).rstrip(b"\0") == parameters.rstrip(b"\0")
    assert MOST_PIXELS < (16 * 1008) ** 2
