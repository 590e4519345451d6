"""Semantic role graphs of captions: who does what to whom, where and when, as HGR, HANet and FVMR read them.

A graph has verbs and their arguments as nodes, each a span of the caption's words, and an edge from a verb to each
argument with its role (Chen et al., "Fine-grained Video-Text Retrieval with Hierarchical Graph Reasoning", CVPR 2020,
section 3.1). The root, which stands for the whole caption, is not kept: it is the parent of every verb.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train import TrainError

VERB = "V"
NOUN = "NOUN"  # an argument of no verb, or of a role that is not in this list
# In the order of the ids that HGR's and HANet's role embeddings have.
ROLES = (
    VERB, "ARG1", "ARG0", "ARG2", "ARG3", "ARG4", "ARGM-LOC", "ARGM-MNR", "ARGM-TMP", "ARGM-DIR", "ARGM-ADV",
    "ARGM-PRP", "ARGM-PRD", "ARGM-COM", "ARGM-MOD", NOUN,
)  # fmt: skip
ROLE_IDS = {role: number for number, role in enumerate(ROLES)}


class RoleGraphError(TrainError):
    """Role graphs that cannot be read; the message names the file and the caption."""


@dataclass(frozen=True, slots=True)
class Node:
    """A verb or an argument: words [first, stop) of the caption, and the role they play."""

    role: str
    first: int
    stop: int

    def __post_init__(self) -> None:
        if self.role not in ROLE_IDS:
            raise ValueError(f"role {self.role!r} is none of {', '.join(ROLES)}")
        if not 0 <= self.first < self.stop:
            raise ValueError(f"words {self.first} to {self.stop} (not included) are no span")


@dataclass(frozen=True, slots=True)
class Edge:
    """From a verb to its argument, both as places in the graph's nodes."""

    verb: int
    argument: int
    role: str


@dataclass(frozen=True, slots=True)
class RoleGraph:
    """The nodes of a caption, verbs among them, and the edges from verbs to arguments."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...] = ()

    def __post_init__(self) -> None:
        for edge in self.edges:
            if not (0 <= edge.verb < len(self.nodes) and 0 <= edge.argument < len(self.nodes)):
                raise ValueError(f"an edge goes from node {edge.verb} to node {edge.argument} of {len(self.nodes)}")
            if self.nodes[edge.verb].role != VERB or self.nodes[edge.argument].role == VERB:
                raise ValueError(f"an edge goes from node {edge.verb} to node {edge.argument}, not verb to argument")

    def check(self, words: int) -> None:
        """Raise ValueError unless every span lies within a caption of so many words."""
        for node in self.nodes:
            if node.stop > words:
                raise ValueError(f"a node has words {node.first} to {node.stop} of a caption of {words}")


def standard_role(name: str) -> str:
    """The role of ROLES that a label of a parser stands for: C-ARG1 and R-ARG1 are ARG1, a stranger is NOUN."""
    base = name[2:] if name[:2] in ("C-", "R-") else name
    return base if base in ROLE_IDS else NOUN


def graph_of_frames(frames: Sequence[tuple[Node, Sequence[Node]]]) -> RoleGraph:
    """The graph of verbs and the arguments of each. A node of one role and span, met in several frames, is one node."""
    places: dict[Node, int] = {}
    for verb, arguments in frames:
        for node in (verb, *arguments):
            places.setdefault(node, len(places))
    edges = [Edge(places[verb], places[node], node.role) for verb, arguments in frames for node in arguments]
    return RoleGraph(tuple(places), tuple(dict.fromkeys(edges)))


def read_published(path: Path) -> dict[str, RoleGraph]:
    """Read HGR's and HANet's `sent2rolegraph.augment.json`: the graph of each caption, by its text.

    The file is {caption: [nodes, edges]}, nodes {id: {"role", "spans", "words"}} with "ROOT" among them, and edges
    [[verb id, argument id, role], ...]. `spans` lists the places of a node's words.

    Raises:
        RoleGraphError: the file is not there, is no such JSON, or a graph in it is not sound.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RoleGraphError(
            f"{path}: cannot be read ({error.strerror or error}); name another with --set model.role_graphs=PATH"
        ) from None
    except (ValueError, RecursionError) as error:
        raise RoleGraphError(f"{path}: is no JSON text ({error}). Fetch it again.") from None
    if not isinstance(content, dict):
        raise RoleGraphError(f'{path}: wants one object, {{"caption": [nodes, edges], ...}}')
    graphs = {}
    for caption, published in content.items():
        try:
            graphs[caption] = _published_graph(published)
            graphs[caption].check(len(caption.split()))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
            raise RoleGraphError(f"{path}: the graph of caption {caption!r} is not sound: {reason}") from None
    return graphs


def _published_graph(published: Any) -> RoleGraph:
    if not isinstance(published, list) or len(published) != 2:
        raise ValueError("it is not [nodes, edges]")
    found, links = published
    places: dict[str, int] = {}
    nodes: list[Node] = []
    for name, node in found.items():
        if node["role"] != "ROOT":
            places[name] = len(nodes)
            nodes.append(_published_node(node))
    edges = []
    for link in links:
        verb, argument, role = link
        if str(verb) not in places or str(argument) not in places:
            raise ValueError(f"edge {link} names a node that is not there")
        edges.append(Edge(places[str(verb)], places[str(argument)], standard_role(role)))
    return RoleGraph(tuple(nodes), tuple(edges))


def _published_node(node: Mapping[str, Any]) -> Node:
    spans = node["spans"]
    if not isinstance(spans, list) or not spans or not all(type(place) is int for place in spans):
        raise ValueError(f"spans {spans!r} is no list of places of words")
    return Node(standard_role(node["role"]), min(spans), max(spans) + 1)
