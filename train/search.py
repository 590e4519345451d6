"""Finding videos by a sentence: the videos of the store are embedded once a model, a query then takes milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from feature_store import FeatureStore
from train import TrainError
from train.annotations import read_split
from train.evaluation import encode_texts, encode_videos
from train.features import missing_videos
from train.recipe import Recipe
from train.runs import chosen_checkpoint, load_chosen, open_recipe, open_store, open_task
from train.scores import score_blocks
from train.tasks.base import Embedding, RetrievalTask, Task

INDEX = "videos.safetensors"
SHOWN = 80  # characters of a query
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

    def search(self, query: str, top: int = 10, among: Collection[str] | None = None) -> list[Hit]:
        """The best `top` videos for a sentence, of all or `among` these ids.

        Raises TrainError for a sentence without a word that the model knows, and if none of the ids has features.
        """
        check_query(self.task, query)
        text = encode_texts(self.task, self.task.read_texts([query], None), torch.tensor([0]))
        columns = [score_blocks(each, self.embeddings, text).values[:, 0] for each in self.task.similarities()]
        if len(columns) > 1:
            columns = [(each - low) / (high - low) for each, (low, high) in zip(columns, self.limits, strict=True)]
        scores = columns[0] if len(columns) == 1 else self.task.share * columns[0] + (1 - self.task.share) * columns[1]
        places = [place for place, video in enumerate(self.videos) if among is None or video in among]
        if not places:
            raise TrainError("none of the videos to look among has features")
        best = scores[places].topk(min(top, len(places)))
        found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [Hit(self.videos[places[place]], score) for score, place in found]


@dataclass(frozen=True)
class Opened:
    """A trained model with the videos of a store that it can be asked about."""

    run: Path
    recipe: Recipe
    store: FeatureStore
    task: Task
    videos: list[str]

    @cached_property
    def key(self) -> str:
        """What embeddings follow from: the model, the features and the videos."""
        with open(chosen_checkpoint(self.run, self.recipe), "rb") as file:
            model = hashlib.file_digest(file, "sha256").hexdigest()
        shards = [repr(record) for expert in self.recipe.data.experts for record in self.store[expert].shards()]
        return hashlib.sha256(json.dumps([model, shards, self.videos]).encode()).hexdigest()


def open_model(run: Path, store_path: str | None = None) -> Opened:
    """The model of a run, with its store or another one with features of the same kind.

    Raises TrainError if the run has no model yet, the store's features are of another kind, or it has none.
    """
    recipe = open_recipe(run)
    store = open_store(store_path or recipe.data.store, "--store PATH")
    task = open_task(run, recipe, store)
    load_chosen(task, run, recipe)
    task.eval()
    needed = recipe.data.experts if task.any_expert else recipe.data.experts[:1]
    ids = list(dict.fromkeys(video for expert in needed for video in store[expert]))
    lacking = set(missing_videos(store, needed, ids))
    ids = [video for video in ids if video not in lacking]
    if not ids:
        raise TrainError(f"{store.url}: has no video with rows of {' or '.join(needed)}")
    return Opened(run, recipe, store, task, ids)


def check_query(task: Task, query: str) -> list[str]:
    """The words of a sentence that the model does not know. Raises TrainError if it has no other."""
    shown = repr(query if len(query) <= SHOWN else f"{query[:SHOWN]}...")
    if not any(map(str.isalnum, query)):
        raise TrainError(f"query {shown}: holds no word to look for")
    words = task.known_words(query)
    if words is None:
        return []
    if not any(words.values()):
        raise TrainError(f"query {shown}: the model knows none of its words; ask with such as it was trained on")
    return [word for word, known in words.items() if not known]


def open_index(opened: Opened) -> Index:
    """The index of a retrieval model.

    Embeddings are made when first asked for, and anew when the model or the store's videos have changed; they lie in
    the run's folder.
    """
    assert isinstance(opened.task, RetrievalTask)
    return _read_index(opened, opened.task) or _make_index(opened, opened.task)


def _make_index(opened: Opened, task: RetrievalTask) -> Index:
    ids, recipe = opened.videos, opened.recipe
    embeddings = encode_videos(task, task.open_videos(opened.store, ids, "none", "cpu"), torch.arange(len(ids)))
    texts = read_split(Path(recipe.data.annotations), recipe.data.train).texts[:SENTENCES]
    known = encode_texts(task, task.read_texts(texts, None), torch.arange(len(texts)))
    matrices = [score_blocks(each, embeddings, known) for each in task.similarities()]
    limits = torch.stack([torch.stack(matrix.limits()) for matrix in matrices])
    tensors = {str(place): tensor.contiguous() for place, tensor in enumerate(embeddings)}
    part = opened.run / f"{INDEX}.{os.getpid()}.part"
    save_file({**tensors, "limits": limits}, part, {"key": opened.key})
    os.replace(part, opened.run / INDEX)
    return Index(task, tuple(ids), embeddings, limits)


def _read_index(opened: Opened, task: RetrievalTask) -> Index | None:
    """What was made before, if it is of this model and these videos."""
    from safetensors import SafetensorError, safe_open

    path = opened.run / INDEX
    if not path.exists():
        return None
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() != {"key": opened.key}:
                return None
        tensors = load_file(path)
    except SafetensorError:
        return None  # damaged: it is made anew
    limits = tensors.pop("limits")
    return Index(task, tuple(opened.videos), tuple(tensors[str(place)] for place in range(len(tensors))), limits)
