"""HANet (Wu et al., "HANet: Hierarchical Alignment Networks for Video-Text Retrieval", ACM MM 2021).

Official code: Roc-Ng/HANet. A video and a caption meet at three levels: as a whole, in the words and frames of their
verbs and nouns (individual), and in those after a graph of semantic roles, against clips that the concepts of the
video point at (local). Concepts, frequent verbs and nouns, are compared as well. Where one might expect otherwise:

* nothing leads to the root of the graph, so that the caption as a whole leaves it only normalised;
* verb clips are means of five frames if that works for all the ten verbs of a video, else single frames;
* the scores of training leave the concepts out, those of the test count them half (train.retrieval.hanet_scores).

In the official code padding takes part: frames beyond the end enter the gates, the convolution over verbs and, in
training, the statistics of batch normalisation, as do words. Here they do not, unless `compat` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import relu
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from train.official import take_official

REACH = 2  # frames on either side of a verb's best that its clip takes
NOUN_FRAMES = 3  # that a noun's clip is the mean of


@dataclass(frozen=True)
class HANetConfig:
    """Sizes, by default those of the paper. `words` counts the vocabulary with its special tokens.

    A graph has a root, `verbs` and `nouns`; videos and captions are cut at `max_frames` and `max_words`.
    """

    video_dim: int
    words: int
    word_dim: int = 300
    dim: int = 1024
    roles: int = 16
    verbs: int = 4
    nouns: int = 6
    verb_concepts: int = 512
    noun_concepts: int = 1024
    top_verbs: int = 10  # concepts of a video that have a clip
    top_nouns: int = 20
    verb_kernel: int = 5  # frames that tell a verb
    graph_width: int = 512  # of queries and keys
    gate_reduction: int = 16
    dropout: float = 0.2
    graph_dropout: float = 0.5
    max_frames: int = 20
    max_words: int = 30


class HANetVideo(NamedTuple):
    """Videos at all levels; F frames, padded."""

    event: Tensor  # (B, dim)
    verb_clips: Tensor  # (B, top_verbs, dim), by decreasing score of their concepts
    noun_clips: Tensor  # (B, top_nouns, dim)
    actions: Tensor  # (B, F, dim)
    entities: Tensor  # (B, F, dim)
    valid: Tensor  # (B, F), false where padded
    verb_concepts: Tensor  # (B, verb_concepts), from 0 to 1
    noun_concepts: Tensor  # (B, noun_concepts)


class HANetText(NamedTuple):
    """Captions at all levels; what has no phrase is zero."""

    event: Tensor  # (B, dim)
    verb_nodes: Tensor  # (B, verbs, dim), after the graph
    noun_nodes: Tensor  # (B, nouns, dim)
    verb_phrases: Tensor  # (B, verbs, dim), before it
    noun_phrases: Tensor  # (B, nouns, dim)
    has_verb: Tensor  # (B, verbs), false where there is no phrase
    has_noun: Tensor  # (B, nouns)
    verb_concepts: Tensor  # (B, verb_concepts), from 0 to 1
    noun_concepts: Tensor  # (B, noun_concepts)


class AttentionPool(nn.Module):
    """A weighted mean over time."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, 1)

    def forward(self, items: Tensor, valid: Tensor) -> Tensor:
        """(B, T, dim) -> (B, dim)."""
        weights = self.linear(items).masked_fill(~valid[..., None], -torch.inf).softmax(dim=1)
        return (weights * items).sum(dim=1)


