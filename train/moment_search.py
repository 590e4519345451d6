"""Finding moments by a sentence: of one video, or of all of a store, which are embedded once a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from train import TrainError
from train.annotations import some
from train.devices import enough_memory
from train.evaluation import device_of, encode_texts, encode_videos
from train.features import Source
from train.grounding.moments import Moment, MomentIndex, write_index
from train.search import Opened, check_query
from train.tasks.base import RetrievalTask
from train.tasks.fvmr import FVMRTask
from train.tasks.grounding import GroundingTask

INDEX = "moments.zarr"
AT_ONCE = 64  # videos that are embedded at a time


def search_moments(
    opened: Opened,
    query: str,
    top: int = 10,
    path: Path | None = None,
    engine: str = "torch",
    among: Collection[str] | None = None,
) -> list[Moment]:
    """The best `top` moments for a sentence, of all videos or `among` these ids.

    They are found in the index at `path`, or in the run's own. That is made when first asked for, and anew when it is
    damaged, or the model or the store's videos have changed. Raises TrainError for a query without a word that the
    model knows, a run whose system embeds no moments, an index of another model, and if none of the ids is in it.
    """
    task = _task_of(opened)
    check_query(task, query)
    text = encode_texts(task, task.read_texts([query], None), torch.tensor([0]), [query])
    with enough_memory("search with --device cpu"):
        return _open(opened, path, engine).search(text[0][0], top, task.options.suppress, among)


def moments_of(opened: Opened, query: str, video: str, top: int = 5) -> list[tuple[float, float]]:
    """When in a video a sentence fits, start and end in seconds, the best first, by any grounding system.

    Raises TrainError for a query without a word that the model knows, a run of a retrieval system, and a video without
    features.
    """
    task = opened.task
    check_query(task, query)
    if not isinstance(task, GroundingTask):
        raise TrainError(f"{opened.run}: {opened.recipe.model.system} finds videos, not moments of one")
    if video not in opened.videos:
        raise TrainError(f"{opened.store.url}: has no features of {video!r}")
    if isinstance(task, FVMRTask) and task.options.objective == "teacher":
        raise TrainError(
            f"{opened.run}: a teacher alone answers sentences of the annotations, whose role graphs it has"
        )
    one, durations = torch.tensor([0]), torch.tensor(_durations(opened, [video])).to(device_of(task))
    seen = encode_videos(task, task.open_videos(opened.store, [video], "none", "cpu"), one, [video])
    told = encode_texts(task, task.read_texts([query], None), one, [query])
    with torch.no_grad():
        ranked = task.answer(seen, told, durations, task.options.ious[0])[0]
    return [(start, end) for start, end in ranked.tolist() if start >= 0][:top]


def build_index(opened: Opened, path: Path | None = None) -> MomentIndex:
    """Embed the moments of all videos into the index at `path`, by default the run's own."""
    task, path = _task_of(opened), path or opened.run / INDEX
    durations = _durations(opened, opened.videos)
    batches = _embedded(opened, task)
    with enough_memory("make the index with --device cpu"):
        write_index(path, {"key": opened.key}, task.options.proposals, opened.videos, durations, batches)
    return MomentIndex(path, device=device_of(task))


def _durations(opened: Opened, videos: Sequence[str]) -> list[float]:
    """How long videos are, in seconds: until the end of their last row. Raises TrainError if rows have no times."""
    source = Source(opened.store, opened.recipe.data.experts)
    durations = [float(source.read(video)[1][-1, 1]) for video in videos]
    untimed = [video for video, duration in zip(videos, durations, strict=True) if not duration > 0]
    if untimed:
        raise TrainError(
            f"{opened.store.url}: features of {some(untimed)} do not tell when they are: import their times"
        )
    return durations


def _embedded(opened: Opened, task: FVMRTask) -> Iterator[Tensor]:
    """(B, P, dim) of all videos in order."""
    videos = task.open_videos(opened.store, opened.videos, "none", "cpu")
    for indices in torch.arange(len(opened.videos)).split(AT_ONCE):
        yield encode_videos(task, videos, indices, opened.videos)[0]


def _open(opened: Opened, path: Path | None, engine: str) -> MomentIndex:
    if path is None:
        path = opened.run / INDEX
        if not _is_of(path, opened.key):
            build_index(opened)
    found = MomentIndex(path, engine, device_of(opened.task))
    if found.identity != {"key": opened.key}:
        raise TrainError(
            f"{path}: is of another model, or of other videos, than {opened.run} has now; make it anew with "
            f"`reelcache index {opened.run} -o {path}`"
        )
    return found


def _is_of(path: Path, key: str) -> bool:
    """Whether there is a whole index of this model and these videos."""
    try:
        return MomentIndex(path).identity == {"key": key}
    except TrainError:
        return False


def _task_of(opened: Opened) -> FVMRTask:
    if isinstance(opened.task, RetrievalTask):
        system = opened.recipe.model.system
        raise TrainError(f"{opened.run}: {system} finds videos, whose embeddings `reelcache search` makes by itself")
    if not isinstance(opened.task, FVMRTask) or opened.task.options.objective == "teacher":
        system = opened.recipe.model.system
        raise TrainError(
            f"{opened.run}: {system} looks at a sentence and a video together, so that it answers about one "
            "video (--video ID), but cannot search many; train FVMR for that"
        )
    return opened.task
