"""Finding videos by a sentence: the videos of the store are embedded once a model, a query then takes milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from feature_store import FeatureStore
from train import TrainError
from train.annotations import read_split
from train.devices import CPU, choose_device, enough_memory, fits
from train.evaluation import TEXT_BLOCK, VIDEO_BLOCK, device_of, encode_texts, encode_videos, to_device
from train.features import missing_videos
from train.finite import check_scores
from train.recipe import Recipe
from train.runs import check_captions, chosen_checkpoint, load_chosen, open_recipe, open_store, open_task
from train.scores import score_blocks
from train.tasks.base import Embedding, RetrievalTask, Similarity, Task

INDEX = "videos.safetensors"
SHOWN = 80  # characters of a query
SENTENCES = 1000  # of the training captions that two similarities are brought to 0..1 by
BLOCK_BYTES = 2**28  # of embeddings that a GPU is sent at a time, where it cannot hold all


@dataclass(frozen=True)
class Hit:
    """A video that was found; the greater score is the better."""

    video: str
    score: float


@dataclass(frozen=True)
class Index:
    """A model with the embeddings of all videos that it can be asked for, on its device if they fit there."""

    task: RetrievalTask
    videos: tuple[str, ...]
    embeddings: Embedding
    limits: Tensor  # (2, 2): of two similarities the least and the greatest score that sentences have had; else (0, 2)

    def search(self, query: str, top: int = 10, among: Collection[str] | None = None) -> list[Hit]:
        """The best `top` videos for a sentence, of all or `among` these ids.

        Raises TrainError for a sentence without a word that the model knows, if none of the ids has features, and for
        scores that are not finite.
        """
        check_query(self.task, query)
        text = encode_texts(self.task, self.task.read_texts([query], None), torch.tensor([0]), [query])
        columns = [query_scores(each, self.embeddings, text) for each in self.task.similarities()]
        if len(columns) > 1:
            limits = self.limits.to(columns[0].device)
            columns = [(each - low) / (high - low) for each, (low, high) in zip(columns, limits, strict=True)]
        scores = columns[0] if len(columns) == 1 else self.task.share * columns[0] + (1 - self.task.share) * columns[1]
        check_scores(scores[:, None], self.videos, [query])
        places = [place for place, video in enumerate(self.videos) if among is None or video in among]
        if not places:
            raise TrainError("none of the videos to look among has features")
        best = scores[places].topk(min(top, len(places)))
        found = zip(best.values.tolist(), best.indices.tolist(), strict=True)
        return [Hit(self.videos[places[place]], score) for score, place in found]


@torch.no_grad()
def query_scores(similarity: Similarity, videos: Embedding, text: Embedding) -> Tensor:
    """The scores (V,) of one sentence with all videos, a block of them at a time, on the sentence's device."""
    device, block = text[0].device, VIDEO_BLOCK
    if device.type != "cpu":  # which takes as long for few as for many
        each = sum(tensor[:1].nbytes for tensor in videos)
        block = max(1, min(VIDEO_BLOCK * TEXT_BLOCK, BLOCK_BYTES // max(1, each)))
    blocks = zip(*(tensor.split(block) for tensor in videos), strict=True)
    return torch.cat([similarity(to_device(some, device), text)[:, 0].float() for some in blocks])


@dataclass(frozen=True)
class Opened:
    """A trained model, on its device, with the videos of a store that it can be asked about."""

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


def open_model(run: Path, moved: Mapping[str, str] | None = None, device: str = "auto") -> Opened:
    """The model of a run, with its store or another one with features of the same kind.

    Args:
        run: its folder.
        moved: paths named anew, by their keys, e.g. {"data.store": "other.zarr"}; see `train.runs.open_recipe`.
        device: see `train.devices.choose_device`.

    Raises TrainError if the run has no model yet, the store's features are of another kind, or it has none.
    """
    recipe = open_recipe(run, moved)
    chosen_device = choose_device(device, recipe.training.accelerator)
    store = open_store(recipe.data.store)
    task = open_task(run, recipe, store)
    load_chosen(task, run, recipe)
    task.to(chosen_device).eval()
    needed = recipe.data.experts if task.any_expert else recipe.data.experts[:1]
    ids = list(dict.fromkeys(video for expert in needed for video in store[expert]))
    lacking = set(missing_videos(store, needed, ids))
    ids = [video for video in ids if video not in lacking]
    if not ids:
        raise TrainError(f"{store.url}: has no video with rows of {' or '.join(needed)}")
    return Opened(run, recipe, store, task, ids)


def check_query(task: Task, query: str) -> list[str]:
    """The words of a sentence that the model does not know. Raises TrainError if it has no other, or is no text."""
    shown = repr(query if len(query) <= SHOWN else f"{query[:SHOWN]}...")
    if any("\ud800" <= character <= "\udfff" for character in query):
        raise TrainError(f"query {shown}: is not UTF-8 text")
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
    with enough_memory("search with --device cpu"):
        return _read_index(opened, opened.task) or _make_index(opened, opened.task)


def _make_index(opened: Opened, task: RetrievalTask) -> Index:
    ids = opened.videos
    embeddings = encode_videos(task, task.open_videos(opened.store, ids, "none", "cpu"), torch.arange(len(ids)), ids)
    limits = _limits(opened, task, embeddings) if len(task.similarities()) > 1 else torch.empty(0, 2)
    tensors = {str(place): tensor.cpu().contiguous() for place, tensor in enumerate(embeddings)}
    _save({**tensors, "limits": limits}, opened.run / INDEX, opened.key)
    return Index(task, tuple(ids), embeddings, limits)


def _limits(opened: Opened, task: RetrievalTask, embeddings: Embedding) -> Tensor:
    """The least and the greatest score of each similarity, of the first training captions: (similarities, 2)."""
    data = opened.recipe.data
    split = read_split(Path(data.annotations), data.train)
    check_captions(opened.run, [split])
    texts = split.texts[:SENTENCES]
    known = encode_texts(task, task.read_texts(texts, None), torch.arange(len(texts)), texts)
    matrices = [score_blocks(each, embeddings, known, device=device_of(task)) for each in task.similarities()]
    return torch.stack([torch.stack(matrix.limits()) for matrix in matrices])


def _save(tensors: Mapping[str, Tensor], path: Path, key: str) -> None:
    """Write a file whole or not at all, with the modes of the umask, which safetensors does not heed."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        mode = part.stat().st_mode
        save_file(dict(tensors), part, {"key": key})
        part.chmod(mode)
        os.replace(part, path)
    except (OSError, SafetensorError) as error:
        raise TrainError(f"{path}: the embeddings of the videos cannot be kept there ({error})") from None
    finally:
        part.unlink(missing_ok=True)


def _read_index(opened: Opened, task: RetrievalTask) -> Index | None:
    """What was made before, if it is of this model and these videos."""
    path = opened.run / INDEX
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if file.metadata() != {"key": opened.key}:
                return None
        tensors = load_file(path)
    except SafetensorError:
        return None  # damaged: it is made anew
    limits, device = tensors.pop("limits"), device_of(task)
    embeddings = tuple(tensors[str(place)] for place in range(len(tensors)))
    held = device if fits(sum(tensor.nbytes for tensor in embeddings), device) else CPU
    return Index(task, tuple(opened.videos), to_device(embeddings, held), limits)
