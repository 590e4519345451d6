"""Numbers that are not finite are refused by name before they are ranked or kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from train import TrainError


def check_embeddings(embeddings: Iterable[Tensor], names: Sequence[str]) -> None:
    """Raises TrainError naming the first of these items whose embedding holds a number that is not finite."""
    for tensor in embeddings:
        if tensor.is_floating_point() and not (finite := tensor.isfinite().flatten(1).all(dim=1)).all():
            name = names[int(finite.int().argmin())]
            raise TrainError(
                f"the model's embedding of {name!r} is not finite: its features lie far from those that the model was "
                "trained with, or training has diverged"
            )


def check_scores(scores: Tensor, videos: Sequence[str], sentences: Sequence[str]) -> None:
    """Raises TrainError naming the first pair whose score, of (videos, sentences), is not finite."""
    if not (finite := scores.isfinite()).all():
        video, sentence = divmod(int(finite.flatten().int().argmin()), len(sentences))
        raise TrainError(
            f"the model's score of video {videos[video]!r} for {sentences[sentence]!r} is not finite: its training has "
            "diverged"
        )


def check_parameters(state: Mapping[str, Any], where: object) -> None:
    """Raises TrainError if parameters hold numbers that are not finite, as after training that has diverged."""
    bad = [
        name
        for name, tensor in state.items()
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not torch.isfinite(tensor).all()
    ]
    if bad:
        raise TrainError(
            f"{where}: {len(bad)} of {len(state)} parameters hold numbers that are not finite, the first {bad[0]}: "
            "training has diverged, or the file is damaged"
        )
