"""Dual Encoding (Dong et al., "Dual Encoding for Zero-Example Video Retrieval", CVPR 2019).

Official code: danieljf24/dual_encoding. A video and a sentence are each encoded at three levels, a global one, a
biGRU and a CNN over it, and mapped into a common space. Where the official code differs from the paper:

* level 1 of a sentence is the count of its words, where the paper writes an average;
* the GRU of the video has 1,024 units in the released model, the paper says 512. The defaults are the code's.

In the official code padding takes part: the video's GRU runs over it, and so do windows of both CNNs, so that an
embedding depends on the longest item of its batch. Here it does not, unless `compat` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from train.official import take_official

SPECIALS = 4  # tokens of the GRU's vocabulary that are no words: <pad>, <start>, <end>, <unk>


@dataclass(frozen=True)
class DualEncodingConfig:
    """Sizes. `words` counts the GRU's vocabulary with its four special tokens, `bag` that of the bag of words.

    `reduced` leaves level 1 out of both sides, which the authors advise for small training sets.
    """

    video_dim: int
    words: int
    bag: int
    word_dim: int = 500
    video_units: int = 1024  # of the GRU, a direction
    text_units: int = 512
    video_filters: int = 512  # of the CNN, a kernel size
    text_filters: int = 512
    video_kernels: tuple[int, ...] = (2, 3, 4, 5)
    text_kernels: tuple[int, ...] = (2, 3, 4)
    common_dim: int = 2048
    dropout: float = 0.2
    reduced: bool = False
    max_frames: int = 64  # that the GRU and the CNN see; level 1 is the mean of all


class SequenceEncoder(nn.Module):
    """Levels 2 and 3: the mean of a biGRU's states, and the maxima of convolutions over them."""

    def __init__(self, dim: int, units: int, filters: int, kernels: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(dim, units, batch_first=True, bidirectional=True)
        self.convs = nn.ModuleList(nn.Conv1d(2 * units, filters, size, padding=size - 1) for size in kernels)
        self._kernels = kernels
        self.dropout = nn.Dropout(dropout)
        self.dim = 2 * units + filters * len(kernels)

    def forward(self, items: Tensor, lengths: Tensor, gru_sees_padding: bool, cnn_sees_padding: bool) -> Tensor:
        """(B, T, D), padded with zeros, and how long each is (B,) -> (B, dim)."""
        steps = torch.arange(items.shape[1], device=items.device)
        states = self._states(items, lengths, gru_sees_padding)
        states = states * (steps < lengths[:, None])[..., None]  # (B, T, 2 units)
        level2 = states.sum(dim=1) / lengths[:, None]
        maxima = []
        for conv, size in zip(self.convs, self._kernels, strict=True):
            maps = relu(conv(states.transpose(1, 2)))  # (B, filters, T + size - 1)
            if not cnn_sees_padding:
                ends = lengths + size - 1  # the first window that sees nothing but padding
                windows = torch.arange(maps.shape[2], device=maps.device)
                maps = maps.masked_fill((windows >= ends[:, None])[:, None], 0)  # no less than any ReLU gives
            maxima.append(maps.amax(dim=2))
        return torch.cat([self.dropout(level2), self.dropout(torch.cat(maxima, dim=1))], dim=1)

    def _states(self, items: Tensor, lengths: Tensor, sees_padding: bool) -> Tensor:
        if sees_padding:
            return self.gru(items)[0]
        packed = pack_padded_sequence(items, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=items.shape[1])[0]


class CommonSpace(nn.Module):
    """Linear, batch normalisation, dropout, length one."""

    def __init__(self, dim: int, common_dim: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, common_dim)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.norm = nn.BatchNorm1d(common_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, features: Tensor) -> Tensor:
        """(B, dim) -> (B, common_dim)."""
        mapped = self.dropout(self.norm(self.linear(features)))
        return mapped / mapped.norm(dim=1, keepdim=True)


class Encoders(nn.Module):
    """The three levels of videos and sentences, from which systems map into their spaces."""

    OFFICIAL: tuple[tuple[str, str], ...] = (
        ("video.gru.", "vid_encoding.rnn."),
        ("video.convs.", "vid_encoding.convs1."),
        ("embedding.", "text_encoding.embed."),
        ("text.gru.", "text_encoding.rnn."),
        ("text.convs.", "text_encoding.convs1."),
    )  # how our names of parameters begin, and the official ones

    def __init__(self, config: DualEncodingConfig, compat: bool = False) -> None:
        super().__init__()
        self.config, self.compat = config, compat
        dropout = config.dropout
        self.video = SequenceEncoder(
            config.video_dim, config.video_units, config.video_filters, config.video_kernels, dropout
        )
        self.embedding = nn.Embedding(config.words, config.word_dim)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.text = SequenceEncoder(
            config.word_dim, config.text_units, config.text_filters, config.text_kernels, dropout
        )
        level1 = (0, 0) if config.reduced else (config.video_dim, config.bag)
        self.video_dim, self.text_dim = self.video.dim + level1[0], self.text.dim + level1[1]

    def video_levels(self, frames: Tensor, lengths: Tensor, mean: Tensor) -> Tensor:
        """Frames (B, T, D), the first `max_frames`, and the mean of all (B, D) -> levels 2, 3 and 1, (B, video_dim)."""
        levels = self.video(frames, lengths, gru_sees_padding=self.compat, cnn_sees_padding=self.compat)
        return levels if self.config.reduced else torch.cat([levels, mean], dim=1)

    def text_levels(self, tokens: Tensor, lengths: Tensor, bag: Tensor) -> Tensor:
        """Token ids (B, T), and the counts of words (B, bag) -> levels 2, 3 and 1, (B, text_dim)."""
        levels = self.text(self.embedding(tokens), lengths, gru_sees_padding=False, cnn_sees_padding=self.compat)
        return levels if self.config.reduced else torch.cat([levels, bag], dim=1)

    def official_name(self, name: str) -> str:
        """What the official code calls a parameter of ours."""
        ours, theirs = next(pair for pair in self.OFFICIAL if name.startswith(pair[0]))
        return theirs + name.removeprefix(ours)

    def load_official(self, state: Mapping[str, Tensor]) -> None:
        """Take the parameters of an official model. Raises ValueError if names or sizes do not fit."""
        take_official(
            self, {name: _conv1d(tensor) for name, tensor in state.items()}, lambda name: [self.official_name(name)]
        )


class DualEncoding(Encoders):
    """Embeds videos and sentences; their similarity is the product of the embeddings, a cosine."""

    OFFICIAL = (
        *Encoders.OFFICIAL,
        ("video_space.linear.", "vid_encoding.visual_mapping.fc1."),
        ("video_space.norm.", "vid_encoding.visual_mapping.bn_1."),
        ("text_space.linear.", "text_encoding.text_mapping.fc1."),
        ("text_space.norm.", "text_encoding.text_mapping.bn_1."),
    )

    def __init__(self, config: DualEncodingConfig, compat: bool = False) -> None:
        super().__init__(config, compat)
        self.video_space = CommonSpace(self.video_dim, config.common_dim, config.dropout)
        self.text_space = CommonSpace(self.text_dim, config.common_dim, config.dropout)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], compat: bool = False) -> DualEncoding:
        """A model with the parameters and sizes of an official one. Raises ValueError if it is not one."""
        model = cls(config_of_official(state, "{}_encoding.{}_mapping.fc1.weight"), compat)
        model.load_official(state)
        return model

    def encode_video(self, frames: Tensor, lengths: Tensor, mean: Tensor) -> Tensor:
        """As `video_levels` -> (B, common_dim)."""
        return self.video_space(self.video_levels(frames, lengths, mean))

    def encode_text(self, tokens: Tensor, lengths: Tensor, bag: Tensor) -> Tensor:
        """As `text_levels` -> (B, common_dim)."""
        return self.text_space(self.text_levels(tokens, lengths, bag))


