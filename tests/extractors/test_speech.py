"""Speech: words and their times, and nothing lost or doubled where windows meet.

What is spoken here is tones, a frequency a letter, which a network that listens for them hears without fail.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch
import torchaudio
from torch import Tensor, nn

from extractors import ExpertError, Finding, TimedSample, exact, load_expert
from extractors.speech import BUNDLES, FRAME, RATE, CTCRecogniser, Speech, SpeechFinder, Word, seam
from extractors.words import HashedVectors
from pipeline.sampling import Request, Sample, SoundSampler, _sampler

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
LABELS = ("-", "|", *LETTERS)
LOW, STEP = 400, 100  # Hz
LETTER = 0.08  # seconds


def tone(letter: str) -> np.ndarray:
    samples = np.arange(round(LETTER * RATE))
    return (0.3 * np.sin(2 * np.pi * (LOW + STEP * LETTERS.index(letter)) * samples / RATE)).astype(np.float32)


class ToneNetwork(nn.Module):
    """Logits like those of CTC, a frame every 20 ms: the letter of the loudest frequency, `|` in silence."""

    def __init__(self) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(50.0))

    def forward(self, waveforms: Tensor) -> tuple[Tensor, None]:
        frames = waveforms.unfold(1, FRAME, FRAME)  # (B, frames, 320)
        spectrum = torch.fft.rfft(frames).abs() / (FRAME / 2)  # 50 Hz a bin
        letters = spectrum[..., LOW // 50 :: STEP // 50][..., : len(LETTERS)]
        silence = 0.1 - letters.max(-1, keepdim=True).values
        blank = torch.full_like(silence, -1.0)
        return torch.cat([blank, silence, letters], -1) * self.sharpness, None


@pytest.fixture
def finder() -> SpeechFinder:
    return SpeechFinder(CTCRecogniser(ToneNetwork(), LABELS), HashedVectors())


def speak(words: Sequence[str], pauses: Sequence[float]) -> np.ndarray:
    """Words with pauses (seconds) before each, and one at the end. No letter stands twice in a row in them."""
    parts = [np.zeros(round(pauses[0] * RATE), np.float32)]
    for word, pause in zip(words, pauses[1:], strict=True):
        parts += [*map(tone, word), np.zeros(round(pause * RATE), np.float32)]
    return np.concatenate(parts)


def random_words(seed: int, count: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return ["".join(rng.choice(list(LETTERS), size=rng.integers(1, 7), replace=False)) for _ in range(count)]


def hear(finder: SpeechFinder, sound: np.ndarray, together: int = 3) -> list[Finding]:
    """What is heard of a track that comes in small pieces, as a decoder gives it."""
    sampler = _sampler("speech", Request(Speech().samples, lambda frame: torch.empty(0)))
    assert isinstance(sampler, SoundSampler)
    samples: list[Sample] = []
    for first in range(0, len(sound), 10_000):
        samples += sampler.take(first, sound[first : first + 10_000])
    samples += sampler.finish(exact(len(sound) / RATE))
    timed = [TimedSample(sample.data, sample.start, sample.end) for sample in samples]
    watch = finder.watch()
    with torch.inference_mode():
        found = [
            each for first in range(0, len(timed), together) for each in watch.look(timed[first : first + together])
        ]
        return found + watch.finish()


def texts(found: Sequence[Finding]) -> list[str]:
    return [word.record["text"] for word in found]


@pytest.mark.parametrize("seed", range(8))
def test_a_long_track_gives_the_words_of_its_pieces_cut_at_silences(finder: SpeechFinder, seed: int) -> None:
    rng = np.random.default_rng(seed)
    words = random_words(seed, 260)
    pauses = np.round(rng.choice([0.04, 0.1, 0.3, 2.0], size=261, p=[0.4, 0.4, 0.18, 0.02]) / 0.02) * 0.02
    sound = speak(words, pauses)
    assert len(sound) / RATE > 80  # four windows and more
    found = hear(finder, sound)
    cuts = [0, *sorted(rng.choice(np.arange(1, 260), 12, replace=False).tolist()), 260]
    of_pieces = [
        text
        for a, b in pairwise(cuts)
        for text in texts(hear(finder, speak(words[a:b], [0.1, *pauses[a + 1 : b + 1]])))
    ]
    assert texts(found) == of_pieces == words
    starts = np.cumsum([0, *(len(word) * LETTER + pause for word, pause in zip(words, pauses[1:], strict=True))])[:-1]
    np.testing.assert_allclose([word.start for word in found], pauses[0] + starts, atol=0.021)
    lasts = [word.end - word.start for word in found]
    np.testing.assert_allclose(lasts, [len(word) * LETTER for word in words], atol=0.041)


@pytest.mark.parametrize("together", [1, 2, 5])
def test_how_many_windows_are_heard_together_changes_nothing(finder: SpeechFinder, together: int) -> None:
    sound = speak(random_words(3, 200), [0.1] * 201)
    one, other = hear(finder, sound), hear(finder, sound, together)
    assert [(word.record, word.start, word.end) for word in one] == [
        (word.record, word.start, word.end) for word in other
    ]


def test_words_right_up_to_the_end_of_the_track_are_heard(finder: SpeechFinder) -> None:
    for seconds in (0.4, 3.9, 23.9, 24.1, 44.0, 44.3):
        word = "END"
        sound = np.concatenate([np.zeros(round((seconds - 0.24) * RATE), np.float32), *map(tone, word)])
        assert texts(hear(finder, sound)) == [word], seconds


@pytest.mark.parametrize("seconds", [0.001, 0.02, 1.0, 50.0])
def test_silence_has_no_words(finder: SpeechFinder, seconds: float) -> None:
    assert hear(finder, np.zeros(round(seconds * RATE), np.float32)) == []
    real = load_expert(Speech(), "random").network
    assert isinstance(real, SpeechFinder)
    assert hear(real, np.full(round(min(seconds, 1) * RATE), 3e-5, np.float32)) == []


def test_letters_said_twice_and_labels_between_words_are_told_apart() -> None:
    labels = ["-", "|", "H", "E", "L", "O"]
    recogniser = CTCRecogniser(nn.Identity(), labels)
    path = [labels.index(label) for label in "||-HH-E-LL-LLO|||-|O--|"]
    words = recogniser._decode(path, [0.5] * len(path))
    assert [word.text for word in words] == ["HELLO", "O"]
    assert [(word.start, word.end) for word in words] == [
        (pytest.approx(0.06), pytest.approx(0.28)),
        (pytest.approx(0.38), pytest.approx(0.40)),
    ]
    assert [word.confidence for word in words] == [0.5, 0.5]


def test_windows_are_joined_in_the_longest_pause_that_both_heard() -> None:
    before = [Word("A", 20.0, 21.0, 1), Word("B", 21.2, 22.0, 1), Word("C", 23.1, 23.4, 1)]
    after = [Word("B", 21.21, 22.02, 1), Word("C", 23.1, 23.38, 1), Word("D", 23.5, 26.0, 1)]
    assert seam(before, after, 20.5, 23.5) == pytest.approx((22.02 + 23.1) / 2)
    assert seam([], [], 20.5, 23.5) == 22.0
    assert seam([Word("LONG", 19, 25, 1)], [], 20.5, 23.5) == 22.0


def test_the_network_is_torchaudios_own() -> None:
    network = load_expert(Speech(), "random", seed=5).network
    torch.manual_seed(5)
    theirs = torchaudio.models.wav2vec2_base(aux_num_out=29).eval()
    sound = torch.randn(2, 8000)
    with torch.inference_mode():
        torch.testing.assert_close(network.recogniser.network(sound)[0], theirs(sound)[0], atol=1e-5, rtol=0)


def test_each_window_is_normalised_by_itself_where_the_network_wants_it() -> None:
    class Loudness(nn.Module):
        def forward(self, waveforms: Tensor) -> tuple[Tensor, None]:
            self.heard = waveforms
            return torch.zeros(len(waveforms), 1, len(LABELS)), None

    network = Loudness()
    sound = torch.randn(8000)
    CTCRecogniser(network, LABELS, normalize=True).transcribe([0.1 * sound, sound])
    torch.testing.assert_close(network.heard[0], network.heard[1], atol=0.1, rtol=0)
    assert BUNDLES["HUBERT_ASR_LARGE"]._normalize_waveform, "or the library calls it otherwise now"


def test_every_recogniser_of_torchaudio_can_be_asked_for() -> None:
    assert {"WAV2VEC2_ASR_BASE_960H", "HUBERT_ASR_LARGE", "VOXPOPULI_ASR_BASE_10K_DE"} <= set(BUNDLES)
    assert Speech(bundle="VOXPOPULI_ASR_BASE_10K_FR").weights.files[0].name.endswith("_fr.pt")
    assert "MMS_FA" not in BUNDLES, "it aligns words that are known"
    with pytest.raises(ExpertError, match=r"speech\.bundle is 'WHISPER'; torchaudio has HUBERT"):
        Speech(bundle="WHISPER")
