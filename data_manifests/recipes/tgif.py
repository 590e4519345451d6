"""TGIF: animated GIFs from Tumblr, one sentence each, three in the test split (Li et al., CVPR 2016).

Published are `tgif-v1.0.tsv`, `URL<TAB>sentence` a line (125,782 sentences of 102,068 GIFs), and lists of URLs in
`data/splits`. The id of a GIF here is its file name without `.gif` (`tumblr_nqlr0rn8ox1r2r0koo1_400`), as in the
files that one downloads.

* tgif has the lists of the release: 80,000 train, 10,708 val, 11,360 test.
* tgif-li has the lists that Dual Encoding (TPAMI 2021) calls TGIF-Li: 78,799 / 10,705 / 11,351, together the 100,855
  GIFs that its authors have. Sentences of GIFs in none of the lists are counted and left out. TGIF-Chen (79,451 /
  10,651 / 11,310) divides them otherwise and is not read.

The sentences a split has are not published as numbers, so only GIFs are checked.
"""

from __future__ import annotations

from pathlib import Path

from data_manifests.recipes.captions import group, outside, split_of, strangers
from data_manifests.recipes.files import read_lines
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source, Split
from data_manifests.rows import ManifestError

_RELEASE = "github.com/raingo/TGIF-Release"
_LI = "github.com/danieljf24/hybrid_space, with its data of TGIF"
_SENTENCES = Source(
    role="sentences",
    file="tgif-v1.0.tsv",
    holds="`URL<TAB>sentence` a line",
    published=f"{_RELEASE}, data",
    name=r"\.tsv$",
    content=r"\A\S+\t",
)


def _list(split: str, where: str) -> Source:
    return Source(
        role=f"{split} list",
        file=f"{split}.txt",
        holds="a URL, or the name of a GIF, a line",
        published=where,
        name=rf"{split}.*\.txt$",
        content=r"\A\S*tumblr_\S+\s",
    )


def _read_release(files: Files) -> Dataset:
    splits, left = _read(files)
    return Dataset(splits, strangers(left, "tgif-v1.0.tsv"))


def _read_fetched(files: Files) -> Dataset:
    splits, left = _read(files)
    return Dataset(splits, notes={"GIFs in no split, left out": len(left)} if left else {})


def _read(files: Files) -> tuple[dict[str, Split], dict[str, int]]:
    captions = group((pair for path in files["sentences"] for pair in _sentences(path)), _gif)
    splits = {}
    for name in ("train", "val", "test"):
        lines = [line for path in files[f"{name} list"] for _, line in read_lines(path)]
        splits[name] = split_of(dict.fromkeys(map(_gif, lines)), captions)
    return splits, outside(captions, splits.values())


def _sentences(path: Path) -> list[tuple[str, str]]:
    pairs = []
    for number, line in read_lines(path):
        url, tab, sentence = line.partition("\t")
        if not (tab and _gif(url)):
            raise ManifestError(f"{path}:{number}: is not `URL<TAB>sentence`: {line[:60]}")
        pairs.append((url, sentence))
    return pairs


def _gif(url: str) -> str:
    return url.strip().rpartition("/")[2].removesuffix(".gif")


RECIPES = (
    Recipe(
        name="tgif",
        about="TGIF as released, 80,000 / 10,708 / 11,360 GIFs",
        kind="caption",
        sources=(_SENTENCES, *(_list(split, f"{_RELEASE}, data/splits") for split in ("train", "val", "test"))),
        expected={"train": Expected(80000, None), "val": Expected(10708, None), "test": Expected(11360, None)},
        read=_read_release,
    ),
    Recipe(
        name="tgif-li",
        about="TGIF-Li, the lists of Dual Encoding, 78,799 / 10,705 / 11,351 GIFs",
        kind="caption",
        sources=(_SENTENCES, *(_list(split, _LI) for split in ("train", "val", "test"))),
        expected={"train": Expected(78799, None), "val": Expected(10705, None), "test": Expected(11351, None)},
        read=_read_fetched,
    ),
)
