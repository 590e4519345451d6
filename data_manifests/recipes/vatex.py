"""VATEX: 10 s clips of Kinetics-600 with 10 English and 10 Chinese captions each (Wang et al., ICCV 2019).

Published are JSON lists of {"videoID", "enCap", "chCap"}: 25,991 clips to train, 3,000 to validate, and a test set
without captions, so that work on retrieval halves the validation clips at random. The split here is that of HGR (Chen
et al., CVPR 2020), also used by HANet and Dual Encoding: 1,500 val and 1,500 test, listed in the `public_split` of
HGR's data as `val_names.npy` and `tst_names.npy`; a text with an id a line does as well. The list of the training
clips is optional, for it names all of them. Only English captions are taken.

Pitfalls: CLIP4Clip and others draw another half, and some test on the later "public test" of 6,000 clips; the
numbers are not comparable. A clip is `YOUTUBEID_FIRST_LAST` with six digits each, and ids may begin with `-` or `_`.
"""

from __future__ import annotations

from pathlib import Path

from pydantic.dataclasses import dataclass

from data_manifests.recipes.captions import outside, split_of, strangers
from data_manifests.recipes.files import read_ids, read_json
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source
from data_manifests.rows import Id, ManifestError

_SITE = "eric-xw.github.io/vatex-website/download.html"
_HGR = "github.com/cshizhe/hgr_v2t, in the public_split folder of its VATEX data"


def _captions_source(role: str, file: str, word: str) -> Source:
    return Source(
        role=role,
        file=file,
        holds='JSON [{"videoID": ..., "enCap": [10 captions], ...}]',
        published=_SITE,
        name=rf"{word}.*\.json(\.gz)?$",
        content=r'\A\s*\[\s*\{[^}]*"(videoID|enCap|chCap)"',
    )


def _list_source(split: str, short: str, count: str, optional: bool) -> Source:
    return Source(
        role=f"{split} list",
        file=f"{short}_names.npy",
        holds=f"{count} ids: an array of NumPy, or a text with one a line",
        published=_HGR,
        name=rf"({split}|{short}).*\.(npy|txt)$",
        optional=optional,
    )


@dataclass
class _Clip:
    videoID: Id  # noqa: N815, the name in the file
    enCap: list[str]  # noqa: N815


def _read(files: Files) -> Dataset:
    train = _captions(files["train captions"])
    rest = _captions(files["validation captions"])
    listed = {split: [video for path in files[f"{split} list"] for video in read_ids(path)] for split in EXPECTED}
    captions = train | rest
    splits = {split: split_of(listed[split], captions) for split in ("val", "test")}
    splits = {"train": split_of(listed["train"] or train, captions), **splits}
    return Dataset(splits, strangers(outside(captions, splits.values()), "captions"))


def _captions(paths: tuple[Path, ...]) -> dict[str, list[str]]:
    captions: dict[str, list[str]] = {}
    for path in paths:
        for clip in read_json(path, list[_Clip]):
            if clip.videoID in captions:
                raise ManifestError(f"{path}: {clip.videoID} stands there twice")
            captions[clip.videoID] = clip.enCap
    return captions


EXPECTED = {"train": Expected(25991, 259910), "val": Expected(1500, 15000), "test": Expected(1500, 15000)}
RECIPES = (
    Recipe(
        name="vatex",
        about="VATEX in the split of HGR, 25,991 / 1,500 / 1,500 clips, English captions",
        kind="caption",
        sources=(
            _captions_source("train captions", "vatex_training_v1.0.json", "train"),
            _captions_source("validation captions", "vatex_validation_v1.0.json", "val"),
            _list_source("train", "trn", "25,991", optional=True),
            _list_source("val", "val", "1,500", optional=False),
            _list_source("test", "tst", "1,500", optional=False),
        ),
        expected=EXPECTED,
        read=_read,
    ),
)
