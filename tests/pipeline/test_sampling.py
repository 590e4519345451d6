"""One pass over a video gives every expert its samples, each where and when its sampling says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_manifests import Video
from extractors import Audio, Clips, Frames, Sampling
from feature_store import VideoStatus
from pipeline import decode, sound
from pipeline.decode import Picture
from pipeline.sampling import ClipSampler, Ended, Request, Sample, SoundSampler, sample_video
from tests.decoders import DECODERS
from tests.media_files import (
    SOUND_RATE,
    Recipe,
    Sound,
    chirp,
    number_in,
    set_edits,
    steady,
    truth,
    unsteady,
    write_media,
)

RATE = 16_000  # Hz, of the sound that experts want here
TONE = chirp(4)


@dataclass(frozen=True)
class Result:
    samples: list[Sample]
    status: VideoStatus

    @property
    def numbers(self) -> list[int] | list[list[int]]:
        """What stands in the pictures: a number a frame, a list of numbers a clip."""
        if self.samples and self.samples[0].data.ndim == 4:
            return [[number_in(frame.numpy()) for frame in sample.data] for sample in self.samples]
        return [number_in(sample.data.numpy()) for sample in self.samples]

    @property
    def times(self) -> list[tuple[float, float]]:
        return [(sample.start, sample.end) for sample in self.samples]

    @property
    def sound(self) -> np.ndarray:
        """(rows, samples) float32."""
        return torch.stack([sample.data for sample in self.samples]).numpy()


def sample(path: Path, wanted: Mapping[str, Sampling], decoder: str = "av", **cut: float) -> dict[str, Result]:
    """Sample a video, and see that what comes is consistent in itself."""
    requests = {name: Request(samples, torch.from_numpy) for name, samples in wanted.items()}
    came = list(sample_video(Video("v", str(path), **cut), requests, decoder))
    results = {}
    for name in wanted:
        of_expert = [item for item in came if item.expert == name]
        *samples, ended = of_expert
        assert isinstance(ended, Ended)
        assert all(isinstance(item, Sample) for item in samples)
        results[name] = Result(samples, ended.status)
        _check(results[name])
    return results


def _check(result: Result) -> None:
    status, samples = result.status, result.samples
    assert status.id == "v"
    assert status.rows == (0 if status.status == "failed" else len(samples))
    assert (status.status in ("ok", "truncated")) == (status.rows > 0)
    assert (status.reason is None) == (status.status == "ok")
    assert (status.at is not None) == (status.status == "truncated")
    assert [item.row for item in samples] == list(range(len(samples)))
    assert all(0 <= item.start < item.end for item in samples)
    assert sorted(item.start for item in samples) == [item.start for item in samples]


def sample_one(path: Path, samples: Sampling, decoder: str = "av", **cut: float) -> Result:
    return sample(path, {"expert": samples}, decoder, **cut)["expert"]


def resampled(samples: np.ndarray, rate: int = RATE) -> np.ndarray:
    """A whole track at another rate, the direct way."""
    frame = av.AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
    frame.sample_rate = SOUND_RATE
    resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
    return np.concatenate([part.to_ndarray()[0] for part in [*resampler.resample(frame), *resampler.resample(None)]])


def heard_at(result: Result, rate: int = RATE) -> np.ndarray:
    """Windows that follow on one another, put together."""
    assert result.times[0][0] == 0
    return result.sound.reshape(-1)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """4 s at 25 frames a second, with a rising tone."""
    return write_media(tmp_path_factory.mktemp("film") / "film.mp4", steady(100), sound=Sound(TONE))


# All together.


def test_one_pass_gives_every_expert_what_it_gets_alone(film: Path) -> None:
    wanted: dict[str, Sampling] = {
        "slow": Frames(1),
        "fast": Frames(0.1),
        "odd": Frames(0.3),
        "clips": Clips(8, 10, 4),
        "sparse": Clips(3, 25, 30),
        "sound": Audio(RATE, 0.96, 0.96),
        "overlapping": Audio(RATE, 1, 0.25, 0.1),
    }
    together = sample(film, wanted)
    for name, samples in wanted.items():
        alone = sample_one(film, samples)
        assert together[name].status == alone.status
        assert together[name].times == alone.times
        for one, other in zip(together[name].samples, alone.samples, strict=True):
            assert torch.equal(one.data, other.data)


def test_samples_fall_due_while_the_video_is_read(film: Path) -> None:
    requests = {"f": Request(Frames(1), torch.from_numpy), "a": Request(Audio(RATE, 1, 1), torch.from_numpy)}
    kinds = [item.expert for item in sample_video(Video("v", str(film)), requests) if isinstance(item, Sample)]
    assert kinds not in (sorted(kinds), sorted(kinds, reverse=True))


def test_sound_at_two_rates_in_one_pass_is_refused(film: Path) -> None:
    with pytest.raises(ValueError, match=r"one rate of sound, not \[8000, 16000\] Hz"):
        sample(film, {"a": Audio(16_000), "b": Audio(8_000)})


# Frames.


@pytest.mark.parametrize("every", [0.1, 0.5, 1, 3])
def test_sample_k_is_the_frame_on_screen_at_k_steps(film: Path, every: float) -> None:
    result = sample_one(film, Frames(every))
    assert result.numbers == truth(film).every(every)
    assert result.status == VideoStatus("v", "ok", len(result.samples), 4.0)
    np.testing.assert_allclose(result.times, [(k * every, (k + 1) * every) for k in range(len(result.samples))])


def test_a_step_is_the_decimal_number_that_was_written(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mp4", steady(100, fps=10), Recipe(fps=10))
    assert sample_one(film, Frames(0.1)).numbers == list(range(100))  # 3 * 0.1 > 0.3 in doubles


def test_a_video_of_one_frame_gives_one_sample(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mp4", steady(1), Recipe(bframes=0))
    assert sample_one(film, Frames(0.5)).numbers == [0]


# Clips.


@pytest.mark.parametrize(("length", "fps", "hop"), [(8, 10, 4), (8, 10, 8), (3, 25, 30), (16, 7.5, 1), (4, 50, 3)])
def test_frame_j_of_clip_k_is_the_one_on_screen_at_k_hops_and_j_steps(
    film: Path, length: int, fps: float, hop: int
) -> None:
    at = truth(film).every(1 / Fraction(str(fps)))
    first = range(0, len(at) - length + 1, hop)
    result = sample_one(film, Clips(length, fps, hop))
    assert result.numbers == [at[begin : begin + length] for begin in first]
    np.testing.assert_allclose(result.times, [(begin / fps, (begin + length) / fps) for begin in first])


def test_a_video_shorter_than_a_clip_gives_one_with_its_last_frame_held(film: Path) -> None:
    result = sample_one(film, Clips(50, 10, 25))
    assert result.numbers == [truth(film).every(0.1) + [truth(film).every(0.1)[-1]] * 10]
    assert result.times == [(0.0, 4.0)]


def test_a_video_exactly_one_clip_long_gives_that_clip(film: Path) -> None:
    assert sample_one(film, Clips(40, 10, 40)).numbers == [truth(film).every(0.1)]


def test_of_a_long_video_only_the_latest_clip_is_held() -> None:
    sampler = ClipSampler("c", Clips(16, 25, 8), torch.from_numpy)
    for k in range(1000):
        list(sampler.take(Picture(Fraction(k, 25), np.zeros((1, 1, 3), np.uint8))))
        assert len(sampler._latest) <= 16
    assert sampler.rows == (1000 - 16) // 8 + 1


# Sound.


@pytest.mark.parametrize("samples", [Audio(16_000, 0.96, 0.96), Audio(16_000, 1, 0.25, 0.1), Audio(8_000, 0.5, 0.7)])
def test_windows_equal_the_whole_track_resampled_at_once(tmp_path: Path, samples: Audio) -> None:
    film = write_media(tmp_path / "film.mkv", steady(100), sound=Sound(TONE, codec="pcm_s16le"))
    track = resampled(TONE, samples.rate)
    window, hop, context = (round(x * samples.rate) for x in (samples.window, samples.hop, samples.context))
    rows = (len(track) - window - context) // hop + 1
    result = sample_one(film, samples)
    assert len(result.samples) == rows
    for row, got in enumerate(result.sound):
        np.testing.assert_allclose(got, track[row * hop : row * hop + window + context], atol=2e-4)
    expected = [(row * samples.hop, row * samples.hop + samples.window) for row in range(rows)]
    np.testing.assert_allclose(result.times, expected, atol=1 / samples.rate)


def test_sound_of_aac_is_heard_when_it_was_made(film: Path) -> None:
    heard, made = heard_at(sample_one(film, Audio(RATE, 0.5, 0.5))), resampled(TONE)
    spectrum = np.fft.rfft(heard, 2 * RATE * 4) * np.fft.rfft(made[: len(heard)], 2 * RATE * 4).conj()
    assert np.fft.irfft(spectrum).argmax() == 0


@pytest.mark.parametrize(
    ("suffix", "codec"), [("mkv", "pcm_s16le"), ("mkv", "flac"), ("mov", "pcm_s16le"), ("mp4", "flac")]
)
@pytest.mark.parametrize("pictures_first", [Fraction(0), Fraction(5)])
@pytest.mark.parametrize("later", [Fraction(1, 2), Fraction(-1, 2)])
def test_sound_is_placed_by_its_own_time_stamps(
    tmp_path: Path, suffix: str, codec: str, later: Fraction, pictures_first: Fraction
) -> None:
    """`later`: how much after the video's first frame the sound begins; what is heard before it is dropped."""
    pictures = steady(100, first=pictures_first + max(0, -later))
    sound = Sound(TONE, pictures_first + max(0, later), codec)
    film = write_media(tmp_path / f"film.{suffix}", pictures, sound=sound)
    result = sample_one(film, Audio(RATE, 0.5, 0.5))
    track = resampled(TONE)
    half = RATE // 2
    expected = np.concatenate([np.zeros(half), track]) if later > 0 else track[half:]
    heard = heard_at(result)
    np.testing.assert_allclose(heard, expected[: len(heard)], atol=6e-3)  # stamps may be rounded to 1 ms
    assert len(heard) == len(expected) // half * half
    assert result.status.status == "ok"


