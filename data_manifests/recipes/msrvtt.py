"""MSR-VTT: 10,000 clips of YouTube videos, 10 to 30 s each, with 20 captions a clip (Xu et al., CVPR 2016).

Captions and clips come in JSON files of one form: `videos` with `video_id`, `url`, times and `split`, `sentences`
with `video_id` and `caption`. They are published as one file of all 10,000 clips (the challenge of 2017) or as two,
`train_val_videodatainfo.json` (video0 to video7009) and `test_videodatainfo.json` (video7010 to video9999); both
forms are read. The page of the challenge is gone; the files circulate with later work, e.g. as `MSRVTT_data.json` of
CLIP4Clip.

Four ways of splitting it, whose results cannot be compared:

* msrvtt-full, the official one: 6,513 train, 497 val, 2,990 test, all captions. It follows from `split`, or where a
  file has none from the numbers of the videos: 0-6512, 6513-7009, 7010-9999.
* msrvtt-1k-a (JSFusion, Yu et al., ECCV 2018): 1,000 test clips, each with the one caption that the JSFusion CSV
  gives it, and the other 9,000 clips to train on. msrvtt-1k-a-7k has the same test and trains on the 7,010 clips of
  the official train and val, as JSFusion itself and "Test1k-Yu" of Dual Encoding; the two are often mixed up.
* msrvtt-1k-b (Miech et al., 2018): 6,656 train and 1,000 test clips, of which only the first caption is asked.
  "First" is by the order of `sentences`.

Neither 1k split has validation videos.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from pydantic.dataclasses import dataclass

from data_manifests.recipes.captions import group, outside, split_of, strangers
from data_manifests.recipes.files import read_ids, read_json, read_table
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source, Split
from data_manifests.rows import Id, ManifestError

_CE = "github.com/albanie/collaborative-experts, misc/datasets/msrvtt, and in its MSRVTT-experts.tar.gz"
_CLIP4CLIP = "github.com/ArrowLuo/CLIP4Clip, releases, msrvtt_data.zip"
_INFO = Source(
    role="captions",
    file="train_val_videodatainfo.json and test_videodatainfo.json, or one JSON file of all 10,000 clips",
    holds='JSON {"videos": [{"video_id", "split", ...}], "sentences": [{"video_id", "caption", ...}]}',
    published=f"ms-multimedia-challenge.com until it closed; now e.g. MSRVTT_data.json of {_CLIP4CLIP}",
    name=r"\.json(\.gz)?$",
    content=r'\A\s*\{[\s\S]*"video_id"',
    many=True,
)
_JSFUSION_TEST = Source(
    role="test captions",
    file="MSRVTT_JSFUSION_test.csv",
    holds="a CSV with the columns key, vid_key, video_id, sentence",
    published=_CLIP4CLIP,
    name=r"\.csv$",
    content=r"\A.*video_id.*,sentence",
)
_TRAIN_9K = Source(
    role="train list",
    file="MSRVTT_train.9k.csv or train_list_jsfusion.txt",
    holds="9,000 ids, one a line",
    published=f"{_CLIP4CLIP}; {_CE}",
    name=r"train.*9k.*\.(csv|txt)$|train.*jsfusion.*\.(csv|txt)$",
)
_TRAIN_7K = Source(
    role="train list",
    file="MSRVTT_train.7k.csv",
    holds="7,010 ids, one a line",
    published=_CLIP4CLIP,
    name=r"train.*7k.*\.(csv|txt)$",
)
_TRAIN_MIECH, _TEST_MIECH = (
    Source(
        role=f"{split} list",
        file=f"{split}_list_miech.txt",
        holds=f"{count} ids, one a line",
        published=_CE,
        name=rf"{split}.*miech.*\.(csv|txt)$",
    )
    for split, count in (("train", "6,656"), ("test", "1,000"))
)

_SPLITS = {"train": "train", "validate": "val", "validation": "val", "val": "val", "test": "test"}
_VAL_FROM, _TEST_FROM = 6513, 7010  # numbers of videos


@dataclass
class _Video:
    video_id: Id
    split: str = ""


@dataclass
class _Sentence:
    video_id: Id
    caption: str


@dataclass
class _Info:
    videos: list[_Video]
    sentences: list[_Sentence]


def _read_full(files: Files) -> Dataset:
    splits, captions = _read_info(files["captions"])
    members: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for video, split in splits.items():
        members[split].append(video)
    return _dataset({name: split_of(videos, captions) for name, videos in members.items()}, captions, whole=True)


def _read_1k_a(files: Files) -> Dataset:
    _, captions = _read_info(files["captions"])
    asked = [
        (video, sentence)
        for file in files["test captions"]
        for _, (video, sentence) in read_table(file, ("video_id", "sentence"))
    ]
    test = group(asked)
    train = split_of(_ids(files["train list"]), captions)
    return _dataset({"train": train, "test": split_of(test, test)}, captions)


def _read_1k_b(files: Files) -> Dataset:
    _, captions = _read_info(files["captions"])
    first = {video: texts[:1] for video, texts in captions.items()}
    train, test = split_of(_ids(files["train list"]), captions), split_of(_ids(files["test list"]), first)
    return _dataset({"train": train, "test": test}, captions)


def _read_info(paths: Iterable[Path]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The split and the captions of every video, by its id, in the order of the files."""
    splits: dict[str, str] = {}
    origin: dict[str, Path] = {}
    captions: dict[str, list[str]] = {}
    for path in sorted(paths, key=lambda path: path.name.startswith("test")):  # train and val come before test
        info = read_json(path, _Info)
        for video in info.videos:
            if video.video_id in origin:
                where = f"stands in {origin[video.video_id]} already" if origin[video.video_id] != path else "is twice"
                raise ManifestError(f"{path}: {video.video_id} {where}; give either one file of all clips or two")
            origin[video.video_id] = path
            splits[video.video_id] = _split(video, path)
        for text in info.sentences:
            captions.setdefault(text.video_id, []).append(text.caption)
    return splits, captions


