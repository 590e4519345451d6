"""A run on disk: what it follows, what it learnt, where it got to.

recipe.json              what it follows, all values written out
sources.json             where its files lie, seen from the run's folder, and digests of the captions it learns from
assets.json              what was read from the training captions: vocabularies and the like
experts.json             the features it was trained with: names, sizes, where their weights are from
checkpoints/last.ckpt    everything that going on needs; best.ckpt, the best epoch by validation
logs/metrics.csv         losses and validation metrics by step; the same for TensorBoard beside it
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from feature_store import FeatureStore, StoreError
from train import RecipeError, TrainError
from train.annotations import Split, some
from train.features import ExpertFacts, measure_scales
from train.finite import check_parameters
from train.paths import absolute, found_paths, paths_of, relative_paths, with_paths
from train.recipe import Recipe, parse_recipe
from train.tasks import TASKS
from train.tasks.base import SCALES, Assets, Task

RECIPE, ASSETS, EXPERTS, SOURCES = "recipe.json", "assets.json", "experts.json", "sources.json"
LAST, BEST = Path("checkpoints/last.ckpt"), Path("checkpoints/best.ckpt")
LOGS = Path("logs")
MEND = "put back the file that the run made, or train anew"


@dataclass(frozen=True)
class Sources:
    """Where a run's files lie: paths relative to its folder, by their keys in the recipe, and digests of its splits."""

    paths: dict[str, str] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)


def open_store(path: str) -> FeatureStore:
    """The store at `path`. Raises TrainError, saying how to name another, if there is none."""
    try:
        return FeatureStore(path)
    except (StoreError, ValueError) as error:  # the latter of a path that none can be
        raise TrainError(f"{error}; name another with --store PATH") from None


def begin_run(run: Path, recipe: Recipe, store: FeatureStore, train: Split, val: Split | None) -> None:
    """Make the folder of a new run, whose recipe has absolute paths.

    Raises RecipeError if a run is there already.
    """
    if (run / RECIPE).exists():
        raise RecipeError(f"{run}: a run is there already; --resume goes on with it, or name another folder with -o")
    task_type = TASKS[recipe.model.system]
    assets = task_type.prepare(recipe.model, train, Path(recipe.data.annotations))
    if recipe.data.scale == "standard":
        assets[SCALES] = measure_scales(store, recipe.data.experts, train.videos)
    experts = [ExpertFacts.of(store.experts[name]) for name in recipe.data.experts]
    captions = {split.name: split.digest for split in (train, val) if split}
    write_run(run, recipe, experts, assets, captions)


def write_run(
    run: Path, recipe: Recipe, experts: Sequence[ExpertFacts], assets: Assets, captions: Mapping[str, str]
) -> None:
    """Write all of a run but its checkpoints; its folder is made if need be."""
    run.mkdir(parents=True, exist_ok=True)
    _write(run / ASSETS, assets)
    _write(run / EXPERTS, [asdict(expert) for expert in experts])
    _write(run / SOURCES, asdict(Sources(relative_paths(recipe, run), dict(captions))))
    _write(run / RECIPE, recipe.model_dump(mode="json"))  # last: it says that a run is here


def open_recipe(run: Path, moved: Mapping[str, str] | None = None) -> Recipe:
    """What a run follows, its paths as they are found (see `train.paths`), or as `moved` names them anew.

    Args:
        run: its folder.
        moved: paths as seen from the current folder, by their keys, e.g. {"data.store": "other.zarr"}.

    Raises TrainError if there is no run, RecipeError if it is damaged, and for a key that is none of its paths.
    """
    if not (run / RECIPE).exists():
        raise TrainError(f"{run}: there is no run; `reelcache train RECIPE -o {run}` makes one")
    recipe, sources = parse_recipe(_read(run / RECIPE), str(run / RECIPE)), _sources(run)
    known = {"data.store", "data.annotations", *sources.paths, *paths_of(recipe)}
    for key in moved or ():
        if key not in known:
            raise RecipeError(
                f"{key}: {run} keeps to the recipe it began with; only its paths can be named anew: "
                f"{', '.join(sorted(known))}"
            )
    named = {key: absolute(path) for key, path in (moved or {}).items()}
    return with_paths(found_paths(recipe, run, sources.paths), named)


