"""TACoS: 127 videos of cooking, five minutes and more, with moments of seconds (Regneri et al., TACL 2013).

Two editions are used, in one form of file, and their results cannot be compared:

* tacos, the preprocessing of 2D-TAN: 9,790 train, 4,436 val, 4,001 test moments in 75 / 27 / 25 videos.
* tacos-ctrl, the split as CTRL (Gao et al., ICCV 2017) made it: 10,146 / 4,589 / 4,083. CTRL's own repository has it
  as pickles of sentence vectors without their sentences; with sentences it comes with the data of VSLNet.

The form is {video: {"fps", "num_frames", "timestamps", "sentences"}} with timestamps in FRAMES: a moment is at
timestamp / fps seconds, a video lasts num_frames / fps. A few moments end some frames after their video, and are cut.
Ids are those of the files, which end in `.avi`; some features name the videos without.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, FiniteFloat
from pydantic.dataclasses import dataclass

from data_manifests.recipes import moments
from data_manifests.recipes.files import read_json
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source, Split
from data_manifests.rows import Id, ManifestError


def _source(split: str, published: str) -> Source:
    return Source(
        role=split,
        file=f"{split}.json",
        holds='JSON {"s17-d69.avi": {"fps", "num_frames", "timestamps" in frames, "sentences"}}',
        published=published,
        name=rf"{split}.*\.json(\.gz)?$",
        content=r'\A\s*\{\s*"s\d+-d\d+',
    )


@dataclass
class _Video:
    fps: Annotated[FiniteFloat, Field(ge=1)]
    num_frames: FiniteFloat
    timestamps: list[tuple[FiniteFloat, FiniteFloat]]  # frames
    sentences: list[str]


def _read(files: Files) -> Dataset:
    return Dataset({split: _split(path) for split, paths in files.items() for path in paths})


def _split(path: Path) -> Split:
    videos = read_json(path, dict[Id, _Video])
    published = []
    for video, told in videos.items():
        if len(told.timestamps) != len(told.sentences):
            raise ManifestError(
                f"{path}: {video} has {len(told.sentences)} sentences and {len(told.timestamps)} timestamps"
            )
        duration = told.num_frames / told.fps
        for (first, last), sentence in zip(told.timestamps, told.sentences, strict=True):
            published.append(moments.Published(video, sentence, first / told.fps, last / told.fps, duration))
    return moments.split_of(videos, published)


def _recipe(name: str, about: str, published: str, expected: dict[str, Expected]) -> Recipe:
    return Recipe(name, about, "moment", tuple(_source(split, published) for split in expected), expected, _read)


RECIPES = (
    _recipe(
        "tacos",
        "TACoS as 2D-TAN preprocessed it, 9,790 / 4,436 / 4,001 moments",
        "github.com/microsoft/VideoX, 2D-TAN/data/TACoS",
        {"train": Expected(75, 9790), "val": Expected(27, 4436), "test": Expected(25, 4001)},
    ),
    _recipe(
        "tacos-ctrl",
        "TACoS in the original split of CTRL, 10,146 / 4,589 / 4,083 moments",
        "github.com/26hzhang/VSLNet, in the data its README links to",
        {"train": Expected(None, 10146), "val": Expected(None, 4589), "test": Expected(None, 4083)},
    ),
)
