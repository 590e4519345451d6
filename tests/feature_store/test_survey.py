"""Looking at a store: counts, single videos, and how two stores differ."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store import (
    FeatureStore,
    NotInStore,
    StoreError,
    StoreWriter,
    VideoStatus,
    diff_stores,
    inspect_video,
    summarize,
)
from feature_store.layout import node_name
from feature_store.places import LocalPlace
from feature_store.survey import ExpertDifference, Failure, StoreSummary, Survey
from small_stores import (
    CORPUS,
    DIM,
    contents,
    features,
    identity,
    plan,
    reseal,
    status,
    times,
    write_shard,
    write_store,
)

# Counts


def test_a_summary_counts_videos_rows_seconds_and_bytes(tmp_path: Path) -> None:
    write_store(tmp_path, CORPUS[:4], {"s3d": {}, "half": {"dtype": "float16", "kind": "audio"}})
    write_store(tmp_path, CORPUS, {"s3d": {}})
    summary = summarize(tmp_path)
    assert (summary.videos, summary.shards, list(summary.experts)) == (5, 3, ["half", "s3d"])
    done, half = summary.experts["s3d"], summary.experts["half"]
    assert (done.ok, done.truncated, done.no_stream, done.failed, done.pending) == (2, 1, 1, 1, 0)
    assert (half.ok, half.truncated, half.no_stream, half.failed, half.pending) == (2, 0, 1, 1, 1)
    assert (done.rows, done.seconds, half.rows, half.seconds) == (14, 7.0, 12, 6.0)
    assert (half.kind, half.dim, half.dtype, half.weights) == ("audio", DIM, "float16", "random:0")
    shards = {name: content for name, content in contents(tmp_path / "s3d").items() if "/" in name}
    assert done.bytes == sum(map(len, shards.values()))


def test_a_summary_tells_of_every_failure_but_not_of_streams_that_videos_lack(tmp_path: Path) -> None:
    write_store(tmp_path, experts={"s3d": {}, "vggish": {}})
    assert summarize(tmp_path).failures == tuple(
        failure
        for expert in ("s3d", "vggish")
        for failure in (
            Failure("dog", expert, "decode", "not a video"),
            Failure("eel", expert, "decode", "cut off"),
        )
    )


def test_a_store_in_which_nothing_is_done_has_everything_pending(tmp_path: Path) -> None:
    store = StoreWriter(tmp_path)
    plan(store, CORPUS)
    assert summarize(tmp_path).experts == {} and summarize(tmp_path).videos == 5
    store.add_expert("s3d", identity(), {})
    only = summarize(tmp_path).experts["s3d"]
    assert (only.pending, only.ok, only.rows, only.bytes) == (5, 0, 0, 0)


def test_a_summary_is_plain_data(tmp_path: Path) -> None:
    write_store(tmp_path)
    assert json.loads(json.dumps(asdict(summarize(tmp_path))))["experts"]["s3d"]["rows"] == 14


def truth(path: Path) -> dict[str, tuple[Any, ...]]:
    """What a summary counts, counted the slow way."""
    store = FeatureStore(path)
    found = {}
    for name in store.experts:
        records = list(store[name].shards())
        videos = [video for record in records for video in record.videos]
        counts = Counter(video.status for video in videos)
        found[name] = (
            *(counts[state] for state in ("ok", "truncated", "no_stream", "failed")),
            sum(video.rows for video in videos),
            sum(video.seconds for video in videos),
            sum(len(content) for file, content in contents(path / node_name(name)).items() if "/" in file),
        )
    return found


def counted(summary: StoreSummary) -> dict[str, tuple[Any, ...]]:
    return {
        name: (each.ok, each.truncated, each.no_stream, each.failed, each.rows, each.seconds, each.bytes)
        for name, each in summary.experts.items()
    }


@settings(max_examples=12)
@given(
    st.lists(
        st.builds(
            lambda state, rows: (state, rows if state in ("ok", "truncated") else 0),
            st.sampled_from(["ok", "truncated", "no_stream", "failed"]),
            st.integers(0, 40),
        ),
        min_size=1,
        max_size=7,
    )
)
def test_a_summary_counts_what_the_records_and_the_files_hold(videos: list[tuple[Any, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = StoreWriter(folder)
        statuses = [VideoStatus(f"v{n}", state, rows, rows / 4) for n, (state, rows) in enumerate(videos)]
        shards = plan(store, [video.id for video in statuses], shard_videos=3)
        for name in ("s3d", "ünlike any"):
            expert = store.add_expert(name, identity(), {})
            for shard in range(len(shards)):
                write_shard(expert, shard, statuses[slice(*shards.bounds(shard))])
        summary = summarize(folder)
        assert counted(summary) == truth(Path(folder))
        assert len(summary.failures) == 2 * sum(state in ("failed", "truncated") for state, _ in videos)


def test_files_are_measured_where_a_record_does_not_say_how_large_they_are(tmp_path: Path) -> None:
    write_store(tmp_path)
    for path in tmp_path.glob("s3d/*/complete.json"):
        record = json.loads(path.read_bytes())
        del record["run"]["bytes"]
        path.write_text(json.dumps(reseal(record)))
    assert counted(summarize(tmp_path)) == truth(tmp_path)


# A store that grows


def test_a_survey_follows_a_store_that_grows_and_changes(tmp_path: Path) -> None:
    write_store(tmp_path, CORPUS[:2])
    survey = Survey(tmp_path)
    assert survey.refresh() == summarize(tmp_path)
    write_store(tmp_path, [*CORPUS, "fly"], {"s3d": {}, "vggish": {}})
    assert survey.refresh() == summarize(tmp_path)
    redone = [VideoStatus(video, "ok", 1, 0.5) for video in CORPUS[2:4]]
    write_shard(StoreWriter(tmp_path).add_expert("s3d", identity(), {}), 1, redone)
    summary = survey.refresh()
    assert summary == summarize(tmp_path)
    assert {failure.video for failure in summary.failures if failure.expert == "s3d"} == {"eel"}
    shutil.rmtree(tmp_path / "s3d" / "000000")
    assert survey.refresh() == summarize(tmp_path) != summary
    shutil.rmtree(tmp_path / "vggish")
    assert list(survey.refresh().experts) == ["s3d"]


def test_a_survey_reads_no_record_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    open_file = LocalPlace.read

    def note(place: LocalPlace, name: str) -> bytes:
        read.append(name)
        return open_file(place, name)

    monkeypatch.setattr(LocalPlace, "read", note)
    write_store(tmp_path, CORPUS[:4])
    survey = Survey(tmp_path)

    def records_read() -> list[str]:
        read.clear()
        survey.refresh()
        return [name for name in read if name.endswith("complete.json")]

    assert records_read() == ["s3d/000000/complete.json", "s3d/000001/complete.json"]
    assert records_read() == []
    write_store(tmp_path, CORPUS)
    assert records_read() == ["s3d/000002/complete.json"]


@pytest.mark.parametrize(
    "change",
    [
        lambda record: [record],
        lambda record: {key: value for key, value in record.items() if key != "videos"},
        lambda record: {**record, "videos": [{"id": "ant"}]},
        lambda record: {**record, "videos": [{"id": "ant", "status": "fine"}]},
        lambda record: {**record, "videos": [{"id": "ant", "status": "ok", "rows": "many"}]},
        lambda record: {**record, "run": {"passes": [{}]}},
        lambda record: {**record, "run": {"bytes": None}},
        lambda record: None,
    ],
)
def test_a_record_that_is_none_is_named_with_the_mend(tmp_path: Path, change: Any) -> None:
    write_store(tmp_path)
    survey = Survey(tmp_path)
    survey.refresh()
    path = tmp_path / "s3d" / "000001" / "complete.json"
    path.write_text(json.dumps(change(json.loads(path.read_bytes()))))
    for look in (survey.refresh, lambda: summarize(tmp_path)):
        with pytest.raises(StoreError, match=r"s3d/000001/complete\.json: damaged .*verify STORE --repair"):
            look()


# One video


def test_a_video_is_shown_by_expert_with_times_and_norms(tmp_path: Path) -> None:
    write_store(tmp_path, experts={"s3d": {}, "vggish": {}})
    found = inspect_video(tmp_path, "bee")
    assert list(found) == ["s3d", "vggish"]
    for expert, video in found.items():
        assert video is not None and video.status == status("bee")
        np.testing.assert_array_equal(video.times, times(6))
        np.testing.assert_allclose(video.norms, np.linalg.norm(features("bee", 6, expert=expert), axis=1), rtol=1e-6)
        document = json.loads(json.dumps(video.document()))
        assert document["id"] == "bee" and len(document["norms"]) == 6 and document["times"][1] == [0.5, 1.0]


def test_a_video_that_failed_is_shown_with_its_reason(tmp_path: Path) -> None:
    write_store(tmp_path)
    video = inspect_video(tmp_path, "dog")["s3d"]
    assert video is not None and video.document() == {
        "id": "dog",
        "status": "failed",
        "rows": 0,
        "seconds": 0.0,
        "at": None,
        "stage": "decode",
        "reason": "not a video",
        "times": [],
        "norms": [],
    }


def test_a_video_is_none_where_it_is_not_extracted_yet_and_unknown_if_nowhere(tmp_path: Path) -> None:
    write_store(tmp_path)
    StoreWriter(tmp_path).add_expert("vggish", identity(), {})
    found = inspect_video(tmp_path, "ant")
    assert found["vggish"] is None and found["s3d"] is not None
    with pytest.raises(NotInStore, match=r"'bees'; near: bee"):
        inspect_video(tmp_path, "bees")


# Two stores


def compare(tmp_path: Path, change: Any = None, expert: str = "s3d", **provenance: Any) -> ExpertDifference | str:
    """The CORPUS against the same with `change(video, values, seconds) -> (values, seconds)`."""
    write_store(tmp_path / "a")
    store = StoreWriter(tmp_path / "b")
    shards = plan(store, CORPUS, shard_videos=3)
    writer = store.add_expert("s3d", identity(**provenance), {})
    for shard in range(len(shards)):
        first, stop = shards.bounds(shard)
        rows = writer.begin(shard)
        statuses = []
        for number, video in enumerate(CORPUS[first:stop]):
            went = status(video)
            values, seconds = features(video, went.rows, writer.dim), times(went.rows)
            if change is not None:
                values, seconds = change(video, values, seconds)
            rows.append(number, 0, values, seconds)
            statuses.append(VideoStatus(video, went.status, len(values), seconds=1000.0))
        rows.finish(statuses, {})
    return diff_stores(tmp_path / "a", tmp_path / "b")[expert]


def test_stores_of_equal_features_are_equal_however_they_are_cut(tmp_path: Path) -> None:
    found = compare(tmp_path)
    assert found == ExpertDifference(
        videos=5,
        only_in_a=0,
        only_in_b=0,
        different_rows=0,
        rows=14,
        equal_rows=14,
        cosine_mean=1.0,
        cosine_min=1.0,
        largest=0.0,
        seconds=0.0,
        provenance=[],
    )


def test_a_small_difference_is_measured(tmp_path: Path) -> None:
    def change(video: str, values: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if video == "bee":
            values = values.copy()
            values[3] *= 1.01
            seconds = seconds + 0.04
        return values, seconds

    found = compare(tmp_path, change)
    assert isinstance(found, ExpertDifference)
    assert (found.rows, found.equal_rows, found.different_rows) == (14, 13, 0)
    assert found.largest == pytest.approx(0.01 / 1.01, rel=1e-4)
    assert found.seconds == pytest.approx(0.04)
    assert found.cosine_min == pytest.approx(1.0, abs=1e-12)


def test_features_of_another_direction_show_in_the_cosine(tmp_path: Path) -> None:
    def change(video: str, values: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (-values if video == "ant" else values), seconds

    found = compare(tmp_path, change)
    assert isinstance(found, ExpertDifference)
    assert found.cosine_min == pytest.approx(-1.0) and found.cosine_mean == pytest.approx((8 - 6) / 14)
    assert found.largest == pytest.approx(2.0)


def test_rows_of_zeros_equal_each_other_and_nothing_else(tmp_path: Path) -> None:
    def change(video: str, values: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (np.zeros_like(values) if video == "eel" else values), seconds

    found = compare(tmp_path, change)
    assert isinstance(found, ExpertDifference) and found.cosine_min == 0.0
    again = diff_stores(tmp_path / "b", tmp_path / "b")["s3d"]
    assert isinstance(again, ExpertDifference) and again.cosine_min == 1.0


def test_videos_with_other_numbers_of_rows_are_counted_and_not_compared(tmp_path: Path) -> None:
    def change(video: str, values: np.ndarray, seconds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return (values[:-1], seconds[:-1]) if video == "ant" else (values, seconds)

    found = compare(tmp_path, change)
    assert isinstance(found, ExpertDifference)
    assert (found.different_rows, found.rows, found.equal_rows, found.cosine_min) == (1, 8, 8, 1.0)


def test_videos_of_one_store_only_are_counted(tmp_path: Path) -> None:
    write_store(tmp_path / "a", ["ant", "bee", "fly"])
    write_store(tmp_path / "b", ["bee", "ox", "gnu", "ant"])
    found = diff_stores(tmp_path / "a", tmp_path / "b")["s3d"]
    assert isinstance(found, ExpertDifference)
    assert (found.videos, found.only_in_a, found.only_in_b, found.equal_rows) == (2, 1, 2, 12)


def test_stores_without_a_common_video_have_nothing_to_compare(tmp_path: Path) -> None:
    write_store(tmp_path / "a", ["ant"])
    write_store(tmp_path / "b", ["bee"])
    found = diff_stores(tmp_path / "a", tmp_path / "b")["s3d"]
    assert isinstance(found, ExpertDifference) and (found.videos, found.rows) == (0, 0)


def test_other_provenance_is_listed(tmp_path: Path) -> None:
    found = compare(tmp_path, weights={"source": "s3d-d76dad2f.pth", "sha256": "ab"})
    assert isinstance(found, ExpertDifference) and found.equal_rows == 14
    assert found.provenance == [
        'weights.sha256: null against "ab"',
        'weights.source: "random:0" against "s3d-d76dad2f.pth"',
    ]


def test_experts_of_other_widths_or_of_one_store_only_say_so(tmp_path: Path) -> None:
    assert compare(tmp_path, dim=4) == "3 dimensions against 4"
    only = StoreWriter(tmp_path / "b").add_expert("vggish", identity(), {})
    for shard, videos in enumerate((CORPUS[:3], CORPUS[3:])):
        write_shard(only, shard, map(status, videos))
    assert diff_stores(tmp_path / "a", tmp_path / "b")["vggish"] == f"only in {tmp_path / 'b'}"
    assert diff_stores(tmp_path / "b", tmp_path / "a")["vggish"] == f"only in {tmp_path / 'b'}"


def test_what_is_no_store_cannot_be_looked_at(tmp_path: Path) -> None:
    write_store(tmp_path / "a")
    for use in (summarize, lambda path: inspect_video(path, "ant"), lambda path: diff_stores(tmp_path / "a", path)):
        with pytest.raises(StoreError, match="there is no feature store"):
            use(tmp_path / "nowhere")
