"""MSVD: 1,970 clips of YouTube videos with about 41 English captions each (Chen and Dolan, ACL 2011).

A clip is `YOUTUBEID_FIRST_LAST`, the seconds of the video it was cut from. The split of 1,200 train, 100 val and 670
test clips is that of Venugopalan et al. (2015), which all work on retrieval uses. Dual Encoding publishes captions
and lists by split, `id#k caption` a line; k counts from 0 and is no part of the id. There are 48,779 / 4,291 / 27,767
captions, and results depend on whether one or all captions of a test video are asked; here are all.

The id lists are optional: with them the videos are in the order of the lists, and videos without a caption show.
Those of Collaborative Experts have the same ids in another order.
"""

from __future__ import annotations

from pathlib import Path

from data_manifests.recipes.captions import group, outside, split_of, strangers
from data_manifests.recipes.files import read_ids, read_lines
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source
from data_manifests.rows import ManifestError

_DUAL_ENCODING = "github.com/danieljf24/dual_encoding, in its data of MSVD (TextData, VideoSets)"


def _sources(split: str) -> tuple[Source, Source]:
    return (
        Source(
            role=f"{split} captions",
            file=f"msvd{split}.caption.txt",
            holds="`id#k caption` a line",
            published=_DUAL_ENCODING,
            name=rf"{split}.*caption.*\.txt$",
            content=r"\A\S+#\S* ",
        ),
        Source(
            role=f"{split} list",
            file=f"msvd{split}.txt",
            holds="an id a line",
            published=f"{_DUAL_ENCODING}; or {split}_list.txt of github.com/albanie/collaborative-experts",
            name=rf"^(msvd)?{split}(_list)?\.txt$",
            content=r"\A\S+_\d+_\d+\s",
            optional=True,
        ),
    )


def _read(files: Files) -> Dataset:
    splits = {}
    problems: list[str] = []
    for name in EXPECTED:
        (path,) = files[f"{name} captions"]
        captions = group(_captions(path))
        listed = [video for file in files[f"{name} list"] for video in read_ids(file)]
        splits[name] = split_of(listed or captions, captions)
        problems += strangers(outside(captions, [splits[name]]), str(path))
    return Dataset(splits, tuple(problems))


def _captions(path: Path) -> list[tuple[str, str]]:
    """(video, caption) of each line; more parts of an id, as in `id#enc#0`, are dropped like its number."""
    pairs = []
    for number, line in read_lines(path):
        key, space, caption = line.partition(" ")
        video, mark, _ = key.partition("#")
        if not (space and mark and video):
            raise ManifestError(f"{path}:{number}: is not `id#k caption`: {line[:60]}")
        pairs.append((video, caption))
    return pairs


EXPECTED = {"train": Expected(1200, 48779), "val": Expected(100, 4291), "test": Expected(670, 27767)}
RECIPES = (
    Recipe(
        name="msvd",
        about="MSVD, 1,200 / 100 / 670 clips, all captions",
        kind="caption",
        sources=tuple(source for split in EXPECTED for source in _sources(split)),
        expected=EXPECTED,
        read=_read,
    ),
)
