"""Small runs for tests: a store of made-up features, captions that fit them, and recipes of tiny systems."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from feature_store import FeatureStore, StoreWriter, VideoStatus
from small_stores import identity
from train.annotations import Split
from train.recipe import Recipe, parse_recipe
from train.runs import BEST, LAST, LOGS

ADJECTIVES, NOUNS, VERBS = (
    ("red", "green", "blue"),
    ("dog", "cat", "bird", "horse"),
    ("chases a ball", "kicks a box", "eats food"),
)
SIZES = {"looks": 6, "sounds": 4}  # the experts, and how many numbers a row has
EVERY = {"looks": 0.5, "sounds": 0.8}  # seconds a row

SYSTEMS: dict[str, dict[str, Any]] = {
    "dual_encoding": {
        "word_dim": 8, "min_count": 1, "video_units": 4, "text_units": 4, "video_filters": 3, "text_filters": 3,
        "common_dim": 8, "max_frames": 5,
    },
    "hybrid_space": {
        "word_dim": 8, "min_count": 1, "video_units": 4, "text_units": 4, "video_filters": 3, "text_filters": 3,
        "common_dim": 8, "max_frames": 5, "concepts": 6, "above": 0,
    },
    "mmt": {
        "bert": "random", "max_words": 10, "max_tokens": 12, "max_rows": 4, "dim": 8, "layers": 1, "heads": 2,
        "hidden": 16,
    },
    "hanet": {
        "word_dim": 8, "min_count": 1, "dim": 16, "verb_concepts": 4, "noun_concepts": 6, "graph_width": 8,
        "max_frames": 4, "max_words": 10,
    },
}  # fmt: skip
GROUNDING_SYSTEMS: dict[str, dict[str, Any]] = {
    "tan2d": {
        "size": 4, "scales": [4], "kernels": [3, 3], "clips": 8, "word_dim": 8, "dim": 8, "text_units": 4,
        "text_layers": 1,
    },
    "fvmr": {
        "size": 4, "scales": [4], "clips": 8, "word_dim": 8, "dim": 8, "text_units": 4, "common_dim": 8,
    },
    "drn": {
        "word_dim": 8, "text_units": 4, "position_dim": 4, "channels": [8, 8, 8], "pyramid_dim": 8, "iou_dim": 4,
    },
}  # fmt: skip


def videos(count: int, prefix: str = "v") -> list[str]:
    """Ids of so many videos."""
    return [f"{prefix}{number:02}" for number in range(count)]


def rows_of(video: str, expert: str) -> np.ndarray:
    """(rows, dim) float32 features of a video: noise around what it is about."""
    number = int(video[1:])
    generator = np.random.default_rng([number, len(expert)])
    about = np.random.default_rng(number % 7).normal(size=SIZES[expert])
    count = 2 + number % 6
    return (about + 0.3 * generator.normal(size=(count, SIZES[expert]))).astype(np.float32)


def times_of(count: int, every: float) -> np.ndarray:
    """(rows, 2) seconds."""
    starts = np.arange(count) * every
    return np.stack([starts, starts + every], axis=1)


def write_features(
    path: Path,
    experts: Mapping[str, Mapping[str, np.ndarray | None]],
    dtypes: Mapping[str, str] | None = None,
    every: Mapping[str, float] = EVERY,
    weights: str = "random:0",
) -> FeatureStore:
    """Write features (T, dim) of each expert and video, None for a video that lacks the stream; open the store."""
    ids = list(dict.fromkeys(video for features in experts.values() for video in features))
    writer = StoreWriter(path)
    writer.plan(len(ids), len(ids), lambda first, stop: repr(ids[first:stop]))
    for name, features in experts.items():
        dim = next(rows.shape[1] for rows in features.values() if rows is not None)
        dtype = (dtypes or {}).get(name, "float32")
        provenance = identity(network=name, dim=dim, dtype=dtype, weights={"source": weights, "sha256": None})
        expert = writer.add_expert(name, provenance, {"host": "here"})
        shard, statuses = expert.begin(0), []
        for number, video in enumerate(ids):
            rows = features.get(video)
            if rows is None:
                statuses.append(VideoStatus(video, "no_stream", reason="no sound"))
                continue
            shard.append(number, 0, rows.astype(dtype), times_of(len(rows), every.get(name, 1.0)))
            statuses.append(VideoStatus(video, "ok", rows=len(rows), seconds=len(rows) * every.get(name, 1.0)))
        shard.finish(statuses, {"host": "here"})
    return FeatureStore(path)


def write_corpus(folder: Path, weights: str = "random:0") -> None:
    """The store FOLDER/corpus.zarr of 24 videos, and FOLDER/captions: 16 train, 8 are both val and test."""
    ids = videos(24)
    looks = {video: rows_of(video, "looks") for video in ids}
    sounds = {video: None if int(video[1:]) % 5 == 4 else rows_of(video, "sounds") for video in ids}
    write_features(folder / "corpus.zarr", {"looks": looks, "sounds": sounds}, {"sounds": "float16"}, weights=weights)
    captions = folder / "captions"
    write_split(captions, "train", [(video, text) for video in ids[:16] for text in captions_of(video)], ids[:16])
    for name in ("val", "test"):
        write_split(captions, name, [(video, text) for video in ids[16:] for text in captions_of(video)], ids[16:])


def write_moments(folder: Path) -> None:
    """FOLDER/moments, over the videos and in the splits of `write_corpus`: two moments a video."""
    ids = videos(24)
    for name, some in (("train", ids[:16]), ("val", ids[16:]), ("test", ids[16:])):
        rows = [(video, text, *span) for video in some for text, span in moments_of(video)]
        write_moment_split(folder / "moments", name, rows, {video: duration_of(video) for video in some})


def duration_of(video: str) -> float:
    """How long a video's looks are, in seconds."""
    return EVERY["looks"] * len(rows_of(video, "looks"))


