"""Whole runs with videos and stores in object storage, on a server that speaks S3."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from corpora import make_corpus, quick_experts, write_video
from data_manifests import Manifest, Video, write_rows
from extractors import Frames
from feature_store import summarize, verify
from pipeline import extract
from pipeline.cli import app
from pipeline.fetching import NotFetched, local_file
from pipeline.media import MediaError, probe
from pipeline.sampling import Ended, Request, sample_video
from s3_server import bucket_of, serving
from small_stores import CORPUS, write_store

BUCKET = "corpus"
URL = f"s3://{BUCKET}/corpus.zarr"
SETTINGS = {"weights": "random", "shard_videos": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    with serving() as server:
        yield server


@pytest.fixture
def s3(server: ThreadedMotoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3fs.S3FileSystem]:
    """A client of the server, whose bucket is empty; and a cache and a folder for temporary files of our own."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("REELCACHE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    with bucket_of(server, monkeypatch, BUCKET) as client:
        yield client


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"), videos=4)


def arrays(files: dict[str, bytes]) -> dict[str, bytes]:
    """The shards' files but complete.json, which tells when and where."""
    return {name: content for name, content in files.items() if name.count("/") >= 3 and "/c/" in name}


def remote(s3: s3fs.S3FileSystem) -> dict[str, bytes]:
    return {path.removeprefix(f"{BUCKET}/corpus.zarr/"): s3.cat_file(path) for path in s3.find(f"{BUCKET}/corpus.zarr")}


