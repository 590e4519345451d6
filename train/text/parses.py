"""What is read out of captions once and kept beside the annotations: tagged words and role graphs."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from feature_store.clean_processes import map_in_processes
from train import RecipeError, TrainError
from train.text import role_rules, role_spacy, tagging
from train.text.role_graphs import Edge, Node, RoleGraph
from train.text.tagging import Word

Parse = TypeVar("Parse")

FORMAT = "reelcache-parses-1"
_WORTH_PROCESSES = 20_000  # captions; a process starts in a few seconds and reads 1,000 captions a second
_AT_ONCE = 500


class ParseError(TrainError):
    """A file of parses that is damaged; the message names the file and the line."""


@dataclass(frozen=True)
class Parser(Generic[Parse]):
    """A way to read a caption's words, and how what it makes is written down."""

    name: str
    version: Callable[[], str]
    parse: Callable[[Sequence[str]], Parse]
    to_json: Callable[[Parse], Any]
    from_json: Callable[[Any, Sequence[str]], Parse]  # with the caption's words; raises ValueError and the like


def tag_captions(captions: Sequence[Sequence[str]], folder: Path, processes: int | None = None) -> list[list[Word]]:
    """The tagged words of each caption, given as its words; kept in `folder`/tags.jsonl as role graphs are."""
    return _keep(_TAGS, captions, folder, processes)


def parse_captions(
    captions: Sequence[Sequence[str]], folder: Path, builder: str = "rules", processes: int | None = None
) -> list[RoleGraph]:
    """The role graph of each caption, given as its words.

    Graphs are kept in `folder`/role_graphs.BUILDER.jsonl: those that are there are read, others are made and added. The
    file is replaced as a whole, so a reader never meets half of it. Graphs of another version of the builder are made
    anew. `processes` is how many make graphs; None is one, or one for each core where that pays.

    Raises:
        RecipeError: there is no such builder.
        ParseError: the file is damaged.
    """
    if builder not in BUILDERS:
        raise RecipeError(f"there is no builder of role graphs {builder!r}; there are {', '.join(BUILDERS)}")
    return _keep(BUILDERS[builder], captions, folder, processes)


def _keep(parser: Parser[Parse], captions: Sequence[Sequence[str]], folder: Path, processes: int | None) -> list[Parse]:
    path, version = folder / f"{parser.name}.jsonl", parser.version()
    known = _read(path, parser, version) if path.exists() else {}
    keys = [" ".join(words) for words in captions]
    missing = {key: words for key, words in zip(keys, captions, strict=True) if key not in known}
    if missing:
        made = _parse(parser.parse, list(missing.values()), processes)
        known |= zip(missing, made, strict=True)
        _write(path, parser, version, known)
    return [known[key] for key in keys]


def _parse(
    parse: Callable[[Sequence[str]], Parse], captions: Sequence[Sequence[str]], processes: int | None
) -> list[Parse]:
    workers = processes or ((os.cpu_count() or 1) if len(captions) >= _WORTH_PROCESSES else 1)
    if workers == 1:
        return [parse(words) for words in captions]
    return list(map_in_processes(parse, captions, workers, _AT_ONCE))


def _write(path: Path, parser: Parser[Parse], version: str, parses: Mapping[str, Parse]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "w", encoding="ascii") as file:
            file.write(json.dumps({"format": FORMAT, "version": version}) + "\n")
            for caption, parse in parses.items():
                file.write(json.dumps({"caption": caption, "parse": parser.to_json(parse)}) + "\n")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _read(path: Path, parser: Parser[Parse], version: str) -> dict[str, Parse]:
    """What a file holds, by the caption's words with spaces between; nothing where it is of another version."""
    parses: dict[str, Parse] = {}
    number = 1
    try:
        with open(path, encoding="ascii") as file:
            header = json.loads(next(file, ""))
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {header['format']!r}, not {FORMAT!r}")
            if header["version"] != version:
                return {}
            for line in file:
                number += 1
                row = json.loads(line)
                parses[row["caption"]] = parser.from_json(row["parse"], row["caption"].split(" "))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else error
        raise ParseError(f"{path}:{number}: is damaged ({reason}). Delete the file; it is made again.") from None
    return parses


def _graph_to_json(graph: RoleGraph) -> Any:
    nodes = [[node.role, node.first, node.stop] for node in graph.nodes]
    return [nodes, [[edge.verb, edge.argument, edge.role] for edge in graph.edges]]


def _graph_from_json(parse: Any, words: Sequence[str]) -> RoleGraph:
    nodes, edges = parse
    if not all(
        type(place) is int for row in (*[node[1:] for node in nodes], *[edge[:2] for edge in edges]) for place in row
    ):
        raise ValueError("a place in it is no whole number")
    graph = RoleGraph(
        tuple(Node(role, first, stop) for role, first, stop in nodes),
        tuple(Edge(verb, argument, role) for verb, argument, role in edges),
    )
    graph.check(len(words))
    return graph


def _words_from_json(parse: Any, words: Sequence[str]) -> list[Word]:
    if words == [""]:
        words = []
    return [Word(text, lemma, tag, part) for text, (lemma, tag, part) in zip(words, parse, strict=True)]


_TAGS: Parser[list[Word]] = Parser(
    "tags", tagging.version, tagging.tag, lambda words: [word[1:] for word in words], _words_from_json
)
BUILDERS: dict[str, Parser[RoleGraph]] = {
    name: Parser(f"role_graphs.{name}", version, build, _graph_to_json, _graph_from_json)
    for name, version, build in (
        ("rules", role_rules.version, role_rules.build),
        ("spacy", role_spacy.version, role_spacy.build),
    )
}