class Concepts(nn.Module):
    """How much each concept applies at each time: convolution, batch normalisation, sigmoid."""

    def __init__(self, dim: int, concepts: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv1d(dim, concepts, kernel, padding=kernel // 2)
        self.norm = nn.BatchNorm1d(concepts)

    def forward(self, items: Tensor, valid: Tensor, norm_sees_padding: bool) -> Tensor:
        """(B, T, dim) -> (B, T, concepts), zero where padded."""
        logits = self.conv(items.transpose(1, 2)).transpose(1, 2)
        seen = torch.ones_like(valid) if norm_sees_padding else valid
        normed = self.norm(logits[seen])  # (items in all, concepts)
        applies = normed.new_zeros(logits.shape).masked_scatter(seen[..., None], torch.sigmoid(normed))
        return applies.masked_fill(~valid[..., None], 0)


class ChannelGate(nn.Module):
    """Squeeze and excitation (Hu et al. 2018) of channels, by their means over time."""

    def __init__(self, dim: int, reduction: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim, dim // reduction, bias=False)
        self.expand = nn.Linear(dim // reduction, dim, bias=False)

    def forward(self, frames: Tensor, counts: Tensor) -> Tensor:
        """(B, T, dim), and by what a sum is divided to be a mean (B,) -> (B, T, dim)."""
        means = frames.sum(dim=1) / counts[:, None]
        return frames * torch.sigmoid(self.expand(relu(self.reduce(means))))[:, None]


class VideoEncoder(nn.Module):
    def __init__(self, config: HANetConfig, compat: bool) -> None:
        super().__init__()
        self.config, self.compat = config, compat
        self.event, self.action, self.entity = (nn.Linear(config.video_dim, config.dim) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)
        self.attention = AttentionPool(config.dim)
        self.verbs = Concepts(config.dim, config.verb_concepts, config.verb_kernel)
        self.nouns = Concepts(config.dim, config.noun_concepts)
        self.verb_gate = ChannelGate(config.dim, config.gate_reduction)
        self.noun_gate = ChannelGate(config.dim, config.gate_reduction)

    def forward(self, frames: Tensor, lengths: Tensor) -> HANetVideo:
        valid = _up_to(lengths, frames.shape[1])
        events, actions, entities = (
            self.dropout(linear(frames)) for linear in (self.event, self.action, self.entity)
        )  # (B, T, dim)
        counts = lengths
        if self.compat:
            counts = torch.full_like(lengths, frames.shape[1])
        else:
            actions, entities = (one.masked_fill(~valid[..., None], 0) for one in (actions, entities))
        verbs = self.verbs(actions, valid, norm_sees_padding=self.compat)  # (B, T, verb_concepts)
        nouns = self.nouns(entities, valid, norm_sees_padding=self.compat)
        verb_concepts, noun_concepts = (strongest_mean(concepts, lengths) for concepts in (verbs, nouns))
        verb_frames = around_best(_of_top(verbs, verb_concepts, self.config.top_verbs), lengths)
        noun_frames = strongest(_of_top(nouns, noun_concepts, self.config.top_nouns), lengths)
        return HANetVideo(
            event=self.attention(events, valid),
            verb_clips=_means(verb_frames, self.verb_gate(actions, counts)),
            noun_clips=_means(noun_frames, self.noun_gate(entities, counts)),
            actions=actions,
            entities=entities,
            valid=valid,
            verb_concepts=verb_concepts,
            noun_concepts=noun_concepts,
        )


class RoleGraph(nn.Module):
    """One layer of attention along the edges of a graph."""

    def __init__(self, dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(dim, width), nn.Linear(dim, width)
        self.context = nn.Linear(dim, dim, bias=False)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """(B, N, dim), and what each node (row) sees (B, N, N) -> (B, N, dim)."""
        scores = self.query(nodes) @ self.key(nodes).transpose(1, 2) / self.query.out_features**0.5
        # The least number, not -inf: a node that sees none would be no number, and so would its gradient.
        weights = scores.masked_fill(~edges, torch.finfo(scores.dtype).min).softmax(dim=2).masked_fill(~edges, 0)
        return self.norm(nodes + self.dropout(self.context(weights @ nodes)))


class TextEncoder(nn.Module):
    def __init__(self, config: HANetConfig, compat: bool) -> None:
        super().__init__()
        self.config, self.compat = config, compat
        self.embedding = nn.Embedding(config.words, config.word_dim)
        nn.init.uniform_(self.embedding.weight, -(config.word_dim**-0.5), config.word_dim**-0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.word_dim, config.dim, batch_first=True, bidirectional=True)
        for parameter in self.gru.parameters():
            (nn.init.orthogonal_ if parameter.ndim == 2 else nn.init.zeros_)(parameter)
        self.attention = AttentionPool(config.dim)
        self.role = nn.Embedding(config.roles, config.dim)
        self.graph = RoleGraph(config.dim, config.graph_width, config.graph_dropout)
        self.verbs = Concepts(config.dim, config.verb_concepts)
        self.nouns = Concepts(config.dim, config.noun_concepts)

    def forward(self, tokens: Tensor, lengths: Tensor, spans: Tensor, roles: Tensor, edges: Tensor) -> HANetText:
        valid = _up_to(lengths, tokens.shape[1])
        states = self._states(tokens, lengths)  # (B, W, dim)
        event = self.attention(states, valid)
        phrases, present = max_phrases(states, spans)  # (B, K, dim), (B, K): K = verbs + nouns
        nodes = self.graph(torch.cat([event[:, None], phrases * self.role(roles)], dim=1), edges > 0)
        verbs, nouns = (concepts(states, valid, norm_sees_padding=self.compat) for concepts in (self.verbs, self.nouns))
        kinds = [self.config.verbs, self.config.nouns]
        verb_nodes, noun_nodes = nodes[:, 1:].masked_fill(~present[..., None], 0).split(kinds, dim=1)
        verb_phrases, noun_phrases = phrases.split(kinds, dim=1)
        has_verb, has_noun = present.split(kinds, dim=1)
        return HANetText(
            event=nodes[:, 0],
            verb_nodes=verb_nodes,
            noun_nodes=noun_nodes,
            verb_phrases=verb_phrases,
            noun_phrases=noun_phrases,
            has_verb=has_verb,
            has_noun=has_noun,
            verb_concepts=strongest_mean(verbs, lengths),
            noun_concepts=strongest_mean(nouns, lengths),
        )

    def _states(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        words = self.dropout(self.embedding(tokens))
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        states = pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.shape[1])[0]
        return states.unflatten(2, (2, -1)).mean(dim=2)  # of both directions


class HANet(nn.Module):
    """Embeds videos and captions at all levels."""

    OFFICIAL: tuple[tuple[str, str], ...] = (
        ("video.event.", "video_encoder.level_embeds.0."),
        ("video.action.", "video_encoder.level_embeds.1."),
        ("video.entity.", "video_encoder.level_embeds.2."),
        ("video.attention.linear.", "video_encoder.ft_attn."),
        ("video.verbs.conv.", "video_encoder.classifier_verb.0."),
        ("video.verbs.norm.", "video_encoder.bn_verb."),
        ("video.nouns.conv.", "video_encoder.classifier_noun.0."),
        ("video.nouns.norm.", "video_encoder.bn_noun."),
        ("video.verb_gate.reduce.", "video_encoder.seblock1.fc.0."),
        ("video.verb_gate.expand.", "video_encoder.seblock1.fc.2."),
        ("video.noun_gate.reduce.", "video_encoder.seblock2.fc.0."),
        ("video.noun_gate.expand.", "video_encoder.seblock2.fc.2."),
        ("text.embedding.", "text_encoder.embedding.we."),
        ("text.gru.", "text_encoder.rnn."),
        ("text.attention.linear.", "text_encoder.ft_attn."),
        ("text.role.", "text_encoder.role_embedding."),
        ("text.graph.query.", "text_encoder.gcn.layers.0.edge_attn_query."),
        ("text.graph.key.", "text_encoder.gcn.layers.0.edge_attn_key."),
        ("text.graph.context.", "text_encoder.gcn.layers.0.ctx_layer."),
        ("text.graph.norm.", "text_encoder.gcn.layers.0.layernorm."),
        ("text.verbs.conv.", "text_encoder.classifier_verb.0."),
        ("text.verbs.norm.", "text_encoder.bn_verb."),
        ("text.nouns.conv.", "text_encoder.classifier_noun.0."),
        ("text.nouns.norm.", "text_encoder.bn_noun."),
    )  # how our names of parameters begin, and the official ones
    LEFT_OUT = (
        *(f"{side}_encoder.classifier_{kind}.1." for side in ("video", "text") for kind in ("verb", "noun")),
        "video_encoder.conv1.",
        "video_encoder.conv2.",
        "text_encoder.fc.",
    )  # the norms of concepts under their second names, and what no output depends on

    def __init__(self, config: HANetConfig, compat: bool = False) -> None:
        super().__init__()
        self.config, self.compat = config, compat
        self.video, self.text = VideoEncoder(config, compat), TextEncoder(config, compat)

    def encode_video(self, frames: Tensor, lengths: Tensor) -> HANetVideo:
        """Frames (B, T, video_dim), padded, and how many each video has (B,), at least one.

        With `compat` T counts: the official code pads to the longest video of a batch.
        """
        return self.video(frames, lengths)

    def encode_text(
        self, tokens: Tensor, lengths: Tensor, verb_spans: Tensor, noun_spans: Tensor, roles: Tensor, edges: Tensor
    ) -> HANetText:
        """Captions and their graphs of semantic roles.

        Args:
            tokens: ids (B, W), padded.
            lengths: words of each (B,), at least one.
            verb_spans: (B, verbs, W), true for the words of a verb; nowhere for a verb that is not there.
            noun_spans: (B, nouns, W).
            roles: ids (B, verbs + nouns); any for what is not there.
            edges: (B, N, N), positive where a node (row) sees another: the root, verbs, nouns.
        """
        return self.text(tokens, lengths, torch.cat([verb_spans, noun_spans], dim=1), roles, edges)

    @classmethod
    def official_name(cls, name: str) -> str:
        """What the official code calls a parameter of ours."""
        ours, theirs = next(pair for pair in cls.OFFICIAL if name.startswith(pair[0]))
        return theirs + name.removeprefix(ours)

    @classmethod
    def from_official(cls, state: Mapping[str, Tensor], compat: bool = False) -> HANet:
        """A model with the parameters and sizes of an official one, `video_encoder.` or `text_encoder.` before names.

        Raises ValueError if names or sizes are not those of HANet.
        """
        model = cls(config_of_official(state), compat)
        model.load_official(state)
        return model

    def load_official(self, state: Mapping[str, Tensor]) -> None:
        """Take the parameters of an official model. Raises ValueError if names or sizes do not fit."""
        take_official(self, state, lambda name: [self.official_name(name)], self.LEFT_OUT)


def strongest_mean(applies: Tensor, lengths: Tensor) -> Tensor:
    """The mean of the ceil(length / 8) times at which each concept applies most: (B, T, C) -> (B, C)."""
    kept = (lengths + 7) // 8
    best = applies.topk((applies.shape[1] + 7) // 8, dim=1).values
    ranks = torch.arange(best.shape[1], device=best.device)
    return (best * (ranks < kept[:, None])[..., None]).sum(dim=1) / kept[:, None]


def around_best(applies: Tensor, lengths: Tensor) -> Tensor:
    """Which frames make the clip of each concept: (B, T, C) -> (B, C, T).

    The best frame, with two on either side if all the concepts of the video have them.
    """
    best = applies.argmax(dim=1)  # (B, C)
    inside = ((best >= REACH) & (best < lengths[:, None] - REACH)).all(dim=1)
    frames = torch.arange(applies.shape[1], device=applies.device)
    return (frames - best[..., None]).abs() <= REACH * inside[:, None, None]


def strongest(applies: Tensor, lengths: Tensor) -> Tensor:
    """Which frames make the clip of each concept: the best three, or one if there are not so many. As `around_best`."""
    ranked = applies.topk(min(NOUN_FRAMES, applies.shape[1]), dim=1).indices.transpose(1, 2)  # (B, C, ranks)
    kept = torch.where(lengths >= NOUN_FRAMES, NOUN_FRAMES, 1)
    taken = torch.arange(ranked.shape[2], device=ranked.device) < kept[:, None, None]  # (B, 1, ranks)
    chosen = torch.zeros_like(applies, dtype=torch.bool).transpose(1, 2)
    return chosen.scatter(2, ranked, taken.expand_as(ranked))


def max_phrases(states: Tensor, spans: Tensor) -> tuple[Tensor, Tensor]:
    """The maxima over the words (B, W, dim) of each span (B, K, W) -> (B, K, dim), zero for those of none; (B, K)."""
    # One slot after another: together they would take K times the memory of the words.
    maxima = [states.masked_fill(~span[..., None], -torch.inf).amax(dim=1) for span in spans.unbind(dim=1)]
    present = spans.any(dim=2)
    return torch.stack(maxima, dim=1).masked_fill(~present[..., None], 0), present


def _up_to(lengths: Tensor, longest: int) -> Tensor:
    """(B, longest), true up to each length."""
    return torch.arange(longest, device=lengths.device) < lengths[:, None]


def _of_top(applies: Tensor, scores: Tensor, count: int) -> Tensor:
    """Of the concepts that a video scores highest, when they apply: (B, T, C) -> (B, T, count)."""
    top = scores.topk(count, dim=1).indices
    return applies.detach().gather(2, top[:, None].expand(-1, applies.shape[1], -1))


def _means(chosen: Tensor, frames: Tensor) -> Tensor:
    """Of the frames (B, T, dim) that are chosen (B, C, T) -> (B, C, dim)."""
    return chosen.to(frames.dtype) @ frames / chosen.sum(dim=2, keepdim=True)


def config_of_official(state: Mapping[str, Tensor]) -> HANetConfig:
    """The sizes of an official model; those of graphs and clips are in no parameter.

    Raises ValueError, naming what is missing, if it is not one.
    """
    try:
        dim, video_dim = state["video_encoder.level_embeds.0.weight"].shape
        words, word_dim = state["text_encoder.embedding.we.weight"].shape
        verb_weight = state["video_encoder.classifier_verb.0.weight"]  # (concepts, dim, kernel)
        return HANetConfig(
            video_dim=video_dim,
            words=words,
            word_dim=word_dim,
            dim=dim,
            roles=len(state["text_encoder.role_embedding.weight"]),
            verb_concepts=len(verb_weight),
            noun_concepts=len(state["video_encoder.classifier_noun.0.weight"]),
            verb_kernel=verb_weight.shape[2],
            graph_width=len(state["text_encoder.gcn.layers.0.edge_attn_query.weight"]),
            gate_reduction=dim // len(state["video_encoder.seblock1.fc.0.weight"]),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"not an official HANet model: {error} is missing or of another shape") from None
