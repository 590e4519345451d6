"""FVMR (Gao & Xu, "Fast Video Moment Retrieval", ICCV 2021).

Moments and sentences are embedded apart, in one space, so that those of a whole corpus can be computed before anybody
asks (train.grounding.moments); a query then costs the encoding of its words and a dot product a moment. What the
missing interaction costs in accuracy is made up for in training, where a teacher that multiplies a moment by what the
tree of semantic roles makes of the sentence shows the student how to score.

There is no official code. Known from the paper, and done so:

* a BiLSTM over word vectors; the sentence s is the sum of its first and last states, both directions side by side;
* the tree has three layers, sentence, verbs, and nouns, and attention from each to the next (`TreeAttention`);
* u = s * mean of the verbs' phrases; student p = phi_m(m) . phi_s(s); teacher q = phi_fuse(phi_m(m) * phi_u(u));
* the loss: binary cross-entropy of p and of q with 2D-TAN's scaled IoU, and the distillation of q into p.

What had to be decided:

* moments are 2D-TAN's pooled ones, with its candidates and labels; each phi is linear, phi_fuse has a hidden layer;
* a node is the maximum over its words' states, times an embedding of its role, as in HGR; the root is s itself.
  W_top, W_low and W_alpha have no bias and serve both layers. A noun may belong to several verbs; one of no verb
  takes no part. A sentence without a verb has u = s;
* p is unbounded in the paper: cross-entropies take logits. With "cosine" it is the cosine times 10, as in MMN;
* u, and what phi_fuse sees, are brought to a root mean square of 1. Both are products of small numbers: as they are,
  or at length one, biases drown them, all moments have nearly the same q, and the teacher learns less than a student;
* the teacher learns from labels alone: what it teaches is detached;
* "kl" distils by divergence, a sum over candidates where cross-entropies are means, hence its small weight. As the
  paper has it, "bce_mean", the cross-entropy is a mean over candidates of binary ones. Softmax gives each of a
  thousand candidates so little that the weight must then be in the thousands;
* "student" and "teacher" train one alone, as in the paper's ablation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    avg_pool1d,
    binary_cross_entropy_with_logits,
    log_softmax,
    normalize,
    relu,
    softmax,
)
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from train.grounding.proposals import MAPS, ProposalMap, soft_labels
from train.retrieval.hanet import max_phrases

COSINE_SCALE = 10  # of logits
SIMILARITIES = ("dot", "cosine")
OBJECTIVES = ("distilled", "student", "teacher")


@dataclass(frozen=True)
class FVMRConfig:
    """Sizes and the loss. A sentence has up to `verbs` and `nouns`, as its graph was packed.

    Labels rise from 0 to 1 between IoUs `low` and `high`; `suppress` is the IoU above which NMS takes away.
    Raises ValueError for a choice that there is not.
    """

    video_dim: int
    proposals: ProposalMap
    word_dim: int = 300
    dim: int = 512  # of moments, before the common space
    text_units: int = 256  # a direction
    text_layers: int = 1
    roles: int = 16
    verbs: int = 4
    nouns: int = 6
    common_dim: int = 512
    clips: int = 256  # features a video, means of what it has (`clip_means`)
    low: float = 0.5
    high: float = 1.0
    suppress: float = 0.49
    similarity: str = "dot"
    objective: str = "distilled"
    distill: str = "kl"
    temperature: float = 1.0
    distill_weight: float = 0.03

    def __post_init__(self) -> None:
        choices = (("similarity", SIMILARITIES), ("objective", OBJECTIVES), ("distill", DISTILLATIONS))
        for name, known in choices:
            if getattr(self, name) not in known:
                raise ValueError(f"{name} {getattr(self, name)!r}: there is {', '.join(known)}")


class TreeAttention(nn.Module):
    """What the verbs of a sentence, each with its nouns, say together."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.top, self.low = (nn.Linear(dim, dim, bias=False) for _ in range(2))
        self.weight = nn.Linear(2 * dim, 1, bias=False)

    def forward(self, root: Tensor, verbs: Tensor, nouns: Tensor, has_verb: Tensor, links: Tensor) -> Tensor:
        """The mean of the verbs' phrases, (B, D); 1 for a sentence without a verb.

        Args:
            root: (B, D), the sentence.
            verbs: (B, V, D).
            nouns: (B, N, D).
            has_verb: (B, V), false where there is none.
            links: (B, V, N), true where a verb that is there has a noun that is there.
        """
        of_verbs = self.scores(root, verbs)  # (B, V)
        seen = _softmax(of_verbs, has_verb)
        of_nouns = self.scores((seen[..., None] * verbs).sum(dim=1), nouns)  # (B, N), below all verbs together
        # A verb and its nouns compete with one another.
        scores = torch.cat([of_verbs[..., None], of_nouns[:, None].expand_as(links)], dim=2)  # (B, V, 1 + N)
        weights = _softmax(scores, torch.cat([has_verb[..., None], links], dim=2))
        phrases = weights[..., :1] * verbs + weights[..., 1:] @ nouns  # (B, V, D), zero where there is no verb
        counts = has_verb.sum(dim=1, keepdim=True)
        return (phrases.sum(dim=1) / counts.clamp(min=1)).masked_fill(counts == 0, 1)

    def scores(self, top: Tensor, low: Tensor) -> Tensor:
        """How nodes (B, K, D) below one (B, D) attract attention: (B, K)."""
        above = self.top(top)[:, None].expand_as(low)
        return self.weight(torch.tanh(torch.cat([above, self.low(low)], dim=2))).squeeze(2)


