"""Recipes: TOML files that say all that a run depends on."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from train import RecipeError
from train.paths import FilePath, StorePath
from train.tasks import OPTIONS, TASKS
from train.tasks.drn import STAGES

FOLDER = Path(__file__).parent / "recipes"
_STRICT = ConfigDict(extra="forbid", frozen=True)
_WORDS = {  # pydantic's kinds of errors
    "extra_forbidden": "there is no such key",
    "missing": "is missing",
    "tuple_type": 'must be a list, such as ["s3d", "vggish"]',
}


class Data(BaseModel):
    """Where features and captions are.

    `annotations` is a folder as `reelcache manifest import` writes it: SPLIT.jsonl with captions, and
    SPLIT.videos.txt with the videos to find among. `experts` name the store's features. A video that lacks them is an
    error, or, with missing = "drop", left out. With cache = "ram" or "device" all features are held there. With
    scale = "standard" each number of a feature is brought to mean 0 and deviation 1 over the training split, for
    experts of unlike size side by side; published systems take features as they are.
    """

    model_config = _STRICT
    store: StorePath
    annotations: FilePath
    experts: Annotated[tuple[str, ...], Field(min_length=1)]
    train: str = "train"
    val: str = "val"
    test: str = "test"
    missing: Literal["error", "drop"] = "error"
    cache: Literal["none", "ram", "device"] = "ram"
    scale: Literal["none", "standard"] = "none"

    @field_validator("experts")
    @classmethod
    def _each_once(cls, experts: tuple[str, ...]) -> tuple[str, ...]:
        if twice := [name for name in experts if experts.count(name) > 1]:
            raise ValueError(f"names {twice[0]} twice")
        return experts


class Schedule(BaseModel):
    """How the learning rate falls: each epoch, at given epochs, and when validation does not improve.

    By `decay` after every epoch; by `drop` after each number of epochs in `milestones`; and by `halve` after more
    than `patience` epochs in a row that were no better than the best before. At least `wait` epochs lie between two
    cuts of that last kind.
    """

    model_config = _STRICT
    decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    milestones: tuple[PositiveInt, ...] = ()
    drop: Annotated[float, Field(gt=0, le=1)] = 0.1
    halve: Annotated[float, Field(gt=0, le=1)] = 1.0
    patience: NonNegativeInt = 0
    wait: PositiveInt = 3


class Stage(BaseModel):
    """A further stage of training, for systems that have them: DRN, which has three in all."""

    model_config = _STRICT
    epochs: PositiveInt
    learning_rate: PositiveFloat


class Training(BaseModel):
    """The loop. `select` says which epoch is the model: the best by rsum of validation, or the last.

    `patience` epochs without a better rsum end the run. `draw` = "captions": every caption once an epoch; "videos":
    every video before any comes again, with one caption drawn, in epochs of `steps` batches. `batch` is of one rank.
    """

    model_config = _STRICT
    epochs: PositiveInt
    batch: PositiveInt
    learning_rate: PositiveFloat
    later_stages: tuple[Stage, ...] = ()  # each with a fresh optimiser; epochs and learning_rate are of the first
    schedule: Schedule = Schedule()
    clip_norm: PositiveFloat | None = None
    patience: PositiveInt | None = None
    select: Literal["best", "last"] = "best"
    draw: Literal["captions", "videos"] = "captions"
    steps: PositiveInt | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    devices: PositiveInt = 1
    checkpoint_steps: PositiveInt | None = None  # also write one each so many steps, not only each epoch
    log_steps: PositiveInt = 10  # from one loss in the logs to the next

    @property
    def all_stages(self) -> tuple[Stage, ...]:
        """Every stage in order, the first among them."""
        return (Stage(epochs=self.epochs, learning_rate=self.learning_rate), *self.later_stages)

    @model_validator(mode="after")
    def _steps_of_drawn_videos(self) -> Self:
        if self.steps and self.draw == "captions":
            raise ValueError('steps is for draw = "videos"; an epoch of captions ends when all have come')
        return self

    @model_validator(mode="after")
    def _patience_of_one_stage(self) -> Self:
        if self.patience and self.later_stages:
            raise ValueError("patience would end a run before its later_stages: leave out one of the two")
        return self


class Recipe(BaseModel):
    """A whole recipe; `published` are the figures of the paper or repository, to compare with."""

    model_config = _STRICT
    about: str = ""
    data: Data
    model: Annotated[OPTIONS, Field(discriminator="system")]
    training: Training
    published: Mapping[str, float] = {}

    @model_validator(mode="after")
    def _pairs_of_a_batch(self) -> Self:
        if self.training.batch < 2 and TASKS[self.model.system].compares_pairs:
            raise ValueError(
                f"training.batch: {self.model.system} tells the pairs of a batch from one another: 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _stages_of_the_system(self) -> Self:
        stages = STAGES if self.model.system == "drn" else 1
        if len(self.training.all_stages) > stages:
            raise ValueError(f"training.later_stages: {self.model.system} has {stages - 1 or 'none'}")
        return self


def load_recipe(name: str, settings: Sequence[str] = ()) -> Recipe:
    """The recipe of a TOML file, or of this name among those that come with Reelcache.

    `settings` ("training.batch=64") replace single values; their right sides are TOML, or plain text.
    Raises RecipeError naming the file and each wrong key.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise RecipeError(f"{name}: no such recipe; there are {', '.join(recipe_names())}, or give a .toml file")
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: {error}") from None
    for setting in settings:
        _set(document, setting)
    return parse_recipe(document, str(path))


def parse_recipe(document: Any, where: str) -> Recipe:
    """A recipe from plain data. Raises RecipeError naming each wrong key."""
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        problems = (
            ": ".join(
                filter(None, (where, ".".join(map(str, _place(each["loc"]))), _WORDS.get(each["type"], each["msg"])))
            )
            for each in error.errors(include_url=False, include_context=False, include_input=False)
        )
        raise RecipeError("\n".join(problems)) from None


def recipe_names() -> list[str]:
    """The recipes that come with Reelcache."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def _set(document: dict[str, Any], setting: str) -> None:
    key, equals, value = setting.partition("=")
    *sections, last = key.strip().split(".")
    if not (equals and last and all(sections)):
        raise RecipeError(f"--set {setting}: write SECTION.KEY=VALUE, e.g. training.batch=64")
    for section in sections:
        document = document.setdefault(section, {})
        if not isinstance(document, dict):
            raise RecipeError(f"--set {setting}: {section} is not a section")
    try:
        document[last] = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        document[last] = value


def _place(parts: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without the name of the system, which pydantic puts after "model"."""
    return (parts[0], *parts[2:]) if parts[:1] == ("model",) and len(parts) > 2 else parts
