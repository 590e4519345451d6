"""Parts of speech and lemmas of a caption's words.

The tagger is HanTa (Wartena, "A probabilistic morphology model for German lemmatization", KONVENS 2019), whose English
model lies in its wheel. It learned from the British National Corpus, where captions' short main clauses are rare, so a
few rules after it turn verbs taken for nouns and adjectives back into verbs. Lemmas come from LemmInflect's lexicon
(Jascob, from the NIH's SPECIALIST lexicon), and from HanTa for words not in it. `benchmarks/taggers.py` measures both.
"""

from __future__ import annotations

import gzip
import pickle
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.metadata import version as distribution_version
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from HanTa.HanoverTagger import HanoverTagger
from lemminflect import getAllLemmas

# The first letters of C5, the tag set of the British National Corpus, and the universal part of speech.
_UNIVERSAL = {
    "NN": "NOUN", "NP": "NOUN", "ZZ": "NOUN", "UN": "NOUN", "VV": "VERB", "VD": "VERB", "VH": "VERB", "VB": "AUX",
    "VM": "AUX", "AJ": "ADJ", "OR": "ADJ", "AV": "ADV", "XX": "ADV", "PR": "ADP", "AT": "DET", "DP": "DET", "DT": "DET",
    "CR": "NUM", "PN": "PRON", "EX": "PRON", "CJ": "CONJ", "TO": "PART", "PO": "PART", "IT": "INTJ", "PU": "PUNCT",
}  # fmt: skip


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Lemmas of nouns that act: after one of them, a word that can be a verb is one, even where an object follows at once.
AGENTS = _set(
    "adult animal anchor athlete audience baby band bear bird boy brother cat chef child comedian cook couple cow "
    "crowd dancer daughter dog driver elephant everyone family father female friend girl guy horse host kid kitten "
    "lady lion male man men monkey mother narrator panda people performer person player puppy reporter singer sister "
    "skater somebody someone son speaker student teacher team tiger toddler woman women"
)
_ADJECTIVES = _set("amazing boring charming disgusting exciting interesting missing relaxing surprising")
_TAKE_ING = _set("begin continue enjoy go keep practice practise start stop try")
_CLAUSE_ENDS = _set("as because but or so that then when where which while who")
_IS = _set("he's here's how's it's she's that's there's what's where's who's")
_CONTRACTED = (("n't", "VM0"), ("'re", "VBB"), ("'m", "VBB"), ("'ll", "VM0"), ("'ve", "VHB"))
_WORDS = 10_000  # that HanTa tags at a time: it fails where the probability of all is too small a number
_LONGEST = 40  # letters that HanTa looks at: its time goes with the square of them
_FREQUENT = 2**17  # words kept in memory, each with what it can be


class Word(NamedTuple):
    """A word of a caption: as written, its lemma, its C5 tag and its universal part of speech.

    Forms of be and modals are AUX, as are have and do before another verb; every other verb is VERB.
    """

    text: str
    lemma: str
    tag: str
    pos: str


def tag(words: Sequence[str]) -> list[Word]:
    """One `Word` for each of `words`, which may be any strings; case and punctuation at their edges do not matter."""
    bare = [_bare(word) for word in words]
    spoken = [place for place, word in enumerate(bare) if word]
    tags = ["PUN"] * len(bare)
    for place, found in zip(spoken, _mended([bare[place] for place in spoken]), strict=True):
        tags[place] = found
    parts = _universal(tags)
    return [
        Word(word, _lemma(plain, found) if plain else word, found, part)
        for word, plain, found, part in zip(words, bare, tags, parts, strict=True)
    ]


def version() -> str:
    """What tags kept on disk are of; the number rises with the rules."""
    return f"1 of HanTa {distribution_version('HanTa')}, lemminflect {distribution_version('lemminflect')}"


def _bare(word: str) -> str:
    return word.lower() if word.isalnum() else re.sub(r"^[\W_]+|[\W_]+$", "", word).lower()


def _mended(words: list[str]) -> list[str]:
    if not words:
        return []
    cut = [word[:_LONGEST] for word in words]
    parts = (cut[first : first + _WORDS] for first in range(0, len(cut), _WORDS))
    tags = [tag for part in parts for tag in _model().tag_sent(part, taglevel=0, casesensitive=False)]
    _contractions(words, tags)
    _participles(words, tags)
    _finite_verbs(words, tags)
    return tags


def _contractions(words: list[str], tags: list[str]) -> None:
    """A word that white space does not part from its verb ("he's") is tagged as the verb."""
    for here, word in enumerate(words):
        if word in _IS:
            tags[here] = "VBZ"
        for ending, found in _CONTRACTED:
            if word.endswith(ending):
                tags[here] = found


def _participles(words: list[str], tags: list[str]) -> None:
    """Words in -ing after a form of be, an agent, or a verb that takes them ("is dicing", "a boy playing flute")."""
    for here, word in enumerate(words):
        if not word.endswith("ing") or len(word) < 5 or word in _ADJECTIVES or tags[here][:2] not in ("NN", "NP", "AJ"):
            continue
        before = _before(tags, here)
        closed = tags[here + 1 : here + 2] and tags[here + 1][:2] in ("NN", "NP", "AJ", "VV", "VB")
        if word == "doing":
            found = True
        elif before < 0:  # "frying pieces of chicken" may as well be pieces that fry
            found = not closed
        elif tags[before][:2] == "VB":
            found = True
        elif tags[before][:2] == "VV":
            found = _lemma(words[before], tags[before]) in _TAKE_ING
        elif words[before] == "and":
            found = not closed and "VVG" in tags[:here]
        else:
            agent = _acts(words, tags, before) or (not closed and _opens_caption(tags, before))
            found = agent and not _has_verb(words, tags, here)
        if found:
            tags[here] = "VVG"


