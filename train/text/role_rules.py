"""Semantic roles by rules over parts of speech: the graph of a caption with no parser.

Captions are short and alike: somebody, a verb, something, somewhere. Rules read that well: the noun phrase before a
verb is who acts (ARG0), the one after it what is acted on (ARG1), a prepositional phrase where, how or when. A trained
parser of semantic roles reads clauses within clauses better; graphs of one come by `read_published`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from train.text import tagging
from train.text.role_graphs import NOUN, VERB, Node, RoleGraph, graph_of_frames
from train.text.tagging import AGENTS, Word, tag


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_PLACES = _set(
    "above against along alongside amid among around at atop behind below beneath beside besides between beyond by in "
    "inside near on outside over round throughout under underneath upon within"
)
_WAYS = _set("across down from into of off onto out past through toward towards up")
_TIMES = _set("after before during since till until")
_MANNERS = _set("as like unlike using via with without")
_TIME_NOUNS = _set(
    "afternoon day evening hour minute moment month morning night noon second summer sunset time week while winter year"
)
_TIME_ADVERBS = _set("after afterwards again before finally first later meanwhile next now once soon suddenly then")
# Prepositional phrases that are a verb's own argument, by preposition; the verbs each with the role of the phrase.
_OWN = {
    "about": (_set("argue ask chat comment complain discuss hear joke know learn report sing speak talk tell"), "ARG1"),
    "at": (_set("aim bark gaze glance laugh look peek peer point smile stare swing wave yell"), "ARG1"),
    "to": (_set("dance listen pet"), "ARG1"),
    "for": (_set("ask hunt look search wait"), "ARG1"),
    "on": (_set("comment focus report"), "ARG1"),
}
_PARTICLES = _set("down off out up")  # after a verb that is no motion: "dicing up potatoes"
_OF_THINGS = _set("contain cover depict feature include line surround")  # things do so, which stand just before
_GO_TO = _set(
    "climb crawl drive fly go jump lead look move return ride run swim travel walk"
)  # "to" after them is a way
_TWO_OBJECTS = _set("ask bring feed get give hand lend offer pass pay sell send serve show teach tell throw")
_WANT = _set("appear attempt begin continue learn like love need plan prepare refuse seem start try want")
_STARTS_CLAUSE = _set("after as before once since until when whenever whereas while")


@dataclass(frozen=True)
class _Frame:
    """A verb and what it governs."""

    verb: Node
    arguments: list[Node]
    subject: tuple[int, int] | None
    bare: bool  # a participle with no auxiliary


def version() -> str:
    """What graphs kept on disk are of; the number rises with the rules."""
    return f"1 on tags {tagging.version()}"


def build(words: Sequence[str]) -> RoleGraph:
    """The graph of a caption's words, by rules.

    Where no verb has an argument, noun phrases (or single nouns) and verbs become nodes without edges, as in HGR's
    "augmented" graphs. A caption with neither has no nodes.
    """
    tagged = tag(words)
    frames = [frame for frame in _Caption(tagged).frames() if frame.arguments]
    if frames:
        return graph_of_frames([(frame.verb, frame.arguments) for frame in frames])
    return _unlinked(tagged)


def _order(node: Node) -> tuple[int, int]:
    return node.first, node.stop


def _unlinked(tagged: Sequence[Word]) -> RoleGraph:
    verbs = [Node(VERB, place, place + 1) for place, word in enumerate(tagged) if word.pos == "VERB"]
    spans = _noun_phrases(tagged) or [(place, place + 1) for place, word in enumerate(tagged) if word.pos == "NOUN"]
    return RoleGraph((*verbs, *(Node(NOUN, first, stop) for first, stop in spans)))


class _Caption:
    """A tagged caption, in which verbs look left for who acts and right for the rest."""

    def __init__(self, tagged: Sequence[Word]) -> None:
        self.words = tagged
        self.phrases = _joined(tagged, _noun_phrases(tagged))
        self.starts = dict(self.phrases)
        self.ends = {stop: first for first, stop in self.phrases}

    def frames(self) -> list[_Frame]:
        found: list[_Frame] = []
        for place, word in enumerate(self.words):
            action = word.pos == "VERB" and not self._modifies(place)
            copula = word.pos == "AUX" and word.lemma == "be" and not self._helps(place)
            if action or copula:
                found.append(self._frame(place, found))
        return found

    def _modifies(self, place: int) -> bool:
        """Whether a participle stands within a noun phrase ("the boiling water")."""
        return any(first <= place < stop for first, stop in self.phrases)

    def _helps(self, place: int) -> bool:
        """Whether a form of be belongs to a verb after it."""
        after = place + 1
        while after < len(self.words) and self.words[after].pos in ("ADV", "AUX"):
            after += 1
        return after < len(self.words) and self.words[after].pos == "VERB" and not self._modifies(after)

    def _frame(self, place: int, earlier: Sequence[_Frame]) -> _Frame:
        word = self.words[place]
        left, helpers = self._left_edge(place)
        bare = word.tag in ("VVG", "VVN") and not helpers
        be = any(self.words[helper].lemma == "be" for helper in helpers)
        passive = (word.tag in ("VVN", "VVD") and be) or (word.tag == "VVN" and bare)
        subject = self._subject(place, left, bare, earlier)
        found = [Node("ARGM-MOD", helper, helper + 1) for helper in helpers if self.words[helper].tag == "VM0"]
        if subject:
            found.append(Node("ARG1" if passive or word.pos == "AUX" else "ARG0", *subject))
        for node in self._right(place, passive):
            if not any(node.first < other.stop and other.first < node.stop for other in found):
                found.append(node)
        return _Frame(Node(VERB, place, place + 1), sorted(found, key=_order), subject, bare)

    def _left_edge(self, place: int) -> tuple[int, list[int]]:
        """Where the verb's group of words begins, and the places of its auxiliaries."""
        helpers = []
        while place > 0 and self.words[place - 1].pos in ("AUX", "ADV"):
            place -= 1
            if self.words[place].pos == "AUX":
                helpers.append(place)
        return place, helpers

    def _subject(self, place: int, left: int, bare: bool, earlier: Sequence[_Frame]) -> tuple[int, int] | None:
        """Whose verb `place` is, its auxiliaries from `left` on: the phrase before, or the subject of a verb before."""
        before = self.words[left - 1] if left else None
        if before and left - 1 in self.ends and (before.tag == "PNQ" or before.text.lower() in ("that", "which")):
            return self.ends[left - 1], left - 1  # "a man who jumped"
        if left not in self.ends:
            joins = before and (before.pos in ("CONJ", "VERB", "PART", "ADP") or before.tag == "AVQ")
            return earlier[-1].subject if joins and earlier else None
        span = (self.ends[left], left)
        verb = self.words[place]
        if bare and (self._acts(span) or verb.tag == "VVN" or verb.lemma in _OF_THINGS):
            return span
        while first := span[0]:
            governor = self.words[first - 1]
            if governor.pos == "ADP" and first - 1 in self.ends:  # "a man in a suit talks"
                span = (self.ends[first - 1], first - 1)
            elif earlier and (governor.pos in ("ADP", "VERB") or governor.tag == "AVP"):
                # "is cutting an onion using a knife"; "a man playing a guitar is singing"
                return earlier[-1].subject if bare or earlier[-1].bare else span
            else:
                break
        return span

    def _acts(self, span: tuple[int, int]) -> bool:
        return self._head(span).lemma in AGENTS

    def _head(self, span: tuple[int, int]) -> Word:
        """The last noun of a phrase before any "of"."""
        words = list(self.words[slice(*span)])
        stop = next((place for place, word in enumerate(words) if word.tag == "PRF" and place), len(words))
        return words[stop - 1]

    def _right(self, verb: int, passive: bool) -> Iterator[Node]:
        """The arguments after a verb, up to the next clause."""
        objects: list[tuple[int, int]] = []
        here, touching = verb + 1, True
        lemma = self.words[verb].lemma
        while here < len(self.words):
            word = self.words[here]
            text = word.text.lower()
            if here in self.starts and (touching or self._is_time((here, self.starts[here]))):
                span = (here, here := self.starts[here])
                if self._is_time(span):
                    yield Node("ARGM-TMP", *span)
                else:
                    objects.append(span)
            elif touching and text in _PARTICLES and lemma not in _GO_TO and word.pos in ("ADP", "ADV"):
                here += 1
            elif self._is_preposition(here):
                span = (here, here := self.starts[here + 1])
                yield Node(self._preposition_role(lemma, span, passive), *span)
                touching = False
            elif text in _STARTS_CLAUSE and word.pos in ("CONJ", "ADP", "ADV"):
                if here + 1 < len(self.words):
                    yield Node("ARGM-TMP", here, len(self.words))
                break
            elif word.tag in ("AVQ", "CJT") and touching and here + 1 < len(self.words):
                yield Node("ARG1", here, len(self.words))
                break
            elif word.pos == "PART" and here + 1 < len(self.words) and self.words[here + 1].pos in ("VERB", "AUX"):
                yield Node("ARG1" if lemma in _WANT and not objects else "ARGM-PRP", here, len(self.words))
                break
            elif word.pos == "ADV" or (word.pos == "ADP" and touching):
                yield from self._adverb(here)
                here += 1
            elif word.pos == "ADJ" and touching:
                yield Node("ARG2" if lemma == "be" else "ARGM-PRD", here, here + 1)
                here, touching = here + 1, False
            else:
                break
        there = lemma == "be" and self.words[verb - 1].tag == "EX0"
        yield from self._objects(lemma, objects, passive or (lemma == "be" and not there))

    def _is_preposition(self, place: int) -> bool:
        """Whether a phrase and no clause follows a word that joins it to a verb ("as a group", "after he left")."""
        if place + 1 not in self.starts:
            return False
        stop = self.starts[place + 1]
        clause = stop < len(self.words) and self.words[stop].pos in ("VERB", "AUX")
        joins = self.words[place].text.lower() in _STARTS_CLAUSE | {"as", "like"}
        word = self.words[place]
        return not clause if joins else word.pos == "ADP" or (word.pos == "ADV" and word.text.lower() in _WAYS)

    def _adverb(self, place: int) -> Iterator[Node]:
        word = self.words[place]
        if word.lemma in _TIME_ADVERBS and word.pos == "ADV":
            yield Node("ARGM-TMP", place, place + 1)
        elif word.text.lower().endswith("ly") or word.lemma in ("together", "fast", "hard", "well", "alone"):
            yield Node("ARGM-MNR", place, place + 1)

    @staticmethod
    def _objects(lemma: str, objects: Sequence[tuple[int, int]], second: bool) -> Iterator[Node]:
        roles: tuple[str, ...] = ("ARG2",) if second else ("ARG1",)
        if len(objects) > 1 and lemma in _TWO_OBJECTS:
            roles = ("ARG2", "ARG1")
        for role, span in zip(roles, objects, strict=False):
            yield Node(role, *span)

    def _preposition_role(self, lemma: str, span: tuple[int, int], passive: bool) -> str:
        preposition, phrase = self.words[span[0]].text.lower(), (span[0] + 1, span[1])
        verbs, role = _OWN.get(preposition, (frozenset(), ""))
        if lemma in verbs:
            return role
        if preposition in _TIMES or self._is_time(phrase):
            return "ARGM-TMP"
        if preposition == "by" and passive:
            return "ARG0"
        if preposition == "to":
            return "ARGM-DIR" if lemma in _GO_TO else "ARG2"
        if preposition == "for":
            return "ARGM-PRP"
        if preposition in _MANNERS:
            return "ARGM-COM" if preposition == "with" and self._acts(phrase) else "ARGM-MNR"
        return "ARGM-LOC" if preposition in _PLACES else "ARGM-DIR" if preposition in _WAYS else "ARGM-ADV"

    def _is_time(self, span: tuple[int, int]) -> bool:
        return self._head(span).lemma in _TIME_NOUNS


