"""The order of training: which pairs of video and caption make each batch.

Everything left to chance in step n follows from (seed, n): the same run gives the same batches, also when it was
killed and goes on in the middle of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import torch
from torch import Generator, Tensor

from train import TrainError
from train.annotations import Split
from train.tasks.base import Inputs, Labels, Texts, Videos

Draw = Literal["captions", "videos"]
AHEAD = 2  # batches that are made while a step runs
_ORDER, _CAPTION, _ROWS = range(3)  # independent random streams of a step


class PairBatch(NamedTuple):
    """B pairs of a video and a caption about it."""

    video: Inputs
    text: Inputs
    labels: Inputs


class PairBatches:
    """The batches of one epoch after the other; `step` is the number of the next one in the run.

    With draw="captions" every caption comes once an epoch, with its video. With draw="videos" every video comes once
    before any comes again, each time with a caption drawn at random, and an epoch has `steps` batches. Of several
    ranks each gets its share of every batch, which has `size` pairs a rank. A batch of fewer than `least` pairs is of
    no use: two, where they are told from one another.
    """

    def __init__(
        self,
        split: Split,
        videos: Videos,
        texts: Texts,
        labels: Labels,
        *,
        size: int,
        seed: int,
        draw: Draw = "captions",
        steps: int | None = None,
        rank: int = 0,
        ranks: int = 1,
        least: int = 2,
    ) -> None:
        self._videos, self._texts, self._labels = videos, texts, labels
        self._video_of, self._size, self._seed, self._draw = split.video_of, size * ranks, seed, draw
        self._rank, self._ranks = rank, ranks
        self._captioned = split.video_of.unique()
        order = split.video_of.argsort(stable=True)  # captions, those of one video together
        self._captions = order
        self._first = torch.searchsorted(split.video_of[order], self._captioned)
        self._count = torch.bincount(split.video_of)[self._captioned]
        pool = len(self._video_of) if draw == "captions" else len(self._captioned)
        if pool < least or (ranks > 1 and draw == "captions" and pool < self._size):
            raise TrainError(
                f"{split.name}: {pool} {draw} make no batch of {size} for each of {ranks} processes"
                if ranks > 1
                else f"{split.name}: there is but one of its {draw}, and a batch holds two or more to tell apart"
            )
        self._steps = steps or self._whole_batches(pool, least)
        self.step = 0  # of the run: batches that were handed out

    def __len__(self) -> int:
        """Batches an epoch."""
        return self._steps

    def __iter__(self) -> Iterator[PairBatch]:
        """The rest of the epoch that the next batch is of."""
        stop = (self.step // self._steps + 1) * self._steps
        with ThreadPoolExecutor(1, "batches") as maker:
            made = [maker.submit(self.make, step) for step in range(self.step, min(self.step + AHEAD, stop))]
            while made:
                batch = made.pop(0).result()
                self.step += 1
                if self.step + len(made) < stop:
                    made.append(maker.submit(self.make, self.step + len(made)))
                yield batch

    def make(self, step: int) -> PairBatch:
        """The batch of a step of the run."""
        videos, captions = self.pairs(step)
        rows = _generator(self._seed, step, _ROWS, self._rank)
        return PairBatch(
            self._videos.batch(videos, rows), self._texts.batch(captions), self._labels.batch(videos, captions)
        )

    def pairs(self, step: int) -> tuple[Tensor, Tensor]:
        """The indices of the videos and captions of a step, this rank's share."""
        epoch, batch = divmod(step, self._steps)
        if self._draw == "captions":
            order = torch.randperm(len(self._video_of), generator=_generator(self._seed, epoch, _ORDER))
            captions = order[batch * self._size : (batch + 1) * self._size][self._rank :: self._ranks]
            return self._video_of[captions], captions
        rounds, places = _places(step * self._size, self._size, len(self._captioned))
        orders = {
            number: torch.randperm(len(self._captioned), generator=_generator(self._seed, number, _ORDER))
            for number in sorted(set(rounds))
        }
        drawn = torch.stack([orders[number][place] for number, place in zip(rounds, places, strict=True)])
        chance = torch.rand(len(drawn), generator=_generator(self._seed, step, _CAPTION))
        chosen = (chance * self._count[drawn]).long().clamp(max=self._count[drawn] - 1)
        captions = self._captions[self._first[drawn] + chosen]
        return self._captioned[drawn][self._rank :: self._ranks], captions[self._rank :: self._ranks]

    def _whole_batches(self, pool: int, least: int) -> int:
        """The last, smaller batch counts if it is not shared by ranks and is of use."""
        whole, rest = divmod(pool, self._size)
        return max(1, whole + (self._ranks == 1 and rest >= least))


def step_seed(seed: int, step: int, rank: int = 0) -> int:
    """What dropout in a step is drawn from."""
    return int(_generator(seed, step, 3, rank).initial_seed())


def _places(first: int, count: int, pool: int) -> tuple[list[int], list[int]]:
    rounds, places = zip(*(divmod(place, pool) for place in range(first, first + count)), strict=True)
    return list(rounds), list(places)


def _generator(*key: int) -> Generator:
    """A generator of its own for each key (Weyl steps keep near keys apart; the engine mixes the rest)."""
    mixed = 0
    for part in key:
        mixed = (mixed * 0x9E3779B97F4A7C15 + part + 0x632BE59BD9B4E019) % (1 << 63)
    return Generator().manual_seed(mixed)
