"""Semantic roles from a dependency parse by spaCy, where a model of it is installed; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from train import TrainError
from train.text.role_graphs import NOUN, VERB, Node, RoleGraph, graph_of_frames

MODEL = "en_core_web_sm"

# What a dependant of a verb (Stanford's labels, as spaCy's English models have them) is to it.
_ROLES = {
    "nsubj": "ARG0", "nsubjpass": "ARG1", "csubj": "ARG0", "agent": "ARG0", "dobj": "ARG1", "obj": "ARG1",
    "dative": "ARG2", "iobj": "ARG2", "attr": "ARG2", "oprd": "ARGM-PRD", "acomp": "ARG2", "xcomp": "ARG1",
    "ccomp": "ARG1", "advcl": "ARGM-TMP", "advmod": "ARGM-MNR", "npadvmod": "ARGM-TMP", "prep": "",
}  # fmt: skip
_PREPOSITIONS = {
    "to": "ARG2", "into": "ARGM-DIR", "onto": "ARGM-DIR", "from": "ARGM-DIR", "toward": "ARGM-DIR", "off": "ARGM-DIR",
    "towards": "ARGM-DIR", "through": "ARGM-DIR", "across": "ARGM-DIR", "down": "ARGM-DIR", "up": "ARGM-DIR",
    "out": "ARGM-DIR", "during": "ARGM-TMP", "before": "ARGM-TMP", "after": "ARGM-TMP", "until": "ARGM-TMP",
    "with": "ARGM-MNR", "without": "ARGM-MNR", "like": "ARGM-MNR", "as": "ARGM-MNR", "for": "ARGM-PRP", "about": "ARG1",
}  # fmt: skip


def build(words: Sequence[str]) -> RoleGraph:
    """The graph of a caption's words, from spaCy's parse of them; none of them may be blank.

    Raises:
        TrainError: spaCy or its English model is not installed.
    """
    pipeline = _pipeline()
    from spacy.tokens import Doc

    return graph_of_parse(pipeline(Doc(pipeline.vocab, words=list(words))))


def graph_of_parse(document: Any) -> RoleGraph:
    """The graph of a parsed `spacy.tokens.Doc`: each verb with its dependants, their whole subtrees as spans.

    A verb joined to another by "and" has the other's subject where it has none of its own. Without any frame, noun
    chunks and verbs become nodes with no edges.
    """
    frames = []
    for token in document:
        if token.pos_ == "VERB" or (token.pos_ == "AUX" and token.dep_ in ("ROOT", "relcl", "advcl", "ccomp", "conj")):
            arguments = _arguments(token)
            if arguments:
                frames.append((Node(VERB, token.i, token.i + 1), arguments))
    if frames:
        return graph_of_frames(frames)
    verbs = [Node(VERB, token.i, token.i + 1) for token in document if token.pos_ == "VERB"]
    spans = [(chunk.start, chunk.end) for chunk in document.noun_chunks]
    spans = spans or [(token.i, token.i + 1) for token in document if token.tag_.startswith("NN")]
    return RoleGraph((*verbs, *(Node(NOUN, *span) for span in spans)))


def _arguments(verb: Any) -> list[Node]:
    found = []
    for child in verb.children:
        role = _role(child)
        if role:
            found.append(_span(child, role, verb))
    if verb.dep_ == "acl" and verb.head.i < verb.i:  # "a box containing a gun", "a platform suspended"
        passive = verb.tag_ == "VBN"
        found.append(Node("ARG1" if passive else "ARG0", verb.head.left_edge.i, verb.head.i + 1))
    elif verb.dep_ in ("conj", "xcomp", "advcl") and not any(child.dep_.startswith("nsubj") for child in verb.children):
        found += [_span(child, "ARG0", verb) for child in verb.head.children if child.dep_ == "nsubj"]
    return sorted(set(found), key=lambda node: (node.first, node.stop))


def _role(child: Any) -> str:
    if child.dep_ == "prep":
        return _PREPOSITIONS.get(child.lower_, "ARGM-LOC")
    if child.tag_ == "MD":
        return "ARGM-MOD"
    return _ROLES.get(child.dep_, "")


def _span(child: Any, role: str, verb: Any) -> Node:
    """A dependant's subtree, cut where it would run over the verb itself."""
    first, stop = child.left_edge.i, child.right_edge.i + 1
    if first <= verb.i < stop:
        first, stop = child.i, child.i + 1
    return Node(role, first, stop)


@cache
def _pipeline() -> Any:
    try:
        import spacy

        return spacy.load(MODEL)
    except ImportError:
        raise TrainError("role graphs by spaCy want spaCy: pip install spacy, or take the rules") from None
    except OSError:
        raise TrainError(
            f"role graphs by spaCy want its model {MODEL}: python -m spacy download {MODEL}, or take the rules"
        ) from None


def version() -> str:
    """What graphs of this builder are good for: the model's version."""
    return f"{MODEL} {_pipeline().meta['version']}"
