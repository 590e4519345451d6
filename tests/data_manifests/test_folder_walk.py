"""One walk of folders: everything that counts is found, and what is passed over is counted and said."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_manifests.folder_walk import find_files


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in find_files(folder, {".mp4"})[0]]


def passed(folder: Path) -> str:
    return str(find_files(folder, {".mp4"})[1])


def test_files_are_found_at_any_depth_in_order_whatever_the_case_of_their_suffix(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.MP4", "a.mp4", "b/1.mp4", "/".join(["deep"] * 300) + "/z.mp4")
    assert names(tmp_path) == ["a.mp4", "b/1.mp4", "b/2.MP4", "/".join(["deep"] * 300) + "/z.mp4"]
    assert passed(tmp_path) == ""


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path / "v", "a.mp4")
    touch(tmp_path / "disk2", "b.mp4", "sub/c.mp4")
    (tmp_path / "v/train").symlink_to("../disk2")
    (tmp_path / "v/linked.mp4").symlink_to("../disk2/b.mp4")
    (tmp_path / "disk2/sub/up").symlink_to("..")
    (tmp_path / "disk2/self").symlink_to(tmp_path / "disk2/self")
    assert names(tmp_path / "v") == ["a.mp4", "linked.mp4", "train/b.mp4", "train/sub/c.mp4"]
    assert passed(tmp_path / "v") == (
        "passed over: 1 that is no files (broken links, pipes), 1 link to folders that were searched already"
    )


def test_a_folder_that_is_reached_twice_is_searched_once_under_its_own_name(tmp_path: Path) -> None:
    touch(tmp_path, "z/a.mp4")
    (tmp_path / "a").symlink_to("z")
    assert names(tmp_path) == ["z/a.mp4"]


def test_what_systems_leave_and_what_is_hidden_is_passed_over_and_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "._a.mp4", ".DS_Store", ".git/b.mp4", "@eaDir/c.mp4", "__MACOSX/d.mp4", "Thumbs.db")
    assert names(tmp_path) == ["a.mp4"]
    assert passed(tmp_path) == "passed over: 6 hidden"


def test_other_suffixes_and_odd_files_are_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.mp4", "a.txt", "b.TXT", "c.srt", "README")
    (tmp_path / "gone.mp4").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert passed(tmp_path) == (
        "passed over: 4 files with other suffixes (.txt 2, none 1, .srt 1), 2 that are no files (broken links, pipes)"
    )


def test_names_that_are_not_utf8_do_not_end_the_walk(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9.mp4")).write_bytes(b"x")
    (tmp_path / os.fsdecode(b"x.\xe9")).write_bytes(b"x")
    assert len(names(tmp_path)) == 1
    assert passed(tmp_path).isascii()


@pytest.mark.skipif(os.geteuid() == 0 and not Path("/usr/bin/setpriv").exists(), reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "v/secret/a.mp4", "v/b.mp4")
    program = (
        "import sys; from pathlib import Path; from data_manifests.folder_walk import find_files;"
        "found, passed = find_files(Path(sys.argv[1]), {'.mp4'}); print(len(found), passed)"
    )
    (tmp_path / "v/secret").chmod(0)
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*without, sys.executable, "-c", program, str(tmp_path / "v")]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True)
    finally:
        (tmp_path / "v/secret").chmod(0o700)
    assert ended.stdout.strip() == f"1 passed over: 1 folder that may not be read ({tmp_path / 'v/secret'})"
