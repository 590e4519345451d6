"""How good a system is on a split, by the protocol of its paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from feature_store import FeatureStore
from train import TrainError
from train.annotations import Split, some
from train.devices import CPU, fits
from train.features import missing_videos
from train.finite import check_embeddings, check_scores
from train.metrics import PROTOCOLS, Relevance, RetrievalMetrics, evaluate_scores
from train.scores import ScoreMatrix, fuse, score_blocks

if TYPE_CHECKING:  # which evaluate themselves
    from train.recipe import Data
    from train.tasks.base import Embedding, Inputs, RetrievalTask, Task, Texts, Videos

BATCH = 128  # items encoded at a time
VIDEO_BLOCK, TEXT_BLOCK = 128, 1024  # compared at a time


@dataclass(frozen=True)
class Gallery:
    """A split with its inputs."""

    split: Split
    videos: Videos
    texts: Texts


def open_split(task: type[Task], data: Data, store: FeatureStore, name: str) -> Split:
    """A split whose videos all have features: of any expert of the recipe, or of its first.

    Raises TrainError for an expert that the store lacks, and for videos without features, unless they are to be
    dropped.
    """
    absent = [expert for expert in data.experts if expert not in store]
    if absent:
        there = ", ".join(sorted(store.experts)) or "none"
        raise TrainError(
            f"{store.url} lacks {some(absent)}; it has {there}. Extract it, or name others in data.experts"
        )
    split = task.read_split(Path(data.annotations), name)
    needed = data.experts if task.any_expert else data.experts[:1]
    missing = set(missing_videos(store, needed, split.videos))
    if not missing:
        return split
    what = f"without rows of {' or '.join(needed)}"
    unknown = [video for video in split.videos if video in missing and not any(video in store[name] for name in needed)]
    if data.missing == "error":
        strange = f"; of these {len(unknown)} are not in the store at all: {some(unknown)}" if unknown else ""
        raise TrainError(
            f"{name}: {len(missing)} of {len(split.videos)} videos are {what}: {some(sorted(missing))}{strange}. "
            "Extract them, or leave them out with --set data.missing=drop"
        )
    kept = split.keep((video not in missing for video in split.videos), what)
    if not kept.texts:
        raise TrainError(f"{name}: no caption is left, since no video that has one has features")
    return kept


def open_gallery(task: Task, data: Data, store: FeatureStore, split: Split, device: torch.device | str) -> Gallery:
    """The inputs of a split. Raises TrainError for features that are not finite."""
    folder = Path(data.annotations)
    videos = task.open_videos(store, split.videos, data.cache, device)
    return Gallery(split, videos, task.read_texts(split.texts, folder))


def evaluate(task: RetrievalTask, gallery: Gallery) -> RetrievalMetrics:
    """Metrics of both directions. The task is in evaluation mode meanwhile, and as it was afterwards."""
    protocol = PROTOCOLS[task.protocol]
    relevance = Relevance.of_captions(gallery.split.video_of, len(gallery.split.videos))
    captions = torch.arange(len(gallery.split.texts))
    if protocol.merges_captions:
        captions, relevance = relevance.merge_equal(gallery.split.texts)
    scores = score(task, gallery, captions)
    return evaluate_scores(scores, relevance, protocol)


def score(task: RetrievalTask, gallery: Gallery, captions: Tensor) -> ScoreMatrix:
    """The scores that rank, of all videos of a split and these captions of it: (videos, captions).

    Captions are encoded a block at a time: of HANet each takes 90 kB. All is compared on the device of the task.
    """
    ids, sentences, device = gallery.split.videos, gallery.split.texts, device_of(task)
    videos = encode_videos(task, gallery.videos, torch.arange(len(ids)), ids)
    similarities = task.similarities()
    matrices = [ScoreMatrix.empty(len(ids), len(captions)) for _ in similarities]
    for first, some_captions in zip(range(0, len(captions), TEXT_BLOCK), captions.split(TEXT_BLOCK), strict=True):
        texts = encode_texts(task, gallery.texts, some_captions, sentences)
        for similarity, matrix in zip(similarities, matrices, strict=True):
            block = score_blocks(similarity, videos, texts, VIDEO_BLOCK, device=device)
            check_scores(block.values, ids, [sentences[caption] for caption in some_captions.tolist()])
            matrix.values[:, first : first + len(some_captions)] = block.values
    return matrices[0] if len(matrices) == 1 else fuse(matrices[0], matrices[1], task.share)


def encode_videos(task: Task, videos: Videos, indices: Tensor, ids: Sequence[str]) -> Embedding:
    """Embeddings of the videos of these indices, on the task's device if all fit its memory, else on the CPU.

    `ids` are those of all videos. Raises TrainError naming a video whose embedding is not finite.
    """
    return _encode(task, task.encode_video, lambda some: videos.batch(some, None), indices, ids)


def encode_texts(task: Task, texts: Texts, indices: Tensor, sentences: Sequence[str]) -> Embedding:
    """Embeddings of the sentences of these indices; as `encode_videos`."""
    return _encode(task, task.encode_text, texts.batch, indices, sentences)


@torch.no_grad()
def _encode(
    task: Task,
    encode: Callable[[Inputs], Embedding],
    batch: Callable[[Tensor], Inputs],
    indices: Tensor,
    names: Sequence[str],
) -> Embedding:
    device, held = device_of(task), CPU
    parts: list[Embedding] = []
    with evaluating(task):
        for some in indices.split(BATCH):
            part = encode(to_device(batch(some), device))
            check_embeddings(part, [names[index] for index in some.tolist()])
            if not parts:
                whole = sum(tensor.nbytes for tensor in part) * len(indices) / len(some)
                held = device if fits(2 * whole, device) else CPU  # twice, since parts are then joined
            parts.append(to_device(part, held))
    return _joined(parts)


def device_of(task: Task) -> torch.device:
    """Where the task's parameters lie."""
    return next(task.parameters()).device


@contextmanager
def evaluating(task: Task) -> Iterator[None]:
    """A task in evaluation mode, and afterwards as it was."""
    training = task.training
    task.eval()
    try:
        yield
    finally:
        task.train(training)


def to_device(inputs: Inputs, device: torch.device) -> Inputs:
    """Tensors, also those within tuples, on the device."""
    moved = [each.to(device) if isinstance(each, Tensor) else to_device(each, device) for each in inputs]
    return type(inputs)(*moved) if hasattr(inputs, "_fields") else tuple(moved)


def _joined(parts: Sequence[Embedding]) -> Embedding:
    columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    first = parts[0]
    return type(first)(*columns) if hasattr(first, "_fields") else tuple(columns)
