"""OCR: EasyOCR's own rules and networks, batched; and how long a word stands on screen.

No weights that find text can be had in tests, so that a network stands in for CRAFT which marks bright pixels.
"""

from __future__ import annotations

import warnings
from typing import Any

import cv2
import easyocr
import numpy as np
import pytest
import torch
from easyocr.detection import get_textbox
from easyocr.utils import CTCLabelConverter
from PIL import Image, ImageDraw
from torch import Tensor, nn

from extractors import ExpertError, Finding, TimedSample, find_experts, load_expert
from extractors.ocr import OCR, Text, TextFinder, TextWatch, _split, open_reader
from extractors.words import HashedVectors


class Ink(nn.Module):
    """Stands in for CRAFT: bright pixels, spread a little, are text; nothing is linked."""

    def __init__(self) -> None:
        super().__init__()
        self.spread = nn.MaxPool2d((3, 9), stride=1, padding=(1, 4))

    def forward(self, images: Tensor) -> tuple[Tensor, None]:
        ink = (images.mean(1, keepdim=True) > 1.0).float()  # (B, 1, H, W)
        text = self.spread(nn.functional.max_pool2d(ink, 2))[:, 0]
        return torch.stack([text, torch.zeros_like(text)], -1), None  # (B, H / 2, W / 2, 2)


def card(*texts: tuple[int, int, str], size: tuple[int, int] = (640, 360), font: int = 32) -> np.ndarray:
    """White texts at (x, y) on dark gray, (H, W, 3)."""
    image = Image.new("L", size, 30)
    draw = ImageDraw.Draw(image)
    for x, y, text in texts:
        draw.text((x, y), text, fill=255, font_size=font)
    return np.array(image.convert("RGB"))


@pytest.fixture(scope="module")
def finder() -> TextFinder:
    finder = load_expert(OCR(least=0.0), "random").network
    assert isinstance(finder, TextFinder)
    finder.detector = Ink()
    with torch.no_grad():
        finder.reading.Prediction.weight.mul_(400)  # so that it reads something, whatever that is
    return finder


TEXTS = card((40, 30, "EXIT"), (300, 30, "HELLO"), (60, 120, "A LONGER LINE OF TEXT 42"), (20, 250, "il"))


def test_texts_are_those_that_easyocr_reads_with_the_same_networks(finder: TextFinder) -> None:
    theirs = easyocr.Reader(["en"], gpu=False, detector=False, recognizer=False, download_enabled=False, verbose=False)
    theirs.detector, theirs.get_textbox, theirs.recognizer = finder.detector, get_textbox, finder.reading
    theirs.converter = CTCLabelConverter(theirs.character)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs.readtext(TEXTS, canvas_size=960)
        [read] = finder.read(TEXTS[None])
    assert len(expected) >= 4
    ours = sorted((text.box.tolist(), text.text, text.confidence) for text in read)
    kept = sorted(
        (np.array(box, float).tolist(), text, confidence) for box, text, confidence in expected if text.strip()
    )
    assert [text[:2] for text in ours] == [text[:2] for text in kept]
    np.testing.assert_allclose([text[2] for text in ours], [text[2] for text in kept], atol=1e-5)


def test_a_text_does_not_depend_on_what_is_read_beside_it(finder: TextFinder) -> None:
    other = card((20, 60, "MANY OTHER WORDS OF ALL LENGTHS"), (90, 200, "HELLO"), (300, 200, "EXIT"))
    with torch.inference_mode():
        alone = finder.read(TEXTS[None])[0]
        among = finder.read(np.stack([other, TEXTS, other]))[1]
    assert [text.text for text in among] == [text.text for text in alone]
    np.testing.assert_allclose(
        [text.confidence for text in among], [text.confidence for text in alone], rtol=1e-4, atol=1e-6
    )


def test_two_hundred_words_are_found(finder: TextFinder) -> None:
    places = [(40 + 120 * column, 15 + 34 * row) for column in range(10) for row in range(20)]
    page = card(*((x, y, "word") for x, y in places), size=(1280, 720), font=24)
    with torch.inference_mode():
        [read] = finder.read(page[None])
    centers = {(round((text.box[0, 0] - 40) / 120), round((text.box[0, 1] - 15) / 34)) for text in read}
    assert len(centers) >= 195


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 300), (300, 3), (17, 31)])
def test_frames_of_any_size_are_read(finder: TextFinder, width: int, height: int) -> None:
    with torch.inference_mode():
        for level in (0, 255):
            finder.read(np.full((1, height, width, 3), level, np.uint8))


