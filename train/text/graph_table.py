"""Role graphs of many captions, packed small, and given out in batches as HANet reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from train.text.role_graphs import ROLE_IDS, VERB, RoleGraph


@dataclass(frozen=True)
class GraphBatch:
    """The graphs of B captions; node 0 is the caption itself, then come V slots of verbs, then N of arguments.

    Attributes:
        spans: (B, V + N, W) bool, the words of each node but the caption's; a slot that is not used has none.
        roles: (B, V + N) int64, places in `ROLES`; 0 where a slot is not used.
        edges: (B, 1 + V + N, 1 + V + N) float32: row = target, column = source. Caption to verb one way, verb and
            argument both ways; each row that has an edge sums to 1. The caption itself has no edge that comes in.
    """

    spans: Tensor
    roles: Tensor
    edges: Tensor


@dataclass(frozen=True)
class GraphTable:
    """Role graphs of N captions in about 80 bytes each; `batch` makes tensors of some."""

    spans: Tensor  # (N, V + N, 2) int16, first word and the one after the last; 0, 0 where there is none
    roles: Tensor  # (N, V + N) int8
    links: Tensor  # (N, V, N) bool: this verb has this argument

    def __len__(self) -> int:
        return len(self.links)

    def batch(self, captions: Tensor, words: int) -> GraphBatch:
        """The graphs of captions (B,), their spans over W = `words` places."""
        spans, links = self.spans[captions], self.links[captions]
        verbs, nouns = links.shape[1:]
        edges = torch.zeros(len(links), 1 + verbs + nouns, 1 + verbs + nouns)
        edges[:, 1 : 1 + verbs, 0] = (spans[:, :verbs, 1] > 0).float()
        edges[:, 1 : 1 + verbs, 1 + verbs :] = links.float()
        edges[:, 1 + verbs :, 1 : 1 + verbs] = links.transpose(1, 2).float()
        edges /= edges.sum(dim=2, keepdim=True).clamp(min=1)
        place = torch.arange(words)
        # (B, V + N, 1), (W,) -> (B, V + N, W)
        within = (place >= spans[..., :1]) & (place < spans[..., 1:])
        return GraphBatch(within, self.roles[captions].long(), edges)


def graph_table(
    graphs: Sequence[RoleGraph], lengths: Sequence[int], max_words: int = 30, verbs: int = 4, nouns: int = 6
) -> GraphTable:
    """Pack the graphs of captions of `lengths` words as HGR and HANet do.

    Spans are cut at `max_words` words and at the caption's end; nodes that start beyond are left out, as are verbs
    after the first `verbs` and arguments after the first `nouns`.
    """
    spans = np.zeros((len(graphs), verbs + nouns, 2), np.int16)
    roles = np.zeros((len(graphs), verbs + nouns), np.int8)
    links = np.zeros((len(graphs), verbs, nouns), np.bool_)
    for row, (graph, length) in enumerate(zip(graphs, lengths, strict=True)):
        limit = min(length, max_words)
        slots: dict[int, int] = {}  # of the places of nodes
        next_verb, next_noun = 0, verbs
        for place, node in enumerate(graph.nodes):
            slot, room = (next_verb, verbs) if node.role == VERB else (next_noun, verbs + nouns)
            if node.first >= limit or slot == room:
                continue
            slots[place] = slot
            spans[row, slot] = node.first, min(node.stop, limit)
            roles[row, slot] = ROLE_IDS[node.role]
            next_verb, next_noun = next_verb + (node.role == VERB), next_noun + (node.role != VERB)
        for edge in graph.edges:
            if edge.verb in slots and edge.argument in slots:
                links[row, slots[edge.verb], slots[edge.argument] - verbs] = True
    return GraphTable(*(torch.from_numpy(array) for array in (spans, roles, links)))