@pytest.mark.parametrize("codec", ["pcm_s16le", "flac", "aac"])
def test_channels_are_mixed_into_one(tmp_path: Path, codec: str) -> None:
    loud = 2.4 * TONE  # nearly full scale
    film = write_media(tmp_path / "film.mkv", steady(100), sound=Sound(loud, codec=codec, channels=2))
    heard = heard_at(sample_one(film, Audio(RATE, 0.5, 0.5)))
    assert np.std(heard) == pytest.approx(np.std(loud), rel=0.02)
    assert np.abs(heard).max() <= 1


def test_sound_that_changes_its_form_midway_is_heard_on(tmp_path: Path) -> None:
    mono = write_media(tmp_path / "mono.ts", steady(100, first=10), sound=Sound(TONE, Fraction(10)))
    stereo = write_media(tmp_path / "stereo.ts", steady(100, first=14), sound=Sound(TONE, Fraction(14), channels=2))
    joined = tmp_path / "joined.ts"
    joined.write_bytes(mono.read_bytes() + stereo.read_bytes())
    result = sample_one(joined, Audio(RATE, 0.5, 0.5))
    assert len(result.samples) == 16
    assert [np.std(window) for window in result.sound] == pytest.approx([np.std(TONE)] * 16, rel=0.1)


