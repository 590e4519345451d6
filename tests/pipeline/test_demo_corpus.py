"""The demo corpus says of its videos only what a decoder finds in them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from data_manifests.jsonl import Manifest, read_rows
from data_manifests.rows import Caption, Moment
from pipeline import demo_corpus
from pipeline.demo_corpus import Event, VideoPlan, captions_of, make_demo_corpus, moments_of, plan_video

VIDEOS = 4  # between them every colour, shape, motion and sound occurs
FRAME = 1 / demo_corpus.FPS  # s


@dataclass(frozen=True)
class Decoded:
    plan: VideoPlan
    times: list[float]  # s, of every frame
    frames: np.ndarray  # (T, H, W, 3) uint8 RGB
    sound: np.ndarray  # (N,) float32, from second 0 on

    def shape_at(self, event: Event, done: float) -> np.ndarray:
        """Where (h, w) the event's shape is when `done` (0 to 1) of the event is over."""
        first, last = round(event.start / FRAME), round(event.end / FRAME) - 1
        return self.shape_in(round(first + done * (last - first)), event.colour)

    def shape_in(self, frame: int, colour: str) -> np.ndarray:
        stage = self.frames[frame, : demo_corpus.STAGE_HEIGHT].astype(int)
        return np.abs(stage - demo_corpus.COLOURS[colour]).max(axis=-1) < 40

    def sound_of(self, event: Event) -> np.ndarray:
        rate = demo_corpus.SAMPLE_RATE
        return self.sound[round(event.start * rate) : round(event.end * rate)]


def decode(path: Path, plan: VideoPlan) -> Decoded:
    with av.open(str(path)) as file:
        frames = list(file.decode(video=0))
    with av.open(str(path)) as file:
        sound = list(file.decode(audio=0))
    assert sound[0].pts == 0
    samples = np.concatenate([frame.to_ndarray()[0] for frame in sound])
    return Decoded(plan, [f.time for f in frames], np.stack([f.to_ndarray(format="rgb24") for f in frames]), samples)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo_corpus(tmp_path_factory.mktemp("corpus"), videos=VIDEOS)


@pytest.fixture(scope="module")
def decoded(manifest: Path) -> list[Decoded]:
    plans = [plan_video(index) for index in range(VIDEOS)]
    return [decode(manifest.parent / plan.path, plan) for plan in plans]


@pytest.fixture(scope="module")
def events(decoded: list[Decoded]) -> list[tuple[Decoded, Event]]:
    return [(video, event) for video in decoded for event in video.plan.events]


def centroid(mask: np.ndarray) -> np.ndarray:
    return np.argwhere(mask).mean(axis=0)  # (row, column) px


def spectral_centroid(sound: np.ndarray) -> float:
    power = np.abs(np.fft.rfft(sound)) ** 2
    return float((power * np.fft.rfftfreq(len(sound), 1 / demo_corpus.SAMPLE_RATE)).sum() / power.sum())  # Hz


def crest(sound: np.ndarray) -> float:
    return float(np.abs(sound).max() / np.sqrt((sound**2).mean()))


def test_the_rows_on_disk_are_those_of_the_plans(manifest: Path) -> None:
    plans = [plan_video(index) for index in range(VIDEOS)]
    rows = list(Manifest(manifest))
    assert [row.id for row in rows] == [plan.id for plan in plans]
    assert all(Path(row.path).is_file() for row in rows)
    assert [row.meta["split"] for row in rows] == [plan.split for plan in plans]
    assert [[event["end"] for event in row.meta["events"]] for row in rows] == [
        [event.end for event in plan.events] for plan in plans
    ]
    captions = list(read_rows(manifest.with_name("captions.jsonl"), Caption))
    assert captions == [row for plan in plans for row in captions_of(plan)]
    moments = list(read_rows(manifest.with_name("moments.jsonl"), Moment))
    assert moments == [row for plan in plans for row in moments_of(plan)]


def test_every_attribute_is_put_to_the_test(events: list[tuple[Decoded, Event]]) -> None:
    assert {event.colour for _, event in events} == set(demo_corpus.COLOURS)
    assert {event.shape for _, event in events} == set(demo_corpus.SHAPES)
    assert {event.motion for _, event in events} == set(demo_corpus.MOTIONS)
    assert {event.sound for _, event in events} == set(demo_corpus.SOUNDS)


