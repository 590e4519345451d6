"""DRN (Zeng et al., "Dense Regression Network for Video Grounding", CVPR 2020).

Official code: Alvin-Zeng/DRN. A pyramid over the segments of a video, into which the sentence is multiplied at every
level; at every place of every level three heads: is the place within the moment, how far from there are its ends, and
how well will the answer overlap it. Training has three stages: all but the last head, that head alone, all together.

Where the official code and the paper differ, we follow the code:

* not all places within the truth are positive, but those where the truth is of a length that befits the level;
* the centre-ness of the paper's figure is no part of it: a place's score is its class, times its IoU from stage 2;
* the IoU head learns only where the true IoU is above 0.9; for that IoU, the answer of the video's first place is
  cut to the video (the code means to cut all). The true IoU is not detached: in stage 3 distances learn from it.

We differ from it where it is at fault:

* batches of one sentence work, in any order of lengths;
* in stage 2 what is frozen stays so: the code lets batch norm's running statistics drift;
* parameters that no output depends on (`UNUSED`) do not exist.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, inf, log
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, smooth_l1_loss
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from train.grounding import official_layers, official_size
from train.grounding.metrics import interval_iou
from train.grounding.nms import picked, temporal_nms
from train.official import take_official

UNUSED = ("query_encoder.textualAttention.", "fcos.head.centerness.")
MASKED = -1e30  # the weight of a word that is padding, before softmax
RANGES = ((-1.0, 6.0), (5.6, 11.0), (11.0, inf))  # of the farther end of a positive, in segments, by level
IOU_LEARNS_ABOVE = 0.9
PRIOR = 0.01  # share of positives that the class head begins with


@dataclass(frozen=True)
class DRNConfig:
    """Sizes. `words` counts the vocabulary with its padding, 0; each of the `channels` is a level of the pyramid.

    Candidates have a class probability above `least`, and are at most `per_level` a level.
    """

    words: int
    video_dim: int = 4096
    word_dim: int = 300
    text_units: int = 512  # a direction
    text_layers: int = 1
    position_dim: int = 256
    channels: tuple[int, ...] = (256, 512, 1024)
    pyramid_dim: int = 512
    tower_layers: int = 1
    iou_dim: int = 256
    least: float = 0.05
    per_level: int = 32


@dataclass(frozen=True)
class Predictions:
    """What the heads say of the L places of all levels, the finest first."""

    class_logits: Tensor  # (B, L)
    distances: Tensor  # (B, L, 2): to start and end, in segments
    iou_logits: Tensor | None  # (B, L); none in stage 1
    places: Tensor  # (L,): where they are, in segments
    levels: Tensor  # (L,)
    segments: int  # N, of the video

    def boxes(self) -> Tensor:
        """Start and end, as shares of the video, (B, L, 2); they may lie outside."""
        ends = torch.stack([self.places - self.distances[..., 0], self.places + self.distances[..., 1]], dim=2)
        return ends / self.segments


@dataclass(frozen=True)
class Detections:
    """Candidates among the L places; where a video has none, its first place stands for all of it, with score 1."""

    boxes: Tensor  # (B, L, 2): start and end, as shares of the video
    scores: Tensor  # (B, L); -inf where there is no candidate
    levels: Tensor  # (B, L); -1 where there is none, or it stands for the whole video

    def best(self, iou: float, top_k: int = 5) -> Tensor:
        """The best segments for R@n at this IoU, suppressed above 0.05 less, as officially: (B, top_k, 2), or -1."""
        return picked(self.boxes, temporal_nms(self.boxes, self.scores, iou - 0.05, top_k))


class QueryEncoder(nn.Module):
    """A sentence as each level of the pyramid attends to its words."""

    def __init__(self, config: DRNConfig) -> None:
        super().__init__()
        dim = 2 * config.text_units
        self.embedding = nn.Embedding(config.words, config.word_dim, padding_idx=0)
        units, layers = config.text_units, config.text_layers
        self.lstm = nn.LSTM(config.word_dim, units, layers, batch_first=True, bidirectional=True)
        self.whole = nn.Linear(2 * dim, config.text_units)
        self.guides = nn.ModuleList(nn.Linear(config.text_units, dim) for _ in config.channels)
        self.weight = nn.Linear(dim, 1)
        for linear in (self.whole, *self.guides, self.weight):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, tokens: Tensor, lengths: Tensor) -> list[Tensor]:
        """Ids (B, W), 0 after the last word, and lengths (B,), at least 1 -> for each level (B, 2 text_units)."""
        packed = pack_padded_sequence(self.embedding(tokens), lengths.cpu(), batch_first=True, enforce_sorted=False)
        states = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=tokens.shape[1])[0]
        last = states[torch.arange(len(states), device=states.device), lengths - 1]
        whole = torch.relu(self.whole(torch.cat([states[:, 0], last], dim=1)))  # (B, text_units)
        padding = torch.arange(tokens.shape[1], device=tokens.device) >= lengths[:, None]  # (B, W)
        queries = []
        for guide in self.guides:
            weights = self.weight(guide(whole)[:, None] * states).squeeze(2)  # (B, W)
            weights = weights.masked_fill(padding, MASKED).softmax(dim=1)
            queries.append((weights[:, None] @ states).squeeze(1))
        return queries


class Pyramid(nn.Module):
    """Feature pyramid (Lin et al. 2017) over time: coarse maps are added to finer ones."""

    def __init__(self, config: DRNConfig) -> None:
        super().__init__()
        dim = config.pyramid_dim
        self.lateral = nn.ModuleList(_conv(channels, dim, 1) for channels in config.channels)
        self.out = nn.ModuleList(_conv(dim, dim, 3) for _ in config.channels)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, channels, T), T halved from level to level -> (B, pyramid_dim, T)."""
        merged = [lateral(level) for lateral, level in zip(self.lateral, maps, strict=True)]
        for level in reversed(range(len(merged) - 1)):
            merged[level] = merged[level] + interpolate(merged[level + 1], scale_factor=2, mode="nearest")
        return [out(level) for out, level in zip(self.out, merged, strict=True)]


