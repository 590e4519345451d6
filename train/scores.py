"""Scores of videos and captions, computed and held block by block, however many there are."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from train import TrainError

Embeddings = Tensor | tuple["Embeddings", ...]  # of B items each: tensors whose dimension 0 is B, also NamedTuples

IN_MEMORY = 2**30  # bytes of scores that are held in memory; more go to a file
BLOCK = 2**22  # scores that are normalised or fused at a time


class ScoresError(TrainError, ValueError):
    """Scores, or captions for them, that cannot be evaluated; the message says which."""

    exit_code = 1


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Scores of videos and captions, (V, T) float32 on the CPU. Raises ScoresError for another tensor."""

    values: Tensor

    def __post_init__(self) -> None:
        values = self.values
        if values.ndim != 2 or not values.numel() or values.dtype != torch.float32 or values.device.type != "cpu":
            found = f"{tuple(values.shape)} {values.dtype} on {values.device}"
            raise ScoresError(f"scores must be a matrix of videos and captions, float32 on the CPU, not {found}")

    @classmethod
    def empty(cls, videos: int, texts: int, in_memory: int = IN_MEMORY, folder: Path | None = None) -> ScoreMatrix:
        """A matrix to be filled: in memory up to so many bytes, else mapped from a file that has no name.

        The file lies in `folder`, by default where the system has its temporary files, and goes with the matrix.
        Raises ScoresError where there is no room for it.
        """
        size = 4 * videos * texts
        if size <= in_memory:
            return cls(torch.empty(videos, texts))
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                file.truncate(size)
                if hasattr(os, "posix_fallocate"):  # so that a full disk shows here, not as a crash while filling
                    os.posix_fallocate(file.fileno(), 0, size)
            except OSError as error:
                place = folder or tempfile.gettempdir()
                raise ScoresError(
                    f"no room for {size / 1e9:.1f} GB of scores in {place} ({error}); name another folder"
                ) from error
            return cls(torch.from_numpy(np.memmap(file, np.float32, "r+", shape=(videos, texts))))

    def blocks(self) -> Iterator[Tensor]:
        """Some rows at a time, in order; what is written to them is written to the matrix."""
        yield from self.values.split(max(1, BLOCK // self.values.shape[1]))

    def limits(self) -> tuple[Tensor, Tensor]:
        """The least and the greatest score. Raises ScoresError unless they are finite and differ."""
        pairs = [torch.aminmax(block) for block in self.blocks()]
        least, greatest = (torch.stack(side) for side in zip(*pairs, strict=True))
        low, high = least.min(), greatest.max()
        if not (torch.isfinite(low) and torch.isfinite(high) and low < high):
            raise ScoresError(f"scores from {low:g} to {high:g} cannot be brought to 0..1")
        return low, high


@torch.no_grad()
def score_blocks(
    similarity: Callable[[Any, Any], Tensor],
    videos: Embeddings,
    texts: Embeddings,
    video_block: int = 128,
    text_block: int = 1024,
    in_memory: int = IN_MEMORY,
    folder: Path | None = None,
    device: torch.device | None = None,
) -> ScoreMatrix:
    """Score every video against every caption, a block of both at a time.

    Args:
        similarity: of some videos' embeddings and some captions', (v, t) on any device.
        videos, texts: embeddings, cut along dimension 0 and otherwise handed over as they are.
        video_block, text_block: how many at a time. A similarity that compares K concepts pair by pair takes
            video_block * text_block * K numbers.
        in_memory, folder: as `ScoreMatrix.empty` has them.
        device: where blocks are compared; by default where the embeddings lie.

    Raises ScoresError if `similarity` gives another shape, or the tensors of an embedding differ in length.
    """
    count = {"videos": _length(videos, "videos"), "captions": _length(texts, "captions")}
    scores = ScoreMatrix.empty(count["videos"], count["captions"], in_memory, folder)
    for row in range(0, count["videos"], video_block):
        rows = _cut(videos, row, row + video_block, device)
        for column in range(0, count["captions"], text_block):
            block = scores.values[row : row + video_block, column : column + text_block]
            found = similarity(rows, _cut(texts, column, column + text_block, device))
            if found.shape != block.shape:
                expected = f"(videos, captions) = {tuple(block.shape)}"
                raise ScoresError(f"the similarity gave scores of shape {tuple(found.shape)}, not {expected}")
            block.copy_(found)
    return scores


def normalise(scores: ScoreMatrix) -> ScoreMatrix:
    """Bring the whole matrix to 0..1, in its place. Raises ScoresError where it cannot be."""
    limits = scores.limits()
    for block in scores.blocks():
        block.copy_(_to_unit(block, limits))
    return scores


def fuse(one: ScoreMatrix, other: ScoreMatrix, share: float) -> ScoreMatrix:
    """share * one + (1 - share) * other, each brought to 0..1 over its whole matrix; it takes the place of `one`.

    The numbers are those of `train.retrieval.hybrid_space.fused_scores`. Raises ScoresError where one of them cannot
    be brought to 0..1, or the shapes differ.
    """
    if one.values.shape != other.values.shape:
        raise ScoresError(f"scores of {tuple(one.values.shape)} and {tuple(other.values.shape)} cannot be fused")
    limits, other_limits = one.limits(), other.limits()
    for block, beside in zip(one.blocks(), other.blocks(), strict=True):
        block.copy_(share * _to_unit(block, limits) + (1 - share) * _to_unit(beside, other_limits))
    return one


def _to_unit(block: Tensor, limits: tuple[Tensor, Tensor]) -> Tensor:
    least, greatest = limits
    return (block - least) / (greatest - least)


def _length(embeddings: Embeddings, name: str) -> int:
    lengths = sorted({len(tensor) for tensor in _tensors(embeddings)})
    if len(lengths) != 1:
        raise ScoresError(f"the embeddings of {name} hold tensors of {lengths} items, which must be as many each")
    return lengths[0]


def _tensors(embeddings: Embeddings) -> Iterator[Tensor]:
    if isinstance(embeddings, Tensor):
        yield embeddings
    else:
        for part in embeddings:
            yield from _tensors(part)


def _cut(embeddings: Embeddings, start: int, stop: int, device: torch.device | None) -> Embeddings:
    if isinstance(embeddings, Tensor):
        part = embeddings[start:stop]
        return part if device is None else part.to(device)
    parts = tuple(_cut(part, start, stop, device) for part in embeddings)
    return type(embeddings)(*parts) if hasattr(embeddings, "_fields") else parts
