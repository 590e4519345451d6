"""FVMR: the tree of semantic roles against a plain loop, the losses against closed forms, student and teacher apart."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cosine_similarity

from train.grounding.fvmr import FVMR, PUBLISHED, FVMRConfig, TreeAttention, divergence, fvmr_loss, mean_binary
from train.grounding.metrics import interval_iou
from train.grounding.proposals import ProposalMap
from train.text.graph_table import GraphBatch, graph_table
from train.text.role_graphs import Edge, Node, RoleGraph

SMALL = FVMRConfig(
    6, ProposalMap(8, (4, 2)), word_dim=5, dim=8, text_units=4, verbs=2, nouns=3, common_dim=7, clips=16, suppress=0.4
)
TREES = [
    RoleGraph(
        (Node("ARG0", 0, 2), Node("V", 2, 3), Node("ARG1", 3, 5), Node("V", 5, 6)),
        (Edge(1, 0, "ARG0"), Edge(1, 2, "ARG1"), Edge(3, 0, "ARG0")),
    ),  # a noun shared by both verbs
    RoleGraph((Node("V", 0, 1), Node("V", 1, 2), Node("NOUN", 2, 3)), (Edge(0, 2, "NOUN"),)),  # a verb without nouns
    RoleGraph((Node("V", 0, 1), Node("NOUN", 1, 3))),  # a noun of no verb
    RoleGraph((Node("NOUN", 0, 2),)),  # no verb
    RoleGraph(()),
    RoleGraph((Node("V", 0, 1),)),  # a sentence of one word
]
LENGTHS = [6, 4, 3, 2, 5, 1]


def seeded(config: FVMRConfig = SMALL) -> FVMR:
    torch.manual_seed(0)
    return FVMR(config)


def sentences(words: int = 6) -> tuple[Tensor, Tensor]:
    """Word vectors (B, words, word_dim), noise where padded, and lengths (B,)."""
    vectors = torch.randn(len(LENGTHS), 9, SMALL.word_dim, generator=torch.Generator().manual_seed(1))[:, :words]
    return vectors, torch.tensor(LENGTHS)


def graphs(words: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    table = graph_table(TREES, LENGTHS, verbs=SMALL.verbs, nouns=SMALL.nouns)
    batch: GraphBatch = table.batch(torch.arange(len(TREES)), words)
    return batch.spans, batch.edges, batch.roles


def clips(batch: int = len(LENGTHS)) -> Tensor:
    return torch.randn(batch, SMALL.clips, SMALL.video_dim, generator=torch.Generator().manual_seed(2))


def attend(tree: TreeAttention, top: Tensor, low: Tensor) -> float:
    joined = torch.cat([tree.top.weight @ top, tree.low.weight @ low])
    return float(tree.weight.weight[0] @ torch.tanh(joined))


def mixed(scores: list[float], nodes: list[Tensor]) -> Tensor:
    powers = [math.exp(score) for score in scores]
    return sum((power / sum(powers) * node for power, node in zip(powers, nodes, strict=True)), torch.zeros(()))


def mean_phrase(tree: TreeAttention, root: Tensor, verbs: list[Tensor], nouns: list[Tensor], links: Tensor) -> Tensor:
    """The equations, a node at a time; `verbs` are those that are there."""
    if not verbs:
        return torch.ones_like(root)
    of_verbs = [attend(tree, root, verb) for verb in verbs]
    above = mixed(of_verbs, verbs)
    of_nouns = [attend(tree, above, noun) for noun in nouns]
    phrases = []
    for place, verb in enumerate(verbs):
        below = [noun for noun in range(len(nouns)) if links[place, noun]]
        scores = [of_verbs[place], *(of_nouns[noun] for noun in below)]
        phrases.append(mixed(scores, [verb, *(nouns[noun] for noun in below)]))
    return torch.stack(phrases).mean(dim=0)


@given(st.data())
def test_the_tree_is_that_of_the_equations(data: st.DataObject) -> None:
    verbs, nouns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    has_verb = torch.tensor(data.draw(st.lists(st.booleans(), min_size=verbs, max_size=verbs)))
    flat = data.draw(st.lists(st.booleans(), min_size=verbs * nouns, max_size=verbs * nouns))
    links = torch.tensor(flat).view(verbs, nouns) & has_verb[:, None]
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    root, nodes = torch.randn(3, generator=generator), torch.randn(verbs + nouns, 3, generator=generator)
    torch.manual_seed(0)
    tree = TreeAttention(3).requires_grad_(False)
    ours = tree(root[None], nodes[None, :verbs], nodes[None, verbs:], has_verb[None], links[None])[0]
    there = [place for place in range(verbs) if has_verb[place]]
    expected = mean_phrase(tree, root, [nodes[place] for place in there], list(nodes[verbs:]), links[there])
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def unit_rms(values: Tensor) -> Tensor:
    return values / values.square().mean(dim=-1, keepdim=True).sqrt()


@torch.no_grad()
def test_the_teacher_is_that_of_the_equations() -> None:
    """Nodes that are not there are not even made; those that are, from their words alone."""
    model = seeded()
    words, lengths = sentences()
    moments = model.encode_moments(clips())
    ours = model.teacher(moments, words, lengths, *graphs())
    for number, (graph, length) in enumerate(zip(TREES, LENGTHS, strict=True)):
        states = model.words(words[number, :length])[0]
        sentence = states[0] + states[-1]
        role = graphs()[2][number]
        verbs = [node for node in graph.nodes if node.role == "V"]
        nouns = [node for node in graph.nodes if node.role != "V"]
        made = [
            [
                states[node.first : node.stop].amax(dim=0) * model.role(role[slot])
                for slot, node in enumerate(kind, first)
            ]
            for kind, first in ((verbs, 0), (nouns, SMALL.verbs))
        ]
        linked = {(graph.nodes[edge.verb], graph.nodes[edge.argument]) for edge in graph.edges}
        links = torch.tensor([[(verb, noun) in linked for noun in nouns] for verb in verbs])
        fine = sentence * mean_phrase(model.tree, sentence, *made, links)
        expected = model.fusion(unit_rms(moments[number] * model.phrases(unit_rms(fine)))).squeeze(1)
        torch.testing.assert_close(ours[number], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_student_is_the_dot_product_with_the_first_and_the_last_state() -> None:
    model = seeded()
    words, lengths = sentences()
    moments = model.encode_moments(clips())
    ours = model(clips(), words, lengths)
    for number, length in enumerate(LENGTHS):
        states = model.words(words[number, :length])[0]
        expected = moments[number] @ model.sentence(states[0] + states[-1])
        torch.testing.assert_close(ours[number], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_student_and_teacher_together_are_each_alone(similarity: str) -> None:
    model = seeded(replace(SMALL, similarity=similarity))
    moments = model.encode_moments(clips())
    student, teacher = model.both(moments, *sentences(), *graphs())
    torch.testing.assert_close(student, model(clips(), *sentences()))
    torch.testing.assert_close(teacher, model.teacher(moments, *sentences(), *graphs()))


@torch.no_grad()
def test_cosine_scores_are_ten_times_the_cosines() -> None:
    dot, cosine = seeded(), seeded(replace(SMALL, similarity="cosine"))
    moments, texts = dot.encode_moments(clips()), dot.encode_text(*sentences())
    expected = 10 * cosine_similarity(moments, texts[:, None], dim=2)
    torch.testing.assert_close(cosine(clips(), *sentences()), expected)
    torch.testing.assert_close(cosine.encode_moments(clips()).norm(dim=2), torch.ones(expected.shape))


@torch.no_grad()
def test_scores_of_a_corpus_are_those_of_each_video() -> None:
    model = seeded()
    moments, texts = model.encode_moments(clips(2)), model.encode_text(*sentences())
    of_corpus = model.score(moments.flatten(0, 1), texts).unflatten(1, (2, -1))
    for video in range(2):
        alone = model.score(moments[video].expand(len(texts), -1, -1), texts)
        torch.testing.assert_close(of_corpus[:, video], alone)


@torch.no_grad()
@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_padding_and_the_rest_of_a_batch_change_no_score(similarity: str) -> None:
    model = seeded(replace(SMALL, similarity=similarity))
    moments = model.encode_moments(clips())
    together = model.both(moments, *sentences(9), *graphs(9))
    for number, length in enumerate(LENGTHS):
        one = slice(number, number + 1)
        words, lengths = sentences()
        spans, edges, roles = graphs()
        alone = model.both(
            moments[one], words[one, :length], lengths[one], spans[one, :, :length], edges[one], roles[one]
        )
        for in_batch, by_itself in zip(together, alone, strict=True):
            torch.testing.assert_close(in_batch[one], by_itself, atol=1e-5, rtol=1e-5)


def test_what_fills_a_slot_that_is_not_used_changes_nothing() -> None:
    model = seeded()
    moments = model.encode_moments(clips())
    spans, edges, roles = graphs()
    expected = model.teacher(moments, *sentences(), spans, edges, roles)
    filled = torch.where(spans.any(dim=2), roles, 7)
    torch.testing.assert_close(model.teacher(moments, *sentences(), spans, edges, filled), expected)
    linked = edges.clone()
    linked[:, 1:3, 3:] = torch.where(spans[:, 2:].any(dim=2)[:, None], edges[:, 1:3, 3:], 1)
    linked[3:5, 1:3, 3:] = 1  # of sentences that have no verb
    torch.testing.assert_close(model.teacher(moments, *sentences(), spans, linked, roles), expected)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("distill", ["kl", "bce_mean"])
def test_gradients_are_finite_for_any_tree(similarity: str, distill: str) -> None:
    config = replace(SMALL, similarity=similarity, distill=distill)
    model = seeded(config)
    overlaps = config.proposals.overlaps(torch.tensor([[1.0, 3.0]]).repeat(6, 1), torch.full((6,), 8.0))
    fvmr_loss(config, overlaps, *model.both(model.encode_moments(clips()), *sentences(), *graphs()))[0].backward()
    assert all(value.grad is not None and torch.isfinite(value.grad).all() for value in model.parameters())


@torch.no_grad()
def test_in_bfloat16_scores_stay_near_and_finite() -> None:
    model = seeded()
    exact = model.both(model.encode_moments(clips()), *sentences(), *graphs())
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.both(model.encode_moments(clips()), *sentences(), *graphs())
    for ours, theirs in zip(rough, exact, strict=True):
        torch.testing.assert_close(ours.float(), theirs, atol=0.05, rtol=0.05)


def test_distillation_gives_the_teacher_no_gradient() -> None:
    model = seeded()
    student, teacher = model.both(model.encode_moments(clips()), *sentences(), *graphs())
    _, parts = fvmr_loss(SMALL, torch.zeros_like(student), student, teacher)
    parts["distillation"].backward()
    taught = {name.split(".")[0] for name, value in model.named_parameters() if value.grad is not None}
    assert taught == {"clip", "moment", "words", "sentence"}


def random_logits(seed: int, batch: int = 3, count: int = 5) -> tuple[Tensor, Tensor]:
    student, teacher = 3 * torch.randn(2, batch, count, generator=torch.Generator().manual_seed(seed))
    return student, teacher


@given(st.integers(0, 99), st.sampled_from([0.5, 1.0, 4.0]))
def test_distillation_is_that_of_its_formula(seed: int, temperature: float) -> None:
    student, teacher = (logits.double() for logits in random_logits(seed))
    kl, binary = [], []
    for of_student, of_teacher in zip(student.tolist(), teacher.tolist(), strict=True):
        powers = [[math.exp(logit / temperature) for logit in logits] for logits in (of_student, of_teacher)]
        p, q = ([power / sum(row) for power in row] for row in powers)
        kl.append(sum(b * math.log(b / a) for a, b in zip(p, q, strict=True)))
        binary += [-b * math.log(a) - (1 - b) * math.log(1 - a) for a, b in zip(p, q, strict=True)]
    expected = temperature**2 * sum(kl) / len(kl)
    assert divergence(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert mean_binary(student, teacher, temperature).item() == pytest.approx(sum(binary) / len(binary), rel=1e-4)


def test_cross_entropies_are_those_of_scaled_overlaps() -> None:
    student, teacher = random_logits(0, 1, 3)
    config = replace(SMALL, low=0.3, high=0.7, distill_weight=0.5)
    total, parts = fvmr_loss(config, torch.tensor([[0.2, 0.5, 0.9]]), student, teacher)
    for name, logits in (("student", student), ("teacher", teacher)):
        chances = [1 / (1 + math.exp(-logit)) for logit in logits[0].tolist()]
        labels = [0, 0.5, 1]
        terms = [-y * math.log(c) - (1 - y) * math.log(1 - c) for y, c in zip(labels, chances, strict=True)]
        assert parts[name].item() == pytest.approx(sum(terms) / 3, rel=1e-5)
    assert total.item() == pytest.approx(parts["student"] + parts["teacher"] + 0.5 * parts["distillation"])


def test_an_ablation_trains_one_alone() -> None:
    student, teacher = random_logits(0)
    for objective, given_logits in (("student", {"student": student}), ("teacher", {"teacher": teacher})):
        config = replace(SMALL, objective=objective)
        total, parts = fvmr_loss(config, torch.zeros_like(student), **given_logits)
        assert list(parts) == [objective] and total == parts[objective]
        assert torch.equal(total, fvmr_loss(config, torch.zeros_like(student), student, teacher)[0])
        with pytest.raises(ValueError, match=f"needs the logits of the {objective}"):
            fvmr_loss(config, torch.zeros_like(student))


@pytest.mark.parametrize("distill", ["kl", "bce_mean"])
def test_losses_stay_finite_for_one_candidate_and_for_logits_that_are_sure_and_wrong(distill: str) -> None:
    for student in (torch.tensor([[3.0]]), torch.tensor([[300.0, -300.0]])):
        student.requires_grad_()
        config = replace(SMALL, distill=distill)
        total, _ = fvmr_loss(config, torch.zeros_like(student), student, -student.detach())
        total.backward()
        assert torch.isfinite(total) and student.grad is not None and torch.isfinite(student.grad).all()


@torch.no_grad()
def test_a_video_of_one_clip_and_a_sentence_of_one_word_can_be_scored() -> None:
    config = replace(SMALL, proposals=ProposalMap(1, (1,)), clips=1)
    model = seeded(config)
    logits = model(clips(1)[:, :1], sentences()[0][:1, :1], torch.tensor([1]))
    assert logits.shape == (1, 1) and torch.isfinite(logits).all()
    assert model.best(logits, torch.tensor([3.0]))[0].tolist() == [[0, 3], *[[-1, -1]] * 4]


def test_training_raises_the_scores_of_the_moments_that_overlap_the_truth() -> None:
    config = replace(SMALL, dim=32, text_units=16, common_dim=32)
    model = seeded(config)
    truths, durations = torch.tensor([[0.0, 2.0], [1.0, 3.0], [4.0, 8.0], [2.0, 4.0]]), torch.full((4,), 8.0)
    overlaps = config.proposals.overlaps(truths, durations)
    inputs = [part[:4] for part in (*sentences(), *graphs())]
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        logits = model.both(model.encode_moments(clips(4)), *inputs)
        optimiser.zero_grad()
        fvmr_loss(config, overlaps, *logits)[0].backward()
        optimiser.step()
    for of_one in logits:
        assert (interval_iou(model.best(of_one, durations)[:, 0], truths) > 0.5).all()


def test_one_seed_trains_one_model() -> None:
    def train() -> Tensor:
        model = seeded()
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(3):
            student, teacher = model.both(model.encode_moments(clips()), *sentences(), *graphs())
            optimiser.zero_grad()
            fvmr_loss(SMALL, torch.zeros_like(student), student, teacher)[0].backward()
            optimiser.step()
        return model(clips(), *sentences())

    assert torch.equal(train(), train())


def test_the_published_sizes_have_the_moments_of_2d_tan() -> None:
    assert [len(config.proposals.cells) for config in PUBLISHED.values()] == [136, 1104, 2548]


def test_clips_that_the_map_cannot_pool_are_refused() -> None:
    with pytest.raises(ValueError, match="13 clips cannot be pooled to 8"):
        seeded().encode_moments(clips()[:, :13])


def test_choices_that_there_are_not_are_refused() -> None:
    for name in ("similarity", "objective", "distill"):
        with pytest.raises(ValueError, match=f"{name} 'nothing': there is "):
            replace(SMALL, **{name: "nothing"})
