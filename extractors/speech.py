"""Speech: the words that are said, and when; one row a word.

A recogniser hears windows that overlap, so that every word is whole in one of them, and `SpeechWatch` joins
what it heard. The recogniser here is torchaudio's wav2vec 2.0 and its kin with greedy CTC decoding; another one,
e.g. of Whisper's kind, needs the one method that `Recogniser` has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchaudio
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from extractors.sampling import Audio
from extractors.spec import PLACE, ExpertError, Finder, Finding, TimedSample, Weights, WeightsFile
from extractors.weights import find_file, unreadable, why
from extractors.words import WordVectors, find_word_vectors

RATE = 16_000  # Hz
WINDOW, HOP = 24.0, 20.0  # seconds: each window hears 4 s of the one before
EDGE = 0.5  # seconds: so near its ends a window may have cut a word
LOOK_WINDOWS = 4  # at once
SILENCE = 1e-4  # of full scale: three steps of 16 bits
FRAME = 320  # samples from one frame of logits to the next: 20 ms
FIRST_FRAME = 400  # samples that a frame hears: less sound than that is none
BLANK, BETWEEN = "-", "|"  # labels of CTC: nothing new, and the end of a word

BUNDLES = {
    name: bundle
    for name, bundle in sorted(vars(torchaudio.pipelines).items())
    if type(bundle) is torchaudio.pipelines.Wav2Vec2ASRBundle  # its kin for alignment has no label between words
}


@dataclass(frozen=True)
class Word:
    """A word that was heard, from `start` to `end` seconds, and how sure that is, 0 to 1."""

    text: str
    start: float
    end: float
    confidence: float


class Recogniser(nn.Module, ABC):
    """Turns sound into words."""

    @abstractmethod
    def transcribe(self, windows: Sequence[Tensor]) -> list[list[Word]]:
        """The words of each window (samples,) float32 at 16 kHz, in order, their times within it."""


@dataclass(frozen=True)
class Speech:
    """Words from speech (Baevski et al., "wav2vec 2.0", NeurIPS 2020), as word vectors: a row a word.

    `bundle` is any recogniser of torchaudio.pipelines: WAV2VEC2_ASR_* and HUBERT_ASR_* for English,
    VOXPOPULI_ASR_BASE_10K_DE, _ES, _FR, _IT. `words` is a file of word vectors; without one they are hashed. A
    record holds the `text` and the `confidence`. Silence and sound without words give no rows.
    """

    bundle: str = "WAV2VEC2_ASR_BASE_960H"
    words: str = field(default="", metadata=PLACE)

    kind = "speech"
    name = "speech"

    def __post_init__(self) -> None:
        if self.bundle not in BUNDLES:
            raise ExpertError(f"speech.bundle is {self.bundle!r}; torchaudio has {', '.join(BUNDLES)}")

    @property
    def samples(self) -> Audio:
        return Audio(RATE, window=WINDOW, hop=HOP, rest=True)

    @property
    def weights(self) -> Weights:
        path = BUNDLES[self.bundle]._path
        url = f"https://download.pytorch.org/torchaudio/models/{path}"
        return Weights(
            files=(WeightsFile(Path(path).name, url),),
            license="MIT" if "VOXPOPULI" not in self.bundle else "CC BY-NC 4.0",
            paper="wav2vec 2.0 (Baevski et al., NeurIPS 2020)",
        )

    def preprocessing(self) -> dict[str, Any]:
        return {"decoder": "greedy CTC", "silence": SILENCE, "words": find_word_vectors(self.words).provenance()}

    def random(self) -> Finder:
        bundle = BUNDLES[self.bundle]
        return self._finder(torchaudio.pipelines._wav2vec2.utils._get_model(bundle._model_type, bundle._params))

    def pretrained(self, folder: Path, fetch: bool) -> Finder:
        bundle, [published] = BUNDLES[self.bundle], self.weights.files
        path = find_file(published, folder, fetch)
        try:  # torchaudio's own loader finds the file there, and mends what its publisher named in another way
            network = bundle.get_model(dl_kwargs={"model_dir": str(path.parent), "weights_only": True})
        except Exception as error:  # whatever a damaged or hostile file sets off
            raise unreadable(path, published, why(error)) from error
        # where torchaudio normalises the sound, it does so over all windows of a batch: here it is done to each
        return self._finder(network.model if bundle._normalize_waveform else network)

    def _finder(self, network: nn.Module) -> Finder:
        bundle = BUNDLES[self.bundle]
        recogniser = CTCRecogniser(network, bundle.get_labels(), bundle._normalize_waveform)
        return SpeechFinder(recogniser, find_word_vectors(self.words))


class CTCRecogniser(Recogniser):
    """A torchaudio network with CTC labels, decoded greedily: the likeliest label of each frame of 20 ms.

    With `normalize`, as the bundle says, each window has mean 0 and variance 1 before the network hears it.
    """

    def __init__(self, network: nn.Module, labels: Sequence[str], normalize: bool = False) -> None:
        super().__init__()
        self.network, self._labels, self._normalize = network, labels, normalize

    def transcribe(self, windows: Sequence[Tensor]) -> list[list[Word]]:
        words: list[list[Word]] = [[] for _ in windows]
        heard = [number for number, window in enumerate(windows) if _is_heard(window)]
        # A window alone and one among others give the same: only those of one length are heard together.
        for _, numbers in groupby(heard, key=lambda number: len(windows[number])):
            alike = list(numbers)
            sound = torch.stack([windows[number] for number in alike])
            logits, _ = self.network(layer_norm(sound, sound.shape[1:]) if self._normalize else sound)
            probabilities, labels = logits.float().softmax(dim=-1).max(dim=-1)  # (B, frames)
            for number, path, sure in zip(alike, labels.tolist(), probabilities.tolist(), strict=True):
                words[number] = self._decode(path, sure)
        return words

    def _decode(self, path: list[int], sure: list[float]) -> list[Word]:
        """Runs of one label are one letter; `-` parts letters that are alike, `|` parts words."""
        words: list[Word] = []
        letters: list[tuple[str, int, int]] = []  # with the first frame, and the one after the last
        place = 0
        for label, run in groupby(path):
            begin, place = place, place + sum(1 for _ in run)
            letter = self._labels[label]
            if letter == BETWEEN:
                words += _word(letters, sure)
                letters = []
            elif letter != BLANK:
                letters.append((letter, begin, place))
        return words + _word(letters, sure)


class SpeechFinder(Finder):
    """A recogniser, and the vectors of its words."""

    def __init__(self, recogniser: Recogniser, vectors: WordVectors) -> None:
        super().__init__()
        self.recogniser = recogniser
        self.vectors = vectors
        self.dim = vectors.dim

    def group(self, sample: Tensor) -> int:
        return LOOK_WINDOWS

    def watch(self) -> SpeechWatch:
        return SpeechWatch(self)

    def transcribe(self, windows: Sequence[Tensor]) -> list[list[Word]]:
        return self.recogniser.transcribe([window.to(self.device) for window in windows])

    def finding(self, word: Word) -> Finding:
        record = {"text": word.text, "confidence": round(word.confidence, 4)}
        return Finding(self.vectors.embed(word.text), word.start, word.end, record)


class SpeechWatch:
    """Joins the words of overlapping windows: each window's up to the longest pause that it shares with the next."""

    def __init__(self, finder: SpeechFinder) -> None:
        self._finder = finder
        self._words: list[Word] = []  # of the latest window, from the seam before it on
        self._end = 0.0  # of the latest window, in seconds

    def look(self, samples: Sequence[TimedSample]) -> list[Finding]:
        found: list[Word] = []
        for sample, words in zip(samples, self._finder.transcribe([s.data for s in samples]), strict=True):
            words = [
                Word(word.text, sample.start + word.start, sample.start + word.end, word.confidence) for word in words
            ]
            if sample.start > 0:
                cut = seam(self._words, words, sample.start + EDGE, self._end - EDGE)
                found += [word for word in self._words if _middle(word) < cut]
                words = [word for word in words if _middle(word) >= cut]
            self._words, self._end = words, sample.end
        return [self._finder.finding(word) for word in found]

    def finish(self) -> list[Finding]:
        return [self._finder.finding(word) for word in self._words]