class FVMR(nn.Module):
    """Embeds moments and sentences; in training, also a teacher of both."""

    def __init__(self, config: FVMRConfig) -> None:
        super().__init__()
        self.config = config
        text_dim = 2 * config.text_units
        self.clip = nn.Linear(config.video_dim, config.dim)
        self.moment = nn.Linear(config.dim, config.common_dim)  # phi_m
        units, layers = config.text_units, config.text_layers
        self.words = nn.LSTM(config.word_dim, units, layers, batch_first=True, bidirectional=True)
        self.sentence = nn.Linear(text_dim, config.common_dim)  # phi_s
        self.role = nn.Embedding(config.roles, text_dim)
        self.tree = TreeAttention(text_dim)
        self.phrases = nn.Linear(text_dim, config.common_dim)  # phi_u
        self.fusion = nn.Sequential(
            nn.Linear(config.common_dim, config.common_dim), nn.ReLU(), nn.Linear(config.common_dim, 1)
        )  # phi_fuse

    def forward(self, clips: Tensor, words: Tensor, lengths: Tensor) -> Tensor:
        """The student's logits, (B, P), of clips (B, T, D) and word vectors (B, W, word_dim) with lengths (B,)."""
        return self.score(self.encode_moments(clips), self.encode_text(words, lengths))

    def encode_moments(self, clips: Tensor) -> Tensor:
        """Moments in the common space: (B, T, D) -> (B, P, common_dim), of length one if compared by cosine.

        Raises ValueError if T is no multiple of N.
        """
        proposals = self.config.proposals
        window, rest = divmod(clips.shape[1], proposals.size)
        if rest or not window:
            raise ValueError(f"{clips.shape[1]} clips cannot be pooled to {proposals.size}: see clip_means")
        pooled = avg_pool1d(relu(self.clip(clips)).transpose(1, 2), window)  # (B, dim, N)
        moments = self.moment(proposals.pool(pooled).transpose(1, 2))
        return normalize(moments, dim=2) if self.config.similarity == "cosine" else moments

    def encode_text(self, words: Tensor, lengths: Tensor) -> Tensor:
        """Sentences in the common space: (B, W, word_dim) and lengths (B,), at least 1 -> (B, common_dim).

        Their product with a moment is its logit: if compared by cosine, their length is the scale of logits.
        """
        return self._student(_ends(self._states(words, lengths), lengths))

    @staticmethod
    def score(moments: Tensor, sentences: Tensor) -> Tensor:
        """Logits of moments for sentences (B, C): (B, P) of (B, P, C), each its own; of (M, C), all of them, (B, M)."""
        if moments.ndim == 2:
            return sentences @ moments.T
        return (moments @ sentences[..., None]).squeeze(2)

    def teacher(
        self, moments: Tensor, words: Tensor, lengths: Tensor, spans: Tensor, edges: Tensor, roles: Tensor
    ) -> Tensor:
        """The teacher's logits, (B, P), of moments (B, P, common_dim); sentences and graphs as in `both`."""
        states = self._states(words, lengths)
        return self._teacher(moments, states, _ends(states, lengths), spans, edges, roles)

    def both(
        self, moments: Tensor, words: Tensor, lengths: Tensor, spans: Tensor, edges: Tensor, roles: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of student and teacher, (B, P) each, of words that are read once.

        Args:
            moments: (B, P, common_dim), as from `encode_moments`.
            words: vectors (B, W, word_dim), padded.
            lengths: words of each (B,), at least one.
            spans: (B, verbs + nouns, W), true for the words of a node; nowhere for one that is not there.
            edges: (B, K, K), positive where a node (row) sees another; K = 1 + verbs + nouns, the sentence first.
            roles: ids (B, verbs + nouns); any for what is not there.
        """
        states = self._states(words, lengths)
        ends = _ends(states, lengths)
        return self.score(moments, self._student(ends)), self._teacher(moments, states, ends, spans, edges, roles)

    def best(self, logits: Tensor, durations: Tensor, top_k: int = 5) -> Tensor:
        """The best moments after suppression, in the unit of the durations (B,): (B, top_k, 2), or rows of -1."""
        return self.config.proposals.best(logits, durations, self.config.suppress, top_k)

    def _states(self, words: Tensor, lengths: Tensor) -> Tensor:
        """(B, W, 2 text_units), zero where padded."""
        packed = pack_padded_sequence(words, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.words(packed)[0], batch_first=True, total_length=words.shape[1])[0]

    def _student(self, ends: Tensor) -> Tensor:
        sentences = self.sentence(ends)
        return COSINE_SCALE * normalize(sentences, dim=1) if self.config.similarity == "cosine" else sentences

    def _teacher(
        self, moments: Tensor, states: Tensor, ends: Tensor, spans: Tensor, edges: Tensor, roles: Tensor
    ) -> Tensor:
        kinds = [self.config.verbs, self.config.nouns]
        pooled, there = max_phrases(states, spans)  # (B, V + N, 2 text_units), (B, V + N)
        verbs, nouns = (pooled * self.role(roles)).split(kinds, dim=1)
        has_verb, has_noun = there.split(kinds, dim=1)
        first_noun = 1 + self.config.verbs
        links = (edges[:, 1:first_noun, first_noun:] > 0) & has_verb[..., None] & has_noun[:, None]
        told = _unit_rms(ends * self.tree(ends, verbs, nouns, has_verb, links))  # u, (B, 2 text_units)
        fused = _unit_rms(moments * self.phrases(told)[:, None])  # (B, P, common_dim)
        return self.fusion(fused).squeeze(2)


def fvmr_loss(
    config: FVMRConfig, overlaps: Tensor, student: Tensor | None = None, teacher: Tensor | None = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of the objective, and its parts by name, before weights; all in float32.

    `overlaps`, IoUs with the truth, and logits are (B, P); what the objective does not train may be left out.
    Raises ValueError if logits are missing that it does train.
    """
    labels = soft_labels(overlaps.float(), config.low, config.high)
    trained = {"student": student, "teacher": teacher}
    if config.objective != "distilled":
        trained = {config.objective: trained[config.objective]}
    logits = {name: of_name.float() for name, of_name in trained.items() if of_name is not None}
    if missing := trained.keys() - logits.keys():
        raise ValueError(f"objective {config.objective!r} needs the logits of the {' and the '.join(sorted(missing))}")
    parts = {name: binary_cross_entropy_with_logits(of_name, labels) for name, of_name in logits.items()}
    total = torch.stack(list(parts.values())).sum()
    if config.objective == "distilled":
        distil = DISTILLATIONS[config.distill]
        parts["distillation"] = distil(logits["student"], logits["teacher"].detach(), config.temperature)
        total = total + config.distill_weight * parts["distillation"]
    return total, parts


def divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher, student) of softmax over candidates, logits (B, P), times the temperature squared (Hinton 2015).

    The mean over videos. The factor keeps gradients of one size over temperatures.
    """
    log_student, log_teacher = (log_softmax(logits / temperature, dim=1) for logits in (student, teacher))
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(dim=1).mean()


def mean_binary(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Binary cross-entropy of the student's softmax with the teacher's, the mean over candidates: logits (B, P)."""
    log_student = log_softmax(student / temperature, dim=1)
    share = softmax(teacher / temperature, dim=1)
    rest = torch.log1p(-log_student.exp().clamp(max=1 - torch.finfo(log_student.dtype).eps))  # finite for one candidate
    return -(share * log_student + (1 - share) * rest).mean()


DISTILLATIONS: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {"kl": divergence, "bce_mean": mean_binary}

PUBLISHED = {
    "charades-sta": FVMRConfig(4096, MAPS["charades-sta"]),
    "activitynet-captions": FVMRConfig(500, MAPS["activitynet-captions"]),
    "tacos": FVMRConfig(4096, MAPS["tacos"], low=0.3, high=0.7),
}  # 2D-TAN's features, maps and labels


def _ends(states: Tensor, lengths: Tensor) -> Tensor:
    """The sum of the states of the first and the last word: (B, W, D) -> (B, D)."""
    return states[:, 0] + states[torch.arange(len(states), device=states.device), lengths - 1]


def _unit_rms(values: Tensor) -> Tensor:
    """Vectors (..., D) brought to a root mean square of 1; one of zeros stays so."""
    return values.shape[-1] ** 0.5 * normalize(values, dim=-1)


def _softmax(scores: Tensor, valid: Tensor) -> Tensor:
    """Over the last dimension, zero where not valid."""
    # The least number, not -inf: where none is valid there would be no number, and so would the gradient.
    return scores.masked_fill(~valid, torch.finfo(scores.dtype).min).softmax(dim=-1).masked_fill(~valid, 0)