def _split(video: _Video, path: Path) -> str:
    if video.split:
        if video.split not in _SPLITS:
            raise ManifestError(f"{path}: {video.video_id} is in a split {video.split!r}, not train, validate or test")
        return _SPLITS[video.split]
    number = video.video_id.removeprefix("video")
    if not number.isdecimal():
        raise ManifestError(f"{path}: {video.video_id!r} has no split, nor a number like video7010 to tell it from")
    return "train" if int(number) < _VAL_FROM else "val" if int(number) < _TEST_FROM else "test"


def _ids(paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(video for path in paths for video in read_ids(path))


def _dataset(splits: dict[str, Split], captions: dict[str, list[str]], whole: bool = False) -> Dataset:
    """`whole` says that every video must be in a split; 1k-A with 7k, and 1k-B, leave some out."""
    without = outside(captions, splits.values())
    if whole:
        return Dataset(splits, strangers(without, "sentences"))
    return Dataset(splits, notes={"videos in no split": len(without)} if without else {})


def _recipe(
    name: str,
    about: str,
    sources: tuple[Source, ...],
    read: Callable[[Files], Dataset],
    expected: dict[str, tuple[int, int]],
) -> Recipe:
    counts = {split: Expected(videos, captions) for split, (videos, captions) in expected.items()}
    return Recipe(name, about, "caption", (*sources, _INFO), counts, read)


RECIPES = (
    _recipe(
        "msrvtt-full",
        "MSR-VTT, the official 6,513 / 497 / 2,990",
        (),
        _read_full,
        {"train": (6513, 130260), "val": (497, 9940), "test": (2990, 59800)},
    ),
    _recipe(
        "msrvtt-1k-a",
        "MSR-VTT 1k-A (JSFusion): 9,000 / 1,000, one caption a test video",
        (_TRAIN_9K, _JSFUSION_TEST),
        _read_1k_a,
        {"train": (9000, 180000), "test": (1000, 1000)},
    ),
    _recipe(
        "msrvtt-1k-a-7k",
        "MSR-VTT 1k-A with the 7,010 training videos of JSFusion",
        (_TRAIN_7K, _JSFUSION_TEST),
        _read_1k_a,
        {"train": (7010, 140200), "test": (1000, 1000)},
    ),
    _recipe(
        "msrvtt-1k-b",
        "MSR-VTT 1k-B (Miech): 6,656 / 1,000, the first caption of each test video",
        (_TRAIN_MIECH, _TEST_MIECH),
        _read_1k_b,
        {"train": (6656, 133120), "test": (1000, 1000)},
    ),
)
