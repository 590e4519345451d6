"""ActivityNet Captions: 15,000 videos of about two minutes, described sentence by sentence (Krishna et al., ICCV 2017).

Published are `train.json`, `val_1.json` and `val_2.json`: {video: {"duration", "timestamps", "sentences"}}, times in
seconds. val_1 and val_2 describe nearly the same 4,900 videos, each by another person; the captions of the test
videos are not public. Ids are those of YouTube after `v_`.

* activitynet-captions, for retrieval: all sentences of a video, joined in the order of the file, are its one caption
  ("paragraph"). Models train on train and are tested on val_1 (4,917), as by HSE, Collaborative Experts and MMT.
  The order of the file is not always that of time: in 245 training videos a sentence starts before the one above it.
* activitynet-captions-moments, for grounding: every sentence is a moment. 2D-TAN and after validate on val_1 and test
  on val_2, VSLNet the other way round: say which. 2D-TAN's repository names the two `val.json` and `test.json`. Four
  training moments do not end after they start and are left out, as its loader does; ends beyond the duration are cut.

Sentences keep their punctuation and lose the spaces around them, with which many begin.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import FiniteFloat
from pydantic.dataclasses import dataclass

from data_manifests.recipes import moments
from data_manifests.recipes.captions import EMPTY
from data_manifests.recipes.files import read_json
from data_manifests.recipes.recipe import Dataset, Expected, Files, Recipe, Source, Split
from data_manifests.rows import Caption, Id, ManifestError

_TAN = {"val_1": "val", "val_2": "test"}  # names in the repository of 2D-TAN


def _source(split: str, optional: bool = False) -> Source:
    alias = f"|^{_TAN[split]}" if split in _TAN else ""
    also = f" ({_TAN[split]}.json in the repository of 2D-TAN)" if split in _TAN else ""
    return Source(
        role=split,
        file=f"{split}.json",
        holds='JSON {"v_...": {"duration", "timestamps", "sentences"}}',
        published=f"cs.stanford.edu/people/ranjaykrishna/densevid, captions.zip{also}",
        name=rf"({split}{alias})\.json(\.gz)?$",
        content=r'\A\s*\{\s*"v_',
        optional=optional,
    )


@dataclass
class _Video:
    duration: FiniteFloat  # seconds
    timestamps: list[tuple[FiniteFloat, FiniteFloat]]  # seconds
    sentences: list[str]


def _read_paragraphs(files: Files) -> Dataset:
    return Dataset({split: _paragraphs(_videos(path)) for split, paths in files.items() for path in paths})


def _read_moments(files: Files) -> Dataset:
    return Dataset({split: _moments(_videos(path)) for split, paths in files.items() for path in paths})


def _paragraphs(videos: dict[str, _Video]) -> Split:
    """A caption of each video; meta holds its duration in seconds."""
    rows = []
    for video, told in videos.items():
        paragraph = " ".join(sentence.strip() for sentence in told.sentences if sentence.strip())
        if paragraph:
            rows.append(Caption(video, paragraph, {"duration": told.duration}))
    empty = len(videos) - len(rows)
    durations = {video: told.duration for video, told in videos.items()}
    return Split(tuple(videos), rows, empty, {EMPTY: empty} if empty else {}, durations)


def _moments(videos: dict[str, _Video]) -> Split:
    published = [
        moments.Published(video, sentence, start, end, told.duration)
        for video, told in videos.items()
        for (start, end), sentence in zip(told.timestamps, told.sentences, strict=True)
    ]
    return moments.split_of(videos, published)


def _videos(path: Path) -> dict[str, _Video]:
    videos = read_json(path, dict[Id, _Video])
    for video, told in videos.items():
        if len(told.timestamps) != len(told.sentences):
            raise ManifestError(
                f"{path}: {video} has {len(told.sentences)} sentences and {len(told.timestamps)} timestamps"
            )
    return videos


RECIPES = (
    Recipe(
        name="activitynet-captions",
        about="ActivityNet Captions, the sentences of a video as one paragraph; 10,009 / 4,917 videos (train, val_1)",
        kind="caption",
        sources=(_source("train"), _source("val_1"), _source("val_2", optional=True)),
        expected={"train": Expected(10009, 10009), "val_1": Expected(4917, 4917), "val_2": Expected(4885, 4885)},
        read=_read_paragraphs,
        shares_videos=True,
    ),
    Recipe(
        name="activitynet-captions-moments",
        about="ActivityNet Captions, every sentence a moment; 37,421 / 17,505 / 17,031 (train, val_1, val_2)",
        kind="moment",
        sources=(_source("train"), _source("val_1"), _source("val_2")),
        expected={"train": Expected(10009, 37421), "val_1": Expected(4917, 17505), "val_2": Expected(4885, 17031)},
        read=_read_moments,
        shares_videos=True,
    ),
)