def test_sound_that_cannot_be_converted_costs_nothing_but_the_sound_after_it(
    film: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing:
        def __init__(self, **settings: Any) -> None:
            self.resampler = av.AudioResampler(**settings)

        def resample(self, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
            if frame is not None and next(frames) == 100:
                raise av.error.ArgumentError(22, "Invalid argument")
            return self.resampler.resample(frame)

    frames = iter(range(1000))
    whole = sample(film, {"f": Frames(0.5), "a": Audio(RATE, 0.5, 0.5)})
    monkeypatch.setattr(sound, "AudioResampler", Failing)
    results = sample(film, {"f": Frames(0.5), "a": Audio(RATE, 0.5, 0.5)})
    assert results["f"].status == whole["f"].status
    assert results["a"].status.status == "truncated"
    assert results["a"].status.at == pytest.approx(2.3, abs=0.1)
    np.testing.assert_array_equal(results["a"].sound, whole["a"].sound[:4])


def test_a_gap_in_the_sound_is_silence(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.nut", steady(100), sound=Sound(TONE, codec="pcm_s16le", gaps=[(1, 2.5)]))
    heard = heard_at(sample_one(film, Audio(RATE, 0.5, 0.5)))
    quiet = slice(round(1.05 * RATE), round(2.45 * RATE))
    assert np.abs(heard[quiet]).max() == 0
    after = slice(round(2.6 * RATE), round(3.9 * RATE))
    np.testing.assert_allclose(heard[after], resampled(TONE)[after], atol=2e-2)
    before = slice(0, round(0.95 * RATE))
    np.testing.assert_allclose(heard[before], resampled(TONE)[before], atol=2e-4)


def test_sound_that_runs_faster_than_its_stamps_stays_with_them(tmp_path: Path) -> None:
    """40 s of clicks, one a second by the time stamps, whose samples last only 39.6 s."""
    packets = 40 * SOUND_RATE // 1024
    samples = np.zeros((packets, 1024), np.float32)
    stamps = [Fraction(k * 1024, SOUND_RATE) * Fraction(101, 100) for k in range(packets)]
    clicks = [next(k for k, stamp in enumerate(stamps) if stamp >= second) for second in range(1, 40)]
    samples[clicks, 0] = 0.9
    film = tmp_path / "film.mkv"
    with av.open(str(film), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=SOUND_RATE, layout="mono")
        for stamp, part in zip(stamps, samples, strict=True):
            frame = av.AudioFrame.from_ndarray((part * 32767).astype(np.int16)[None], format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = SOUND_RATE, Fraction(1, 1000), round(stamp * 1000)
            for packet in stream.encode(frame):
                packet.pts = packet.dts = round(stamp / packet.time_base)
                file.mux(packet)
    heard = heard_at(sample_one(film, Audio(RATE, 1, 1)))
    peaks = [
        second - 0.5 + np.abs(heard[round((second - 0.5) * RATE) :][:RATE]).argmax() / RATE for second in range(1, 39)
    ]
    np.testing.assert_allclose(peaks, [float(stamps[k]) for k in clicks[:38]], atol=0.06)


def test_a_track_shorter_than_a_window_gives_one_filled_up_with_silence(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mkv", steady(100), sound=Sound(chirp(0.5), codec="pcm_s16le"))
    result = sample_one(film, Audio(RATE, 0.96, 0.96, 0.1))
    track = resampled(chirp(0.5))
    assert len(result.samples) == 1
    np.testing.assert_allclose(result.sound[0, : len(track)], track, atol=2e-4)
    assert not result.sound[0, len(track) :].any()
    assert result.sound.shape == (1, round(1.06 * RATE))
    assert result.times == [(0, pytest.approx(0.5))]


def test_without_a_sound_track_sound_is_missing_and_pictures_are_not(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mp4", steady(25))
    results = sample(film, {"f": Frames(1), "a": Audio()})
    assert results["a"].status == VideoStatus("v", "no_stream", reason="no audio stream")
    assert results["f"].status.status == "ok"


def test_without_pictures_they_are_missing_and_sound_is_not(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.m4a", sound=Sound(TONE))
    results = sample(film, {"f": Frames(1), "c": Clips(4, 4, 4), "a": Audio(RATE, 1, 1)})
    for name in "fc":
        assert results[name].status == VideoStatus("v", "no_stream", reason="no video stream")
    assert len(results["a"].samples) == 4


def test_the_cover_of_a_song_is_no_video(tmp_path: Path) -> None:
    song = _with_cover(write_media(tmp_path / "plain.mp4", sound=Sound(TONE)), tmp_path / "song.mp4")
    assert sample_one(song, Frames(1)).status.status == "no_stream"


def test_the_cover_of_a_video_is_not_taken_for_it(film: Path, tmp_path: Path) -> None:
    covered = _with_cover(film, tmp_path / "covered.mp4")
    assert sample_one(covered, Frames(1)).numbers == [0, 25, 50, 75]


def _with_cover(path: Path, copy: Path) -> Path:
    from av.stream import Disposition

    still = write_media(path.with_suffix(".avi"), steady(1), Recipe("mjpeg", bframes=0))
    with av.open(str(still)) as pictures, av.open(str(path)) as source, av.open(str(copy), "w") as target:
        cover = target.add_stream_from_template(pictures.streams.video[0])
        cover.disposition = Disposition.attached_pic
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in pictures.demux():
            if packet.size:
                packet.stream = cover
                target.mux(packet)
        for packet in source.demux():
            if packet.size:
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
    return copy


def test_what_no_decoder_is_known_for_fails_alone(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mkv", steady(100), sound=Sound(TONE))
    for codec, expert, other in ((b"V_MPEG4/ISO/AVC", "f", "a"), (b"A_AAC", "a", "f")):
        path = tmp_path / f"{expert}.mkv"
        path.write_bytes(film.read_bytes().replace(codec, codec[:2] + b"Z" * len(codec[2:])))
        results = sample(path, {"f": Frames(1), "a": Audio(RATE, 1, 1)})
        assert (results[expert].status.status, results[expert].status.stage) == ("failed", "decode")
        assert "no decoder" in (results[expert].status.reason or "")
        assert results[other].status.status == "ok"


def test_hours_of_sound_are_sampled_in_bounded_memory() -> None:
    sampler = SoundSampler("a", Audio(RATE, 0.96, 0.5, 0.1))
    chunk = np.zeros(1000, np.float32)
    for first in range(0, 3600 * RATE, len(chunk)):
        for _ in sampler.take(first, chunk):
            pass
        assert len(sampler._held) < 1.06 * RATE
    assert sampler.rows == 1 + int((3600 - 1.06) / 0.5)


# Cuts.


@pytest.mark.parametrize("sought", [False, True])
@pytest.mark.parametrize(
    ("start", "end"), [(1.0, 3.0), (0.5, None), (1.04, 2.9), (None, 1.7), (2.02, 2.03), (3.0, 99.0)]
)
def test_a_cut_gives_the_samples_of_its_part_of_the_whole(
    tmp_path: Path, start: float | None, end: float | None, sought: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sought:
        monkeypatch.setattr(decode, "SEEK_OVER", Fraction(1, 4))
        monkeypatch.setattr(decode, "SEEK_MARGIN", Fraction(1, 4))
    film = write_media(tmp_path / "film.mov", unsteady(50), sound=Sound(TONE, codec="pcm_s16le"))
    true = truth(film)
    begin = Fraction(str(start or 0))
    stop = min(Fraction(str(end)), true.end) if end else true.end
    times = [begin + Fraction(k, 10) for k in range(100)]
    shown = [true.at(time) for time in times if time < stop]
    cut = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
    results = sample(film, {"f": Frames(0.1), "c": Clips(4, 10, 2), "a": Audio(RATE, 0.25, 0.1)}, **cut)

    assert results["f"].numbers == shown
    assert results["f"].times[0] == (0, 0.1)
    if len(shown) >= 4:
        assert results["c"].numbers == [shown[k : k + 4] for k in range(0, len(shown) - 3, 2)]
    sound_stop = min(float(end or 4), 4)
    part = resampled(TONE)[round(float(begin) * RATE) : round(sound_stop * RATE)]
    window, hop = RATE // 4, RATE // 10
    rows = max(1, (len(part) - window) // hop + 1)
    assert len(results["a"].samples) == rows
    for row, got in enumerate(results["a"].sound):
        expected = part[row * hop : row * hop + window]
        # What is sought is placed to the nearest sample, and this tone changes by 0.1 in one.
        np.testing.assert_allclose(got[: len(expected)], expected, atol=0.06 if sought else 2e-3)
        assert not got[len(expected) :].any()
    assert {result.status.status for result in results.values()} == {"ok"}


def test_a_cut_that_begins_after_the_end_says_where_the_end_is(film: Path) -> None:
    results = sample(film, {"f": Frames(1), "c": Clips(4, 4, 4), "a": Audio(RATE, 1, 1)}, start=7.0)
    for name, stream, expected in (
        ("f", "video", ("failed", "sample")),
        ("c", "video", ("failed", "sample")),
        ("a", "audio", ("no_stream", None)),  # sound may end early
    ):
        status = results[name].status
        assert (status.status, status.stage) == expected
        assert status.reason is not None and f"the {stream} ends at 4.0" in status.reason


def test_cuts_of_one_file_may_overlap_and_touch(film: Path) -> None:
    whole = sample_one(film, Frames(0.5)).numbers
    parts = [sample_one(film, Frames(0.5), start=s, end=e).numbers for s, e in ((0.0, 2.0), (2.0, 4.0), (1.0, 3.0))]
    assert parts == [whole[:4], whole[4:], whole[2:6]]


@pytest.mark.parametrize("edits", [[(1.5, -1), (4, 0.08)], [(2, 0.08), (1, 3.08)]])
def test_cuts_count_from_the_first_frame_of_a_file_with_edits(tmp_path: Path, edits: list[tuple[float, float]]) -> None:
    film = set_edits(write_media(tmp_path / "film.mp4", steady(100)), edits)
    assert sample_one(film, Frames(0.5), start=1.0).numbers == truth(film).every(0.5)[2:]


# Damage.


def cut_off(path: Path, copy: Path, part: float) -> Path:
    content = path.read_bytes()
    copy.write_bytes(content[: round(len(content) * part)])
    return copy


UNDECLARED = {"film.ts", "film.mpg", "film.avi"}  # no header says how long they should be
FAST_START = {"movflags": "faststart"}


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.flv", "film.avi", "film.mpg"])
def test_of_a_file_cut_off_the_rows_before_the_end_are_kept(tmp_path: Path, name: str) -> None:
    recipe = {
        "film.mp4": Recipe(muxing=FAST_START),
        "film.avi": Recipe("mpeg4"),
        "film.mpg": Recipe("mpeg2video"),
    }.get(name, Recipe())
    sound = Sound(chirp(16), codec="mp2" if name == "film.mpg" else "aac")
    film = write_media(tmp_path / name, steady(400), recipe, sound)
    wanted: dict[str, Sampling] = {"f": Frames(0.5), "c": Clips(4, 4, 4), "a": Audio(RATE, 0.5, 0.5)}
    whole, part = sample(film, wanted), sample(cut_off(film, tmp_path / f"cut_{name}", 0.6), wanted)
    for expert in wanted:
        rows = part[expert].samples
        assert 0.5 * len(whole[expert].samples) < len(rows) < 0.75 * len(whole[expert].samples)
        for got, expected in zip(rows, whole[expert].samples, strict=False):
            assert torch.equal(got.data, expected.data)
        status = part[expert].status
        assert status.status == "truncated" or name in UNDECLARED
        assert status.seconds == pytest.approx(rows[-1].end, abs=1)


@pytest.mark.parametrize("decoder", DECODERS)
def test_packets_that_are_zeros_cost_no_row_before_them(tmp_path: Path, decoder: str) -> None:
    film = write_media(tmp_path / "film.mp4", steady(400))
    whole = sample_one(film, Frames(0.2))
    with av.open(str(film)) as file:
        packets = [packet for packet in file.demux(video=0) if packet.size]
    content = bytearray(film.read_bytes())
    for packet in packets[200:203]:
        assert packet.pos is not None
        content[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    result = sample_one(damaged, Frames(0.2), decoder)
    assert result.status.status in ("truncated", "ok")
    assert len(result.samples) >= 7.8 / 0.2
    for got, expected in zip(result.samples[:39], whole.samples, strict=False):
        assert torch.equal(got.data, expected.data)


@pytest.mark.parametrize("name", ["film.mkv", "film.mp4", "film.ts"])
def test_time_stamps_that_jump_by_hours_do_not_give_hours_of_rows(tmp_path: Path, name: str) -> None:
    """The second half of everything is stamped hours later."""
    late = Fraction(20_000)
    film = write_media(tmp_path / "straight.mp4", steady(200, first=late), sound=Sound(chirp(8), late))
    jumping = tmp_path / name
    with av.open(str(film)) as source, av.open(str(jumping), "w") as target:
        copies = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.size:
                jump = round(3600 * 5 / packet.time_base) * (packet.dts * packet.time_base > late + 4)
                packet.pts, packet.dts = packet.pts + jump, packet.dts + jump
                packet.stream = copies[packet.stream_index]
                target.mux(packet)
    for result in sample(jumping, {"f": Frames(0.5), "a": Audio(RATE, 0.5, 0.5)}).values():
        assert 7 <= len(result.samples) <= 9
        assert result.status.status == "truncated"


@pytest.mark.parametrize("second", [0, 60, 100])
def test_files_joined_byte_by_byte_are_played_up_to_where_their_clocks_disagree(tmp_path: Path, second: int) -> None:
    parts = [
        write_media(tmp_path / f"{first}.ts", steady(100, first=first), sound=Sound(TONE, Fraction(first)))
        for first in (56, second or 56)
    ]
    joined = tmp_path / "joined.ts"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    results = sample(joined, {"f": Frames(0.5), "a": Audio(RATE, 0.5, 0.5)})
    if second == 60:  # the second goes on where the first ends
        assert results["f"].numbers == 2 * truth(parts[0]).every(0.5)
        assert {len(result.samples) for result in results.values()} == {16}
        assert {result.status.status for result in results.values()} == {"ok"}
    elif second == 100:  # 40 s of the last picture, and of silence
        assert results["f"].numbers == truth(parts[0]).every(0.5) + 80 * [99] + truth(parts[0]).every(0.5)
        assert len(results["a"].samples) == 96
    else:
        assert results["f"].numbers == truth(parts[0]).every(0.5)
        assert {result.status.status for result in results.values()} == {"truncated"}
        assert all("jump" in (result.status.reason or "") for result in results.values())


def test_sound_that_begins_hours_late_is_damaged_and_fills_no_memory(tmp_path: Path) -> None:
    film = write_media(tmp_path / "film.mkv", steady(50), sound=Sound(chirp(2), Fraction(20_000)))
    results = sample(film, {"f": Frames(0.5), "a": Audio(RATE, 0.5, 0.5)})
    assert results["f"].status.status == "ok"
    assert results["a"].status.status == "failed"
    assert "jump" in (results["a"].status.reason or "")


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi", "film.flv"])
def test_random_damage_never_raises_and_always_ends_every_expert(tmp_path: Path, name: str) -> None:
    recipe = Recipe("mpeg4") if name == "film.avi" else Recipe(muxing=FAST_START if name == "film.mp4" else {})
    content = np.frombuffer(write_media(tmp_path / name, steady(60), recipe, Sound(chirp(2.4))).read_bytes(), np.uint8)
    damaged = tmp_path / f"damaged_{name}"
    for seed in range(25):
        rng = np.random.default_rng(seed)
        bytes_hit = rng.integers(0, len(content), rng.choice([1, 10, 100]))
        changed = content.copy()
        changed[bytes_hit] = rng.integers(0, 256, len(bytes_hit))
        if rng.random() < 0.3:
            begin = rng.integers(0, len(content))
            changed = np.delete(changed, slice(begin, begin + rng.integers(1, 2000)))
        damaged.write_bytes(changed.tobytes())
        results = sample(damaged, {"f": Frames(0.1), "c": Clips(4, 10, 2), "a": Audio(RATE, 0.25, 0.25)})
        assert all(len(result.samples) < 20_000 for result in results.values())  # half an hour


def test_a_file_that_is_no_media_fails_every_expert_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "notes.mp4"
    path.write_text("not a video")
    for result in sample(path, {"f": Frames(1), "a": Audio()}).values():
        assert (result.status.status, result.status.stage) == ("failed", "open")
        assert "not a self-contained media file" in (result.status.reason or "")


# The samplers by themselves.


@settings(max_examples=60)
@given(
    window=st.integers(1, 30),
    hop=st.integers(1, 40),
    context=st.integers(0, 10),
    pieces=st.lists(st.tuples(st.integers(-3, 12), st.integers(0, 50)), max_size=12),
)
def test_windows_are_slices_of_the_sound_with_silence_in_its_gaps(
    window: int, hop: int, context: int, pieces: list[tuple[int, int]]
) -> None:
    """Sound comes in pieces of any length, each some samples later, or earlier, than the one before ends."""
    sampler = SoundSampler("a", Audio(10, window / 10, hop / 10, context / 10))
    rng = np.random.default_rng(0)
    track, came = np.zeros(0, np.float32), []
    for gap, length in pieces:
        piece = rng.normal(size=length).astype(np.float32)
        first = len(track) + gap
        track = np.concatenate([track, np.zeros(max(0, gap), np.float32), piece[max(0, -gap) :]])
        came += list(sampler.take(first, piece))
    ended = came + list(sampler.finish(Fraction(len(track), 10)))
    needed = window + context
    whole = [track[begin : begin + needed] for begin in range(0, len(track) - needed + 1, hop)]
    if not whole and len(track):
        whole = [np.pad(track, (0, needed - len(track)))]
    assert len(ended) == len(whole)
    for got, expected in zip(ended, whole, strict=True):
        np.testing.assert_array_equal(got.data.numpy(), expected)


def numbered(count: int) -> Iterator[Picture]:
    for k in range(count):
        yield Picture(Fraction(k), np.full((1, 1, 3), k, np.uint8))


@settings(max_examples=60)
@given(length=st.integers(1, 9), hop=st.integers(1, 12), pictures=st.integers(0, 60))
def test_clips_are_every_hop_th_run_of_pictures(length: int, hop: int, pictures: int) -> None:
    sampler = ClipSampler("c", Clips(length, 1, hop), torch.from_numpy)
    came = [clip for picture in numbered(pictures) for clip in sampler.take(picture)]
    came += list(sampler.finish(Fraction(pictures)))
    runs = [list(range(begin, begin + length)) for begin in range(0, pictures - length + 1, hop)]
    if not runs and pictures:
        runs = [[*range(pictures), *[pictures - 1] * (length - pictures)]]
    assert [clip.data[:, 0, 0, 0].tolist() for clip in came] == runs