def _noun_phrases(tagged: Sequence[Word]) -> list[tuple[int, int]]:
    """Spans of noun phrases, without what follows their last noun; a pronoun is one too."""
    found = []
    here = 0
    while here < len(tagged):
        stop = _phrase_end(tagged, here)
        if stop > here:
            found.append((here, stop))
        here = max(stop, here + 1)
    return found


def _phrase_end(tagged: Sequence[Word], first: int) -> int:
    """Where a noun phrase that begins at `first` ends; `first` itself where none does."""
    if tagged[first].pos == "PRON":
        return first if tagged[first].tag in ("EX0", "PNQ") else first + 1
    here = first
    while here < len(tagged) and (tagged[here].pos in ("DET", "NUM", "ADJ") or _premodifies(tagged, here, first)):
        here += 1
    nouns = here
    while nouns < len(tagged) and tagged[nouns].pos == "NOUN":
        nouns += 1
    return nouns if nouns > here else first


def _premodifies(tagged: Sequence[Word], here: int, first: int) -> bool:
    """Whether an adverb or participle stands between a determiner and its noun ("a freshly peeled banana")."""
    if here == first or here + 1 >= len(tagged):
        return False
    word, after = tagged[here], tagged[here + 1]
    if word.pos == "ADV":
        return after.pos == "ADJ" or after.tag in ("VVN", "VVG")
    return word.tag in ("VVN", "VVG") and after.pos in ("NOUN", "ADJ")


def _joined(tagged: Sequence[Word], phrases: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Phrases joined by "of", and by "and" where what follows is no clause of its own."""
    by_of = _join(phrases, lambda one, other: other[0] == one[1] + 1 and tagged[one[1]].tag == "PRF")

    def coordinated(one: tuple[int, int], other: tuple[int, int]) -> bool:
        if other[0] != one[1] + 1 or tagged[one[1]].text.lower() not in ("and", "or", "&"):
            return False
        opens_clause = other[1] < len(tagged) and tagged[other[1]].pos in ("VERB", "AUX")
        return not opens_clause or not any(word.pos in ("VERB", "AUX") for word in tagged[: one[0]])

    return _join(by_of, coordinated)


def _join(
    phrases: Sequence[tuple[int, int]], belong: Callable[[tuple[int, int], tuple[int, int]], bool]
) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for phrase in phrases:
        if joined and belong(joined[-1], phrase):
            joined[-1] = (joined[-1][0], phrase[1])
        else:
            joined.append(phrase)
    return joined
