"""The index of moments: its search against brute force, and what it does with a folder that is not whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from small_stores import contents, write_store
from train import TrainError
from train.grounding import moments as module
from train.grounding.metrics import interval_iou
from train.grounding.moments import Moment, MomentIndex, write_index
from train.grounding.proposals import ProposalMap

MAP = ProposalMap(8, (4, 2))  # 29 moments
DIM = 6
IDENTITY = {"model": "f00d", "store": "corpus.zarr"}


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 100 * DIM * 2)  # 100 rows


def noise(*shape: int, seed: int = 0, steps: int = 64) -> Tensor:
    """Multiples of 1 / steps, so that float32 sums their products without rounding, in any order."""
    return (steps * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).round() / steps


def embed(videos: int, seed: int = 0, steps: int = 64) -> Tensor:
    return noise(videos, len(MAP.cells), DIM, seed=seed, steps=steps)


def write(path: Path, embeddings: Tensor) -> None:
    names = [f"video{number}" for number in range(len(embeddings))]
    durations = [4.0 + number for number in range(len(embeddings))]
    write_index(path, IDENTITY, MAP, names, durations, embeddings.split(3))


def brute_force(embeddings: Tensor, query: Tensor, top_k: int, suppress: float) -> list[Moment]:
    """Every moment of the corpus, the best first, unless a better one of its video overlaps it too much."""
    scores = embeddings.half().double() @ query.double()
    segments = MAP.segments(4.0 + torch.arange(len(embeddings), dtype=torch.float64))
    kept: list[tuple[int, int]] = []
    for place in scores.flatten().sort(descending=True, stable=True).indices.tolist():
        video, moment = divmod(place, len(MAP.cells))
        rivals = [segments[video, other] for of_video, other in kept if of_video == video]
        if not any(interval_iou(rival, segments[video, moment]) > suppress for rival in rivals):
            kept.append((video, moment))
        if len(kept) == top_k:
            break
    return [
        Moment(f"video{video}", *segments[video, moment].tolist(), float(scores[video, moment]))
        for video, moment in kept
    ]


def assert_same(found: list[Moment], expected: list[Moment]) -> None:
    assert [(hit.video, hit.start, hit.end) for hit in found] == [(hit.video, hit.start, hit.end) for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], rel=1e-6)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("indexes")


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    videos=st.integers(1, 20),
    seed=st.integers(0, 99),
    steps=st.sampled_from([1, 64]),
    scale=st.sampled_from([2.0**-9, 1.0, 128.0]),
    top_k=st.integers(1, 15),
    suppress=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_a_search_finds_what_brute_force_finds(
    folders: Path, videos: int, seed: int, steps: int, scale: float, top_k: int, suppress: float
) -> None:
    """Also among many equal scores, which integers give; the first row comes first then."""
    embeddings, queries = embed(videos, seed, steps), noise(3, DIM, seed=seed + 1, steps=steps)
    write(folders / "moments.zarr", embeddings)
    index = MomentIndex(folders / "moments.zarr")
    for query in scale * queries:
        assert_same(index.search(query, top_k, suppress), brute_force(embeddings, query, top_k, suppress))


@pytest.mark.parametrize("seed", [1, 6])
def test_a_search_is_exact_where_rounding_the_query_changes_the_order(tmp_path: Path, seed: int) -> None:
    """Rows are long, and nearly at right angles to the query: what float16 takes from it outweighs their scores."""
    generator = torch.Generator().manual_seed(seed)
    query = torch.randint(200, 1000, (DIM,), generator=generator).float()
    rows = torch.randint(-64, 65, (2_000_000, DIM), generator=generator).float()
    rows = rows[(rows @ query).abs() < 60][: 20 * len(MAP.cells)]
    halved = (query.double() / float(query.double().norm()) / float(rows.norm(dim=1).max())).half()
    exact, rough = rows @ query, torch.mv(rows.half(), halved)
    assert exact[rough.topk(64).indices].topk(8).values.sum() < exact.topk(8).values.sum()
    embeddings = rows.unflatten(0, (20, -1))
    write(tmp_path / "moments.zarr", embeddings)
    found = MomentIndex(tmp_path / "moments.zarr").search(query, 8, suppress=1)
    assert_same(found, brute_force(embeddings, query, 8, suppress=1))


def test_one_video_does_not_fill_the_list_with_moments_that_overlap(tmp_path: Path) -> None:
    embeddings = embed(2)
    embeddings[1, :, 0] += 100
    write(tmp_path / "moments.zarr", embeddings)
    query = torch.eye(DIM)[0]
    index = MomentIndex(tmp_path / "moments.zarr")
    assert {hit.video for hit in index.search(query, 10, suppress=1)} == {"video1"}
    found = index.search(query, 10, suppress=0)  # of a video of 8 clips, no 10 can lie apart
    assert {hit.video for hit in found} == {"video0", "video1"}
    assert found[0].video == "video1" and [hit.score for hit in found] == sorted(hit.score for hit in found)[::-1]


def test_a_search_for_more_than_there_is_gives_all_there_is(tmp_path: Path) -> None:
    write(tmp_path / "moments.zarr", embed(1))
    index = MomentIndex(tmp_path / "moments.zarr")
    assert len(index.search(torch.ones(DIM), 1000, suppress=1)) == len(index) == len(MAP.cells)
    assert index.search(torch.ones(DIM), 0) == []


def test_a_query_of_zeros_finds_the_first_moments(tmp_path: Path) -> None:
    write(tmp_path / "moments.zarr", embed(9))
    found = MomentIndex(tmp_path / "moments.zarr").search(torch.zeros(DIM), 2)
    assert [(hit.video, hit.start, hit.score) for hit in found] == [("video0", 0, 0), ("video0", 0.5, 0)]


def test_an_index_is_a_zarr_group_that_anybody_can_read(tmp_path: Path) -> None:
    embeddings = embed(4)
    write(tmp_path / "moments.zarr", embeddings)
    group = zarr.open_group(tmp_path / "moments.zarr", mode="r")
    assert torch.equal(torch.from_numpy(group["embeddings"][:]), embeddings.flatten(0, 1).half())
    assert group["videos"][:].tolist() == [number for number in range(4) for _ in MAP.cells]
    assert group["times"][29:31].tolist() == [[0, 0.625], [0.625, 1.25]]
    index = MomentIndex(tmp_path / "moments.zarr")
    assert index.identity == IDENTITY and index.videos == ("video0", "video1", "video2", "video3")
    assert group.attrs["reelcache"]["identity"] == IDENTITY
    index.verify()


def test_a_new_index_takes_the_place_of_the_old_one_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "moments.zarr"
    write(path, embed(4))
    with pytest.raises(ValueError, match="embeddings of 1 videos, where 2 were named"):
        write_index(path, {}, MAP, ["a", "b"], [1, 2], [embed(1)])
    assert MomentIndex(path).videos[0] == "video0" and list(tmp_path.iterdir()) == [path]
    write_index(path, {}, MAP, ["a"], [1], [embed(1)])
    assert MomentIndex(path).videos == ("a",) and list(tmp_path.iterdir()) == [path]


def test_a_shard_of_features_is_no_index_and_is_left_alone(tmp_path: Path) -> None:
    """It has a complete.json as well."""
    write_store(tmp_path / "corpus.zarr")
    shard = next((tmp_path / "corpus.zarr").rglob("complete.json")).parent
    before = contents(tmp_path)
    with pytest.raises(TrainError, match="holds other things"):
        write(shard, embed(1))
    assert contents(tmp_path) == before
    with pytest.raises(TrainError, match="is no index of moments, but something else"):
        MomentIndex(shard)


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TrainError, match="holds other things"):
        write(tmp_path, embed(1))
    with pytest.raises(TrainError, match="holds other things"):
        write(tmp_path / "thesis.tex", embed(1))


@pytest.mark.parametrize("value", [1e6, float("nan")])
def test_embeddings_that_float16_cannot_hold_are_refused_by_their_video(tmp_path: Path, value: float) -> None:
    embeddings = embed(5)
    embeddings[4, 28, 0] = value
    with pytest.raises(TrainError, match=r"'video4'.*diverged"):
        write(tmp_path / "moments.zarr", embeddings)


def test_embeddings_that_are_not_of_the_videos_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "moments.zarr"
    with pytest.raises(ValueError, match="more videos than the 1"):
        write_index(path, {}, MAP, ["a"], [1], [embed(2)])
    with pytest.raises(ValueError, match="2 durations for 1 videos"):
        write_index(path, {}, MAP, ["a"], [1, 2], [embed(1)])
    with pytest.raises(ValueError, match=r"\(1, 28, 6\), not videos by 29 moments"):
        write_index(path, {}, MAP, ["a"], [1], [embed(1)[:, :28]])
    with pytest.raises(ValueError, match="embeddings of 0 videos, where 0 were named"):
        write_index(path, {}, MAP, [], [], [])


def test_an_index_that_is_not_there_or_unfinished_is_said_to_be(tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"no index of moments, or it was never finished; make it anew"):
        MomentIndex(tmp_path / "moments.zarr")
    write(tmp_path / "moments.zarr", embed(1))
    (tmp_path / "moments.zarr/complete.json").unlink()
    with pytest.raises(TrainError, match="never finished"):
        MomentIndex(tmp_path / "moments.zarr")


@pytest.mark.parametrize("name", ["embeddings/c/1/0", "videos/c/0", "times/zarr.json", "zarr.json"])
def test_an_index_of_which_a_file_is_gone_or_cut_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "moments.zarr"
    write(path, embed(5))
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[:-1])
    with pytest.raises(TrainError, match=f"{name}: damaged, it is missing or not of {len(content)} bytes"):
        MomentIndex(path)
    (path / name).unlink()
    with pytest.raises(TrainError, match=f"{name}: damaged"):
        MomentIndex(path)


def test_an_edited_mark_of_completeness_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "moments.zarr"
    write(path, embed(1))
    mark = path / "complete.json"
    for content in (mark.read_text().replace("video0", "video9"), "{", "[]"):
        mark.write_text(content)
        with pytest.raises(TrainError, match=r"complete\.json: damaged .*; make it anew"):
            MomentIndex(path)


def test_verifying_finds_a_changed_byte(tmp_path: Path) -> None:
    path = tmp_path / "moments.zarr"
    write(path, embed(5))
    chunk = path / "embeddings/c/1/0"
    content = bytearray(chunk.read_bytes())
    content[7] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(TrainError, match="embeddings/c/1/0: damaged"):
        MomentIndex(path).verify()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("embeddings/zarr.json", b'"float16"', b'"float64"'),
        ("embeddings/zarr.json", b'"shape"', b'"shope"'),
        ("times/zarr.json", b'"float64"', b'"|O00000"'),
        ("videos/zarr.json", b'"int32"', b'"int99"'),
    ],
)
def test_arrays_of_another_kind_are_damage(tmp_path: Path, file: str, old: bytes, new: bytes) -> None:
    path = tmp_path / "moments.zarr"
    write(path, embed(5))
    content = (path / file).read_bytes()
    assert old in content
    (path / file).write_bytes(content.replace(old, new, 1))
    with pytest.raises(TrainError, match=r"moments\.zarr: damaged \("):
        MomentIndex(path)


@pytest.mark.parametrize("query", [torch.ones(DIM + 1), torch.ones(1, DIM), torch.full((DIM,), torch.nan)])
def test_a_query_that_cannot_be_scored_is_refused(tmp_path: Path, query: Tensor) -> None:
    write(tmp_path / "moments.zarr", embed(1))
    with pytest.raises(TrainError, match="a query must be 6 finite numbers"):
        MomentIndex(tmp_path / "moments.zarr").search(query)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(among=st.sets(st.integers(0, 19), min_size=1), seed=st.integers(0, 99), top_k=st.integers(1, 40))
def test_a_search_among_some_videos_is_that_of_a_corpus_of_them(
    tmp_path_factory: pytest.TempPathFactory, among: set[int], seed: int, top_k: int
) -> None:
    path, embeddings, query = tmp_path_factory.mktemp("index") / "moments.zarr", embed(20), noise(DIM, seed=seed)
    write(path, embeddings)
    found = MomentIndex(path).search(query, top_k, 0.5, {f"video{number}" for number in among} | {"elsewhere"})
    everywhere = brute_force(embeddings, query, 20 * len(MAP.cells), 0.5)
    assert_same(found, [hit for hit in everywhere if int(hit.video.removeprefix("video")) in among][:top_k])


def test_a_search_among_unknown_videos_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "moments.zarr", embed(1))
    with pytest.raises(TrainError, match="holds none of the videos to look among"):
        MomentIndex(tmp_path / "moments.zarr").search(noise(DIM), among={"elsewhere"})


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_the_pieces_of_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(module, "PIECE_BYTES", 7 * DIM * 2)  # 7 rows
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        embeddings, query = embed(12), noise(DIM, seed=1)
        write(tmp_path / "moments.zarr", embeddings)
        assert_same(MomentIndex(tmp_path / "moments.zarr").search(query, 9), brute_force(embeddings, query, 9, 0.5))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


def test_faiss_finds_the_same(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    embeddings = embed(20)
    write(tmp_path / "moments.zarr", embeddings)
    index = MomentIndex(tmp_path / "moments.zarr", engine="faiss")
    for seed, suppress in enumerate((0.0, 0.5, 1.0)):
        query = noise(DIM, seed=seed + 1)
        assert_same(index.search(query, 30, suppress), brute_force(embeddings, query, 30, suppress))


def test_without_faiss_its_engine_is_refused_and_so_is_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "moments.zarr", embed(1))
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(TrainError, match="not installed: pip install faiss-cpu"):
        MomentIndex(tmp_path / "moments.zarr", engine="faiss")
    with pytest.raises(TrainError, match="engine 'annoy' for moments: there is torch and faiss"):
        MomentIndex(tmp_path / "moments.zarr", engine="annoy")
