"""Finding videos by a sentence: the videos of the store are embedded once a model, a query then takes milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from feature_store import FeatureStore
from train import TrainError
from train.annotations import read_split
from train.evaluation import encode_texts, encode_videos
from train.features import missing_videos
from train.metrics import score_blocks
from train.recipe import Recipe
from train.runs import chosen_checkpoint, load_chosen, open_recipe, open_store, open_task
from train.tasks.base import Embedding, RetrievalTask

INDEX = "videos.safetensors"
SENTENCES = 1000  # of the training captions that scores are brought to 0..1 by


@dataclass(frozen=True)
class Hit:
    """A video that was found; the greater score is the better."""

    video: str
    score: float


@dataclass(frozen=True)
class Index:
    """A model with the embeddings of all videos that it can be asked for."""

    task: RetrievalTask
    videos: tuple[str, ...]
    embeddings: Embedding
    limits: Tensor  # (similarities, 2): the least and the greatest score that sentences have had

    def search(self, query: str, top: int = 10) -> list[Hit]:
        """The best `top` videos for a sentence. Raises TrainError for one without a word."""
        if not any(map(str.isalnum, query)):
            raise TrainError(f"query {query!r}: holds no word to look for")
        text = encode_texts(self.task, self.task.read_texts([query], None), torch.tensor([0]))
        columns = [score_blocks(each, self.embeddings, text).values[:, 0] for each in self.task.similarities()]
        if len(columns) > 1:
            columns = [(each - low) / (high - low) for each, (low, high) in zip(columns, self.limits, strict=True)]
        scores = columns[0] if len(columns) == 1 else self.task.share * columns[0] + (1 - self.task.share) * columns[1]
        best = scores.topk(min(top, len(scores)))
        return [
            Hit(self.videos[place], float(score))
            for score, place in zip(best.values, best.indices.tolist(), strict=True)
        ]


def open_index(run: Path, store_path: str | None = None) -> Index:
    """The index of a run over its store, or over another one with features of the same kind.

    Embeddings are made when first asked for, and anew when the model or the store's videos have changed; they lie in
    the run's folder. Raises TrainError if the run has no model yet, or the store's features are of another kind.
    """
    recipe = open_recipe(run)
    store = open_store(store_path or recipe.data.store, "--store PATH")
    task = open_task(run, recipe, store)
    if not isinstance(task, RetrievalTask):
        raise TrainError(f"{run}: {recipe.model.system} finds moments, not videos")
    load_chosen(task, run, recipe)
    task.eval()
    needed = recipe.data.experts if task.any_expert else recipe.data.experts[:1]
    ids = list(dict.fromkeys(video for expert in needed for video in store[expert]))
    lacking = set(missing_videos(store, needed, ids))
    ids = [video for video in ids if video not in lacking]
    if not ids:
        raise TrainError(f"{store.path}: has no video with rows of {' or '.join(needed)}")
    key = _key(run, recipe, store, ids)
    return _read_index(task, run, key, ids) or _make_index(task, run, recipe, store, key, ids)


def _make_index(task: RetrievalTask, run: Path, recipe: Recipe, store: FeatureStore, key: str, ids: list[str]) -> Index:
    embeddings = encode_videos(task, task.open_videos(store, ids, "none", "cpu"), torch.arange(len(ids)))
    texts = read_split(Path(recipe.data.annotations), recipe.data.train).texts[:SENTENCES]
    known = encode_texts(task, task.read_texts(texts, None), torch.arange(len(texts)))
    matrices = [score_blocks(each, embeddings, known) for each in task.similarities()]
    limits = torch.stack([torch.stack(matrix.limits()) for matrix in matrices])
    tensors = {str(place): tensor.contiguous() for place, tensor in enumerate(embeddings)}
    part = run / f"{INDEX}.{os.getpid()}.part"
    save_file({**tensors, "limits": limits}, part, {"key": key})
    os.replace(part, run / INDEX)
    return Index(task, tuple(ids), embeddings, limits)


def _read_index(task: RetrievalTask, run: Path, key: str, ids: list[str]) -> Index | None:
    """What was made before, if it is of this model and these videos."""
    from safetensors import SafetensorError, safe_open

    path = run / INDEX
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() != {"key": key}:
                return None
        tensors = load_file(path)
    except SafetensorError:
        return None  # damaged: it is made anew
    limits = tensors.pop("limits")
    return Index(task, tuple(ids), tuple(tensors[str(place)] for place in range(len(tensors))), limits)


def _key(run: Path, recipe: Recipe, store: FeatureStore, ids: list[str]) -> str:
    """What embeddings follow from: the model, the features and the videos."""
    with open(chosen_checkpoint(run, recipe), "rb") as file:
        model = hashlib.file_digest(file, "sha256").hexdigest()
    shards = [repr(record) for expert in recipe.data.experts for record in store[expert].shards()]
    return hashlib.sha256(json.dumps([model, shards, ids]).encode()).hexdigest()