def _finite_verbs(words: list[str], tags: list[str]) -> None:
    """Nouns that can be a verb where a clause still wants one ("a girl talks about", "two men race around")."""
    for here, word in enumerate(words):
        if here == 0 or tags[here] not in ("NN1", "NN2", "AJ0"):
            continue
        subject, after = words[here - 1], (tags[here + 1 : here + 2] or [""])[0]
        wanted = _finite_form(tags[here - 1], tags[here])
        known = wanted in _readings(word) or (
            (_acts(words, tags, here - 1) or wanted == "VVB") and subject != "sports" and _inflects(word, wanted)
        )
        opens = after[:2] in ("AT", "DP", "DT", "PR", "CR", "PN", "AV", "TO") and after != "PRF"
        ends = wanted == "VVZ" and after in ("", "CJC", "CJS")
        object_follows = wanted == "VVZ" and _acts(words, tags, here - 1) and after[:2] in ("NN", "AJ")
        if wanted and known and (opens or ends or object_follows) and not _has_verb(words, tags, here):
            tags[here] = wanted


def _finite_form(subject: str, found: str) -> str:
    """The form of a verb that agrees with a subject, where a noun could be it; "" where it could not (tags all)."""
    if found == "NN2":
        return "VVZ" if subject in ("NN1", "NP0", "PNI", "PNP") else ""
    return "VVB" if subject in ("NN2", "NN0") else ""


def _inflects(word: str, tag: str) -> bool:
    """Whether the lexicon has `word` as a verb in the form of `tag`: with its ending (VVZ) or without (VVB)."""
    return any((lemma != word) == (tag == "VVZ") for lemma in getAllLemmas(word, "VERB").get("VERB", ()))


def _opens_caption(tags: list[str], last: int) -> bool:
    """Whether nothing but a noun phrase that ends at `last` stands before it."""
    return tags[last][:2] in ("NN", "NP") and all(
        tag[:2] in ("NN", "NP", "AJ", "AT", "DP", "CR") for tag in tags[:last]
    )


def _acts(words: list[str], tags: list[str], place: int) -> bool:
    return _lemma(words[place], tags[place]) in AGENTS


def _has_verb(words: list[str], tags: list[str], stop: int) -> bool:
    """Whether the clause that word `stop` stands in has a verb before it."""
    for place in range(stop - 1, -1, -1):
        if tags[place][0] == "V":
            return True
        if words[place] in _CLAUSE_ENDS:
            return False
    return False


def _before(tags: list[str], here: int) -> int:
    """Where the next word before `here` is that is no adverb; -1 where there is none."""
    here -= 1
    while here >= 0 and tags[here][:2] in ("AV", "XX"):
        here -= 1
    return here


def _universal(tags: list[str]) -> list[str]:
    parts = [_UNIVERSAL.get(found[:2], "NOUN") for found in tags]
    for here, found in enumerate(tags):
        if found[:2] in ("VD", "VH"):
            after = here + 1
            while after < len(tags) and tags[after][:2] in ("AV", "XX", "PN"):
                after += 1
            if after < len(tags) and tags[after][0] == "V" and tags[after][-1] in "NIB":
                parts[here] = "AUX"
    return parts


@lru_cache(_FREQUENT)
def _lemma(word: str, tag: str) -> str:
    part = {"VV": "VERB", "VD": "VERB", "VH": "VERB", "NN": "NOUN"}.get(tag[:2], "")
    lexical = getAllLemmas(word, part).get(part, ()) if part else ()
    if tag in ("NN1", "NP0", "UNC") or (tag in ("VVB", "VVI") and word in lexical):
        return word
    if lexical:
        return str(next((lemma for lemma in lexical if lemma != word), word))  # "glasses" is also a lemma of its own
    return word if len(word) > _LONGEST else str(_model().analyze(word, pos=tag)[0]).lower() or word


@lru_cache(_FREQUENT)
def _readings(word: str) -> frozenset[str]:
    """The tags that `word` takes on its own."""
    return frozenset(found for found, _ in _model().tag_word(word[:_LONGEST], casesensitive=False))


@cache
def _model() -> HanoverTagger:
    """HanTa with its English model, read by an unpickler that makes numbers only."""
    with (files("HanTa") / "morphmodel_en.pgz").open("rb") as packed, gzip.open(packed) as file:
        tagger = HanoverTagger("", model=_NumbersOnly(file).load())
    tagger.analyze_forward = lru_cache(_FREQUENT)(tagger.analyze_forward)  # words not in the model, at 1 ms each
    tagger.strict = False  # as HanTa sets it when it opens the file itself: words it never saw are guessed
    return tagger


class _NumbersOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        if name == "scalar" and module in ("numpy._core.multiarray", "numpy.core.multiarray"):
            return lambda dtype, data: float(np.frombuffer(data, dtype)[0])
        raise pickle.UnpicklingError(f"HanTa's English model names {module}.{name}, which is no number")