class Heads(nn.Module):
    """The same for all levels, but for a scale of distances."""

    def __init__(self, config: DRNConfig) -> None:
        super().__init__()
        dim = config.pyramid_dim
        self.class_tower = nn.Sequential(*(part for _ in range(config.tower_layers) for part in _layer(dim, dim, 3)))
        self.box_tower = nn.Sequential(*(part for _ in range(config.tower_layers) for part in _layer(dim, dim, 3)))
        self.class_logits = nn.Conv1d(dim, 1, 3, padding=1)
        self.distances = nn.Conv1d(dim, 2, 3, padding=1)
        self.scales = nn.ParameterList(torch.ones(1) for _ in config.channels)
        self.iou = nn.Sequential(
            nn.Sequential(*_layer(2 * dim, dim, 1)),
            nn.Sequential(*_layer(dim, config.iou_dim, 3), nn.Conv1d(config.iou_dim, 1, 1)),
        )
        for conv in (module for module in self.modules() if isinstance(module, nn.Conv1d)):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # all have one here
        nn.init.constant_(self.class_logits.bias, log(PRIOR / (1 - PRIOR)))  # type: ignore[arg-type]

    def forward(self, level: Tensor, scale: Tensor, with_iou: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        """(B, pyramid_dim, T) -> class logits (B, T), distances (B, T, 2), IoU logits (B, T)."""
        classes, boxes = self.class_tower(level), self.box_tower(level)
        distances = torch.exp(scale * self.distances(boxes)).transpose(1, 2)
        iou = self.iou(torch.cat([classes, boxes], dim=1)).squeeze(1) if with_iou else None
        return self.class_logits(classes).squeeze(1), distances, iou


class DRN(nn.Module):
    """Regresses moments from every place of a video. It begins in stage 1: see `enter`."""

    OFFICIAL: tuple[tuple[str, str], ...] = (
        ("query.embedding.", "query_encoder.embedding."),
        ("query.lstm.", "query_encoder.biLSTM."),
        ("query.whole.", "query_encoder.qInput."),
        ("query.guides.", "query_encoder.qInput"),
        ("query.weight.", "query_encoder.cmd_inter2logits."),
        ("inputs.", "qInput"),
        ("segment.", "prop_fc."),
        ("position.", "position_transform."),
        ("backbone.", "backbone_net.forward_conv"),
        ("pyramid.lateral.", "fpn.fpn_inner"),
        ("pyramid.out.", "fpn.fpn_layer"),
        ("heads.class_tower.", "fcos.head.cls_tower."),
        ("heads.box_tower.", "fcos.head.bbox_tower."),
        ("heads.class_logits.", "fcos.head.cls_logits."),
        ("heads.distances.", "fcos.head.bbox_pred."),
        ("heads.iou.0.", "fcos.head.mix_fc."),
        ("heads.iou.1.", "fcos.head.iou_scores."),
        ("heads.scales.", "fcos.head.scales."),
    )  # how our names of parameters begin, and the official ones

    def __init__(self, config: DRNConfig) -> None:
        super().__init__()
        if len(config.channels) != len(RANGES):
            raise ValueError(f"{len(config.channels)} levels, where ranges are known for {len(RANGES)}: change both")
        self.config = config
        seen = (config.video_dim, *config.channels[:-1])  # by the blocks of the backbone, without positions
        self.query = QueryEncoder(config)
        self.inputs = nn.ModuleList(nn.Linear(2 * config.text_units, dim) for dim in seen)
        self.segment = nn.Linear(config.video_dim, config.video_dim)
        self.position = nn.Linear(3, config.position_dim)
        self.backbone = nn.ModuleList(
            _conv(dim if level else dim + config.position_dim, channels, 3, stride=2 if level else 1)
            for level, (dim, channels) in enumerate(zip(seen, config.channels, strict=True))
        )
        self.pyramid = Pyramid(config)
        self.heads = Heads(config)
        self.enter(1)

    def enter(self, stage: int) -> Self:
        """Begin stage 1 (all but the IoU head learn), 2 (only that head) or 3 (all learn); what rests is frozen."""
        if stage not in (1, 2, 3):
            raise ValueError(f"there is no stage {stage}: stages are 1, 2 and 3")
        self.stage = stage
        self.requires_grad_(stage != 2)
        self.heads.iou.requires_grad_(stage != 1)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As of any module; what is frozen stays in eval mode, so that batch norm's statistics do not drift."""
        super().train(mode and self.stage != 2)
        self.training = mode
        self.heads.iou.train(mode and self.stage != 1)
        return self

    def forward(self, tokens: Tensor, lengths: Tensor, segments: Tensor, spans: Tensor) -> Predictions:
        """As of `query`; features of segments (B, N, video_dim), and where these are, as shares of the video (B, N, 2).

        Raises ValueError if N cannot be halved from level to level.
        """
        if segments.shape[1] % 2 ** (len(self.backbone) - 1):
            raise ValueError(f"{segments.shape[1]} segments cannot be halved {len(self.backbone) - 1} times")
        levels = self.pyramid(self.interact(self.query(tokens, lengths), *self.encode_video(segments, spans)))
        return self.predict(levels)

    def encode_video(self, segments: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
        """What does not depend on the sentence: (B, video_dim, N) and (B, position_dim, N)."""
        spans = torch.cat([spans, spans[..., 1:] - spans[..., :1]], dim=2)  # start, end, length
        return self.segment(segments).transpose(1, 2), self.position(spans).transpose(1, 2)

    def interact(self, queries: list[Tensor], segments: Tensor, positions: Tensor) -> list[Tensor]:
        """The sentence times the input of each block of the backbone; positions join the first."""
        maps: list[Tensor] = []
        for query, to_input, block in zip(queries, self.inputs, self.backbone, strict=True):
            seen = to_input(query)[..., None] * (maps[-1] if maps else segments)
            maps.append(block(seen if maps else torch.cat([seen, positions], dim=1)))
        return maps

    def predict(self, levels: list[Tensor]) -> Predictions:
        """The heads over the maps (B, pyramid_dim, T) of all levels."""
        with_iou = self.stage != 1
        heads = [self.heads(level, scale, with_iou) for level, scale in zip(levels, self.heads.scales, strict=True)]
        classes, distances, ious = zip(*heads, strict=True)
        numbers = torch.cat([torch.full((level.shape[2],), number) for number, level in enumerate(levels)])
        places = torch.cat([2**number * (torch.arange(level.shape[2]) + 0.5) for number, level in enumerate(levels)])
        return Predictions(
            torch.cat(classes, dim=1),
            torch.cat(distances, dim=1),
            torch.cat(ious, dim=1) if with_iou else None,
            places.to(levels[0].device),
            numbers.to(levels[0].device),
            segments=levels[0].shape[2],
        )

    def losses(self, predictions: Predictions, truths: Tensor) -> dict[str, Tensor]:
        """The terms of this stage, by name, for true moments (B, 2) as shares of the video; their sum is the loss."""
        positive, distances = targets(predictions, truths)
        terms = {}
        if self.stage != 2:
            terms["class"] = class_loss(predictions.class_logits, positive)
            terms["distances"] = distance_loss(predictions.distances, distances, positive)
        if self.stage != 1:
            terms["iou"] = iou_loss(predictions, truths)
        return terms

    @torch.no_grad()
    def detect(self, predictions: Predictions) -> Detections:
        """Candidates, before suppression. Their score is the root of the class, from stage 2 on of class times IoU."""
        classes = predictions.class_logits.sigmoid()
        kept = classes > self.config.least
        for level in range(len(self.backbone)):
            among = torch.where(predictions.levels == level, classes, -1)
            beyond = among.argsort(dim=1, descending=True, stable=True)[:, self.config.per_level :]
            kept &= (predictions.levels != level) | torch.ones_like(kept).scatter(1, beyond, False)
        scores = classes if predictions.iou_logits is None else classes * predictions.iou_logits.sigmoid()
        scores = torch.where(kept, scores.sqrt(), -inf)
        levels = torch.where(kept, predictions.levels, -1)
        boxes = predictions.boxes().clamp(0, 1)
        nothing = ~kept.any(dim=1)
        scores[nothing, 0] = 1
        boxes[nothing, 0] = boxes.new_tensor([0, 1])
        return Detections(boxes, scores, levels)

    def official_name(self, name: str) -> str:
        """What the official code calls a parameter of ours."""
        ours, theirs = next(pair for pair in self.OFFICIAL if name.startswith(pair[0]))
        rest = name.removeprefix(ours)
        if ours == "heads.scales.":
            return f"{theirs}{rest}.scale"
        if ours.startswith("pyramid."):  # levels count from 1
            level, rest = rest.split(".", 1)
            return f"{theirs}{int(level) + 1}.{rest}"
        return theirs + rest

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor]) -> DRN:
        """An official model, as it answers after stage 3. Raises ValueError if parameters are missing or unexpected."""
        query, head = "query_encoder", "fcos.head"
        config = DRNConfig(
            words=official_size(state, f"{query}.embedding.weight"),
            video_dim=official_size(state, "prop_fc.weight"),
            word_dim=official_size(state, f"{query}.embedding.weight", 1),
            text_units=official_size(state, f"{query}.biLSTM.weight_hh_l0", 1),
            text_layers=official_layers(state, r"query_encoder\.biLSTM\.\w+?_l(\d+)"),
            position_dim=official_size(state, "position_transform.weight"),
            channels=tuple(official_size(state, f"backbone_net.forward_conv{level}.0.weight") for level in range(3)),
            pyramid_dim=official_size(state, f"{head}.cls_logits.weight", 1),
            tower_layers=ceil(official_layers(state, r"fcos\.head\.cls_tower\.(\d+)\.") / 3),
            iou_dim=official_size(state, f"{head}.iou_scores.0.weight"),
        )
        model = cls(config)
        take_official(model, state, lambda name: [model.official_name(name)], UNUSED)
        return model.enter(3)


