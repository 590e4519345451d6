"""Which part-of-speech tagger reads captions best: precision and recall of verbs and nouns, lemmas, speed.

    python benchmarks/taggers.py

Sentences are drawn at random from MSVD's and MSR-VTT's test captions, lower-cased, and labelled by hand. Only taggers
that are installed with a model on this machine are measured; nothing is downloaded.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

# word/V:lemma is a verb, word/N:lemma a noun (the lemma left out where it is the word), word/? either way right
# ("shopping trolley"). Forms of be, modals and the have and do of other verbs are not labelled, nor counted when found.
LABELLED = """
learning/V:learn how to fly/V
a man/N is riding/V:ride a motorcycle/N
a man/N is stuffing/V:stuff a peeled/? banana/N in his mouth/N as he is talking/V:talk
a cat/N is playing/V:play
a woman/N is dancing/V:dance in rain/N
a man/N eating/V:eat
a small monkey/N scratches/V:scratch its arm/N
a monkey/N is smoking/V:smoke
pawan/N kalyan/N is running/V:run with the man/N on his back/N
three persons/N:person are doing/V:do karate/N
the boy/N and girl/N are hugging/V:hug
someone is playing/V:play guitar/N
a man/N is preparing/V:prepare dough/N at a bagel/N shop/N
a woman/N is taking/V:take a bath/N
when the pan/N is hot egg/N is being poured/V:pour into it and the omelette/N is removed/V:remove when cooked/V:cook
two woman/N are shopping/V:shop at the store/N
the man/N is going/V:go backwards with his shopping/? trolley/N
the women/N:woman is cutting/V:cut onion/N
a tortoise/N is walking/V:walk in his enclosure/N
a man/N is dicing/V:dice up potatoes/N:potato
the lady/N cut/V up a date/N
a person/N making/V:make tondon/N
a person/N is putting/V:put pasta/N in a pot/N
the veterinarian/N fed/V:feed the pandas/N:panda their bottles/N:bottle
a woman/N is climbing/V:climb a rock/N wall/N
a girl/N with a horse/N
a man/N is opening/V:open a box/N containing/V:contain a gun/N
a boy/N playing/V:play flute/N and enjoying/V:enjoy it by the deep heart/N
a boy/N hiding/V:hide behind a skateboard/N
a person/N cuts/V:cut an eggplant/N
a man/N is speaking/V:speak into a microphone/N
a man/N walks/V:walk along a trail/N
a horse/N is getting/V:get up
a news/N anchor/N is interviewing/V:interview a person/N on screen/N
a fearful animation/N scene/N
a little girl/N does/V:do gymnastics/N
the young performer/N impressed/V:impress his audience/N
there is a wrestling/? match/N going/V:go on between two people/N
a man/N speaks/V:speak to children/N:child in a classroom/N
a man/N is looking/V:look out a window/N to look/V at another man/N who jumped/V:jump to his death/N
an indian woman/N is applying/V:apply makeup/N between her hair/N
a white man/N in a suit/N talking/V:talk in front/? of a tv/N about logic/N and law/N
she used/V:use an electric blender/N
a man/N rides/V:ride his motorcycle/N to a building/N
a red truck/N is burning/V:burn while three men/N:man talk/V about a car/N
two men/N:man stand/V on a platform/N suspended/V:suspend high above the city/N
a man/N talks/V:talk about kim/N chi/N to a camera/N
a group/N of young athletes/N:athlete race/V around a track/N
demonstration/N on how to prepare/V something using/V:use a microwave/N
a band/N plays/V:play on a stage/N
a girl/N talks/V:talk about photos/N:photo and her life/N
in a music/N video/N a man/N is laying/V:lay with women/N:woman while singing/V:sing
a man/N walking/V:walk into a room/N with two kids/N:kid with red helmets/N:helmet
a woman/N is explaining/V:explain how to do/V something on a computer/N
calm pond/N with lush green hills/N:hill lining/V:line the background/N is shown/V:show
tourists/N:tourist walking/V:walk around the mount/N fuji/N visitor/N center/N
a cartoon/N woman/N cries/V:cry at a bench/N while a woman/N in blue/? appears/V:appear
adding/V:add ingredients/N:ingredient to a pizza/N
a group/N of friends/N:friend are in a room/N talking/V:talk with each other
children/N:child singing/V:sing a song/N as a group/N on a stage/N
"""

Kind = Literal["verb", "noun", "either", "other"]
Tagger = Callable[[list[str]], list[tuple[str, Kind]]]  # lemma and kind of each word
KINDS: dict[str, Kind] = {"V": "verb", "N": "noun", "?": "either"}
HELPERS = frozenset(["be", "have", "do", "can", "could", "may", "might", "must", "shall", "should", "will", "would"])


@dataclass(frozen=True)
class Label:
    """What a word is, by hand."""

    word: str
    kind: Kind
    lemma: str


@dataclass
class Counts:
    """What a tagger found: right, wrongly found, and missed, of verbs or of nouns."""

    right: int = 0
    wrong: int = 0
    missed: int = 0

    def __str__(self) -> str:
        precision = self.right / max(self.right + self.wrong, 1)
        recall = self.right / max(self.right + self.missed, 1)
        return f"{precision:9.1%} {recall:7.1%}"


def labelled() -> Iterator[list[Label]]:
    for line in LABELLED.strip().splitlines():
        yield [read_label(token) for token in line.split()]


def read_label(token: str) -> Label:
    word, _, label = token.partition("/")
    kind, _, lemma = label.partition(":")
    return Label(word, KINDS.get(kind, "other"), lemma or word)


def hanta() -> Tagger:
    from HanTa.HanoverTagger import HanoverTagger

    model = HanoverTagger("morphmodel_en.pgz")

    def kind(tag: str) -> Kind:
        return "verb" if tag[0] == "V" else "noun" if tag[:2] in ("NN", "NP") else "other"

    return lambda words: [(lemma, kind(tag)) for _, lemma, tag in model.tag_sent(words, casesensitive=False)]


def ours() -> Tagger:
    from train.text.tagging import tag

    kinds: dict[str, Kind] = {"VERB": "verb", "AUX": "verb", "NOUN": "noun"}
    return lambda words: [(word.lemma, kinds.get(word.pos, "other")) for word in tag(words)]


def textblob_and(lemmatise: Callable[[str, Kind], str]) -> Tagger:
    from textblob.en import tag

    def run(words: list[str]) -> list[tuple[str, Kind]]:
        kinds = [penn_kind(found) for _, found in tag(" ".join(words), tokenize=False)]
        return [(lemmatise(word, kind), kind) for word, kind in zip(words, kinds, strict=True)]

    return run


def penn_kind(tag: str) -> Kind:
    return "verb" if tag.startswith(("VB", "MD")) else "noun" if tag.startswith("NN") else "other"


def textblob_simplemma() -> Tagger:
    from simplemma import lemmatize

    return textblob_and(lambda word, kind: lemmatize(word, lang="en"))


def textblob_lemminflect() -> Tagger:
    from lemminflect import getLemma

    return textblob_and(lambda word, kind: getLemma(word, upos=kind.upper())[0] if kind != "other" else word)


def nltk() -> Tagger:
    from nltk import pos_tag
    from nltk.stem import WordNetLemmatizer

    lemmatiser, letters = WordNetLemmatizer(), {"verb": "v", "noun": "n"}

    def run(words: list[str]) -> list[tuple[str, Kind]]:
        kinds = [penn_kind(found) for _, found in pos_tag(words)]
        return [
            (lemmatiser.lemmatize(word, letters.get(kind, "a")), kind) for word, kind in zip(words, kinds, strict=True)
        ]

    return run


def spacy() -> Tagger:
    import spacy

    pipeline = spacy.load("en_core_web_sm")
    kinds: dict[str, Kind] = {"VERB": "verb", "AUX": "verb", "NOUN": "noun", "PROPN": "noun"}

    def run(words: list[str]) -> list[tuple[str, Kind]]:
        doc = pipeline(spacy.tokens.Doc(pipeline.vocab, words))
        return [(token.lemma_, kinds.get(token.pos_, "other")) for token in doc]

    return run


# Each with the packages it needs.
TAGGERS: dict[str, tuple[Callable[[], Tagger], tuple[str, ...]]] = {
    "HanTa": (hanta, ("HanTa",)),
    "HanTa and rules (train.text)": (ours, ("HanTa",)),
    "TextBlob, simplemma": (textblob_simplemma, ("textblob", "simplemma")),
    "TextBlob, lemminflect": (textblob_lemminflect, ("textblob", "lemminflect")),
    "NLTK's perceptron": (nltk, ("nltk",)),
    "spaCy en_core_web_sm": (spacy, ("spacy",)),
}


def measure(tagger: Tagger) -> str:
    counts = {"verb": Counts(), "noun": Counts()}
    lemmas = right_lemmas = 0
    for caption in labelled():
        for label, (lemma, found) in zip(caption, tagger([label.word for label in caption]), strict=True):
            if label.kind == "either" or (label.kind == "other" and found == "verb" and lemma.lower() in HELPERS):
                continue
            if found == label.kind and found in counts:
                counts[found].right += 1
                lemmas, right_lemmas = lemmas + 1, right_lemmas + (lemma.lower() == label.lemma)
            else:
                if found in counts:
                    counts[found].wrong += 1
                if label.kind in counts:
                    counts[label.kind].missed += 1
    return f"{counts['verb']}   {counts['noun']}   {right_lemmas / max(lemmas, 1):7.1%} {rate(tagger):10,.0f}"


def rate(tagger: Tagger, seconds: float = 1.0) -> float:
    """Captions a second, after one pass that is not timed."""
    captions = [[label.word for label in caption] for caption in labelled()]
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for words in captions:
            tagger(words)
        done += len(captions)
    return done / (time.perf_counter() - start)


def main() -> None:
    captions = list(labelled())
    tally = {kind: sum(label.kind == kind for caption in captions for label in caption) for kind in ("verb", "noun")}
    print(
        f"{len(captions)} captions, {tally['verb']} verbs, {tally['noun']} nouns; lemmas of the verbs and nouns found"
    )
    print(f"{'':30} verbs: P       R   nouns: P       R     lemmas  captions/s")
    for name, (load, packages) in TAGGERS.items():
        if absent := [package for package in packages if importlib.util.find_spec(package) is None]:
            print(f"{name:30} not installed: {', '.join(absent)}")
            continue
        try:
            tagger = load()
            tagger(["a", "dog", "jumps"])
        except (LookupError, OSError) as error:  # NLTK's and spaCy's ways to say that a model is not here
            print(f"{name:30} no model here ({type(error).__name__})")
            continue
        print(f"{name:30}{measure(tagger)}")


if __name__ == "__main__":
    main()
