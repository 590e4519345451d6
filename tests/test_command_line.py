"""The real command, end to end, as a user types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dask.array
import pytest
import zarr

from command import reelcache
from corpora import QUICK_OPTIONS, make_corpus

ROOT = Path(__file__).parents[1]
EXTRACT = ["extract", "corpus.jsonl", "new.zarr", "--weights", "random"]
EXPERTS = ["--experts", "timm:test_resnet,s3d,vggish", *QUICK_OPTIONS, "--weights", "random"]


def typed(*words: object, cwd: Path, code: int = 0) -> str:
    """Run the command, as a process, and return what it prints; its exit code must be `code`."""
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, words)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd)},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with videos, a manifest made of it by the command, and a store extracted from that."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "videos").mkdir()
    make_corpus(folder / "videos")
    (folder / "videos" / "notes.txt").write_text("not a video")
    typed("manifest", "build", "videos", "-o", "corpus.jsonl", cwd=folder)
    printed = typed("extract", "corpus.jsonl", "corpus.zarr", *EXPERTS, cwd=folder)
    assert "6 videos in 1 shards: 5 ok, 0 truncated, 1 failed" in printed
    assert "not a self-contained media file" in printed
    return folder


def test_a_manifest_tells_what_was_found_and_keeps_what_is_unreadable(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"v{number}" for number in range(6)]
    assert rows[0]["path"] == "videos/v0.mp4"
    expected = {"width": 96, "height": 64, "fps": 12.0, "video_codec": "mpeg4", "audio_codec": "aac"}
    assert expected.items() <= rows[0]["meta"].items()
    assert rows[0]["meta"]["duration"] == pytest.approx(1.0, abs=0.1)
    assert "self-contained" in rows[2]["meta"]["problem"]
    printed = typed("manifest", "build", "videos", "-o", "good.jsonl", "--drop-unreadable", cwd=folder)
    assert "5 videos" in printed and "1 unreadable" in printed


def test_any_zarr_reader_opens_the_store(folder: Path) -> None:
    group = zarr.open_group(folder / "corpus.zarr", mode="r")
    features = group["s3d/000000/features"]
    assert features.shape[1] == 1024 and str(features.dtype) == "float16"
    lazy = dask.array.from_zarr(str(folder / "corpus.zarr"), component="s3d/000000/features")
    assert (lazy.compute() == features[:]).all()
    assert group["timm:test_resnet/000000/times"].shape[1] == 2


def test_status_as_json_has_the_fields_of_the_contract(folder: Path) -> None:
    status = json.loads(typed("status", "corpus.zarr", "--json", cwd=folder))
    assert (status["videos"], status["shards"]) == (6, 1)
    vggish = status["experts"]["vggish"]
    assert set(vggish) == set("kind dim dtype weights ok truncated no_stream failed pending rows seconds bytes".split())  # noqa: SIM905
    assert (vggish["ok"], vggish["no_stream"], vggish["failed"], vggish["weights"]) == (4, 1, 1, "random:0")
    assert {frozenset(failure) for failure in status["failures"]} == {frozenset(("video", "expert", "stage", "reason"))}
    assert "random" in typed("status", "corpus.zarr", cwd=folder)


def test_inspect_and_diff_show_one_video_and_two_stores(folder: Path) -> None:
    seen = json.loads(typed("inspect", "corpus.zarr", "v0", "--json", cwd=folder))
    assert seen["timm:test_resnet"]["times"][0] == [0.0, 0.5]
    assert "v0" in typed("inspect", "corpus.zarr", "v00", cwd=folder, code=1)
    same = json.loads(typed("diff", "corpus.zarr", "corpus.zarr", "--json", cwd=folder))
    assert same["s3d"]["cosine_min"] == 1.0 and same["s3d"]["equal_rows"] == same["s3d"]["rows"]


def test_damage_is_found_dropped_and_made_good(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk = folder / "corpus.zarr" / "s3d" / "000000" / "features" / "c" / "0" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 1
    chunk.write_bytes(content)
    found = json.loads(typed("verify", "corpus.zarr", "--json", cwd=folder, code=1))
    assert found["checked"] == 3
    assert [(each["expert"], each["shard"], each["array"]) for each in found["damaged"]] == [("s3d", 0, "features")]
    typed("verify", "corpus.zarr", "--repair", cwd=folder)
    monkeypatch.chdir(folder)
    reelcache("extract", "corpus.jsonl", "corpus.zarr", *EXPERTS)
    content[len(content) // 2] ^= 1
    assert chunk.read_bytes() == bytes(content)
    assert "all sound" in typed("verify", "corpus.zarr", cwd=folder)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["extract", "corpus.jsonl", "new.zarr", "--experts", "resnet151", "--weights", "random"], 2, "resnet152"),
        (["extract", "corpus.jsonl", "new.zarr"], 2, "--experts NAME,NAME or --preset NAME"),
        (["extract", "corpus.jsonl", "new.zarr", "--preset", "demos"], 2, "dual-encoding, hanet, drn"),
        (["extract", "corpus.jsonl", "new.zarr", "--experts", "s3d", "--set", "s3d.speed=2"], 2, "length, fps, hop"),
        (["extract", "corpus.jsonl", "new.zarr", "--experts", "vggish", "--weights", "./none"], 1, "none"),
        (["extract", "missing.jsonl", "new.zarr", "--experts", "s3d", "--weights", "random"], 1, "missing.jsonl"),
        (["extract", "bad.jsonl", "new.zarr", "--experts", "s3d", "--weights", "random"], 1, "bad.jsonl:2: path"),
        ([*EXTRACT, "--experts", "s3d", "--as", "a", "--as", "b"], 2, "has the name 'a' already"),
        ([*EXTRACT, "--experts", "s3d", "--set", "s3d.length=1e9"], 2, "from 5 to 1024"),
        ([*EXTRACT, "--experts", "s3d", "--set", "s3d.fps=1e9"], 2, "at most 1000"),
        ([*EXTRACT, "--experts", "resnet152", "--set", "resnet152.every=1e-9"], 2, "at least 0.001 seconds"),
        ([*EXTRACT, "--experts", "ocr", "--set", "ocr.languages=xx"], 2, "'xx': xx is not supported"),
        ([*EXTRACT, "--experts", "[red]x"], 2, "'[red]x'"),
        (["extract", "corpus.jsonl", "corpus.jsonl/x", *EXPERTS], 1, "corpus.jsonl is a file; a store is a folder"),
        (["extract", "corpus.jsonl", "videos", *EXPERTS], 1, "videos holds other things"),
        (["status", "nowhere.zarr"], 1, "nowhere.zarr"),
        (["status", "/"], 1, "/: there is no feature store"),
        (["inspect", "corpus.zarr/s3d", "v0"], 1, "name the store"),
        (["weights", "verify", "corpus.jsonl"], 1, "corpus.jsonl: there is no such folder of weights"),
        (["weights", "fetch", "s3d", "--to", "corpus.jsonl"], 1, "corpus.jsonl: is a file; name a folder"),
        (["export", "corpus.zarr", "-o", "corpus.jsonl", "--format", "npy"], 1, "corpus.jsonl"),
        (["embed-text", "corpus.zarr", "s3d"], 1, "has no texts"),
        (["manifest", "build", "nothing/", "-o", "x.jsonl"], 1, "no videos"),
        (["frobnicate"], 2, "No such command"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_told_in_a_sentence(
    words: list[str], code: int, says: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    Path("bad.jsonl").write_text('{"id": "a", "path": "a.mp4"}\n{"id": "b"}\n')
    assert says in reelcache(*words, code=code).stderr
    assert not Path("new.zarr").exists()


def test_strict_turns_recorded_failures_into_an_exit_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("one.jsonl").write_text('{"id": "gone", "path": "gone.mp4"}\n')
    words = ["extract", "one.jsonl", "strict.zarr", "--experts", "timm:test_resnet", "--weights", "random", "--strict"]
    assert "only local files are read" in reelcache(*words, code=1).stdout
