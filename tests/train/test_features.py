"""Features as padded batches: selections, pools, several experts side by side, scales."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import times_of, write_features
from torch import Generator, Tensor

from feature_store import FeatureStore
from train import TrainError
from train.features import (
    CachedRows,
    Select,
    Source,
    _overlapping_mean,
    first_rows,
    measure_scales,
    open_rows,
    random_rows,
    spread_rows,
)

LENGTHS = {"a": 7, "b": 3, "c": 12, "d": 1}
SOUNDS = {"a": 5, "b": 2, "c": 4}  # "d" has none, "e" only these
SELECTIONS = {"first": first_rows(4), "spread": spread_rows(4), "random": random_rows(4)}


def values(video: str, rows: int, dim: int) -> np.ndarray:
    return np.random.default_rng([ord(video), dim]).normal(1, 2, (rows, dim)).astype(np.float32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    looks = {video: values(video, rows, 3) for video, rows in LENGTHS.items()}
    sounds: dict[str, np.ndarray | None] = {video: values(video, rows, 2) for video, rows in SOUNDS.items()}
    return write_features(
        tmp_path_factory.mktemp("store") / "s.zarr",
        {"looks": {**looks, "e": None}, "sounds": {**sounds, "d": None, "e": values("e", 4, 2)}},
        {"sounds": "float16"},
        {"looks": 0.5, "sounds": 0.8},
    )


@pytest.mark.parametrize("experts", [["looks"], ["sounds"], ["looks", "sounds"]])
@pytest.mark.parametrize("select", list(SELECTIONS))
@pytest.mark.parametrize("pool", [None, "mean", "max"])
@pytest.mark.parametrize("scaled", [False, True])
def test_rows_in_memory_and_rows_of_the_store_give_the_same_batches(
    store: FeatureStore, experts: list[str], select: str, pool: str | None, scaled: bool
) -> None:
    ids = ["a", "b", "c", "d", "e"]
    scales = measure_scales(store, experts, ids) if scaled else None
    cached = open_rows(store, experts, ids, pool, "ram", "cpu", scales)  # type: ignore[arg-type]
    mapped = open_rows(store, experts, ids, pool, "none", "cpu", scales)  # type: ignore[arg-type]
    for videos in ([3, 0, 0, 2, 4], [1], [4], [4, 3]):
        batches = [
            rows.batch(torch.tensor(videos), SELECTIONS[select], Generator().manual_seed(1))
            for rows in (cached, mapped)
        ]
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one, other)


def test_padding_is_zeros_and_pools_are_over_all_rows(store: FeatureStore) -> None:
    for how, pooled in (("mean", np.mean), ("max", np.max)):
        batch = open_rows(store, ["looks"], ["a", "b", "e"], how, "ram", "cpu").batch(  # type: ignore[arg-type]
            torch.tensor([0, 1, 2]), first_rows(5)
        )
        assert batch.lengths.tolist() == [5, 3, 0]
        for place, video in enumerate("ab"):
            own = values(video, LENGTHS[video], 3)
            count = min(5, len(own))
            np.testing.assert_array_equal(batch.values[place, :count], own[:count])
            np.testing.assert_allclose(batch.times[place, :count], times_of(count, 0.5))
            np.testing.assert_allclose(batch.pooled[place], pooled(own, axis=0), rtol=1e-6)
            assert not batch.values[place, count:].any()
            assert not batch.times[place, count:].any()
        assert not batch.values[2].any()
        assert not batch.pooled[2].any()


def counted(select: Select, lengths: list[int], generator: Generator | None = None) -> list[list[int]]:
    """The rows of each video that count."""
    rows = select(torch.tensor(lengths), generator)
    return [row[: min(length, rows.shape[1])].tolist() for row, length in zip(rows, lengths, strict=True)]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 12))
def test_selections_are_of_the_rows_there_are(lengths: list[int], limit: int) -> None:
    """No more than wanted, sorted, none twice; all where there are no more."""
    for select in (first_rows(limit), spread_rows(limit), random_rows(limit)):
        for generator in (None, Generator().manual_seed(3)):
            for rows, length in zip(counted(select, lengths, generator), lengths, strict=True):
                assert len(rows) == min(length, limit)
                assert rows == sorted(set(rows))
                assert all(0 <= row < length for row in rows)
                assert length > limit or rows == list(range(length))


def test_the_first_and_the_last_row_are_among_spread_ones() -> None:
    assert counted(spread_rows(4), [10, 4, 2]) == [[0, 3, 6, 9], [0, 1, 2, 3], [0, 1]]
    expected = np.round(np.linspace(0, 54, 20)).astype(int).tolist()
    assert counted(spread_rows(20), [55]) == [expected]


def test_random_rows_without_a_generator_are_those_of_a_fresh_numpy_generator() -> None:
    for length in (5, 31, 80):
        chosen = np.sort(np.random.RandomState(0).choice(length, 4, replace=False)).tolist()
        assert counted(random_rows(4), [length, 3]) == [chosen, [0, 1, 2]]


def test_random_rows_reach_every_row_alike() -> None:
    generator, hits = Generator().manual_seed(0), torch.zeros(9)
    for _ in range(300):
        hits[counted(random_rows(3), [9, 2], generator)[0]] += 1
    assert hits.sum() == 900
    assert (hits - 100).abs().max() < 45  # five deviations


def brute_force(to: np.ndarray, times: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The mean of the rows that overlap each of `to`, weighted by the seconds, with plain loops."""
    out = np.zeros((len(to), rows.shape[1]))
    for place, (begin, end) in enumerate(to):
        seconds = [max(0.0, min(end, stop) - max(begin, start)) for start, stop in times]
        if sum(seconds) > 0:
            out[place] = sum(weight * row for weight, row in zip(seconds, rows, strict=True)) / sum(seconds)
    return out