def test_files_hold_h264_and_aac_as_promised(manifest: Path) -> None:
    for path in (manifest.parent / "videos").iterdir():
        with av.open(str(path)) as file:
            video, audio = file.streams.video[0], file.streams.audio[0]
            assert (video.codec_context.name, video.pix_fmt) == ("h264", "yuv420p")
            assert (video.width, video.height, video.average_rate) == (320, 240, 24)
            assert (audio.codec_context.name, audio.rate, audio.channels) == ("aac", 44_100, 1)


def test_files_last_as_long_as_their_events(decoded: list[Decoded]) -> None:
    for video in decoded:
        end = video.plan.events[-1].end
        assert 6 <= end <= 12
        assert video.times[-1] + FRAME == pytest.approx(end)
        assert 0 <= len(video.sound) / demo_corpus.SAMPLE_RATE - end < FRAME


def test_frame_k_is_shown_at_k_24ths_of_a_second(decoded: list[Decoded]) -> None:
    for video in decoded:
        np.testing.assert_allclose(video.times, np.arange(len(video.times)) * FRAME, atol=1e-6)


def test_sample_n_is_heard_at_n_44100ths_of_a_second(decoded: list[Decoded]) -> None:
    for video in decoded:
        written = demo_corpus._sound_track(video.plan)
        heard = video.sound[: len(written)]
        correlation = np.fft.irfft(np.fft.rfft(heard) * np.fft.rfft(written).conj())
        assert correlation.argmax() == 0


def test_pictures_change_at_the_very_frame_an_event_begins(decoded: list[Decoded]) -> None:
    for video in decoded:
        for before, after in pairwise(video.plan.events):
            border = round(after.start / FRAME)
            assert video.shape_in(border - 1, before.colour).sum() > 300
            assert video.shape_in(border, before.colour).sum() < 100
            assert video.shape_in(border, after.colour).sum() > 100


def test_the_colour_on_screen_is_the_colour_told(events: list[tuple[Decoded, Event]]) -> None:
    for video, event in events:
        middle = round((event.start + event.end) / 2 / FRAME)
        pixels = {colour: video.shape_in(middle, colour).sum() for colour in demo_corpus.COLOURS}
        assert max(pixels, key=pixels.__getitem__) == event.colour
        assert pixels[event.colour] > 1000


def test_the_shape_moves_as_told(events: list[tuple[Decoded, Event]]) -> None:
    for video, event in events:
        early, late = video.shape_at(event, 0.05), video.shape_at(event, 0.95)
        down, right = centroid(late) - centroid(early)  # px
        growth = late.sum() / early.sum()
        if event.motion == "growing":
            assert growth > 8
            continue
        assert 0.8 < growth < 1.25
        match event.motion:
            case "left":
                assert right < -100 and abs(down) < 5
            case "right":
                assert right > 100 and abs(down) < 5
            case "up":
                assert down < -60 and abs(right) < 5
            case "down":
                assert down > 60 and abs(right) < 5
            case "spinning":
                assert abs(right) < 15 and abs(down) < 15
                moments = [video.shape_at(event, done) for done in (0.4, 0.45, 0.5, 0.55)]
                assert all((a ^ b).sum() > 0.05 * a.sum() for a, b in pairwise(moments))


def test_a_word_stands_under_the_shape_for_the_whole_event(events: list[tuple[Decoded, Event]]) -> None:
    words: dict[str, np.ndarray] = {}
    for video, event in events:
        first, stop = round(event.start / FRAME), round(event.end / FRAME)
        letters = video.frames[first:stop, demo_corpus.STAGE_HEIGHT :].min(axis=-1) > 180  # (t, h, w)
        assert (letters.sum(axis=(1, 2)) > 400).all()
        assert (letters ^ letters[0]).mean() < 0.01
        earlier = words.setdefault(event.word, letters[0])
        assert (earlier ^ letters[0]).mean() < 0.02
    drawn = list(words.values())
    assert all((a ^ b).mean() > 0.05 for i, a in enumerate(drawn) for b in drawn[:i])


