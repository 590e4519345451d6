"""Stores in object storage, on a server that speaks S3."""

from __future__ import annotations

import errno
import json
import pickle
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import s3fs
import zarr
from moto.server import ThreadedMotoServer

from feature_store import (
    FeatureStore,
    ShardWriter,
    StoreError,
    StoreWriter,
    VideoStatus,
    diff_stores,
    export_features,
    import_features,
    inspect_video,
    object_place,
    places,
    reader,
    summarize,
    verify,
)
from feature_store.layout import COMPLETE, dump_record
from feature_store.places import open_place
from feature_store.writer import complete_shards
from foreign_files import write_npy
from s3_server import bucket_of, connect, serving
from small_stores import CORPUS, contents, features, identity, status, times, write_shard, write_store

BUCKET = "features"
URL = f"s3://{BUCKET}/corpus.zarr"


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    with serving() as server:
        yield server


@pytest.fixture
def s3(server: ThreadedMotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """A client of the server, whose bucket is empty; and a cache of our own."""
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "cache"))
    with bucket_of(server, monkeypatch, BUCKET) as client:
        yield client


def objects(s3: s3fs.S3FileSystem, below: str = f"{BUCKET}/corpus.zarr") -> dict[str, bytes]:
    return {path.removeprefix(f"{below}/"): s3.cat_file(path) for path in s3.find(below)}


def shards(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: content for name, content in files.items() if name.count("/") >= 2}


def without_runs(files: dict[str, bytes]) -> dict[str, Any]:
    """The files of shards; records of runs, which say when that was, left out."""
    marks = {name: json.loads(content) for name, content in files.items() if name.endswith(COMPLETE)}
    said = {name: {**mark, "run": None, "sha256": None} for name, mark in marks.items()}
    return {**files, **said}


def assert_reads(store: FeatureStore, videos: list[str] = CORPUS) -> None:
    assert list(store["s3d"]) == videos
    for video in videos:
        found = store["s3d"].read(video)
        assert found.status == status(video)
        np.testing.assert_array_equal(found.values, features(video, status(video).rows))