def test_black_frames_have_no_words(finder: TextFinder) -> None:
    assert look(finder, np.zeros((90, 160, 3), np.uint8), np.zeros((90, 160, 3), np.uint8)) == []


class Scripted(TextFinder):
    """Reads what a frame's brightness says, and counts how often it reads."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.vectors, self.dim, self.reads = HashedVectors(), 300, 0

    def read(self, frames: np.ndarray) -> list[list[Text]]:
        self.reads += len(frames)
        box = np.array([[0, 0], [10, 0], [10, 5], [0, 5]], float)
        return [[Text(f"T{int(frame.mean())}", box, 0.9)] if frame.mean() > 0 else [] for frame in frames]


def look(finder: TextFinder, *frames: np.ndarray, together: int = 3) -> list[Finding]:
    samples = [TimedSample(torch.from_numpy(frame), number, number + 1) for number, frame in enumerate(frames)]
    watch = TextWatch(finder)
    with torch.inference_mode():
        groups = [watch.look(samples[first : first + together]) for first in range(0, len(samples), together)]
    return [finding for group in [*groups, watch.finish()] for finding in group]


def gray(level: int, noise: int = 0) -> np.ndarray:
    frame = np.full((48, 64, 3), level, np.int16)
    return (frame + np.random.default_rng(noise).integers(-noise, noise + 1, frame.shape)).astype(np.uint8)


@pytest.mark.parametrize("together", [1, 2, 3, 20])
def test_a_frame_like_the_last_one_is_not_read_again_and_its_words_last(together: int) -> None:
    finder = Scripted()
    frames = [gray(60), gray(60, 4), gray(60), gray(90), gray(0), gray(0), gray(60), gray(61)]
    found = look(finder, *frames, together=together)
    assert [(word.record["text"], word.start, word.end) for word in found] == [
        ("T60", 0, 3),
        ("T90", 3, 4),
        ("T60", 6, 8),
    ]
    assert finder.reads == 4


def test_one_letter_more_is_read() -> None:
    finder = Scripted()
    look(finder, card((40, 30, "EXIT"), font=12), card((40, 30, "EXITS"), font=12))
    assert finder.reads == 2


def test_what_changes_slowly_is_read_when_it_has_changed_enough() -> None:
    finder = Scripted()
    look(finder, *(gray(60 + step) for step in range(15)))
    assert finder.reads == 3


def test_a_stream_may_change_the_size_of_its_frames() -> None:
    found = look(Scripted(), gray(60), np.full((20, 30, 3), 90, np.uint8), gray(60))
    assert [word.record["size"] for word in found] == [[64, 48], [30, 20], [64, 48]]


def test_a_line_is_split_into_words_with_their_share_of_its_box() -> None:
    box = np.array([[0, 0], [100, 0], [100, 20], [0, 20]], float)
    assert list(_split(Text("GO  to it ", box, 1.0))) == [
        ("GO", [[0, 0], [20, 0], [20, 20], [0, 20]]),
        ("to", [[40, 0], [60, 0], [60, 20], [40, 20]]),
        ("it", [[70, 0], [90, 0], [90, 20], [70, 20]]),
    ]


@pytest.mark.parametrize(
    ("languages", "file"), [("en", "english_g2"), ("en,fr", "latin_g2"), ("ch_sim, en", "zh_sim_g2"), ("th", "thai")]
)
def test_languages_choose_the_network(languages: str, file: str) -> None:
    assert OCR(languages=languages).weights.files[1].name == f"{file}.zip"
    network = OCR(languages=languages)._reading_network()
    assert network.Prediction.out_features == len(open_reader(languages)[0].character) + 1


@pytest.mark.parametrize(
    "options", [{"languages": "xx"}, {"languages": "ja,fr"}, {"every": 0}, {"canvas": 1}, {"least": 2}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ExpertError):
        find_experts(["ocr"], {"ocr": options})


def test_the_detector_is_easyocrs_own() -> None:
    frame = cv2.resize(TEXTS, (320, 192))
    network = load_expert(OCR(), "random").network
    from easyocr.craft import CRAFT

    theirs = CRAFT()
    theirs.load_state_dict(network.detector.state_dict())
    pixels = torch.from_numpy(frame.copy()).permute(2, 0, 1)[None].float()
    with torch.inference_mode():
        torch.testing.assert_close(network.detector(pixels)[0], theirs.eval()(pixels)[0], atol=1e-5, rtol=1e-5)