def moments_of(video: str) -> list[tuple[str, tuple[float, float]]]:
    """What is said of a video, and from when to when."""
    number, duration = int(video[1:]), duration_of(video)
    first, second = captions_of(video)
    middle = duration * (0.3 + 0.1 * (number % 4))
    return [(first, (0.0, middle)), (second, (middle, duration))]


def write_moment_split(
    folder: Path,
    name: str,
    moments: Iterable[tuple[str, str, float, float]],
    durations: Mapping[str, float],
    listed: bool = True,
) -> None:
    """NAME.jsonl with (video, text, start, end), and NAME.videos.txt, if `listed`, of the videos with a duration."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"video": video, "text": text, "start": start, "end": end, "meta": {"duration": durations[video]}})
        for video, text, start, end in moments
    ]
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if listed:
        (folder / f"{name}.videos.txt").write_text("".join(f"{video}\n" for video in durations))


def captions_of(video: str) -> list[str]:
    """Two sentences about a video, a little different for each."""
    number = int(video[1:])
    adjective, noun, verb = ADJECTIVES[number % 3], NOUNS[number % 7 % 4], VERBS[number % 7 % 3]
    return [f"a {adjective} {noun} {verb}", f"the {noun} {verb} near a {ADJECTIVES[number % 2]} house {number}"]


def write_split(folder: Path, name: str, captions: Iterable[tuple[str, str]], listed: Sequence[str] | None) -> None:
    """NAME.jsonl, and NAME.videos.txt if videos are `listed`."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"video": video, "text": text}) for video, text in captions]
    (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if listed is not None:
        (folder / f"{name}.videos.txt").write_text("".join(f"{video}\n" for video in listed))


def small_recipe(
    folder: Path,
    system: str = "dual_encoding",
    data: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    **training: Any,
) -> Recipe:
    """A recipe over what `write_corpus`, and for grounding systems `write_moments`, has written to `folder`."""
    grounding = system in GROUNDING_SYSTEMS
    document = {
        "data": {
            "store": str(folder / "corpus.zarr"),
            "annotations": str(folder / ("moments" if grounding else "captions")),
            "experts": ["looks", "sounds"],
            **(data or {}),
        },
        "model": {"system": system, **{**SYSTEMS, **GROUNDING_SYSTEMS}[system], **(model or {})},
        "training": {
            "epochs": 3, "batch": 8, "learning_rate": 1e-2, "log_steps": 1, "accelerator": "cpu", **training,
        },
    }  # fmt: skip
    return parse_recipe(document, "small recipe")


def split_of(video_of: Sequence[int], videos: int | None = None) -> Split:
    """A split with these captions' videos, whose texts are of no matter."""
    count = videos or max(video_of) + 1
    names = tuple(f"v{number}" for number in range(count))
    return Split("train", names, tuple(f"caption {each}" for each in range(len(video_of))), torch.tensor(video_of))


def saved(run: Path) -> dict[str, Any]:
    """What a run has come to: metrics as text; tensors of the last checkpoint and of the best, by name."""
    last = torch.load(run / LAST, weights_only=True)
    tensors: dict[str, Tensor] = {f"last/{name}": tensor for name, tensor in last["state_dict"].items()}
    for number, state in last["optimizer_states"][0]["state"].items():
        tensors |= {f"optimizer/{number}/{name}": tensor for name, tensor in state.items()}
    if (run / BEST).exists():
        best = torch.load(run / BEST, weights_only=True)["state_dict"]
        tensors |= {f"best/{name}": tensor for name, tensor in best.items()}
    return {"metrics": (run / LOGS / "metrics.csv").read_text(), "step": last["global_step"], "tensors": tensors}


def assert_same(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """The same metrics and the same weights, to the bit."""
    assert one["metrics"] == other["metrics"]
    assert one["step"] == other["step"]
    assert one["tensors"].keys() == other["tensors"].keys()
    changed = [name for name, tensor in one["tensors"].items() if not torch.equal(tensor, other["tensors"][name])]
    assert not changed