def segment_maxima(
    units: np.ndarray, frames: int, count: int = 32, stride: int = 8, window: int = 16
) -> tuple[np.ndarray, np.ndarray]:
    """Features (count, D) of equal segments of a video, and their start and end as shares of it (count, 2).

    `units` (n, D), n at least 1, begin `stride` frames after one another and span `window`. As in the official data,
    frames count from 1, and segment k begins at 1 + k (frames - 1) // count, where the one before ends. Its feature is
    the maxima over units that begin in it; a segment no longer than a window has one unit. Raises ValueError if n is 0.
    """
    if not len(units):
        raise ValueError("a video without any unit has no features to pool")
    edges = 1 + np.arange(count + 1) * (frames - 1) // count
    starts, ends = edges[:-1], edges[1:]
    first = np.minimum(starts // stride, len(units) - 1)
    last = np.where(ends - starts <= window, first, np.minimum((ends - 1) // stride, len(units) - 1))
    maxima = [units[start : end + 1].max(axis=0) for start, end in zip(first, last, strict=True)]
    return np.stack(maxima), np.stack([starts, ends], axis=1).astype(np.float32) / np.float32(frames)


def targets(predictions: Predictions, truths: Tensor) -> tuple[Tensor, Tensor]:
    """Which places are positive (B, L), and from all of them the distances to the true ends (B, L, 2), in segments.

    Positive is a place within the truth whose farther end is in the range of its level.
    """
    starts, ends = (predictions.segments * truths[:, side, None] for side in (0, 1))
    distances = torch.stack([predictions.places - starts, ends - predictions.places], dim=2)
    ranges = torch.tensor(RANGES, device=truths.device)[predictions.levels]  # (L, 2)
    farther = distances.amax(dim=2)
    positive = (distances.amin(dim=2) > 0) & (farther >= ranges[:, 0]) & (farther <= ranges[:, 1])
    return positive, distances


def class_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """Focal loss (Lin et al. 2017) over all places (B, L), its sum over the number of positives and sentences."""
    from torchvision.ops import sigmoid_focal_loss  # here, since it takes two seconds, and only training needs it

    total = sigmoid_focal_loss(logits, positive.to(logits), alpha=0.25, gamma=2, reduction="sum")
    return total / (positive.sum() + len(logits))


def distance_loss(distances: Tensor, truths: Tensor, positive: Tensor) -> Tensor:
    """-ln IoU of segments that share a place, by their distances (B, L, 2), the mean over positives, 0 if none."""
    ours, true = distances[positive], truths[positive]  # (positives, 2)
    shared = torch.minimum(ours, true).sum(dim=1)
    union = ours.sum(dim=1) + true.sum(dim=1) - shared
    return -((shared + 1e-8) / (union + 1e-8)).log().sum() / positive.sum().clamp(min=1)


def iou_loss(predictions: Predictions, truths: Tensor) -> Tensor:
    """Smooth L1 between said and true IoU where the true one is above 0.9, the mean, 0 if it nowhere is."""
    if predictions.iou_logits is None:
        raise ValueError("stage 1 says no IoU: enter stage 2 or 3 before the forward pass")
    boxes = predictions.boxes()
    boxes = torch.cat([boxes[:, :1].clamp(0, 1), boxes[:, 1:]], dim=1)  # as the official code cuts them
    overlaps = interval_iou(boxes, truths[:, None])  # (B, L)
    high = overlaps > IOU_LEARNS_ABOVE
    total = smooth_l1_loss(predictions.iou_logits.sigmoid()[high], overlaps[high], reduction="sum")
    return total / high.sum().clamp(min=1)


def _layer(dim: int, out: int, kernel: int) -> list[nn.Module]:
    """Of the heads: convolution with bias, batch normalisation, ReLU."""
    return [nn.Conv1d(dim, out, kernel, padding=kernel // 2), nn.BatchNorm1d(out), nn.ReLU()]


def _conv(dim: int, out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Of backbone and pyramid: convolution without bias, batch normalisation, ReLU."""
    conv = nn.Conv1d(dim, out, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_uniform_(conv.weight, a=1)
    return nn.Sequential(conv, nn.BatchNorm1d(out), nn.ReLU())