spans = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 20)), min_size=1, max_size=8)


@given(spans, spans)
def test_several_experts_meet_by_the_seconds_they_share(to: list[tuple[int, int]], of: list[tuple[int, int]]) -> None:
    wanted, given_times = (np.array([(a / 4, (a + b) / 4) for a, b in each]) for each in (to, of))
    rows = np.random.default_rng(len(of)).normal(size=(len(of), 3)).astype(np.float32)
    ours = _overlapping_mean(wanted, given_times, rows)
    np.testing.assert_allclose(ours, brute_force(wanted, given_times, rows), atol=1e-5)


def test_a_second_expert_stands_beside_the_first_or_is_zeros(store: FeatureStore) -> None:
    source = Source(store, ["looks", "sounds"])
    rows, times = source.read("a")
    assert rows.shape == (7, 5)
    sounds = values("a", 5, 2).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(rows[:, :3], values("a", 7, 3))
    np.testing.assert_allclose(rows[:, 3:], brute_force(times.numpy(), times_of(5, 0.8), sounds), atol=1e-5)
    assert not source.read("d")[0][:, 3:].any()


@pytest.mark.parametrize("cache", ["ram", "none"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_told_by_expert_video_and_row(tmp_path: Path, cache: str, bad: float) -> None:
    rows = values("a", 4, 3)
    rows[2, 1] = bad
    store = write_features(tmp_path / "s.zarr", {"looks": {"fine": values("b", 2, 3), "broken": rows}})
    with pytest.raises(TrainError, match="looks has values of broken that are not finite, the first in row 2"):
        open_rows(store, ["looks"], ["fine", "broken"], None, cache, "cpu")  # type: ignore[arg-type]
    with pytest.raises(TrainError, match="row 2"):
        measure_scales(store, ["looks"], ["broken"])


def test_scales_bring_numbers_to_mean_0_and_deviation_1(store: FeatureStore) -> None:
    ids = list(LENGTHS)
    source = Source(store, ["looks"], measure_scales(store, ["looks"], ids))
    rows = torch.cat([source.read(video)[0] for video in ids])
    assert rows.mean(dim=0).abs().max() < 1e-5
    assert (rows.std(dim=0, correction=0) - 1).abs().max() < 1e-5


def test_a_number_that_never_changes_is_only_brought_to_0(tmp_path: Path) -> None:
    rows = values("a", 6, 3)
    rows[:, 1] = 1000.1
    rows[:, 2] = 0
    store = write_features(tmp_path / "s.zarr", {"looks": {"a": rows}})
    scaled: Tensor = Source(store, ["looks"], measure_scales(store, ["looks"], ["a"])).read("a")[0]
    assert scaled[:, 1:].abs().max() < 1e-3


def test_half_precision_stays_half_in_memory(store: FeatureStore) -> None:
    assert CachedRows(Source(store, ["sounds"]), ["a", "b"], None)._values.dtype == torch.float16
    assert CachedRows(Source(store, ["looks"]), ["a", "b"], None)._values.dtype == torch.float32