def config_of_official(state: Mapping[str, Tensor], mapping: str) -> DualEncodingConfig:
    """The sizes of an official model, whose maps into the common space are called `mapping`, {} being the side.

    Raises ValueError, naming what is missing, if it is not one.
    """
    try:
        video, text = "vid_encoding", "text_encoding"
        words, word_dim = state[f"{text}.embed.weight"].shape
        common_dim, levels = state[mapping.format("vid", "visual")].shape
        video_units, text_units = (state[f"{side}.rnn.weight_hh_l0"].shape[1] for side in (video, text))
        video_convs, text_convs = (_convs(state, side) for side in (video, text))
        bag = state[mapping.format("text", "text")].shape[1] - 2 * text_units - sum(map(len, text_convs))
        video_dim = state[f"{video}.rnn.weight_ih_l0"].shape[1]
        return DualEncodingConfig(
            video_dim=video_dim,
            words=words,
            bag=bag or words - SPECIALS,
            word_dim=word_dim,
            video_units=video_units,
            text_units=text_units,
            video_filters=len(video_convs[0]),
            text_filters=len(text_convs[0]),
            video_kernels=tuple(weight.shape[2] for weight in video_convs),
            text_kernels=tuple(weight.shape[2] for weight in text_convs),
            common_dim=common_dim,
            reduced=levels == 2 * video_units + sum(map(len, video_convs)),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"not an official model of Dual Encoding: {error} is missing or of another shape") from None


def _convs(state: Mapping[str, Tensor], side: str) -> list[Tensor]:
    """The weights (filters, 1, size, dim) of one side's convolutions."""
    names = sorted(name for name in state if name.startswith(f"{side}.convs1.") and name.endswith(".weight"))
    return [state[name] for name in names]


def _conv1d(weight: Tensor) -> Tensor:
    """The official CNN is two-dimensional over the full width: (filters, 1, size, dim) -> (filters, dim, size)."""
    return weight.squeeze(1).transpose(1, 2) if weight.ndim == 4 else weight
