"""The table of systems: what each reads from the store and the captions, and what it minimises."""

from __future__ import annotations

from train.tasks.base import Task
from train.tasks.drn import DRNOptions, DRNTask
from train.tasks.dual_encoding import DualEncodingOptions, DualEncodingTask
from train.tasks.fvmr import FVMROptions, FVMRTask
from train.tasks.hanet import HANetOptions, HANetTask
from train.tasks.hybrid_space import HybridSpaceOptions, HybridSpaceTask
from train.tasks.mmt import MMTOptions, MMTTask
from train.tasks.tan2d import TAN2DOptions, TAN2DTask

TASKS: dict[str, type[Task]] = {
    "dual_encoding": DualEncodingTask,
    "hybrid_space": HybridSpaceTask,
    "mmt": MMTTask,
    "hanet": HANetTask,
    "tan2d": TAN2DTask,
    "fvmr": FVMRTask,
    "drn": DRNTask,
}
OPTIONS = DualEncodingOptions | HybridSpaceOptions | MMTOptions | HANetOptions | TAN2DOptions | FVMROptions | DRNOptions
