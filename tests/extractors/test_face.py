"""Faces: found by the real MTCNN, which ships inside its package, and told apart by a network."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from PIL import Image
from skimage.data import astronaut

from extractors import ExpertError, Finding, TimedSample, load_expert
from extractors.face import Face, FaceFinder


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    network = load_expert(Face(), "random").network
    assert isinstance(network, FaceFinder)
    return network


def look(finder: FaceFinder, *frames: np.ndarray) -> list[Finding]:
    samples = [
        TimedSample(torch.from_numpy(frame), number * 0.5, number * 0.5 + 0.5) for number, frame in enumerate(frames)
    ]
    with torch.inference_mode():
        watch = finder.watch()
        return watch.look(samples) + watch.finish()


def crowd(columns: int, rows: int, size: int = 100) -> np.ndarray:
    """One face, columns x rows times."""
    face = Image.fromarray(astronaut()[20:220, 120:320]).resize((size, size))
    return np.tile(np.array(face), (rows, columns, 1))


def test_faces_are_those_of_facenets_own_classes(finder: FaceFinder) -> None:
    [found] = look(finder, astronaut())
    theirs = MTCNN(keep_all=True)
    image = Image.fromarray(astronaut())
    boxes, probabilities, landmarks = theirs.detect(image, landmarks=True)
    np.testing.assert_allclose(found.record["box"], boxes[0].astype(float), atol=0.01)
    np.testing.assert_allclose(found.record["landmarks"], landmarks[0].astype(float), atol=0.01)
    assert found.record["probability"] == pytest.approx(probabilities[0], abs=1e-3) and found.record["size"] == [
        512,
        512,
    ]
    with torch.inference_mode():
        expected = finder.embedder(theirs(image))[0].numpy()
    np.testing.assert_allclose(found.feature, expected, atol=1e-5)
    assert np.linalg.norm(found.feature) == pytest.approx(1, abs=1e-5)


def test_a_crowd_is_found_face_by_face(finder: FaceFinder) -> None:
    found = look(finder, crowd(6, 5))
    assert len(found) >= 30
    cells = {(int(face.record["box"][0] + 30) // 100, int(face.record["box"][1] + 30) // 100) for face in found}
    assert cells == {(column, row) for column in range(6) for row in range(5)}


def test_rows_come_frame_by_frame_with_their_times(finder: FaceFinder) -> None:
    nobody = np.zeros((200, 300, 3), np.uint8)
    found = look(finder, crowd(2, 1, 150), nobody[:150], crowd(2, 1, 150))
    assert [(face.start, face.end) for face in found] == [(0.0, 0.5)] * 2 + [(1.0, 1.5)] * 2
    assert look(finder, nobody, nobody) == []


def test_a_face_does_not_depend_on_the_frames_looked_at_beside_it(finder: FaceFinder) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (512, 512, 3), dtype=np.uint8)
    [alone] = look(finder, astronaut())
    among = [face for face in look(finder, noise, astronaut(), noise) if face.start == 0.5]
    assert [face.record for face in among] == [alone.record]
    np.testing.assert_allclose(among[0].feature, alone.feature, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (19, 500), (20, 20), (21, 33), (500, 12)])
def test_frames_too_small_for_a_face_have_none(finder: FaceFinder, height: int, width: int) -> None:
    assert look(finder, np.full((height, width, 3), 128, np.uint8)) == []


def test_a_stream_may_change_the_size_of_its_frames(finder: FaceFinder) -> None:
    found = look(finder, astronaut(), crowd(1, 1, 200), astronaut())
    assert [face.start for face in found] == [0.0, 0.5, 1.0]
    assert found[1].record["size"] == [200, 200]


def test_memory_bounds_how_many_frames_are_looked_at_together(finder: FaceFinder) -> None:
    assert finder.group(torch.empty(144, 176, 3)) == 32
    assert finder.group(torch.empty(1080, 1920, 3)) == 4
    assert finder.group(torch.empty(4320, 7680, 3)) == 1


@pytest.mark.parametrize("options", [{"every": 0}, {"every": float("nan")}, {"min_face": 11}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ExpertError, match=r"every must be at least 0\.001"):
        Face(**options)


REFERENCE = Path(os.environ.get("REELCACHE_REFERENCE", ""))
BOXES = next(REFERENCE.rglob("mtcnn_boxes.json"), None) if "REELCACHE_REFERENCE" in os.environ else None


@pytest.mark.skipif(
    BOXES is None or not shutil.which("ffmpeg"),
    reason="needs ffmpeg, and in REELCACHE_REFERENCE a folder with mtcnn_boxes.json and its clips",
)
def test_faces_of_real_clips_are_where_facenets_own_run_found_them(finder: FaceFinder) -> None:
    assert BOXES
    for place, expected in json.loads(BOXES.read_text())["results"].items():
        clip, seconds = place.rsplit("@", 1)
        found = look(finder, frame_at(next(REFERENCE.rglob(Path(clip).name)), seconds.rstrip("s")))
        boxes = [face.record["box"] for face in found]
        np.testing.assert_allclose(boxes, expected["boxes"], atol=0.1, err_msg=place)


def frame_at(clip: Path, seconds: str) -> np.ndarray:
    """The frame that `ffmpeg -ss` gives."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-ss",
        seconds,
        "-i",
        clip,
        "-frames:v",
        "1",
        "-f",
        "image2pipe",
        "-c:v",
        "png",
        "-",
    ]
    png = subprocess.run(command, check=True, capture_output=True).stdout
    return np.array(Image.open(io.BytesIO(png)).convert("RGB"))
