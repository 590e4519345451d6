"""`reelcache demo`: the whole tool on a small corpus of its own making, each step shown as the command it is."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from data_manifests import Caption, Moment, read_rows
from extractors import find_preset
from feature_store import FeatureStore, summarize
from pipeline.demo_corpus import make_demo_corpus
from pipeline.extraction import extract
from pipeline.progress import Progress
from pipeline.show import plain, show_status, show_summary, table

EXAMPLE = "demo000"
Row = TypeVar("Row", Caption, Moment)


def run_demo(console: Console, folder: Path, videos: int) -> None:
    """Make the corpus in `folder`, extract it with the demo preset, and show what is there."""
    console.rule("1. a corpus: real MP4 files with captions and moments that are known by construction", align="left")
    manifest = _step(console, f"making {videos} videos", lambda: make_demo_corpus(folder, videos))
    _show_annotations(console, folder)

    store = folder / "corpus.zarr"
    console.rule("2. its features", align="left")
    words = ["extract", str(manifest), str(store), "--preset", "demo", "--weights", "random"]
    _show_command(console, words)
    summary = extract(manifest, store, find_preset("demo"), weights="random", show=Progress(console).showing)
    show_summary(console, summary)

    console.rule("3. what is in the store", align="left")
    _show_command(console, ["status", str(store)])
    show_status(console, summarize(store))
    _show_features(console, FeatureStore(store))

    console.rule("4. a model that finds videos by text, trained from these features", align="left")
    retrieval = _train(console, folder, "demo_dual_encoding", "captions")
    console.rule("5. what it finds", align="left")
    unseen = folder / "captions" / "test.videos.txt"
    for caption in _first_of_each(folder / "captions" / "test.jsonl", Caption, 3):
        console.print(plain(f"A sentence about {caption.video}, which the model was not trained with:"))
        _command(console, "search", retrieval, caption.text, "--among", unseen, "--top", "3")

    console.rule("6. a model that finds moments by text", align="left")
    grounding = _train(console, folder, "demo_fvmr", "moments")
    _command(console, "index", grounding)
    for moment in _first_of_each(folder / "moments" / "test.jsonl", Moment, 2):
        seconds = f"{moment.start:.1f} s to {moment.end:.1f} s"
        console.print(
            plain(f"A sentence about {moment.video} from {seconds}, which it was not trained with. When was it?")
        )
        _command(console, "search", grounding, moment.text, "--video", moment.video, "--top", "1")
    console.print("And among all moments of all videos:")
    _command(console, "search", grounding, moment.text, "--top", "3")


def _train(console: Console, folder: Path, recipe: str, annotations: str) -> Path:
    """Train with a recipe, or go on with what was begun, and measure it. Returns the run's folder."""
    run = folder / "runs" / recipe
    paths = ("--set", f"data.store={folder / 'corpus.zarr'}", "--set", f"data.annotations={folder / annotations}")
    _command(console, "train", *((run, "--resume") if run.exists() else (recipe, "-o", run, *paths)))
    _command(console, "evaluate", run)
    return run


def _command(console: Console, *arguments: str | Path) -> None:
    """Show a command and run it, as it would be typed."""
    from pipeline.cli import app

    words = list(map(str, arguments))
    _show_command(console, words)
    app(words, standalone_mode=False)


def _show_command(console: Console, words: list[str]) -> None:
    console.print(plain(f"$ reelcache {shlex.join(words)}"), soft_wrap=True)


def _first_of_each(path: Path, kind: type[Row], count: int) -> list[Row]:
    """The first row of each of the first few videos of a split."""
    first = {row.video: row for row in reversed(list(read_rows(path, kind)))}
    return [first[video] for video in sorted(first)[:count]]


def _step(console: Console, what: str, work: Callable[[], Any]) -> Any:
    with console.status(what):
        return work()


def _show_annotations(console: Console, folder: Path) -> None:
    caption = next(row for row in read_rows(folder / "captions.jsonl", Caption) if row.video == EXAMPLE)
    console.print(plain(f'{EXAMPLE} is captioned "{caption.text}"; in it'))
    moments = table(">start s", ">end s", "moment")
    for row in read_rows(folder / "moments.jsonl", Moment):
        if row.video == EXAMPLE:
            moments.add_row(f"{row.start:.2f}", f"{row.end:.2f}", plain(row.text))
    console.print(moments)


def _show_features(console: Console, store: FeatureStore) -> None:
    """A short table of one video's rows, and how to read them from Python."""
    shown = table("expert", ">rows", ">dim", "first row covers", ">norm")
    for name in store.experts:
        features = store[name].read(EXAMPLE)
        if not len(features.values):
            shown.add_row(plain(name), "0", str(store.experts[name].dim), "none: nothing was found", "")
            continue
        start, end = features.times[0]
        norm = float((features.values[0] ** 2).sum() ** 0.5)
        rows, dim = features.values.shape
        shown.add_row(plain(name), str(rows), str(dim), f"{start:g} s to {end:g} s", f"{norm:.3g}")
    console.print(plain(f"{EXAMPLE} has"), shown)
    found = next(name for name in store.experts if store[name].status(EXAMPLE).rows)
    read = f'FeatureStore("{store.path}")["{found}"].read("{EXAMPLE}").values'
    console.print(f"In Python: from feature_store import FeatureStore; {read}", highlight=False, markup=False)
