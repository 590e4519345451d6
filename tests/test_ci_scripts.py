"""Continuous integration runs its checks on a fresh machine, and on this one only where none can be made."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CI = Path(__file__).parents[1] / ".ci"


def script(path: Path, body: str) -> None:
    path.write_text(f"#!/usr/bin/env bash\n{body}\n")
    path.chmod(0o755)


def ci_run(folder: Path, *, fresh_machine: str, make: str) -> tuple[int, str]:
    """The exit code of `.ci/run` and all that it prints, where these scripts stand for the machine and for make."""
    (folder / ".ci").mkdir()
    (folder / "bin").mkdir()
    shutil.copy(CI / "run", folder / ".ci/run")
    script(folder / ".ci/fresh-machine", fresh_machine)
    script(folder / ".ci/test-torchcodec", 'echo "torchcodec is tested"')
    script(folder / "bin/make", f'echo "make $*"; {make}')
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run([folder / ".ci/run"], capture_output=True, text=True, env=os.environ | {"PATH": path})
    return done.returncode, done.stdout + done.stderr


PASSING = "make lint demo test\ntorchcodec is tested\n"


def test_the_checks_run_on_a_fresh_machine(tmp_path: Path) -> None:
    assert ci_run(tmp_path, fresh_machine='echo fresh; "$@"', make="true") == (0, f"fresh\n{PASSING}")


def test_where_no_fresh_machine_can_be_made_they_run_here_and_it_is_said(tmp_path: Path) -> None:
    code, printed = ci_run(tmp_path, fresh_machine="exit 70", make="true")
    assert code == 0
    assert printed.startswith(PASSING)
    assert "no fresh machine can be made here" in printed


@pytest.mark.parametrize("code", [1, 2, 137])
def test_a_check_that_fails_on_a_fresh_machine_fails_without_another_try(tmp_path: Path, code: int) -> None:
    assert ci_run(tmp_path, fresh_machine=f"exit {code}", make="true") == (code, "")


@pytest.mark.parametrize("fresh_machine", ['"$@"', "exit 70"])
def test_a_check_that_fails_fails_the_run_and_torchcodec_is_not_tried(tmp_path: Path, fresh_machine: str) -> None:
    code, printed = ci_run(tmp_path, fresh_machine=fresh_machine, make="exit 2")
    assert code == 2
    assert "torchcodec" not in printed


def test_a_fresh_machine_that_cannot_be_made_is_no_failure_of_the_command(tmp_path: Path) -> None:
    """Exit code 70, and a sentence, before anything is unpacked."""
    script(tmp_path / "id", "echo 1000")
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FRESH_ROOT": str(tmp_path / "root")}
    done = subprocess.run([CI / "fresh-machine", "true"], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (70, "fresh-machine: needs root\n")
    assert not (tmp_path / "root").exists()
