"""The table of systems: what each reads from the store and the captions, and what it minimises."""

from __future__ import annotations

from train.tasks.base import RetrievalTask
from train.tasks.dual_encoding import DualEncodingOptions, DualEncodingTask
from train.tasks.hanet import HANetOptions, HANetTask
from train.tasks.hybrid_space import HybridSpaceOptions, HybridSpaceTask
from train.tasks.mmt import MMTOptions, MMTTask

TASKS: dict[str, type[RetrievalTask]] = {
    "dual_encoding": DualEncodingTask,
    "hybrid_space": HybridSpaceTask,
    "mmt": MMTTask,
    "hanet": HANetTask,
}
OPTIONS = DualEncodingOptions | HybridSpaceOptions | MMTOptions | HANetOptions