def test_a_store_holds_the_bytes_of_a_local_one_and_reads_like_it(s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    write_store(URL)
    write_store(tmp_path / "local")
    assert shards(objects(s3)) == shards(contents(tmp_path / "local"))
    assert_reads(FeatureStore(URL))
    assert [name for name in objects(s3) if name.startswith(".run")] == []
    np.testing.assert_array_equal(zarr.open_group(URL, mode="r")["s3d/000000/features"][:6], features("ant", 6))


def test_looking_at_it_and_giving_it_to_others_works_as_with_a_local_one(s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    write_store(URL)
    write_store(tmp_path / "local")
    assert summarize(URL) == summarize(tmp_path / "local")
    assert inspect_video(URL, "ant")["s3d"].document() == inspect_video(tmp_path / "local", "ant")["s3d"].document()
    assert diff_stores(URL, tmp_path / "local")["s3d"].equal_rows == sum(status(video).rows for video in CORPUS)
    for store in (URL, tmp_path / "local"):
        export_features(store, tmp_path / f"of {Path(store).name}", "npy")
    exported = [contents(tmp_path / name) for name in ("of corpus.zarr", "of local")]
    assert {name: exported[0][name] for name in exported[0] if name != "index.json"} == {
        name: exported[1][name] for name in exported[1] if name != "index.json"
    }


def test_an_import_makes_or_extends_a_store_there_as_it_does_here(s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    videos = {video: features(video, 4) for video in CORPUS}
    source = write_npy(tmp_path / "npy", videos)
    for store in (URL, tmp_path / "local"):
        options: dict[str, Any] = {"every": 0.5, "videos": CORPUS, "shard_videos": 2}
        import_features("npy", [source], store, expert="x", **options)
        summary = import_features("npy", [source], store, expert="y", every=1.0)  # takes the store's videos
        assert (summary.shards, summary.ok) == (3, 5)
        with pytest.raises(StoreError, match="made in another way"):
            import_features("npy", [source], store, expert="y", every=2.0)
    assert without_runs(shards(objects(s3))) == without_runs(shards(contents(tmp_path / "local")))
    assert [name for name in objects(s3) if name.startswith(".run")] == []
    np.testing.assert_array_equal(FeatureStore(URL)["y"].read("cat").values, videos["cat"])
    assert verify(URL).damaged == ()


def test_an_import_there_that_fails_is_undone(
    s3: s3fs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_npy(tmp_path / "npy", {video: features(video, 4) for video in CORPUS})
    finish = ShardWriter.finish

    def lost(writer: ShardWriter, *arguments: Any) -> Any:
        if writer.where.endswith("000001"):
            raise ConnectionResetError("the network is gone")
        return finish(writer, *arguments)

    def fail() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(ShardWriter, "finish", lost)
            with pytest.raises(ConnectionResetError):
                import_features("npy", [source], URL, expert="x", untimed=True, shard_videos=2)

    fail()
    assert objects(s3) == {}
    write_store(URL)
    before = objects(s3)
    fail()
    assert objects(s3) == before


def test_a_shard_is_complete_only_after_its_last_upload_and_the_next_run_does_it_again(
    s3: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload, uploads = s3fs.S3FileSystem._put_file, Counter()

    async def broken(client: s3fs.S3FileSystem, path: str, *rest: Any, **options: Any) -> Any:
        uploads["begun"] += 1
        if uploads["begun"] == 14:  # the second mark
            raise ConnectionResetError("the network is gone")
        return await upload(client, path, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_put_file", broken)
        with pytest.raises(ConnectionResetError):
            write_store(URL)
    assert any(name.startswith("s3d/000001/") for name in objects(s3))
    assert_reads(FeatureStore(URL), CORPUS[:2])
    assert verify(URL).damaged == ()
    assert write_store(URL) == [("s3d", 1), ("s3d", 2)]
    assert_reads(FeatureStore(URL))


def test_a_changed_object_is_found_and_its_shard_dropped_and_done_again(s3: s3fs.S3FileSystem) -> None:
    write_store(URL)
    whole = objects(s3)
    chunk = "s3d/000002/features/c/0/0"
    s3.pipe_file(f"{BUCKET}/corpus.zarr/{chunk}", whole[chunk][:-1] + b"?")
    s3.pipe_file(f"{BUCKET}/corpus.zarr/s3d/000001/more", b"")
    verdict = verify(URL)
    assert [(damage.shard, damage.array) for damage in verdict.damaged] == [(2, "features")]
    assert verdict.foreign == ("s3d/000001/more",)
    with pytest.raises(StoreError, match=rf"{URL}/s3d/000002: .*reelcache verify STORE --repair"):
        FeatureStore(URL)["s3d"].read("eel")
    verify(URL, repair=True)
    assert {name.split("/")[1] for name in shards(objects(s3))} == {"000000", "000001"}
    assert write_store(URL) == [("s3d", 2)]
    assert {name: content for name, content in objects(s3).items() if name != "s3d/000001/more"} == whole


def test_what_was_read_once_is_read_without_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "cache"))
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        s3 = connect(server, monkeypatch)
        s3.mkdir(BUCKET)
        write_store(URL, shard_videos=1)
        store = FeatureStore(URL)
        store["s3d"].read("ant")
        again = FeatureStore(URL)
        assert len(again["s3d"]) == len(CORPUS)
        s3.rm(BUCKET, recursive=True)  # servers in one process share what they hold
    finally:
        server.stop()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    for opened in (store, again):
        np.testing.assert_array_equal(opened["s3d"].read("ant").values, features("ant", 6))
        assert opened["s3d"].status("eel") == status("eel")
        with pytest.raises(reader.NotFetched, match=r"s3d/000001"):
            opened["s3d"].read("bee")
    with pytest.raises(OSError, match=URL):
        FeatureStore(URL)
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_shard_that_is_done_again_is_fetched_again_and_never_mixed(s3: s3fs.S3FileSystem) -> None:
    write_store(URL)
    before, unread = FeatureStore(URL), FeatureStore(URL)
    before["s3d"].read("ant")
    assert "eel" in unread["s3d"]
    with StoreWriter(URL) as store:
        expert = store.add_expert("s3d", identity(), {})
        record = expert.complete(0)
        assert record is not None
        writer = expert.redo(record, {0})
        writer.append(0, 0, np.full((6, 3), 7, np.float32), times(6))
        writer.finish(list(record.videos), {"host": "there"})
        write_shard(expert, 2, [VideoStatus("eel", "ok", rows=1, seconds=0.5)])
    np.testing.assert_array_equal(before["s3d"].read("bee").values, features("bee", 6))
    with pytest.raises(StoreError, match="open it again"):
        unread["s3d"].read("eel")
    after = FeatureStore(URL)["s3d"]
    assert (after.read("ant").values == 7).all()
    np.testing.assert_array_equal(after.read("bee").values, features("bee", 6))
    assert len(after.read("eel").values) == 1
    assert verify(URL).damaged == ()


def test_readers_share_the_cache(s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    write_store(URL, shard_videos=1)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: assert_reads(FeatureStore(URL)), range(8)))
    kept = list((tmp_path / "cache" / "stores").iterdir())
    assert len(kept) == 1 and (kept[0] / "url").read_text() == f"{URL}\n"
    assert len([path for path in (kept[0] / "s3d").iterdir() if path.is_dir()]) == len(CORPUS)
    assert list(kept[0].rglob(".*")) == []


@pytest.mark.parametrize("heeds", [True, False], ids=["heeds conditions", "ignores conditions"])
def test_of_eight_who_make_a_file_one_does(heeds: bool, s3: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    if not heeds:
        write = s3fs.S3FileSystem._pipe_file

        async def ignore(client: s3fs.S3FileSystem, path: str, data: bytes, *rest: Any, **options: Any) -> Any:
            return await write(client, path, data, *rest, **{**options, "mode": "overwrite"})

        monkeypatch.setattr(s3fs.S3FileSystem, "_pipe_file", ignore)
        s3fs.S3FileSystem.clear_instance_cache()  # whose methods are bound already
        assert not open_place(URL)._makes_once
        monkeypatch.setattr(object_place, "SETTLING", 0.5)
    together = threading.Barrier(8)

    def make(who: int) -> bool:
        place = open_place(URL)
        together.wait()
        return place.create(".run/leases/000000-0", f"holder {who}".encode())

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(make, range(8)))
    assert made.count(True) == 1
    assert open_place(URL).read(".run/leases/000000-0") == f"holder {made.index(True)}".encode()
    assert not open_place(URL).create(".run/leases/000000-0", b"late")


def test_the_requests_that_a_shard_costs(s3: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    call, asked = s3fs.S3FileSystem._call_s3, Counter()

    async def counted(client: s3fs.S3FileSystem, method: str, *rest: Any, **options: Any) -> Any:
        asked[method] += 1
        return await call(client, method, *rest, **options)

    expert = StoreWriter(URL).add_expert("s3d", identity(), {})
    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    write_shard(expert, 0, map(status, CORPUS[:2]))
    assert asked == {"put_object": 8, "list_objects_v2": 2, "head_object": 1}
    asked.clear()
    assert expert.complete(0) is not None and {shard for shard, _ in complete_shards(expert.place, expert.node)} == {0}
    assert asked == {"get_object": 1, "list_objects_v2": 1}


@pytest.mark.parametrize(
    "url",
    [
        "http://host/corpus.zarr",
        "file:///tmp/corpus.zarr",
        "simplecache::s3://bucket/corpus.zarr",
        "s3://bucket/a::s3://bucket/b",
        "S3://bucket/corpus.zarr",
        "s3://",
        "s3:///",
        "s3://bucket/*.zarr",
    ],
)
def test_a_url_that_can_hold_no_store_is_refused(url: str) -> None:
    for use in (StoreWriter, FeatureStore, verify, summarize):
        with pytest.raises(StoreError, match=r"lies in a local folder|use another name"):
            use(url)


def test_a_record_that_names_files_elsewhere_has_nothing_fetched_there(s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    write_store(URL)
    record = StoreWriter(URL).add_expert("s3d", identity(), {}).complete(0)
    assert record is not None
    record.files["../../../../evil"] = "0" * 64
    s3.pipe_file(f"{BUCKET}/corpus.zarr/s3d/000000/{COMPLETE}", dump_record(record))
    with pytest.raises(StoreError, match="no name of a file"):
        FeatureStore(URL)["s3d"].read("ant")
    s3.pipe_file(f"{BUCKET}/corpus.zarr/s3d/000000/../../evil", b"")
    assert [(damage.array, "no name of a file" in damage.reason) for damage in verify(URL).damaged] == [("shard", True)]
    assert list(tmp_path.rglob("evil")) == []


def test_a_store_that_is_not_there_or_holds_other_things_is_told(s3: s3fs.S3FileSystem) -> None:
    with pytest.raises(StoreError, match="there is no feature store"):
        FeatureStore(URL)
    s3.pipe_file(f"{BUCKET}/corpus.zarr/thesis.tex", b"years of work")
    with pytest.raises(StoreError, match="holds other things"):
        write_store(URL)


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_full_disk_leaves_what_was_there_and_names_a_file(
    where: str, s3: s3fs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = URL if where == "s3" else tmp_path / "local"
    write_store(store, CORPUS[:4])
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    def full(path: Path) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("feature_store.writer.file_digest", full)
        with pytest.raises(OSError, match=r"No space left on device: '/.*'") as error:
            write_store(store, CORPUS)
    assert error.value.errno == errno.ENOSPC
    assert list(tmp_path.rglob("features")) == list((tmp_path / "local").rglob("features"))
    assert verify(store).damaged == ()
    assert list(FeatureStore(store)["s3d"]) == CORPUS[:4]
    assert write_store(store, CORPUS) == [("s3d", 2)]


def test_a_damaged_document_is_told_with_its_url(s3: s3fs.S3FileSystem) -> None:
    write_store(URL)
    path = f"{BUCKET}/corpus.zarr/s3d/000001/{COMPLETE}"
    s3.pipe_file(path, s3.cat_file(path)[:100])
    with pytest.raises(StoreError, match=rf"{URL}/s3d/000001/{COMPLETE}: damaged"):
        list(FeatureStore(URL)["s3d"])
    assert [(damage.shard, damage.array) for damage in verify(URL).damaged] == [(1, COMPLETE)]


def test_many_shards_are_found_at_once(tmp_path: Path) -> None:
    expert = StoreWriter(tmp_path).add_expert("s3d", identity(), {})
    for shard in (0, 7, 123_456, 1_234_567):
        folder = tmp_path / "s3d" / f"{shard:06d}"
        folder.mkdir()
        (folder / COMPLETE).touch()
    (tmp_path / "s3d" / "000008").mkdir()
    (tmp_path / "s3d" / "12").mkdir()
    (tmp_path / "s3d" / "12" / COMPLETE).touch()
    assert [shard for shard, _ in complete_shards(expert.place, expert.node)] == [0, 7, 123_456, 1_234_567]


def test_a_shard_that_another_run_published_first_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StoreWriter(tmp_path / "a") as store, StoreWriter(tmp_path / "a") as other:
        first, second = (each.add_expert("s3d", identity(), {}) for each in (store, other))
        rename = places.os.rename

        def late(source: Path, target: Path) -> None:
            monkeypatch.setattr(places.os, "rename", rename)
            if Path(target) == tmp_path / "a" / "s3d" / "000000":
                second.begin(0).finish([VideoStatus("ant", "failed")], {"host": "other"})
            rename(source, target)

        def first_missing(source: Path, target: Path) -> None:
            monkeypatch.setattr(places.os, "rename", late)
            rename(source, target)

        monkeypatch.setattr(places.os, "rename", first_missing)
        record = first.begin(0).finish([VideoStatus("ant", "failed")], {"host": "this"})
        assert record.run["host"] == "other"
        assert first.complete(0) == record
    assert not (tmp_path / "a" / ".run").exists()


def test_a_store_of_objects_that_was_read_from_can_be_pickled(s3: s3fs.S3FileSystem) -> None:
    write_store(URL)
    opened = FeatureStore(URL)
    expected = opened["s3d"].read("ant").values
    for each in (opened, opened["s3d"]):
        again = pickle.loads(pickle.dumps(each))
        reader = again["s3d"] if isinstance(again, FeatureStore) else again
        np.testing.assert_array_equal(reader.read("ant").values, expected)
