"""Metrics of text-video retrieval, from scores that are ranked block by block.

Scores are a matrix of videos (rows) and captions (columns). A caption is a query among the videos ("t2v"), a video one
among the captions ("v2t"). Ranks are exact. Items that score the same share the mean of the places they take, as MMT
and CE have it (gabeur/mmt, model/metric.py); Dual Encoding and HANet leave their order to the sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from train.scores import ScoreMatrix, ScoresError

ROWS, COLUMNS = 255, 4096  # of a tile whose columns are counted: a count fits 8 bits, which adds fastest


@dataclass(frozen=True, eq=False)
class Relevance:
    """Which captions are right for which videos of a gallery.

    A video that no caption is right for is only there to be confused with others, and so is a caption.
    """

    videos: int
    texts: int
    pairs: Tensor  # (P, 2): a caption and a video that it is right for, sorted, each pair once

    @classmethod
    def of_captions(cls, caption_video: Tensor, videos: int) -> Relevance:
        """Each caption is right for its own video, `caption_video` (T,). Raises ScoresError for one that is not."""
        outside = torch.nonzero((caption_video < 0) | (caption_video >= videos)).flatten().tolist()
        if outside:
            found = f"caption {outside[0]} is of video {int(caption_video[outside[0]])}"
            raise ScoresError(f"{len(outside)} captions are of no video of the gallery of {videos}: {found}")
        pairs = torch.stack([torch.arange(len(caption_video)), caption_video.long()], dim=1)
        return cls(videos, len(caption_video), pairs)

    def merge_equal(self, texts: Sequence[str]) -> tuple[Tensor, Relevance]:
        """Captions of the same text become one, right for the videos of all (HGR and HANet's protocol).

        Gives the captions that are left, (T',), the first of each text in their order, and what they are right for.
        Raises ScoresError unless there is a text for each caption.
        """
        if len(texts) != self.texts:
            raise ScoresError(f"{len(texts)} texts were given for {self.texts} captions")
        places = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        merged = torch.tensor([places[text] for text in texts], dtype=torch.long)
        kept = torch.full((len(places),), len(texts)).scatter_reduce(0, merged, torch.arange(len(texts)), "amin")
        pairs = torch.stack([merged[self.pairs[:, 0]], self.pairs[:, 1]], dim=1)
        return kept, Relevance(self.videos, len(places), pairs.unique(dim=0))


@dataclass(frozen=True)
class Protocol:
    """How a paper's official code evaluates.

    median: of ranks from 1, as it is ("plain") or rounded down ("floor"), where it lies between two.
    merges_captions: whether captions of the same text are one query, see `Relevance.merge_equal`.
    """

    name: str
    median: Literal["plain", "floor"]
    merges_captions: bool = False


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("dual_encoding", median="floor"),
        Protocol("hybrid_space", median="plain"),
        Protocol("mmt", median="plain"),
        Protocol("hanet", median="plain", merges_captions=True),
    )
}


@dataclass(frozen=True)
class FiguresRow:
    """Figures of one kind of query, by the names that papers give them; `key` stands before these in a recipe."""

    name: str
    key: str
    figures: dict[str, float]


PAPER_NAMES = {
    "R@1": "recall_1",
    "R@5": "recall_5",
    "R@10": "recall_10",
    "R@50": "recall_50",
    "MdR": "median_rank",
    "MnR": "mean_rank",
    "mAP": "mean_ap",
}


@dataclass(frozen=True)
class DirectionMetrics:
    """Metrics over the queries of one direction; recalls and their geometric mean in percent, ranks from 1.

    The rank of a query is that of the right item that comes first. As in MMT and CE, recall at 1 counts ranks that
    are 1 exactly and recall at k those below k + 1: a right item that shares the first place with another misses it.
    `mean_ap` (0..1) is the mean average precision over all right items; with one it is the mean reciprocal rank.
    Where items share places, precision at one is the mean place among right items over that among all.
    """

    queries: int
    recall_1: float
    recall_5: float
    recall_10: float
    recall_50: float
    median_rank: float
    mean_rank: float
    mean_ap: float
    geometric_mean: float  # of the recalls at 1, 5 and 10


@dataclass(frozen=True)
class RetrievalMetrics:
    """Metrics of both directions."""

    protocol: str
    videos: int
    texts: int
    t2v: DirectionMetrics
    v2t: DirectionMetrics

    @property
    def rsum(self) -> float:
        """The sum of recalls at 1, 5 and 10 of both directions, at most 600."""
        return sum(side.recall_1 + side.recall_5 + side.recall_10 for side in (self.t2v, self.v2t))

    @property
    def score(self) -> float:
        """What the best epoch is told by."""
        return self.rsum

    def figures(self) -> dict[str, float]:
        """What is logged of each validation."""
        names = ("recall_1", "recall_5", "recall_10", "median_rank")
        sides = (("t2v", self.t2v), ("v2t", self.v2t))
        shown = {f"{name}_{side}": float(getattr(values, name)) for side, values in sides for name in names}
        return {**shown, "rsum": self.rsum}

    def rows(self) -> list[FiguresRow]:
        """Figures for people, a row for each direction."""
        sides = (("text to video", "t2v ", self.t2v), ("video to text", "v2t ", self.v2t))
        return [
            FiguresRow(name, key, {column: getattr(side, field) for column, field in PAPER_NAMES.items()})
            for name, key, side in sides
        ]

    def told(self) -> str:
        """What was measured, in a line for people."""
        gallery = f"{self.videos} videos, {self.texts} captions"
        return f"{gallery}, protocol of {self.protocol}; rsum {self.rsum:.1f}"

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return {**asdict(self), "rsum": self.rsum}

    def csv_rows(self) -> list[dict[str, str | float]]:
        """A row for each direction."""
        gallery: dict[str, str | float] = {"protocol": self.protocol, "videos": self.videos, "texts": self.texts}
        sides = {"t2v": self.t2v, "v2t": self.v2t}
        return [{**gallery, "direction": name, **asdict(side), "rsum": self.rsum} for name, side in sides.items()]


def evaluate_scores(scores: ScoreMatrix, relevance: Relevance, protocol: Protocol) -> RetrievalMetrics:
    """Metrics of both directions; the greater score is the better.

    Raises ScoresError if scores are NaN, of another shape than `relevance`, or no caption is right for any video.
    """
    values, shape = scores.values.detach().numpy(), (relevance.videos, relevance.texts)
    if values.shape != shape:
        raise ScoresError(f"scores of {values.shape} videos and captions, but {shape} are known to belong together")
    if not len(relevance.pairs):
        raise ScoresError("no caption is right for any video: there is nothing to evaluate")
    _refuse_nan(values)
    caption, video = relevance.pairs.numpy().T
    matched = values[video, caption]  # (P,)
    among_videos = places_in_columns(values, caption, matched)
    among_captions = places_in_rows(values, video, matched)
    return RetrievalMetrics(
        protocol.name,
        *shape,
        t2v=_summary(caption, matched, among_videos, protocol),
        v2t=_summary(video, matched, among_captions, protocol),
    )


def _summary(query: np.ndarray, matched: np.ndarray, places: np.ndarray, protocol: Protocol) -> DirectionMetrics:
    """Metrics from what every right item (P,) answers, scores, and has for its place, from 1."""
    queries, number, matches = np.unique(query, return_inverse=True, return_counts=True)
    ranks = np.full(len(queries), np.inf)
    np.minimum.at(ranks, number, places)
    precision = _places_among_matches(query, matched) / places
    recall_1, recall_5, recall_10, recall_50 = (
        100 * float(np.mean(ranks < k + 1 if k > 1 else ranks == 1)) for k in (1, 5, 10, 50)
    )
    median = float(np.median(ranks))
    return DirectionMetrics(
        queries=len(queries),
        recall_1=recall_1,
        recall_5=recall_5,
        recall_10=recall_10,
        recall_50=recall_50,
        median_rank=float(np.floor(median)) if protocol.median == "floor" else median,
        mean_rank=float(np.mean(ranks)),
        mean_ap=float(np.mean(np.bincount(number, precision) / matches)),
        geometric_mean=(recall_1 * recall_5 * recall_10) ** (1 / 3),
    )


def places_in_rows(values: np.ndarray, rows: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """The mean place, from 1, of each score in its row.

    A comparison with the whole row for each: for 20 of a row that takes a fifth of the time of sorting it.
    """
    places = np.empty(len(rows))
    for pair in np.argsort(rows, kind="stable"):  # a row is read once, then lies in the cache
        row, score = values[rows[pair]], matched[pair]
        places[pair] = np.count_nonzero(row > score) + (np.count_nonzero(row == score) + 1) / 2
    return places


def places_in_columns(values: np.ndarray, columns: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """The mean place, from 1, of each score in its column; `columns` (P,) are sorted."""
    places = np.empty(len(columns))
    turn = np.arange(len(columns)) - np.searchsorted(columns, columns)  # which one of its column each is
    for number in range(turn.max() + 1):
        chosen = np.flatnonzero(turn == number)
        for first in range(0, len(chosen), COLUMNS):
            part = chosen[first : first + COLUMNS]
            places[part] = _mean_places(values, columns[part], matched[part])
    return places


def _mean_places(values: np.ndarray, columns: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """The same of some columns, none of them twice."""
    start, stop = columns[0], columns[-1] + 1
    greater, equal = np.zeros(len(columns), np.int64), np.zeros(len(columns), np.int64)
    for row in range(0, len(values), ROWS):
        tile = values[row : row + ROWS, start:stop]
        if stop - start > len(columns):
            tile = tile[:, columns - start]
        greater += np.add.reduce((tile > matched).view(np.uint8), axis=0, dtype=np.uint8)
        equal += np.add.reduce((tile == matched).view(np.uint8), axis=0, dtype=np.uint8)
    return greater + (equal + 1) / 2


def _places_among_matches(query: np.ndarray, matched: np.ndarray) -> np.ndarray:
    """The mean place, from 1, of each right item among the right items of its query."""
    order = np.lexsort((-matched, query))
    query, matched = query[order], matched[order]
    new_query = np.append(True, query[1:] != query[:-1])
    run = np.flatnonzero(new_query | np.append(True, matched[1:] != matched[:-1]))  # starts of equal scores
    length = np.diff(np.append(run, len(query)))
    before = run - np.searchsorted(query, query[run])
    places = np.empty(len(query))
    places[order] = np.repeat(before + (length + 1) / 2, length)
    return places


def _refuse_nan(values: np.ndarray) -> None:
    bad = [row for row, scores in enumerate(values) if np.isnan(scores.max())]  # a NaN is the greatest
    if bad:
        count = sum(int(np.isnan(values[row]).sum()) for row in bad)
        column = int(np.isnan(values[bad[0]]).argmax())
        raise ScoresError(
            f"{count} of {values.size} scores are not numbers (NaN), in {len(bad)} of {len(values)} rows; the first "
            f"is that of video {bad[0]} and caption {column}. Look for features or captions that give an embedding "
            "of no length"
        )
