"""The device that networks and scores are computed on, and what fits its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from train import RecipeError, TrainError

CPU = torch.device("cpu")
SHARE = 0.8  # of the free memory that one thing may take


def choose_device(name: str = "auto", accelerator: str = "auto") -> torch.device:
    """The device of this name: "auto", "cpu", "cuda" or "cuda:N".

    "auto" is the GPU where there is one, unless `accelerator`, that of a recipe, is "cpu". Raises RecipeError for any
    other name, and for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda") if torch.cuda.is_available() and accelerator != "cpu" else CPU
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise RecipeError(f"device {name!r}: must be auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not count:
            raise RecipeError(f"device {name!r}: torch {torch.__version__} finds no CUDA device here; use cpu")
        if (device.index or 0) >= count:
            raise RecipeError(f"device {name!r}: the CUDA devices here are cuda:0 to cuda:{count - 1}")
    return device


def fits(size: float, device: torch.device) -> bool:
    """Whether so many bytes fit the free memory of a GPU; always true of the CPU, whose memory is not asked."""
    return device.type == "cpu" or size <= SHARE * torch.cuda.mem_get_info(device)[0]


@contextmanager
def enough_memory(mend: str) -> Iterator[None]:
    """A context in which a GPU that runs out of memory raises TrainError, which says how to mend it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainError(f"the GPU has too little memory ({str(error).splitlines()[0]}): {mend}") from error
