"""The paths in a recipe: made absolute when a run begins, and found again from any folder, also after a move.

A recipe names its store, its annotations and further files as seen from the folder where the command runs. The run
keeps them as absolute paths (recipe.json) and as paths relative to the run's folder (sources.json).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from feature_store.places import is_url

if TYPE_CHECKING:  # which marks its paths with what is here
    from train.recipe import Recipe

SECTIONS = ("data", "model")


@dataclass(frozen=True)
class PathMark:
    """Marks a value of a recipe that is a path where `when` is true of it."""

    when: Callable[[str], bool]


StorePath = Annotated[str, PathMark(lambda text: not is_url(text))]
FilePath = Annotated[str, PathMark(bool)]  # an empty one names no file
FolderOrName = Annotated[str, PathMark(lambda text: Path(text).is_dir())]  # else a name on the Hugging Face hub
JsonOrName = Annotated[str, PathMark(lambda text: text.endswith(".json"))]


def paths_of(recipe: Recipe) -> dict[str, str]:
    """All paths of a recipe by their keys, such as "data.store"; no URLs, and nothing that is left empty."""
    return {key: text for key, text, mark in _marked(recipe) if mark.when(text)}


def with_paths(recipe: Recipe, paths: Mapping[str, str]) -> Recipe:
    """The recipe with other paths, by their keys."""
    changes: dict[str, dict[str, str]] = {section: {} for section in SECTIONS}
    for key, path in paths.items():
        section, _, name = key.partition(".")
        changes[section][name] = path
    parts = {section: getattr(recipe, section).model_copy(update=changes[section]) for section in SECTIONS}
    return recipe.model_copy(update=parts)


def absolute_paths(recipe: Recipe) -> Recipe:
    """The recipe with its paths absolute, as seen from the current folder."""
    return with_paths(recipe, {key: absolute(path) for key, path in paths_of(recipe).items()})


def relative_paths(recipe: Recipe, run: Path) -> dict[str, str]:
    """The paths of a recipe as seen from a run's folder, by their keys."""
    return {key: os.path.relpath(path, run.absolute()) for key, path in paths_of(recipe).items()}


def found_paths(recipe: Recipe, run: Path, relative: Mapping[str, str]) -> Recipe:
    """The recipe with each path as it is found: relative to the run, if a file or folder is there, else as it is.

    Relative first, so that a copy of a whole project uses its own files.
    """
    beside = {key: os.path.normpath(run.absolute() / path) for key, path in relative.items()}
    return with_paths(recipe, {key: path for key, path in beside.items() if os.path.exists(path)})


def absolute(path: str) -> str:
    """A path as seen from the current folder; a URL as it is."""
    return path if is_url(path) else str(Path(path).absolute())


def _marked(recipe: Recipe) -> Iterator[tuple[str, str, PathMark]]:
    for section in SECTIONS:
        part = getattr(recipe, section)
        for name, field in type(part).model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, PathMark):
                    yield f"{section}.{name}", getattr(part, name), mark
