"""OCR: the words that frames show, where and how long; one row a word.

EasyOCR's networks and rules: CRAFT finds text (Baek et al., CVPR 2019), a CRNN reads it (Shi et al., TPAMI
2017). Its own loader would unpickle whatever a file of weights holds, and download by itself; here only tensors
are read. A text is read at its own width whatever else is read with it, as EasyOCR does on a CPU.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import inf
from pathlib import Path
from typing import Any

import cv2
import easyocr
import numpy as np
import torch
from bidi import get_display
from easyocr.config import MODULE_PATH, detection_models, recognition_models
from easyocr.craft import CRAFT
from easyocr.detection import get_textbox
from easyocr.recognition import AlignCollate, recognizer_predict
from easyocr.utils import CTCLabelConverter, get_image_list
from PIL import Image
from torch import Tensor, nn

from extractors.checkpoints import fill, state_of
from extractors.images import stacks
from extractors.sampling import FASTEST, Frames
from extractors.spec import PLACE, ExpertError, Finder, Finding, TimedSample, Weights, WeightsFile, channels_last
from extractors.weights import find_file, unreadable, why
from extractors.words import WordVectors, find_word_vectors

TEXT_HEIGHT = 64  # pixels at which a text is read
READ_TOGETHER = 64  # texts
UNSURE, CONTRAST = 0.1, 0.5  # a text that is read with less confidence is read again with that contrast
LOOK_FRAMES, LOOK_PIXELS = 16, {"cpu": 1 << 20, "cuda": 1 << 24}  # at once, at most
BLOCK, SAME = 8, 6  # frames count as the same if no block of 8 x 8 pixels changes its mean by more than 6 of 255
LARGEST = 1 << 30  # bytes of a network's parameters; EasyOCR's have 220 MB at most
CHANNELS = {"gen1": 512, "gen2": 256}  # of the reading network, by EasyOCR's generations of it
NETWORKS = {"gen1": "easyocr.model.model", "gen2": "easyocr.model.vgg_model"}


@dataclass(frozen=True)
class OCR:
    """Words on screen, as word vectors: a row a word, from the frame that shows it first to the last one alike.

    `languages` are EasyOCR's codes with commas between; `canvas` is the longest side, in pixels, at which text is
    looked for; `least` is the confidence below which a text is left out; `words` is a file of word vectors, without
    which they are hashed. A record holds the `text`, its `box` (four corners [x, y] from the top left, clockwise, in
    pixels of a frame of `size` [width, height]) and the `confidence` of the text that it is a word of.
    """

    every: float = 1.0  # seconds
    languages: str = "en"
    canvas: int = 960  # pixels
    least: float = 0.1
    words: str = field(default="", metadata=PLACE)

    kind = "ocr"
    name = "ocr"

    def __post_init__(self) -> None:
        if not 1 / FASTEST <= self.every < inf or self.canvas < 32 or not 0 <= self.least <= 1:
            raise ExpertError(
                f"{self}: every must be at least {1 / FASTEST} seconds, canvas at least 32, and least from 0 to 1"
            )
        open_reader(self.languages)  # an unknown language is told of now

    @property
    def samples(self) -> Frames:
        return Frames(self.every)

    @property
    def weights(self) -> Weights:
        _, reading = open_reader(self.languages)[1:]
        return Weights(
            files=tuple(
                WeightsFile(Path(model["filename"]).with_suffix(".zip").name, model["url"])
                for model in (detection_models["craft"], reading)
            ),
            license="Apache-2.0",
            paper="Character Region Awareness for Text Detection (Baek et al., CVPR 2019)",
        )

    def preprocessing(self) -> dict[str, Any]:
        return {
            "detector": "CRAFT",
            "height": TEXT_HEIGHT,
            "same": {"block": BLOCK, "levels": SAME},
            "words": find_word_vectors(self.words).provenance(),
        }

    def random(self) -> Finder:
        return self._finder(CRAFT(), self._reading_network())

    def pretrained(self, folder: Path, fetch: bool) -> Finder:
        detector, reading = CRAFT(), self._reading_network()
        models = (detection_models["craft"], open_reader(self.languages)[2])
        for network, file, model in zip((detector, reading), self.weights.files, models, strict=True):
            load_zipped(network, file, model, folder, fetch)
        return self._finder(detector, reading)

    def _reading_network(self) -> nn.Module:
        reader, generation, _ = open_reader(self.languages)
        channels = CHANNELS[generation]
        network = import_module(NETWORKS[generation]).Model
        return network(1, channels, channels, num_class=len(reader.character) + 1)  # and the blank of CTC

    def _finder(self, detector: nn.Module, reading: nn.Module) -> Finder:
        reader = open_reader(self.languages)[0]
        return TextFinder(detector, reading, reader, self.canvas, self.least, find_word_vectors(self.words))


def open_reader(languages: str) -> tuple[easyocr.Reader, str, dict[str, Any]]:
    """EasyOCR's rules for languages, without networks; its generation of reading network, and what is known of it.

    Raises ExpertError for languages that it does not know, or not together.
    """
    codes = [code.strip() for code in languages.split(",")]
    path = sys.path.copy()
    with tempfile.TemporaryDirectory() as empty:  # it makes the folders that it is to look into
        try:
            reader = easyocr.Reader(
                codes,
                gpu=False,
                model_storage_directory=empty,
                user_network_directory=empty,
                download_enabled=False,
                detector=False,
                recognizer=False,
                verbose=False,
            )
        except ValueError as error:  # of its arguments, one is the languages that it does not know
            problem = " ".join(", ".join(sorted(each)) if isinstance(each, set) else str(each) for each in error.args)
            raise ExpertError(f"ocr.languages is {languages!r}: {problem}") from None
        except OSError as error:  # a language whose letters EasyOCR does not bring along
            raise ExpertError(f"ocr.languages is {languages!r}: {error}") from None
        finally:
            sys.path[:] = path  # to which it adds the folder
    for generation in CHANNELS:
        for model in recognition_models[generation].values():
            if model["characters"] == reader.character and model["model_script"] == reader.model_lang:
                return reader, generation, model
    raise ExpertError(f"ocr.languages is {languages!r}: EasyOCR has no network for it")


def load_zipped(network: nn.Module, file: WeightsFile, model: Mapping[str, Any], folder: Path, fetch: bool) -> None:
    """Fill a network from a state dict that is published as the only file of a ZIP archive.

    The state dict by itself, as EasyOCR keeps it, does as well. If `fetch`, it must have the MD5 that EasyOCR tells
    of it, and may lie in EasyOCR's own folder; without, the folder is the user's, and so are its files. Raises
    WeightsError.
    """
    name = model["filename"]
    bare = [folder / name, *([Path(MODULE_PATH, "model", name)] if fetch else [])]
    path = next((path for path in bare if path.exists()), None) or find_file(file, folder, fetch)
    try:
        content = path.read_bytes() if path in bare else _unzip(path, name)
        if fetch and hashlib.md5(content, usedforsecurity=False).hexdigest() != model["md5sum"]:
            raise ValueError(f"{name} in it is damaged or another: its MD5 is not {model['md5sum']}")
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        fill(network, state_of(state, network.state_dict().keys()))
    except Exception as error:  # whatever a damaged or hostile file sets off
        raise unreadable(path, file, why(error)) from error


def _unzip(path: Path, name: str) -> bytes:
    """A file in a ZIP archive. Raises ValueError if it would fill the memory."""
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(name).file_size > LARGEST:
            raise ValueError(f"{name} in it would have {archive.getinfo(name).file_size} bytes")
        return archive.read(name)


@dataclass(frozen=True)
class Text:
    """A line or a piece of one, as it was read: four corners [x, y] in pixels, from the top left, clockwise."""

    text: str
    box: np.ndarray  # (4, 2)
    confidence: float


class TextFinder(Finder):
    """CRAFT over frames of one size, then the reading network over all texts of one width."""

    from_right = False  # how the letters run

    def __init__(
        self,
        detector: nn.Module,
        reading: nn.Module,
        reader: easyocr.Reader,
        canvas: int,
        least: float,
        vectors: WordVectors,
    ) -> None:
        super().__init__()
        self.detector, self.reading = channels_last(detector), channels_last(reading)
        self.vectors, self.dim = vectors, vectors.dim
        self._reader, self._canvas, self._least = reader, canvas, least
        self._reader.get_textbox = get_textbox
        self.from_right = reader.model_lang == "arabic"
        self._letters = CTCLabelConverter(reader.character)
        foreign = sorted(set(reader.character) - set(reader.lang_char))
        self._ignored = [reader.character.index(letter) + 1 for letter in foreign]

    def group(self, sample: Tensor) -> int:
        height, width, _ = sample.shape
        shrunk = min(1.0, self._canvas / max(height, width)) ** 2
        return max(1, min(LOOK_FRAMES, int(LOOK_PIXELS[self.device.type] / (height * width * shrunk))))

    def watch(self) -> TextWatch:
        return TextWatch(self)

    def read(self, frames: np.ndarray) -> list[list[Text]]:
        """The texts of each of the frames (B, H, W, 3) RGB uint8, from top to bottom."""
        self._reader.detector, self._reader.device = self.detector, str(self.device)
        straight, slanted = self._reader.detect(frames, canvas_size=self._canvas, reformat=False)
        pieces: list[tuple[int, np.ndarray, np.ndarray, int]] = []  # frame, box, picture, width to be read at
        for number, frame in enumerate(frames):
            gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
            pieces += ((number, *piece) for piece in _cut_out(gray, straight[number], slanted[number]))
        read: dict[int, tuple[str, float]] = {}
        for width in {piece[-1] for piece in pieces}:
            alike = [place for place, piece in enumerate(pieces) if piece[-1] == width]
            for first in range(0, len(alike), READ_TOGETHER):
                places = alike[first : first + READ_TOGETHER]
                read |= zip(places, self._read([pieces[place][2] for place in places], width), strict=True)
        texts: list[list[Text]] = [[] for _ in frames]
        for place, (number, box, _, _) in enumerate(pieces):
            text, confidence = read[place]
            if text.strip() and confidence >= self._least:
                texts[number].append(Text(text, box, float(confidence)))
        return [sorted(found, key=lambda text: text.box[0, 1]) for found in texts]

    def _read(self, pictures: list[np.ndarray], width: int) -> list[tuple[str, float]]:
        """Read pictures of texts; those that are hard to read once more, with more contrast, the better counts."""
        results = self._predict(pictures, width, 0.0)
        unsure = [number for number, (_, confidence) in enumerate(results) if confidence < UNSURE]
        if unsure:
            again = self._predict([pictures[number] for number in unsure], width, CONTRAST)
            for number, result in zip(unsure, again, strict=True):
                results[number] = max(results[number], result, key=lambda result: result[1])
        if self.from_right:
            return [(get_display(text), confidence) for text, confidence in results]
        return results

    def _predict(self, pictures: list[np.ndarray], width: int, contrast: float) -> list[tuple[str, float]]:
        collate = AlignCollate(imgH=TEXT_HEIGHT, imgW=width, keep_ratio_with_pad=True, adjust_contrast=contrast)
        batch = collate([Image.fromarray(picture) for picture in pictures])
        found = recognizer_predict(
            self.reading, self._letters, [batch], width // 10, self._ignored, {}, device=str(self.device)
        )
        return [(text, float(confidence)) for text, confidence in found]

    def findings(self, texts: Sequence[Text], start: float, end: float, size: list[int]) -> list[Finding]:
        """The words of texts that were there from `start` to `end` seconds."""
        return [
            Finding(
                self.vectors.embed(word),
                start,
                end,
                {"text": word, "box": box, "confidence": round(text.confidence, 4), "size": size},
            )
            for text in texts
            for word, box in _split(text, self.from_right)
        ]


class TextWatch:
    """Reads a frame when it differs from the last one that was read; what was read lasts until then."""

    def __init__(self, finder: TextFinder) -> None:
        self._finder = finder
        self._mosaic: np.ndarray | None = None  # of the last frame that was read
        self._texts: list[Text] = []
        self._size = [0, 0]  # width, height
        self._start = self._end = 0.0

    def look(self, samples: Sequence[TimedSample]) -> list[Finding]:
        fresh: list[int] = []
        for number, sample in enumerate(samples):
            mosaic = _mosaic(sample.data.numpy())
            if self._mosaic is None or _differ(mosaic, self._mosaic):
                self._mosaic = mosaic
                fresh.append(number)
        frames = stacks(samples[number].data for number in fresh)
        texts = [of_frame for stack in frames for of_frame in self._finder.read(stack.numpy())]
        read = dict(zip(fresh, texts, strict=True))
        found = []
        for number, sample in enumerate(samples):
            if number in read:
                found += self.finish()
                self._texts, self._start = read[number], sample.start
                self._size = [sample.data.shape[1], sample.data.shape[0]]
            self._end = sample.end
        return found

    def finish(self) -> list[Finding]:
        return self._finder.findings(self._texts, self._start, self._end, self._size)


def _mosaic(frame: np.ndarray) -> np.ndarray:
    """The means of a frame's blocks of 8 x 8 pixels, as levels of gray."""
    height, width = frame.shape[:2]
    gray = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    return cv2.resize(gray, (-(-width // BLOCK), -(-height // BLOCK)), interpolation=cv2.INTER_AREA).astype(np.int16)


def _differ(one: np.ndarray, other: np.ndarray) -> bool:
    return one.shape != other.shape or bool(np.abs(one - other).max() > SAME)


def _cut_out(
    gray: np.ndarray, straight: Sequence[Sequence[int]], slanted: Sequence[Sequence[Sequence[float]]]
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Of each text its box, its picture made straight, and the width, a multiple of its height, to read it at."""
    height, width = gray.shape
    for left, right, top, bottom in straight:
        if min(right, width) > max(left, 0) and min(bottom, height) > max(top, 0):
            images, wide = get_image_list([[left, right, top, bottom]], [], gray, model_height=TEXT_HEIGHT)
            yield from ((np.array(box, dtype=float), image, int(wide)) for box, image in images)
    for corners in slanted:
        if cv2.contourArea(np.array(corners, np.float32)) >= 1:
            images, wide = get_image_list([], [corners], gray, model_height=TEXT_HEIGHT)
            yield from ((np.array(box, dtype=float), image, int(wide)) for box, image in images)


def _split(text: Text, from_right: bool = False) -> Iterator[tuple[str, list[list[float]]]]:
    """The words of a text, each with its share of the box by its letters, which begins on the side it is read from."""
    top_left, top_right, bottom_right, bottom_left = text.box
    place = 0
    for word in text.text.split():
        place = text.text.index(word, place)
        begin, end = place / len(text.text), (place + len(word)) / len(text.text)
        if from_right:
            begin, end = 1 - end, 1 - begin
        corners = (
            top_left + begin * (top_right - top_left),
            top_left + end * (top_right - top_left),
            bottom_left + end * (bottom_right - bottom_left),
            bottom_left + begin * (bottom_right - bottom_left),
        )
        yield word, [[round(float(x), 1), round(float(y), 1)] for x, y in corners]
        place += len(word)
