"""Downloads: they arrive whole or not at all, whatever the server, the network or other processes do."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest

import extractors.download
from extractors.download import BLOCK, TRIES, DownloadError, download, file_digest
from publisher import Publisher, publishing

ROOT = Path(__file__).parents[2]
CONTENT = Random(0).randbytes(1_000_000)
DIGEST = sha256(CONTENT).hexdigest()
PREFIX = DIGEST[:8]
PROGRAM = """
import sys, types
from pathlib import Path
sys.modules["extractors"] = package = types.ModuleType("extractors")  # without torch, which takes seconds to import
package.__path__ = ["extractors"]
from extractors.download import download
print(download({}))
"""


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as publisher:
        publisher.publish("w.pth", CONTENT)
        yield publisher


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors.download, "PAUSE", 0.001)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "weights" / "w.pth"


def names(path: Path) -> list[str]:
    """What is in the folder of a download, besides locks."""
    return sorted(each.name for each in path.parent.iterdir() if each.name != ".locks")


def url(publisher: Publisher) -> str:
    return f"{publisher.url}/w.pth"


@pytest.mark.parametrize("digest", [DIGEST, PREFIX, ""])
def test_a_file_arrives_whole_under_its_name(publisher: Publisher, path: Path, digest: str) -> None:
    assert download(url(publisher), path, digest) == DIGEST
    assert path.read_bytes() == CONTENT
    assert names(path) == ["w.pth"] and publisher.gets == ["/w.pth"]


def test_a_file_that_is_there_is_not_asked_for(publisher: Publisher, path: Path) -> None:
    download(url(publisher), path, DIGEST)
    assert download(url(publisher), path, DIGEST) == DIGEST
    assert len(publisher.asked) == 1


@pytest.mark.parametrize("digest", [PREFIX, ""])
def test_a_broken_download_goes_on_where_it_broke(publisher: Publisher, path: Path, digest: str) -> None:
    publisher.faults = ["cut 200000", f"cut {BLOCK}"]
    download(url(publisher), path, digest)
    assert path.read_bytes() == CONTENT
    assert publisher.gets == ["/w.pth", f"/w.pth bytes={3 * BLOCK}-", f"/w.pth bytes={4 * BLOCK}-"]


def test_tries_that_bring_something_are_not_counted(publisher: Publisher, path: Path) -> None:
    publisher.faults = [f"cut {BLOCK}"] * (2 * TRIES)
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and len(publisher.gets) == 2 * TRIES + 1


def test_a_server_without_ranges_sends_the_file_anew(publisher: Publisher, path: Path) -> None:
    publisher.ranges = False
    publisher.faults = ["cut 200000", "cut 100000"]
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and len(publisher.gets) == 3


def test_a_server_that_is_busy_is_asked_again_after_growing_pauses(
    publisher: Publisher, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(extractors.download, "PAUSE", 1.0)
    monkeypatch.setattr(extractors.download.time, "sleep", pauses.append)
    publisher.faults = ["503", "429", "500"]
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and pauses == [1, 2, 4]


def test_a_server_that_stays_broken_is_given_up_on_and_the_part_kept(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["cut 100000", *["503"] * TRIES]
    with pytest.raises(DownloadError, match=rf"503 .*{TRIES} times in a row; the 0\.1 MB that came are kept"):
        download(url(publisher), path, PREFIX)
    assert names(path) == ["w.pth.part"]
    download(url(publisher), path, PREFIX)
    assert publisher.gets[-1] == f"/w.pth bytes={BLOCK}-" and path.read_bytes() == CONTENT


def test_a_page_that_is_gone_is_asked_for_once(publisher: Publisher, path: Path) -> None:
    with pytest.raises(DownloadError, match="404"):
        download(f"{publisher.url}/gone.pth", path, PREFIX)
    assert len(publisher.asked) == 1 and names(path) == []


@pytest.mark.parametrize(
    ("fault", "says"), [("404", "answers 404"), ("204", "answers 204"), ("to ", "answers 302"), ("418", "answers 418")]
)
def test_an_answer_without_the_file_is_no_file(publisher: Publisher, path: Path, fault: str, says: str) -> None:
    publisher.faults = [fault]
    with pytest.raises(DownloadError, match=f"^the server {says}"):
        download(url(publisher), path)
    assert names(path) == []


def test_an_empty_file_is_no_file(publisher: Publisher, path: Path) -> None:
    with pytest.raises(DownloadError, match="an empty file"):
        download(publisher.publish("empty.pth", b""), path)
    assert not path.exists()


def test_a_connection_that_breaks_is_told_in_words(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["cut 100"] * 9
    with pytest.raises(DownloadError, match=r"^the connection broke off, 5 times in a row$"):
        download(url(publisher), path)


def test_a_web_page_is_no_file(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["page"]
    with pytest.raises(DownloadError, match="a web page instead of the file"):
        download(url(publisher), path)
    assert names(path) == []


def test_nobody_there_is_soon_told(path: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(extractors.download.time, "sleep", pauses.append)
    with pytest.raises(DownloadError, match="ConnectionError"):
        download("http://127.0.0.1:9/w.pth", path, PREFIX)
    assert len(pauses) == 1


def test_a_server_that_falls_silent_is_asked_anew(
    publisher: Publisher, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extractors.download, "PATIENCE", 0.2)
    publisher.faults = ["silent 100000"]
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and len(publisher.gets) == 2


def test_a_slow_server_is_waited_for(publisher: Publisher, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractors.download, "PATIENCE", 0.5)
    publisher.faults = ["slow 0.05"]
    began = time.monotonic()
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and len(publisher.gets) == 1
    assert time.monotonic() - began > 0.5, "longer in all than a server may be silent"


def test_a_server_that_promises_too_much_still_gives_the_file(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["long 7"]
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("digest", [PREFIX, ""])
def test_a_server_that_never_gives_what_it_promises_is_given_up_on(
    publisher: Publisher, path: Path, digest: str
) -> None:
    publisher.ranges = False
    publisher.faults = ["long 7"] * 2 * TRIES
    with pytest.raises(DownloadError, match=f"{TRIES} times in a row"):
        download(url(publisher), path, digest)
    assert not path.exists()


def test_a_damaged_file_is_refused_and_deleted(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["corrupt"]
    with pytest.raises(DownloadError, match=f"damaged or another file.*{PREFIX}.*deleted"):
        download(url(publisher), path, PREFIX)
    assert names(path) == [] and len(publisher.gets) == 1
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT


# What an earlier process left


def left(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.with_name("w.pth.part").write_bytes(content)


def test_an_old_part_is_gone_on_with(publisher: Publisher, path: Path) -> None:
    left(path, CONTENT[:1234])
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and publisher.gets == ["/w.pth bytes=1234-"]


def test_an_old_part_of_another_file_is_thrown_away(publisher: Publisher, path: Path) -> None:
    left(path, os.urandom(1234))
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and publisher.gets == ["/w.pth bytes=1234-", "/w.pth"]


def test_an_old_part_without_a_digest_to_judge_it_by_is_thrown_away(publisher: Publisher, path: Path) -> None:
    left(path, os.urandom(1234))
    download(url(publisher), path)
    assert path.read_bytes() == CONTENT and publisher.gets == ["/w.pth"]


def test_a_part_whose_server_knows_it_is_gone_on_with_without_a_digest(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["cut 200000", *["503"] * TRIES]
    with pytest.raises(DownloadError):
        download(url(publisher), path)
    assert names(path) == ["w.pth.part", "w.pth.part.mark"]
    download(url(publisher), path)
    assert publisher.gets[-1] == f"/w.pth bytes={3 * BLOCK}-"
    assert path.read_bytes() == CONTENT and names(path) == ["w.pth"]


def test_a_part_of_what_a_server_no_longer_has_is_thrown_away(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["cut 200000", *["503"] * TRIES]
    with pytest.raises(DownloadError):
        download(url(publisher), path)
    later = os.urandom(500_000)
    publisher.publish("w.pth", later)
    download(url(publisher), path)
    assert path.read_bytes() == later


def test_a_part_that_is_already_whole_becomes_the_file(publisher: Publisher, path: Path) -> None:
    left(path, CONTENT)
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and names(path) == ["w.pth"]


def test_a_part_that_is_too_long_is_thrown_away(publisher: Publisher, path: Path) -> None:
    left(path, CONTENT + b"more")
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("etags", [True, False])
def test_a_file_that_changes_while_it_comes_is_never_mixed(
    publisher: Publisher, path: Path, monkeypatch: pytest.MonkeyPatch, etags: bool
) -> None:
    publisher.etags = etags
    publisher.faults = ["cut 100000"]
    later = os.urandom(1_100_000)
    monkeypatch.setattr(extractors.download.time, "sleep", lambda pause: publisher.publish("w.pth", later))
    assert download(url(publisher), path) == sha256(later).hexdigest()
    assert path.read_bytes() == later


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["slow 0.2"]
    process = start(url(publisher), path)
    part = path.with_name("w.pth.part")
    wait_for(lambda: part.exists() and part.stat().st_size > 0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    have = part.stat().st_size
    assert 0 < have < len(CONTENT) and names(path) == ["w.pth.part"]
    download(url(publisher), path, PREFIX)
    assert path.read_bytes() == CONTENT and publisher.gets == ["/w.pth", f"/w.pth bytes={have}-"]


# Several at once


def start(address: str, path: Path) -> subprocess.Popen[str]:
    call = f"{address!r}, Path({str(path)!r}), {PREFIX!r}"
    return subprocess.Popen([sys.executable, "-c", PROGRAM.format(call)], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for(done: Callable[[], bool]) -> None:
    until = time.monotonic() + 300
    while not done():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def test_of_many_threads_one_downloads(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["slow 0.01"]
    together = threading.Barrier(6)

    def fetch(_: int) -> str:
        together.wait()
        return download(url(publisher), path, PREFIX)

    with ThreadPoolExecutor(6) as threads:
        assert set(threads.map(fetch, range(6))) == {DIGEST}
    assert path.read_bytes() == CONTENT and len(publisher.gets) == 1


def test_of_several_processes_one_downloads(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["slow 0.1"]
    processes = [start(url(publisher), path) for _ in range(2)]
    told = [process.communicate(timeout=300)[0].strip() for process in processes]
    assert told == [DIGEST, DIGEST] and [process.returncode for process in processes] == [0, 0]
    assert path.read_bytes() == CONTENT and len(publisher.gets) == 1


def test_who_waits_for_one_that_is_killed_takes_over(publisher: Publisher, path: Path) -> None:
    publisher.faults = ["slow 0.2"]
    first = start(url(publisher), path)
    part = path.with_name("w.pth.part")
    wait_for(lambda: part.exists() and part.stat().st_size > 0)
    with ThreadPoolExecutor(1) as thread:
        second = thread.submit(download, url(publisher), path, PREFIX)
        time.sleep(0.2)
        assert not second.done() and len(publisher.gets) == 1
        first.kill()
        first.wait()
        assert second.result(300) == DIGEST
    assert path.read_bytes() == CONTENT and publisher.gets[1].startswith("/w.pth bytes=")


# What is not fetched


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://example.org/w.pth", "/etc/passwd", "data:,x", ""])
def test_only_web_addresses_are_fetched(path: Path, address: str) -> None:
    with pytest.raises(DownloadError, match="only http and https"):
        download(address, path)
    assert not path.parent.exists()


def test_a_server_cannot_lead_to_local_files(publisher: Publisher, path: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    publisher.faults = [f"to file://{tmp_path}/secret"]
    with pytest.raises(DownloadError, match="only http and https ones are fetched"):
        download(url(publisher), path)
    assert not path.exists()


def test_a_redirect_to_another_server_is_followed(publisher: Publisher, path: Path) -> None:
    with publishing() as mirror:
        publisher.faults = [f"to {mirror.publish('elsewhere', CONTENT)}"]
        assert download(url(publisher), path, PREFIX) == DIGEST
    assert file_digest(path) == DIGEST


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("screen", "shown"), [(Terminal, True), (io.StringIO, False)])
def test_progress_is_shown_where_somebody_looks(
    publisher: Publisher,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    screen: Callable[[], io.StringIO],
    shown: bool,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen())
    publisher.faults = ["slow 0.01"]
    download(url(publisher), path, PREFIX)
    assert ("w.pth" in sys.stderr.getvalue()) is shown  # type: ignore[attr-defined]