def test_the_sound_is_the_sound_told(events: list[tuple[Decoded, Event]]) -> None:
    for video, event in events:
        sound = video.sound_of(event)
        quarter = len(sound) // 4
        assert 0.3 < np.abs(sound).max() < 1
        pitch, peakedness = spectral_centroid(sound), crest(sound)
        match event.sound:
            case "hum":
                assert pitch < 150
            case "beep":
                assert 1900 < pitch < 2200
            case "sweep":
                assert spectral_centroid(sound[-quarter:]) > 8 * spectral_centroid(sound[:quarter])
            case "rain":
                assert pitch > 6000 and peakedness < 5
            case "bell":
                assert 500 < pitch < 1500
            case "clicks":
                assert pitch > 5000 and peakedness > 8
            case "bird":
                assert 3500 < pitch < 5000


def test_sounds_begin_and_end_in_silence(decoded: list[Decoded]) -> None:
    for video in decoded:
        track = demo_corpus._sound_track(video.plan)
        assert np.abs(track).max() <= 0.5
        for event in video.plan.events:
            part = track[round(event.start * 44_100) : round(event.end * 44_100)]
            assert abs(part[0]) < 0.01 and abs(part[-1]) < 0.01


def test_a_video_is_the_same_bytes_in_every_run_and_every_corpus(manifest: Path, tmp_path: Path) -> None:
    shorter = make_demo_corpus(tmp_path, videos=2)
    for name in ("demo000.mp4", "demo001.mp4"):
        first, second = ((path.parent / "videos" / name).read_bytes() for path in (manifest, shorter))
        assert first == second


def test_seeds_make_different_videos() -> None:
    assert plan_video(0, seed=0).events != plan_video(0, seed=1).events


def test_progress_is_told_after_each_video(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_corpus, "_write_mp4", lambda plan, path: None)
    told: list[int] = []
    make_demo_corpus(tmp_path, videos=3, progress=told.append)
    assert told == [1, 2, 3]


def test_events_tile_the_video_in_lengths_that_are_no_half_seconds() -> None:
    for plan in map(plan_video, range(200)):
        assert plan.events[0].start == 0
        assert all(before.end == after.start for before, after in pairwise(plan.events))
        assert 6 <= plan.events[-1].end <= 12
        assert 2 <= len(plan.events) <= 4
        assert all(round((event.end - event.start) * 24) % 12 for event in plan.events)


def test_moments_cover_every_event_once_or_twice_in_order() -> None:
    for plan in map(plan_video, range(50)):
        moments = list(moments_of(plan))
        spans = list(dict.fromkeys((moment.start, moment.end) for moment in moments))
        assert spans == [(event.start, event.end) for event in plan.events]
        assert len({(moment.start, moment.text) for moment in moments}) == len(moments)
        assert all(sum(m.start == start for m in moments) in (1, 2) for start, _ in spans)


def test_no_two_events_of_a_video_share_an_attribute() -> None:
    for plan in map(plan_video, range(50)):
        for attribute in ("colour", "shape", "motion", "sound", "word"):
            assert len({getattr(event, attribute) for event in plan.events}) == len(plan.events)


def test_no_circle_spins() -> None:
    events = [event for index in range(200) for event in plan_video(index).events]
    assert not [event for event in events if (event.shape, event.motion) == ("circle", "spinning")]


def test_the_captions_of_a_video_mention_all_of_every_event() -> None:
    for plan in map(plan_video, range(50)):
        texts = [caption.text for caption in captions_of(plan)]
        told = " | ".join(texts)
        assert len(set(texts)) == 4
        for event in plan.events:
            assert f"a {event.colour} {event.shape} " in told
            assert f"the word {event.word}" in told
            assert any(phrase in told for phrase in demo_corpus.MOTIONS[event.motion])
            assert any(phrase in told for phrase in demo_corpus.SOUNDS[event.sound])


def test_splits_are_disjoint_and_none_is_empty() -> None:
    plans = [plan_video(index) for index in range(24)]
    assert len({plan.id for plan in plans}) == 24
    assert [sum(plan.split == split for plan in plans) for split in ("train", "val", "test")] == [16, 4, 4]
