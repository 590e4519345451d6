"""Whatever the terminal's encoding, and whoever stops reading: no traceback, and JSON stays JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest

from feature_store import FeatureStore, NotInStore
from small_stores import write_store

COMMAND = f"{sys.executable} -m pipeline.cli"
FILM = "видео 🎬 café"
DASHED = "-mMP6uEThbw"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    write_store(path, [unicodedata.normalize("NFD", FILM), DASHED])
    return path


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=120, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_json_is_escaped_where_the_terminal_lacks_characters(store: Path, encoding: str) -> None:
    ended = shell(f"{COMMAND} inspect {store} '{FILM}' --json", PYTHONIOENCODING=encoding)
    assert ended.returncode == 0, ended.stderr
    (found,) = json.loads(ended.stdout).values()
    assert found["id"] == unicodedata.normalize("NFD", FILM)


def test_tables_and_errors_are_escaped_as_well(store: Path) -> None:
    ended = shell(f"{COMMAND} inspect {store} '{FILM}'; {COMMAND} inspect {store} 'нет 🎬'", PYTHONIOENCODING="ascii")
    assert "ok" in ended.stdout and "holds video" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_who_stops_reading_or_listens_to_nothing_gets_no_traceback(store: Path) -> None:
    ended = shell(
        f"{COMMAND} status {store} --json | head -c 1; {COMMAND} status {store} >&-;"
        f"{COMMAND} status {store} <&- >&- 2>&-"
    )
    assert ended.stderr == "" and ended.returncode == 0
    ended = shell(f"{COMMAND} inspect {store} missing >&- ; echo $?; {COMMAND} status {store} 2>&- | head -c 3")
    assert ended.stdout.startswith("1\n") and "Traceback" not in ended.stderr


def test_ids_may_begin_with_a_dash(store: Path) -> None:
    ended = shell(f"{COMMAND} inspect {store} {DASHED} --json; {COMMAND} inspect --json {store} {DASHED} | wc -l")
    assert ended.returncode == 0, ended.stderr
    assert DASHED in ended.stdout


def test_ids_are_found_however_their_accents_are_composed(store: Path, tmp_path: Path) -> None:
    reader = FeatureStore(store)["s3d"]
    for form in ("NFC", "NFD"):
        video = unicodedata.normalize(form, FILM)
        assert video in reader and reader.read(video).status.id == unicodedata.normalize("NFD", FILM)
    write_store(tmp_path / "both.zarr", [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")])
    both = FeatureStore(tmp_path / "both.zarr")["s3d"]
    assert [both.read(video).status.id for video in both] == list(both), "each is itself"
    assert "caf\N{LATIN SMALL LETTER E WITH ACUTE}" not in reader
    with pytest.raises(NotInStore):
        reader.read("видео")
