"""How much of a machine a process may use."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

import pipeline.tuning
from pipeline.tuning import spare_memory

GB = 1e9


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where control groups say their limits, on a machine of 100 GB."""
    monkeypatch.setattr(pipeline.tuning, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(pipeline.tuning, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"total": 100 * GB}))
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_without_control_groups_the_machine_is_what_there_is(groups: Path) -> None:
    assert spare_memory() == 90 * GB


def test_a_limit_of_version_2_counts_wherever_above_the_process_it_is(groups: Path) -> None:
    write(groups.parent / "own", "0::/slurm/job_7/step_0\n")
    write(groups / "slurm" / "job_7" / "step_0" / "memory.max", "max\n")
    write(groups / "slurm" / "job_7" / "memory.max", "60000000000\n")
    assert spare_memory() == 54 * GB


def test_a_container_of_version_1_sees_its_limit_at_the_top(groups: Path) -> None:
    write(groups.parent / "own", "5:cpu,cpuacct:/docker/1f\n4:memory:/docker/1f\n0::/docker/1f\n")
    write(groups / "memory" / "memory.limit_in_bytes", "40000000000\n")
    assert spare_memory() == 36 * GB


@pytest.mark.parametrize(("there", "spare"), [(8, 6), (3, 1.5)])
def test_of_little_memory_more_is_left_for_others(there: int, spare: float, groups: Path) -> None:
    write(groups.parent / "own", "0::/\n")
    write(groups / "memory.max", f"{there}000000000\n")
    assert spare_memory() == spare * GB