def seam(before: Sequence[Word], after: Sequence[Word], start: float, end: float) -> float:
    """The middle of the longest time from `start` to `end` in which neither of two windows heard a word.

    Where words leave no such time it is the middle of all of it: a word then counts by its own middle.
    """
    free, longest = start, (0.0, (start + end) / 2)
    for word in sorted([*before, *after], key=lambda word: word.start):
        if word.end > free:
            longest = max(longest, _pause(free, min(word.start, end)))
            free = word.end
    return max(longest, _pause(free, end))[1]


def _pause(start: float, end: float) -> tuple[float, float]:
    """How long a pause is, and its middle."""
    return end - start, (start + end) / 2


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _is_heard(window: Tensor) -> bool:
    return len(window) >= FIRST_FRAME and bool(window.abs().max() > SILENCE)


def _word(letters: Sequence[tuple[str, int, int]], sure: Sequence[float]) -> list[Word]:
    """The word that letters make, if there are any."""
    if not letters:
        return []
    frames = [frame for _, begin, stop in letters for frame in range(begin, stop)]
    confidence = float(np.mean([sure[frame] for frame in frames]))
    seconds = FRAME / RATE
    return [
        Word("".join(letter for letter, *_ in letters), frames[0] * seconds, (frames[-1] + 1) * seconds, confidence)
    ]
