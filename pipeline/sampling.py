"""From a playing video to the samples that experts asked for, all experts in one pass."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import count, groupby
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from data_manifests import Video
from extractors import Audio, Clips, Frames, Sampling, exact
from feature_store import VideoStatus
from pipeline.backends import DecoderMissing, IndexedPlayback
from pipeline.decode import Picture, Playback, Track
from pipeline.fetching import NotFetched, local_file
from pipeline.media import MediaError, open_media

DECODERS = ("av", "decord", "torchcodec")

Prepare = Callable[[np.ndarray], Tensor]


@dataclass(frozen=True)
class Sample:
    """What one feature row is made from: row `row` of `expert`, covering `start` to `end` seconds."""

    expert: str
    row: int
    start: float
    end: float
    data: Tensor


@dataclass(frozen=True)
class Request:
    """What one expert wants of a video, and how it prepares a frame: (H, W, 3) -> (3, h, w) uint8."""

    samples: Sampling
    prepare: Prepare


@dataclass(frozen=True)
class Ended:
    """The last thing heard of a video for one expert. `status.rows` counts its samples."""

    expert: str
    status: VideoStatus


def sample_video(video: Video, requests: Mapping[str, Request], decoder: str = "av") -> Generator[Sample | Ended]:
    """Decode a video once and yield every expert's samples as they fall due, then one Ended an expert.

    Times are seconds from `video.start`. Memory does not grow with the video's length. What is wrong
    with the file is told in the statuses, never raised; only what ends a run is, such as NotFetched.
    """
    start, end = exact(video.start or 0.0), None if video.end is None else exact(video.end)
    samplers = {name: _sampler(name, request) for name, request in requests.items()}
    visual = {name: sampler for name, sampler in samplers.items() if isinstance(sampler, PictureSampler)}
    sounding = {name: sampler for name, sampler in samplers.items() if isinstance(sampler, SoundSampler)}
    rates = {sampler.rate for sampler in sounding.values()}
    if len(rates) > 1:
        raise ValueError(f"one pass serves one rate of sound, not {sorted(rates)} Hz")

    schedule = Schedule({name: sampler.period for name, sampler in visual.items()}, start, end)
    wants = (iter(schedule), rates.pop() if rates else None, start, end)
    try:
        with local_file(video.path) as path:
            if decoder == "av":
                with open_media(path) as container:
                    playback: Playback | IndexedPlayback = Playback(container, *wants)
                    yield from _play(playback, schedule, visual, sounding, start)
            else:
                playback = IndexedPlayback(path, decoder, *wants)
                yield from _play(playback, schedule, visual, sounding, start)
    except (DecoderMissing, NotFetched):
        raise
    except MediaError as error:
        yield from _all_failed(video, samplers, error.stage, error.reason)
        return
    except Exception as error:  # one video must not end the run: what a decoder raises for it becomes its reason
        yield from _all_failed(video, samplers, "decode", f"{type(error).__name__}: {error}")
        return
    for name, sampler in samplers.items():
        track = playback.video if name in visual else playback.audio
        seconds = (track.seconds if sampler.damaged_at is None else sampler.damaged_at) - start
        yield from sampler.finish(seconds)
        yield Ended(name, _status(video, sampler, track, seconds, "video" if name in visual else "audio"))


def _all_failed(video: Video, experts: Iterable[str], stage: str, reason: str) -> Iterator[Ended]:
    return (Ended(name, VideoStatus(video.id, "failed", stage=stage, reason=reason)) for name in experts)


def _play(
    playback: Playback | IndexedPlayback,
    schedule: Schedule,
    visual: Mapping[str, PictureSampler],
    sounding: Mapping[str, SoundSampler],
    start: Fraction,
) -> Iterator[Sample]:
    for event in playback:
        if isinstance(event, Picture):
            for name in schedule.due(event.time):
                yield from visual[name].take(event)
        else:
            for sampler in sounding.values():
                yield from sampler.take(event.first - round(start * sampler.rate), event.samples)


def _status(video: Video, sampler: Sampler, track: Track, seconds: Fraction, stream: str) -> VideoStatus:
    lasts = max(0.0, float(seconds))
    if not track.present:
        return VideoStatus(video.id, "no_stream", reason=f"no {stream} stream")
    if not track.began:
        reason = track.stopped or "nothing in it can be decoded"
        return VideoStatus(video.id, "failed", stage="decode", reason=f"{stream}: {reason}")
    damage = "; ".join(filter(None, (sampler.damage, track.stopped)))
    if damage and sampler.rows == 0:
        return VideoStatus(video.id, "failed", stage="decode", reason=f"{stream}: {damage}")
    if sampler.rows == 0:
        reason = f"the {stream} ends at {float(track.seconds):.2f} s, before anything wanted begins"
        if stream == "audio":  # sound that falls silent early is no fault, pictures that are not there are one
            return VideoStatus(video.id, "no_stream", reason=reason)
        return VideoStatus(video.id, "failed", stage="sample", reason=reason)
    if damage:
        return VideoStatus(video.id, "truncated", sampler.rows, lasts, at=lasts, reason=f"{stream}: {damage}")
    return VideoStatus(video.id, "ok", sampler.rows, lasts)


class Schedule:
    """The times at which pictures are wanted, merged over experts, and who wants each."""

    def __init__(self, periods: Mapping[str, Fraction], start: Fraction, end: Fraction | None) -> None:
        self._grids = [_grid(name, period, start) for name, period in periods.items()]
        self._end = end
        self._asked: deque[tuple[Fraction, list[str]]] = deque()

    def __iter__(self) -> Iterator[Fraction]:
        for time, wanted in groupby(heapq.merge(*self._grids), key=itemgetter(0)):
            if self._end is not None and time >= self._end:
                return
            self._asked.append((time, [name for _, name in wanted]))
            yield time

    def due(self, time: Fraction) -> list[str]:
        """Who wants the picture of `time`; times must be asked for in the order they were given out."""
        asked, names = self._asked.popleft()
        assert asked == time
        return names


class PictureSampler(ABC):
    """What becomes of an expert's pictures: samples up to the first damaged one; the others are only counted.

    That depends on the pictures that this expert wants alone, whatever others are decoded for experts beside it.
    """

    def __init__(self, name: str, period: Fraction, prepare: Prepare) -> None:
        self.name, self.rows, self.period = name, 0, period
        self.damaged_at: Fraction | None = None  # time of the first damaged picture
        self._prepare = prepare
        self._first_damage: str | None = None
        self._pictures = self._damaged = 0

    @property
    def damage(self) -> str | None:
        """What is wrong with the first damaged picture, and for how many seconds of all pictures are."""
        if self._first_damage is None:
            return None
        damaged, all_of_them = (float(number * self.period) for number in (self._damaged, self._pictures))
        return f"{self._first_damage}; {damaged:.2f} of {all_of_them:.2f} s are damaged"

    def take(self, picture: Picture) -> Iterator[Sample]:
        self._pictures += 1
        self._damaged += picture.damage is not None
        if self.damaged_at is None and picture.damage is not None:
            self.damaged_at, self._first_damage = picture.time, picture.damage
        if self.damaged_at is None:
            yield from self._add(picture)

    def finish(self, seconds: Fraction) -> Iterator[Sample]:
        """What is to be made of pictures that no others follow; `seconds` is where they end."""
        yield from ()

    @abstractmethod
    def _add(self, picture: Picture) -> Iterator[Sample]:
        """The samples that a picture completes."""


class FrameSampler(PictureSampler):
    """One sample a picture."""

    def __init__(self, name: str, samples: Frames, prepare: Prepare) -> None:
        super().__init__(name, exact(samples.every), prepare)

    def _add(self, picture: Picture) -> Iterator[Sample]:
        start, end = self.rows * self.period, (self.rows + 1) * self.period
        yield Sample(self.name, self.rows, float(start), float(end), self._prepare(picture.pixels))
        self.rows += 1


class ClipSampler(PictureSampler):
    """Overlapping runs of pictures, of which only the latest run is held."""

    def __init__(self, name: str, samples: Clips, prepare: Prepare) -> None:
        super().__init__(name, 1 / exact(samples.fps), prepare)
        self._length, self._hop = samples.length, samples.hop
        self._latest: deque[Tensor] = deque(maxlen=samples.length)

    def _add(self, picture: Picture) -> Iterator[Sample]:
        self._latest.append(self._prepare(picture.pixels))
        if self._pictures == self.rows * self._hop + self._length:
            yield self._clip(self._length * self.period)

    def finish(self, seconds: Fraction) -> Iterator[Sample]:
        if self.rows == 0 and self._latest:
            self._latest.extend([self._latest[-1]] * (self._length - len(self._latest)))
            yield self._clip(seconds)

    def _clip(self, lasts: Fraction) -> Sample:
        start = self.rows * self._hop * self.period
        self.rows += 1
        return Sample(self.name, self.rows - 1, float(start), float(start + lasts), torch.stack([*self._latest]))


class SoundSampler:
    """Overlapping windows of sound; gaps in the sound are silence."""

    damage = damaged_at = None  # decoding stops where sound is damaged

    def __init__(self, name: str, samples: Audio) -> None:
        self.name, self.rows = name, 0
        self.rate = samples.rate
        self._window = round(exact(samples.window) * samples.rate)  # samples
        self._hop = round(exact(samples.hop) * samples.rate)
        self._needed = self._window + round(exact(samples.context) * samples.rate)
        self._rest = samples.rest
        self._first = 0  # number of the first sample held
        self._held = np.zeros(0, np.float32)

    def take(self, first: int, sound: np.ndarray) -> Iterator[Sample]:
        """`sound` begins at sample `first`; what comes before the samples held is late and dropped."""
        gap = first - (self._first + len(self._held))
        silence = np.zeros(max(0, gap), np.float32)
        self._held = np.concatenate([self._held, silence, sound[max(0, -gap) :]])
        while len(self._held) >= self._needed:
            yield self._sample(self._held[: self._needed], self._window)
            self._held = self._held[self._hop :]
            self._first += self._hop

    def finish(self, seconds: Fraction) -> Iterator[Sample]:
        if self._rest and len(self._held) > (self._window - self._hop if self.rows else 0):
            yield self._sample(self._held, len(self._held))  # which the windows before do not cover
        elif self.rows == 0 and len(self._held):
            padded = np.zeros(self._needed, np.float32)
            padded[: len(self._held)] = self._held
            yield self._sample(padded, min(len(self._held), self._window))

    def _sample(self, sound: np.ndarray, lasts: int) -> Sample:
        start = self.rows * self._hop
        self.rows += 1
        data = torch.from_numpy(sound.copy())
        return Sample(self.name, self.rows - 1, start / self.rate, (start + lasts) / self.rate, data)


Sampler = PictureSampler | SoundSampler


def _sampler(name: str, request: Request) -> Sampler:
    match request.samples:
        case Frames():
            return FrameSampler(name, request.samples, request.prepare)
        case Clips():
            return ClipSampler(name, request.samples, request.prepare)
        case Audio():
            return SoundSampler(name, request.samples)


def _grid(name: str, period: Fraction, start: Fraction) -> Iterator[tuple[Fraction, str]]:
    return ((start + k * period, name) for k in count())
