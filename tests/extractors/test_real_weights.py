"""Features and words computed with published weights, against what other programs computed of the same frames.

`goldens/real_answers.json` holds, for seconds of real clips, the norm and the first numbers of EfficientNet-Lite0's
pooled feature as timm computes it, and the texts and confidences that EasyOCR reads. `real_weights.py` beside the
tests fills the folder that REELCACHE_REAL_WEIGHTS names; the clips lie there or in REELCACHE_REFERENCE, at any depth.
"""

from __future__ import annotations

import json
import os
import zipfile
from hashlib import sha256
from pathlib import Path
from typing import Any

import av
import easyocr
import numpy as np
import pytest
import timm
import torch
from PIL import Image, ImageDraw
from timm.data import create_transform, resolve_data_config

from command import reelcache
from feature_store import FeatureStore

MODEL = "tf_efficientnet_lite0.in1k"
EXPERT = f"timm:{MODEL}"
SURE = 0.9  # confidence from which a text must be read
ANSWERS = json.loads(Path(__file__).parents[1].joinpath("goldens", "real_answers.json").read_text())
WEIGHTS = os.environ.get("REELCACHE_REAL_WEIGHTS", "")
FOLDERS = [Path(folder) for folder in (WEIGHTS, os.environ.get("REELCACHE_REFERENCE", "")) if folder]

pytestmark = pytest.mark.skipif(
    not (WEIGHTS and Path(WEIGHTS).is_dir()),
    reason="REELCACHE_REAL_WEIGHTS names no folder: fill one with `python tests/real_weights.py FOLDER`",
)


def find_clip(answer: dict[str, Any]) -> Path | None:
    """The file with a clip's name, or a name that ends so, and its digest."""
    found = (path for folder in FOLDERS for path in sorted(folder.rglob(f"*{answer['clip']}")))
    return next((path for path in found if sha256(path.read_bytes()).hexdigest() == answer["sha256"]), None)


def extracted(folder: Path, rows: list[dict[str, Any]]) -> FeatureStore:
    """A store of the videos of a manifest's rows, with a frame a second."""
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = ["--set", f"{EXPERT}.every=1", "--weights", WEIGHTS, "--device", "cpu"]
    reelcache("extract", folder / "corpus.jsonl", folder / "s.zarr", "--experts", f"{EXPERT},ocr", *options)
    return FeatureStore(folder / "s.zarr")


def words_at(store: FeatureStore, video: str, time: float) -> list[str]:
    return [word["text"] for word in store["ocr"].records(video) if word["start"] <= time < word["end"]]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store of the clips that are found, each up to the last second that has an answer."""
    rows = [
        {"id": answer["clip"], "path": str(path), "end": answer["answers"][-1]["time"] + 1}
        for answer in ANSWERS
        if (path := find_clip(answer))
    ]
    return extracted(tmp_path_factory.mktemp("clips"), rows)


@pytest.fixture(scope="module", params=ANSWERS, ids=lambda answer: answer["clip"])
def answer(request: pytest.FixtureRequest) -> dict[str, Any]:
    if find_clip(request.param) is None:
        where = "neither in REELCACHE_REAL_WEIGHTS nor in REELCACHE_REFERENCE"
        pytest.skip(f"the clip is {where}: get it from {request.param['source']}")
    found: dict[str, Any] = request.param
    return found


def test_features_of_real_clips_equal_the_reference(answer: dict[str, Any], clips: FeatureStore) -> None:
    features = clips[EXPERT].read(answer["clip"])
    for expected in answer["answers"]:
        row = features.values[expected["time"]]
        assert np.linalg.norm(row) == pytest.approx(expected["norm"], rel=0.01)
        assert row[:8] == pytest.approx(expected["first"], rel=0.02, abs=1e-4)  # the answers have five decimals


def test_every_sure_word_of_real_clips_is_read(answer: dict[str, Any], clips: FeatureStore) -> None:
    for expected in answer["answers"]:
        sure = [word for text, confidence in expected["texts"] if confidence >= SURE for word in text.split()]
        assert set(sure) <= set(words_at(clips, answer["clip"], expected["time"]))


def test_a_clip_made_here_gives_what_timm_and_easyocr_compute_of_its_frames(tmp_path: Path) -> None:
    """Needs no clips: texts are drawn, and both programs are given the frames that PyAV decodes."""
    texts = ["EXIT ONLY", "Welcome", "GATE 12"]
    draw_clip(tmp_path / "texts.mp4", texts)
    store = extracted(tmp_path, [{"id": "texts", "path": "texts.mp4"}])
    with av.open(str(tmp_path / "texts.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)][::2]  # of every second
    weights = {"file": str(Path(WEIGHTS, f"{MODEL}.safetensors"))}
    model = timm.create_model(MODEL, pretrained=True, pretrained_cfg_overlay=weights, num_classes=0).eval()
    transform = create_transform(**resolve_data_config({}, model=model))
    with torch.inference_mode():
        expected = model(torch.stack([transform(Image.fromarray(frame)) for frame in frames])).numpy()
    ours = store[EXPERT].read("texts").values
    assert np.abs(ours - expected).max() < 0.002 * np.abs(expected).max()  # they are stored as float16

    reader = easyocr.Reader(["en"], gpu=False, model_storage_directory=unzipped(tmp_path), verbose=False)
    for second, frame in enumerate(frames):
        sure = [
            word
            for _, text, confidence in reader.readtext(frame, canvas_size=960)
            if confidence >= SURE
            for word in text.split()
        ]
        assert " ".join(sure) == texts[second]
        assert words_at(store, "texts", second) == sure


def draw_clip(path: Path, texts: list[str]) -> None:
    """Two frames a second, a second a text."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", 2, options={"qscale": "2"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        stream.gop_size = 1
        for text in texts:
            image = Image.new("RGB", (640, 360), "navy")
            ImageDraw.Draw(image).text((120, 150), text, fill="white", font_size=40)
            for _ in range(2):
                container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())


def unzipped(folder: Path) -> str:
    """A folder with the networks as EasyOCR itself looks for them."""
    for name in ("craft_mlt_25k", "english_g2"):
        with zipfile.ZipFile(Path(WEIGHTS, f"{name}.zip")) as archive:
            archive.extractall(folder / "easyocr")
    return str(folder / "easyocr")
