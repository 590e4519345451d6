"""MMT (Gabeur et al., "Multi-modal Transformer for Video Retrieval", ECCV 2020).

Official code: gabeur/mmt. A transformer reads the features of all experts at once, each with its time and its
expert; one output per expert is compared with the sentence as that expert's gate sees it, and the sentence says how
much each expert counts. The text encoder is not part of this file: it gives one vector a sentence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from train.official import take_official

OFFICIAL_TYPES = {"s3d": 1, "vggish": 2, "face": 3, "rgb": 5, "speech": 6, "ocr": 7, "scene": 9}
LEFT_OUT = ("vid_bert.pooler.", "txt_bert.")  # a part without use, and the text encoder
INITIAL_DEVIATION = 0.02  # of BERT's weights
MASKED = -10_000.0  # added to what is not to be looked at
AGGREGATE, UNKNOWN = 0, 1  # positions of a whole expert, and of features without times; seconds begin at 2


@dataclass(frozen=True)
class ExpertTokens:
    """An expert as the transformer knows it; `type_id` is its row of the table of experts (0 is CLS)."""

    name: str
    dim: int
    type_id: int


@dataclass(frozen=True)
class MMTConfig:
    """Sizes, by default those of the paper. With `keep_missing`, an expert that a video lacks keeps its weight."""

    experts: tuple[ExpertTokens, ...]
    dim: int = 512
    layers: int = 4
    heads: int = 4
    hidden: int = 3072
    dropout: float = 0.1
    positions: int = 32
    types: int = 19
    text_dim: int = 768
    keep_missing: bool = True


class ExpertBatch(NamedTuple):
    """What one expert has of the videos of a batch, padded with zeros; all `valid` 0 where a video lacks the expert."""

    features: Tensor  # (B, K, D)
    positions: Tensor  # (B, K): seconds + 2, or UNKNOWN
    valid: Tensor  # (B, K)
    pooled: Tensor  # (B, D): the maxima over all features, also those that are not among the K


class VideoTransformer(nn.Module):
    """Tokens of all experts in, one vector an expert out."""

    def __init__(self, config: MMTConfig) -> None:
        super().__init__()
        self.config = config
        self.projections = nn.ModuleList(nn.Linear(expert.dim, config.dim) for expert in config.experts)
        self.position = nn.Embedding(config.positions, config.dim)
        self.expert = nn.Embedding(config.types, config.dim)
        self.norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(_layer(config) for _ in range(config.layers))
        for part in (self.position, self.expert, *self.layers):
            for name, parameter in part.named_parameters():
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=INITIAL_DEVIATION)
                elif name.endswith("bias"):
                    nn.init.zeros_(parameter)

    def forward(self, experts: Mapping[str, ExpertBatch]) -> Tensor:
        """(B, experts, dim), each of length one."""
        tokens, mask = self.tokens(experts)
        for layer in self.layers:
            tokens = layer(tokens, src_key_padding_mask=mask)
        count = (tokens.shape[1] - 1) // len(self.config.experts)  # of tokens an expert: the aggregate and K
        return normalize(tokens[:, 1::count], dim=2)

    def tokens(self, experts: Mapping[str, ExpertBatch]) -> tuple[Tensor, Tensor]:
        """CLS, then of each expert the aggregate and K features: (B, T, dim), and what to add to attention (B, T)."""
        first = experts[self.config.experts[0].name]
        batch, device = len(first.pooled), first.pooled.device
        contents = [torch.zeros(batch, 1, self.config.dim, device=device)]
        positions = [torch.full((batch, 1), AGGREGATE, device=device)]
        types = [torch.zeros(batch, 1, dtype=torch.long, device=device)]
        valid = [torch.ones(batch, 1, device=device)]
        for expert, project in zip(self.config.experts, self.projections, strict=True):
            given = experts[expert.name]
            whole = torch.cat([given.pooled[:, None], given.features], dim=1)  # (B, 1 + K, D)
            contents.append(normalize(project(whole), dim=2))
            seconds = given.positions.clamp(0, self.config.positions - 1).long()
            positions.append(torch.cat([torch.full_like(seconds[:, :1], AGGREGATE), seconds], dim=1))
            types.append(torch.full_like(positions[-1], expert.type_id))
            valid.append(torch.cat([given.valid.amax(dim=1, keepdim=True), given.valid], dim=1))
        embedded = torch.cat(contents, 1) + self.position(torch.cat(positions, 1)) + self.expert(torch.cat(types, 1))
        return self.dropout(self.norm(embedded)), (1 - torch.cat(valid, 1)) * MASKED


class GatedEmbedding(nn.Module):
    """Gated embedding unit (Miech et al. 2018): a linear map, a gate over it, length one."""

    def __init__(self, text_dim: int, dim: int) -> None:
        super().__init__()
        self.linear, self.gate, self.norm = nn.Linear(text_dim, dim), nn.Linear(dim, dim), nn.BatchNorm1d(dim)

    def forward(self, texts: Tensor) -> Tensor:
        """(B, text_dim) -> (B, dim)."""
        mapped = self.linear(texts)
        return normalize(mapped * torch.sigmoid(self.norm(self.gate(mapped))), dim=1)


class MMT(nn.Module):
    """Compares sentences with videos, an expert at a time, each as much as the sentence and the video say."""

    def __init__(self, config: MMTConfig) -> None:
        super().__init__()
        self.config = config
        self.video = VideoTransformer(config)
        self.text = nn.ModuleList(GatedEmbedding(config.text_dim, config.dim) for _ in config.experts)
        self.dropout = nn.Dropout(config.dropout)  # of what the weights are made from
        self.weights = nn.ModuleList(nn.Linear(config.text_dim, 1) for _ in config.experts)

    def encode_text(self, texts: Tensor) -> tuple[Tensor, Tensor]:
        """Sentence vectors (B, text_dim) -> embeddings (B, experts, dim) and weights (B, experts) that sum to one."""
        embeddings = torch.stack([gate(texts) for gate in self.text], dim=1)
        dropped = self.dropout(texts)
        weights = torch.cat([linear(dropped) for linear in self.weights], dim=1).softmax(dim=1)
        return embeddings, weights

    def encode_video(self, experts: Mapping[str, ExpertBatch]) -> tuple[Tensor, Tensor]:
        """Embeddings (B, experts, dim), and weights (B, experts) that sum to one."""
        there = torch.stack([experts[expert.name].valid.amax(dim=1) for expert in self.config.experts], dim=1)
        weights = torch.ones_like(there) if self.config.keep_missing else there
        return self.video(experts), normalize(weights, p=1, dim=1)

    def similarity(self, text: tuple[Tensor, Tensor], video: tuple[Tensor, Tensor]) -> Tensor:
        """(texts, videos): cosines an expert, weighted anew for each pair."""
        weights = normalize(text[1][:, None] * video[1][None], p=1, dim=2)  # (texts, videos, experts)
        return (weights * torch.einsum("tmd,vmd->tvm", text[0], video[0])).sum(dim=2)

    def load_official(self, state: Mapping[str, Tensor]) -> None:
        """Take the parameters of an official model, whose text encoder is another part.

        Raises ValueError if names or sizes do not fit.
        """
        take_official(self, state, lambda name: official_names(self.config.experts, name), LEFT_OUT)

    @classmethod
    def from_official(
        cls,
        state: Mapping[str, Tensor],
        types: Mapping[str, int] = OFFICIAL_TYPES,
        heads: int = 4,
        keep_missing: bool = True,
    ) -> MMT:
        """A model with the parameters and sizes of an official one.

        A state dict does not tell which row of the table of experts (`types`) is whose, nor how many `heads` there
        are. Raises ValueError if it is not one.
        """
        names = sorted(name.split(".")[1] for name in state if name.startswith("video_dim_reduce.") and "bias" in name)
        unknown = [name for name in names if name not in types]
        layers = {name.split(".")[3] for name in state if name.startswith("vid_bert.encoder.layer.")}
        if unknown or not names:
            raise ValueError(f"not an official MMT model: no row of the table of experts is known for {unknown}")
        try:
            weights = {name: state[f"video_dim_reduce.{name}.fc.weight"] for name in names}
            config = MMTConfig(
                experts=tuple(ExpertTokens(name, weights[name].shape[1], types[name]) for name in names),
                dim=len(weights[names[0]]),
                layers=len(layers),
                heads=heads,
                hidden=len(state["vid_bert.encoder.layer.0.intermediate.dense.bias"]),
                positions=len(state["vid_bert.embeddings.position_embeddings.weight"]),
                types=len(state["vid_bert.embeddings.token_type_embeddings.weight"]),
                text_dim=state[f"text_GU.{names[0]}.fc.weight"].shape[1],
                keep_missing=keep_missing,
            )
        except KeyError as error:
            raise ValueError(f"not an official MMT model: {error} is missing") from None
        model = cls(config)
        model.load_official(state)
        return model


def official_names(experts: Sequence[ExpertTokens], name: str) -> list[str]:
    """What the official code calls a parameter of ours."""
    part, *rest = name.split(".")
    kind = rest[-1]
    if part == "weights":
        return [f"moe_fc_txt.{experts[int(rest[0])].name}.{kind}"]
    if part == "text":
        inner = {"linear": "fc", "gate": "cg.fc", "norm": "cg.batch_norm"}[rest[1]]
        return [f"text_GU.{experts[int(rest[0])].name}.{inner}.{kind}"]
    if rest[0] == "projections":
        return [f"video_dim_reduce.{experts[int(rest[1])].name}.fc.{kind}"]
    if rest[0] != "layers":
        tables = {"position": "position_embeddings", "expert": "token_type_embeddings", "norm": "layer_norm"}
        return [f"vid_bert.embeddings.{tables[rest[0]]}.{kind}"]
    layer, inside = f"vid_bert.encoder.layer.{rest[1]}", ".".join(rest[2:])
    if inside.startswith("self_attn.in_proj_"):
        parts = ("query", "key", "value")
        return [f"{layer}.attention.self.{part}.{inside.removeprefix('self_attn.in_proj_')}" for part in parts]
    place = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.layer_norm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.layer_norm",
    }[inside.rpartition(".")[0]]
    return [f"{layer}.{place}.{kind}"]


def _layer(config: MMTConfig) -> nn.TransformerEncoderLayer:
    """A layer of BERT: normalised after each part, and no dropout within the feed-forward part."""
    layer = nn.TransformerEncoderLayer(
        config.dim, config.heads, config.hidden, config.dropout, "gelu", layer_norm_eps=1e-12, batch_first=True
    )
    layer.dropout = nn.Dropout(0.0)
    return layer
