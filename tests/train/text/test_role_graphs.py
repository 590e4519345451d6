"""Role graphs: by rules, by spaCy's parses, and as HGR published them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from train.text.role_graphs import VERB, Edge, Node, RoleGraph, RoleGraphError, graph_of_frames, read_published
from train.text.role_rules import build
from train.text.role_spacy import graph_of_parse

WORDS = (
    "a the man dog girls is are was been will not who that while when before to of in on with and or by from his two "
    "red quickly then up playing plays played eaten jump sits giving there it he . , talks about into boiling water"
)


def frames(caption: str) -> dict[str, dict[str, str]]:
    """The words of each role, by verb."""
    words = caption.split()
    graph = build(words)
    text = [" ".join(words[node.first : node.stop]) for node in graph.nodes]
    return {
        text[place]: {edge.role: text[edge.argument] for edge in graph.edges if edge.verb == place}
        for place, node in enumerate(graph.nodes)
        if node.role == VERB
    }


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog jumps over the fence", {"jumps": {"ARG0": "a dog", "ARGM-LOC": "over the fence"}}),
        (
            "a woman is pouring milk into a bowl",
            {"pouring": {"ARG0": "a woman", "ARG1": "milk", "ARGM-DIR": "into a bowl"}},
        ),
        (
            "the veterinarian fed the pandas their bottles",
            {"fed": {"ARG0": "the veterinarian", "ARG2": "the pandas", "ARG1": "their bottles"}},
        ),
        ("a man in a suit talks about law", {"talks": {"ARG0": "a man", "ARG1": "about law"}}),
        (
            "a song is sung by a woman at night",
            {"sung": {"ARG1": "a song", "ARG0": "by a woman", "ARGM-TMP": "at night"}},
        ),
        (
            "a man is cutting an onion using a knife",
            {"cutting": {"ARG0": "a man", "ARG1": "an onion"}, "using": {"ARG0": "a man", "ARG1": "a knife"}},
        ),
        ("the boy and girl are hugging", {"hugging": {"ARG0": "the boy and girl"}}),
        (
            "a man plays guitar and sings slowly",
            {"plays": {"ARG0": "a man", "ARG1": "guitar"}, "sings": {"ARG0": "a man", "ARGM-MNR": "slowly"}},
        ),
        (
            "a man opens a box containing a gun",
            {"opens": {"ARG0": "a man", "ARG1": "a box"}, "containing": {"ARG0": "a box", "ARG1": "a gun"}},
        ),
        (
            "a red truck is burning while three men talk",
            {
                "burning": {"ARG0": "a red truck", "ARGM-TMP": "while three men talk"},
                "talk": {"ARG0": "three men"},
            },
        ),
        ("a cat is in a box", {"is": {"ARG1": "a cat", "ARGM-LOC": "in a box"}}),
        ("a boy will walk with a girl", {"walk": {"ARG0": "a boy", "ARGM-MOD": "will", "ARGM-COM": "with a girl"}}),
    ],
)
def test_rules_find_who_does_what_to_whom_and_where(caption: str, expected: dict[str, dict[str, str]]) -> None:
    assert frames(caption) == expected


def test_a_phrase_shared_by_verbs_is_one_node() -> None:
    graph = build(["a", "man", "plays", "guitar", "and", "sings"])
    assert sum((node.first, node.stop) == (0, 2) for node in graph.nodes) == 1


def test_a_caption_without_frames_has_noun_phrases_and_verbs_but_no_edges() -> None:
    assert build(["a", "girl", "with", "a", "horse"]) == RoleGraph((Node("NOUN", 0, 2), Node("NOUN", 3, 5)))
    assert build(["dancing"]) == RoleGraph((Node("V", 0, 1),))
    assert build([]) == RoleGraph(())


@settings(max_examples=200)
@given(st.lists(st.sampled_from(WORDS.split()) | st.text(max_size=6), max_size=25))
def test_any_words_have_a_graph_within_the_caption(words: list[str]) -> None:
    graph = build(words)
    graph.check(len(words))
    assert len(set(graph.nodes)) == len(graph.nodes)
    if graph.edges:
        linked = {edge.verb for edge in graph.edges} | {edge.argument for edge in graph.edges}
        assert linked == set(range(len(graph.nodes)))
    for edge in graph.edges:
        assert edge.role == graph.nodes[edge.argument].role


def test_a_graph_refuses_what_is_no_graph() -> None:
    verb, noun = Node("V", 0, 1), Node("ARG1", 1, 2)
    with pytest.raises(ValueError, match="ARG9"):
        Node("ARG9", 0, 1)
    with pytest.raises(ValueError, match="no span"):
        Node("V", 2, 2)
    with pytest.raises(ValueError, match="not verb to argument"):
        RoleGraph((verb, noun), (Edge(1, 0, "ARG1"),))
    with pytest.raises(ValueError, match="of 2"):
        RoleGraph((verb, noun), (Edge(0, 2, "ARG1"),))
    with pytest.raises(ValueError, match="of a caption of 1"):
        RoleGraph((verb, noun)).check(1)


CAPTION = "a man plays the guitar"


def published(**changes: Any) -> dict[str, Any]:
    nodes = {
        "ROOT": {"role": "ROOT", "spans": [0, 1, 2, 3, 4], "words": CAPTION.split()},
        "1": {"role": "V", "spans": [2], "words": ["plays"]},
        "2": {"role": "ARG0", "spans": [0, 1], "words": ["a", "man"]},
        "3": {"role": "C-ARG1", "spans": [3, 4], "words": ["the", "guitar"]},
        "4": {"role": "ARGM-CAU", "spans": [4], "words": ["guitar"]},
    }
    return nodes | changes


def write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def test_published_graphs_are_read_with_the_roles_that_have_an_id(tmp_path: Path) -> None:
    path = write(tmp_path / "graphs.json", {CAPTION: [published(), [["1", "2", "ARG0"], [1, 3, "C-ARG1"]]]})
    nodes = (Node("V", 2, 3), Node("ARG0", 0, 2), Node("ARG1", 3, 5), Node("NOUN", 4, 5))
    assert read_published(path) == {CAPTION: RoleGraph(nodes, (Edge(0, 1, "ARG0"), Edge(0, 2, "ARG1")))}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({CAPTION: [published()]}, "not \\[nodes, edges\\]"),
        ({CAPTION: [published(), [["1", "9", "ARG0"]]]}, "names a node that is not there"),
        ({CAPTION: [published(), [["2", "1", "ARG0"]]]}, "not verb to argument"),
        ({CAPTION: [published(**{"2": {"role": "ARG0", "spans": [7]}}), []]}, "of a caption of 5"),
        ({CAPTION: [published(**{"2": {"role": "ARG0", "spans": []}}), []]}, "spans"),
        ({CAPTION: [published(**{"2": {"spans": [1]}}), []]}, "'role' is missing"),
        ({CAPTION: [published(**{"2": "ARG0"}), []]}, "not sound"),
        ({CAPTION: [3, 4]}, "not sound"),
        ([], "wants one object"),
    ],
)
def test_a_damaged_published_file_is_refused_with_the_caption(tmp_path: Path, content: Any, reason: str) -> None:
    path = write(tmp_path / "graphs.json", content)
    with pytest.raises(RoleGraphError, match=reason) as caught:
        read_published(path)
    assert str(path) in str(caught.value)
    assert not content or CAPTION in str(caught.value)


def test_a_published_file_that_is_no_json_or_absent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text('{"a man"')
    with pytest.raises(RoleGraphError, match="no JSON"):
        read_published(tmp_path / "cut.json")
    with pytest.raises(RoleGraphError, match="cannot be read"):
        read_published(tmp_path / "absent.json")


def test_nodes_met_in_several_frames_are_merged_if_span_and_role_are_the_same() -> None:
    man = Node("ARG0", 0, 2)
    graph = graph_of_frames([(Node("V", 2, 3), [man]), (Node("V", 4, 5), [man, Node("ARG1", 0, 2)])])
    assert graph.nodes == (Node("V", 2, 3), man, Node("V", 4, 5), Node("ARG1", 0, 2))
    assert graph.edges == (Edge(0, 1, "ARG0"), Edge(2, 1, "ARG0"), Edge(2, 3, "ARG1"))


def test_a_parse_by_spacy_becomes_frames_of_whole_phrases() -> None:
    spacy = pytest.importorskip("spacy")
    document = spacy.tokens.Doc(
        spacy.blank("en").vocab,
        words=["a", "man", "in", "a", "suit", "is", "opening", "a", "box", "containing", "a", "gun", "and", "laughing"],
        heads=[1, 6, 1, 4, 2, 6, 6, 8, 6, 8, 11, 9, 6, 6],
        deps=["det", "nsubj", "prep", "det", "pobj", "aux", "ROOT", "det", "dobj", "acl", "det", "dobj", "cc", "conj"],
        pos=["DET", "NOUN", "ADP", "DET", "NOUN", "AUX", "VERB", "DET", "NOUN", "VERB", "DET", "NOUN", "CCONJ", "VERB"],
        tags=["DT", "NN", "IN", "DT", "NN", "VBZ", "VBG", "DT", "NN", "VBG", "DT", "NN", "CC", "VBG"],
    )
    man, box, gun = Node("ARG0", 0, 5), Node("ARG1", 7, 12), Node("ARG1", 10, 12)
    assert graph_of_parse(document) == graph_of_frames(
        [
            (Node("V", 6, 7), [man, box]),
            (Node("V", 9, 10), [Node("ARG0", 7, 9), gun]),
            (Node("V", 13, 14), [man]),
        ]
    )
