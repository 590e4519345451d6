"""Role graphs as HANet reads them, in batches."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from train.text.graph_table import graph_table
from train.text.role_graphs import ROLE_IDS, ROLES, VERB, Edge, Node, RoleGraph


@st.composite
def graphs(draw: st.DrawFn) -> RoleGraph:
    roles = draw(st.lists(st.sampled_from(ROLES), max_size=16))
    nodes = []
    for role in roles:
        first = draw(st.integers(0, 34))
        nodes.append(Node(role, first, first + draw(st.integers(1, 10))))
    verbs = [place for place, node in enumerate(nodes) if node.role == VERB]
    nouns = [place for place, node in enumerate(nodes) if node.role != VERB]
    links = draw(st.lists(st.tuples(st.sampled_from(verbs), st.sampled_from(nouns)))) if verbs and nouns else []
    return RoleGraph(tuple(nodes), tuple(Edge(verb, noun, nodes[noun].role) for verb, noun in links))


def test_a_graph_fills_slots_in_its_order_with_edges_from_the_caption_to_verbs_to_arguments() -> None:
    graph = RoleGraph(
        (Node("ARG0", 0, 2), Node("V", 2, 3), Node("ARG1", 3, 5), Node("V", 6, 7)),
        (Edge(1, 0, "ARG0"), Edge(1, 2, "ARG1"), Edge(3, 0, "ARG0")),
    )
    batch = graph_table([graph], [7], verbs=2, nouns=3).batch(torch.tensor([0]), words=8)
    spans = [[2], [6], [0, 1], [3, 4], []]
    assert [row.nonzero()[:, 0].tolist() for row in batch.spans[0]] == spans
    assert batch.roles.tolist() == [[ROLE_IDS["V"], ROLE_IDS["V"], ROLE_IDS["ARG0"], ROLE_IDS["ARG1"], 0]]
    third = 1 / 3
    expected = torch.tensor(
        [
            [0, 0, 0, 0, 0, 0],  # the caption
            [third, 0, 0, third, third, 0],  # both arguments
            [0.5, 0, 0, 0.5, 0, 0],
            [0, 0.5, 0.5, 0, 0, 0],  # of both verbs
            [0, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ]
    )
    torch.testing.assert_close(batch.edges[0], expected)


def test_what_lies_beyond_the_words_or_the_slots_is_left_out() -> None:
    verbs = [Node("V", place, place + 1) for place in range(6)]
    nouns = [Node("NOUN", 28, 33), Node("NOUN", 30, 31), *(Node("NOUN", place, place + 1) for place in range(8))]
    table = graph_table([RoleGraph((*verbs, *nouns))], [40])
    batch = table.batch(torch.tensor([0]), words=30)
    assert batch.spans.shape == (1, 10, 30)
    assert batch.spans[0, :4].sum(dim=1).tolist() == [1, 1, 1, 1]
    assert batch.spans[0, 4].nonzero()[:, 0].tolist() == [28, 29]  # cut; the next, from 30 on, is skipped
    assert batch.spans[0, 5:].int().argmax(dim=1).tolist() == [0, 1, 2, 3, 4]


def test_a_span_ends_with_its_caption() -> None:
    batch = graph_table([RoleGraph((Node("V", 1, 9),))], [3]).batch(torch.tensor([0]), words=12)
    assert batch.spans[0, 0].nonzero()[:, 0].tolist() == [1, 2]


@settings(max_examples=100)
@given(st.lists(st.tuples(graphs(), st.integers(0, 45)), min_size=1, max_size=4))
def test_edges_are_means_over_neighbours_and_none_enters_the_caption(rows: list[tuple[RoleGraph, int]]) -> None:
    table = graph_table([graph for graph, _ in rows], [length for _, length in rows])
    batch = table.batch(torch.arange(len(table)), words=30)
    sums = batch.edges.sum(dim=2)
    assert ((sums - 1).abs().lt(1e-6) | (sums == 0)).all()
    assert (batch.edges[:, 0] == 0).all()
    linked = batch.edges[:, 1:, 1:] > 0
    assert torch.equal(linked, linked.transpose(1, 2))
    used = batch.spans.any(dim=2)
    assert not linked.any(dim=2)[~used].any()
    assert torch.equal(batch.edges[:, 1:5, 0] > 0, used[:, :4])
    lengths = torch.tensor([length for _, length in rows])
    assert not (batch.spans.any(dim=1) & (torch.arange(30) >= lengths[:, None])).any()
    assert (batch.roles[~used] == 0).all()


def test_a_batch_is_the_same_whatever_else_is_in_the_table() -> None:
    one, other = RoleGraph((Node("V", 0, 1),)), RoleGraph((Node("ARG1", 0, 2),))
    table = graph_table([one, other], [5, 5])
    mixed, alone = table.batch(torch.tensor([1, 0, 1]), 5), graph_table([other], [5]).batch(torch.tensor([0]), 5)
    for name in ("spans", "roles", "edges"):
        assert torch.equal(getattr(mixed, name)[2], getattr(alone, name)[0])
