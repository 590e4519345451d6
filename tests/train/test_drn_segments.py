"""What DRN takes of features: one of those that overlap for a short segment, also where they do not tell that."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import small_recipe, videos, write_corpus, write_moments
from torch import Tensor

from feature_store import FeatureStore, import_features
from train.annotations import read_moments
from train.features import ExpertFacts, RowBatch
from train.recipe import Recipe
from train.tasks.drn import DRNTask, Segments

STRIDE, WINDOW = 8, 64  # frames
FPS = 24.0


class Rows:
    """Units (n, 1) of one video that count from 0, so that a maximum tells which was the last of them."""

    def __init__(self, times: np.ndarray) -> None:
        self._times, self.lengths = torch.from_numpy(times).float(), torch.tensor([len(times)])

    def batch(self, videos: Tensor, select: Any, generator: Any = None) -> RowBatch:
        count = len(self._times)
        return RowBatch(torch.arange(count).float()[None, :, None], self._times[None], self.lengths, torch.zeros(1, 1))


def spread(count: int, duration: float) -> np.ndarray:
    ends = np.linspace(0, duration, count + 1)
    return np.stack([ends[:-1], ends[1:]], axis=1)


def told(count: int) -> np.ndarray:
    starts = np.arange(count) * STRIDE / FPS
    return np.stack([starts, starts + WINDOW / FPS], axis=1)


def official(count: int, frames: int, segments: int) -> list[int]:
    """The unit whose maximum stands for each segment, one that begins first in it if it is no longer than a window."""
    edges = [1 + k * (frames - 1) // segments for k in range(segments + 1)]
    last = [start if stop - start <= WINDOW else stop - 1 for start, stop in itertools.pairwise(edges)]
    return [min(frame // STRIDE, count - 1) for frame in last]


@pytest.mark.parametrize("segments", [8, 32])
@pytest.mark.parametrize("count", [1, 2, 9, 83, 140])
def test_features_that_were_spread_are_pooled_as_those_that_tell_their_times(count: int, segments: int) -> None:
    frames = WINDOW + STRIDE * (count - 1)  # units fill the video
    first = torch.tensor([0])
    taken = Segments(Rows(told(count)), segments).batch(first, None)[0][0, :, 0].tolist()
    imported = Segments(Rows(spread(count, frames / FPS)), segments, WINDOW // STRIDE).batch(first, None)
    assert imported[0][0, :, 0].tolist() == taken
    off = [abs(ours - theirs) for ours, theirs in zip(taken, official(count, frames, segments), strict=True)]
    assert max(off) <= 1, "a segment's edge is rounded to a frame officially, here to a millisecond"
    assert sum(off) <= 0.15 * segments
    assert imported[1][0, 0, 0] == pytest.approx(0, abs=1e-3)
    assert imported[1][0, -1, 1] == pytest.approx(1, abs=1e-3)


def opened(recipe: Recipe, folder: Path) -> Segments:
    store, options = FeatureStore(recipe.data.store), recipe.model
    experts = {name: ExpertFacts.of(store.experts[name]) for name in recipe.data.experts}
    assets = DRNTask.prepare(options, read_moments(folder / "moments", "train"), folder / "moments")
    return DRNTask(options, experts, assets).open_videos(store, videos(3), "none", "cpu")  # type: ignore[arg-type]


def test_a_window_counts_for_features_that_were_imported_with_spread_alone(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    write_moments(tmp_path)
    (tmp_path / "i3d").mkdir()
    units = {video: np.arange(83, dtype=np.float32)[:, None] for video in videos(3)}
    for video, values in units.items():
        np.save(tmp_path / "i3d" / f"{video}.npy", values)
    store = tmp_path / "spread.zarr"
    import_features("npy", [tmp_path / "i3d"], store, expert="i3d", durations=dict.fromkeys(units, 30.0))
    first = torch.tensor([0])
    maxima = []
    for window in (None, 8):
        data, model = {"store": str(store), "experts": ["i3d"]}, {"window": window, "segments": 32}
        recipe = small_recipe(tmp_path, "drn", data=data, model={k: v for k, v in model.items() if v})
        maxima.append(opened(recipe, tmp_path).batch(first, None)[0][0, :, 0])
    assert maxima[1].tolist() == Segments(Rows(spread(83, 30.0)), 32, 8).batch(first, None)[0][0, :, 0].tolist()
    assert (maxima[0] != maxima[1]).float().mean() > 0.8
    recipes = [small_recipe(tmp_path, "drn", model=model) for model in ({}, {"window": 8})]
    one, other = (opened(recipe, tmp_path).batch(first, None) for recipe in recipes)
    assert torch.equal(one[0], other[0])