def check_captions(run: Path, splits: Iterable[Split]) -> None:
    """Raises TrainError if a split holds other captions or videos than when the run began."""
    known = _sources(run).captions
    for split in splits:
        if known.get(split.name, split.digest) != split.digest:
            raise TrainError(
                f"split {split.name!r} holds other captions or videos than when {run} began; name the folder with "
                "those with --annotations, or begin another run"
            )


def _sources(run: Path) -> Sources:
    """Nothing is known of a run that was made before this was kept."""
    if not (run / SOURCES).exists():
        return Sources()
    try:
        return TypeAdapter(Sources).validate_python(_read(run / SOURCES))
    except ValidationError as error:
        raise RecipeError(f"{run / SOURCES}: damaged ({error.errors()[0]['msg']})") from None


def open_task(run: Path, recipe: Recipe, store: FeatureStore) -> Task:
    """The system of a run, its parameters drawn with the run's seed.

    Raises TrainError if the store's features are not those that it was trained with.
    """
    known = experts_of(run)
    if [expert.name for expert in known] != list(recipe.data.experts):
        raise RecipeError(f"{run / EXPERTS}: damaged, it does not hold the experts of {RECIPE}")
    for expert in known:
        if expert.name not in store:
            raise TrainError(f"{store.url} lacks {expert.name}, which {run} was trained with")
        if ExpertFacts.of(store.experts[expert.name]) != expert:
            raise TrainError(
                f"{store.url}: {expert.name} was made in another way than the features that {run} was trained with"
            )
    assets = _read(run / ASSETS)
    torch.manual_seed(recipe.training.seed)
    try:
        return TASKS[recipe.model.system](recipe.model, {each.name: each for each in known}, assets)
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # of assets of any content
        raise RecipeError(
            f"{run}: no model can be made of its recipe and {ASSETS} ({type(error).__name__}: {error})"
        ) from error


def experts_of(run: Path) -> list[ExpertFacts]:
    """The experts that a run was trained with. Raises RecipeError if it is damaged."""
    try:
        return TypeAdapter(list[ExpertFacts]).validate_python(_read(run / EXPERTS))
    except ValidationError as error:
        raise RecipeError(f"{run / EXPERTS}: damaged ({error.errors()[0]['msg']})") from None


def random_experts(run: Path) -> list[str]:
    """Those whose features come from random weights."""
    return [expert.name for expert in experts_of(run) if expert.weights.startswith("random")]


def chosen_checkpoint(run: Path, recipe: Recipe) -> Path:
    """The checkpoint that is the model of a run."""
    return run / (BEST if recipe.training.select == "best" else LAST)


def load_chosen(task: Task, run: Path, recipe: Recipe) -> None:
    """Load the parameters of a run's model. Raises TrainError if there are none yet, or they are damaged."""
    path = chosen_checkpoint(run, recipe)
    if not path.exists():
        raise TrainError(f"{path}: is not there yet; `reelcache train {run} --resume` goes on with the run")
    checkpoint = read_checkpoint(path, task)
    task.load_state_dict({name.removeprefix("task."): tensor for name, tensor in checkpoint["state_dict"].items()})
    stage = checkpoint.get("stage", 1)
    task.enter_stage(stage if isinstance(stage, int) else 1)


def read_checkpoint(path: Path, task: Task) -> dict[str, Any]:
    """A checkpoint of a task, {"state_dict": ...} and more. Raises TrainError if it is damaged or of another model."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever a damaged file sets off
        raise TrainError(f"{path}: damaged, or no checkpoint ({type(error).__name__}); {MEND}") from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise TrainError(f"{path}: holds no parameters; {MEND}")
    sizes = {f"task.{name}": tensor.shape for name, tensor in task.state_dict().items()}
    unlike = [name for name in {**sizes, **state} if name not in state or state[name].shape != sizes.get(name)]
    if unlike:
        raise TrainError(f"{path}: is of another model, which lacks or has {some(unlike, 2)} of another size; {MEND}")
    check_parameters(state, path)
    return checkpoint


def _write(path: Path, document: Any) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(document, indent=1, ensure_ascii=False), encoding="utf-8")
    os.replace(part, path)


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise RecipeError(f"{path}: is missing; the run is damaged") from None
    except (ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: damaged ({error})") from None
