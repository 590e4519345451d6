"""What ends a run before its time, beside errors of manifests, experts, stores and disks."""

from __future__ import annotations


class ExtractError(ValueError):
    """Settings that cannot be used; the message names the setting and what it may be."""

    exit_code = 2


class WorkerLost(RuntimeError):
    """Processes that die again and again without a video to blame, or a cluster that is gone."""

    exit_code = 1