def local(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_run_whose_upload_breaks_goes_on_and_gives_the_bytes_of_a_local_one_of_local_videos(
    manifest: Path, s3: s3fs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []
    for video in Manifest(manifest):
        s3.put_file(video.path, f"{BUCKET}/videos/{Path(video.path).name}")
        rows.append(Video(video.id, f"s3://{BUCKET}/videos/{Path(video.path).name}"))
    write_rows(tmp_path / "remote.jsonl", rows)
    upload, marks = s3fs.S3FileSystem._put_file, []

    async def broken(client: s3fs.S3FileSystem, path: str, to: str, **options: object) -> object:
        marks.append(to)
        if sum(name.endswith("complete.json") for name in marks) == 2:
            raise ConnectionResetError("the network is gone")
        return await upload(client, path, to, **options)

    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "_put_file", broken)
        with pytest.raises(ConnectionResetError, match="the network is gone"):
            extract(tmp_path / "remote.jsonl", URL, quick_experts()[:1], **SETTINGS)
    assert verify(URL).damaged == ()
    assert len(s3.glob(f"{BUCKET}/corpus.zarr/*/*/complete.json")) == 1
    extract(tmp_path / "remote.jsonl", URL, quick_experts()[:1], **SETTINGS)
    extract(manifest, tmp_path / "local", quick_experts()[:1], **SETTINGS)
    assert arrays(remote(s3)) == arrays(local(tmp_path / "local"))
    assert verify(URL).damaged == ()
    there, here = (summarize(store) for store in (URL, tmp_path / "local"))
    assert [(fault.video, fault.reason) for fault in there.failures] == [
        (fault.video, fault.reason) for fault in here.failures
    ]
    assert [name for name in remote(s3) if name.startswith(".run/leases") or name.startswith(".run/holders")] == []
    assert list((tmp_path / "temporary").rglob("*.mp4")) == []

    status = CliRunner().invoke(app, ["status", URL, "--json"])
    assert json.loads(status.stdout)["experts"]["timm:test_resnet"]["pending"] == 0
    assert CliRunner().invoke(app, ["verify", URL]).exit_code == 0


NO_VIDEOS = [
    ("http://127.0.0.1:1/a.mp4", "only local files"),
    ("file:///etc/passwd", "only local files"),
    ("simplecache::s3://corpus/a.mp4", "only local files"),
    ("s3://corpus/a.zip::b.mp4", "only local files"),
    ("concat://a|b", "only local files"),
    ("S3://corpus/a.mp4", "only local files"),
    ("s3://", "names no object"),
    ("s3://corpus", "names no object"),
    ("s3://corpus/", "names no object"),
    ("s3:///etc/passwd", "names no object"),
    ("s3://../a.mp4", "names no object"),
    ("s3://corpus/../other/a.mp4", "names no object"),
    ("s3://corpus/a\0.mp4", "names no object"),
    ("s3://corpus/a\r\nHost: b", "names no object"),
    ("s3://corpus/" + "a" * 2000, "longer than 1024"),
    ("s3://corpus/missing.mp4", "no such object"),
    ("s3://corpus/\u202eg4pm.*", "no such object"),
    ("s3://nobody-has-this-bucket/a.mp4", "no such object"),
    ("s3://corpus/text.mp4", "not a self-contained media file"),
    ("s3://corpus/empty.mp4", "empty"),
]


def test_what_is_no_video_is_that_videos_failure_and_nothing_else_is_opened(
    s3: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    s3.pipe_file(f"{BUCKET}/text.mp4", b"#EXTM3U\nhttp://127.0.0.1:1/a.ts\n")
    s3.pipe_file(f"{BUCKET}/empty.mp4", b"")
    write_rows(tmp_path / "hostile.jsonl", [Video(str(number), path) for number, (path, _) in enumerate(NO_VIDEOS)])
    for video, (path, reason) in zip(Manifest(tmp_path / "hostile.jsonl"), NO_VIDEOS, strict=True):
        assert video.path == (path if path.startswith("s3://") else os.path.join(tmp_path, path))
        (ended,) = sample_video(video, {"s3d": _request()})
        assert isinstance(ended, Ended)
        assert (ended.status.status, ended.status.stage) == ("failed", "open"), path
        assert reason in (ended.status.reason or ""), path
        with pytest.raises(MediaError) as error, local_file(path) as there:
            probe(there)
        assert error.value.stage == "open"
    assert list((tmp_path / "temporary").iterdir()) == []


def _request() -> Request:
    return Request(Frames(every=0.5), lambda frame: frame)


def test_an_object_that_may_not_be_read_is_a_failure_but_credentials_that_are_refused_end_the_run(
    s3: s3fs.S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    from botocore.exceptions import ClientError

    def answering(code: str) -> object:
        async def answer(client: s3fs.S3FileSystem, *rest: object, **options: object) -> None:
            error = ClientError({"Error": {"Code": code, "Message": "no"}}, "GetObject")
            raise PermissionError("no") from error

        return answer

    monkeypatch.setattr(s3fs.S3FileSystem, "_get_file", answering("AccessDenied"))
    with pytest.raises(MediaError, match="not allowed"), local_file(f"s3://{BUCKET}/a.mp4"):
        pass
    monkeypatch.setattr(s3fs.S3FileSystem, "_get_file", answering("ExpiredToken"))
    with pytest.raises(NotFetched, match=rf"s3://{BUCKET}/a\.mp4"), local_file(f"s3://{BUCKET}/a.mp4"):
        pass


def test_a_network_that_is_gone_ends_the_run_and_fails_no_video(
    s3: s3fs.S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rows(tmp_path / "one.jsonl", [Video("it", f"s3://{BUCKET}/a.mp4")])
    with monkeypatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        s3fs.S3FileSystem.clear_instance_cache()
        with pytest.raises(OSError, match=rf"s3://{BUCKET}/a\.mp4: .*127\.0\.0\.1:9"):
            extract(tmp_path / "one.jsonl", tmp_path / "s", quick_experts()[:1], **SETTINGS)
    s3fs.S3FileSystem.clear_instance_cache()
    assert summarize(tmp_path / "s").experts["timm:test_resnet"].pending == 1


def test_local_paths_stay_what_they_are_and_copies_go_also_after_errors(s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    for path in ("relative.mp4", "/data/x://y.mp4", "../up.mp4"):
        with local_file(path) as there:
            assert there == path
    s3.pipe_file(f"{BUCKET}/a[1]*.mp4", b"content")
    with suppress(ZeroDivisionError), local_file(f"s3://{BUCKET}/a[1]*.mp4") as there:
        assert Path(there).read_bytes() == b"content" and Path(there).suffix == ".mp4"
        assert Path(there).parent.stat().st_mode & 0o777 == 0o700
        raise ZeroDivisionError
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_manifest_is_built_of_the_objects_below_a_prefix(s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 0.5, 1)
    s3.put_file(str(tmp_path / "a.mp4"), f"{BUCKET}/videos/of us/a.mp4")
    s3.pipe_file(f"{BUCKET}/videos/broken.mkv", b"no video")
    s3.pipe_file(f"{BUCKET}/videos/notes.txt", b"")
    (tmp_path / "list.csv").write_text(f"path\ns3://{BUCKET}/videos/of us/a.mp4\n")
    command = ["manifest", "build", "--workers", "1"]
    done = CliRunner().invoke(app, [*command, f"s3://{BUCKET}/videos/", "-o", str(tmp_path / "built.jsonl")])
    assert done.exit_code == 0, done.output
    first, second = Manifest(tmp_path / "built.jsonl")
    assert (first.id, first.path) == ("broken", f"s3://{BUCKET}/videos/broken.mkv") and "problem" in first.meta
    assert (second.id, second.path) == ("of us/a", f"s3://{BUCKET}/videos/of us/a.mp4")
    assert second.meta["video_codec"] == "mpeg4"
    done = CliRunner().invoke(app, [*command, str(tmp_path / "list.csv"), "-o", str(tmp_path / "listed.jsonl")])
    assert done.exit_code == 0, done.output
    assert [(video.id, video.path) for video in Manifest(tmp_path / "listed.jsonl")] == [("a", second.path)]


def test_a_model_trains_from_a_store_of_objects_as_from_a_local_one(s3: s3fs.S3FileSystem, tmp_path: Path) -> None:
    import torch

    from train.features import first_rows, open_rows
    from train.runs import open_store

    for store in (URL, tmp_path / "local"):
        write_store(store)
    for cache in ("none", "ram"):
        batches = [
            open_rows(open_store(str(store)), ["s3d"], CORPUS, "mean", cache, "cpu").batch(
                torch.arange(len(CORPUS)), first_rows(3)
            )
            for store in (URL, tmp_path / "local")
        ]
        for one, other in zip(*batches, strict=True):
            assert torch.equal(one, other)
