"""The commands that train, evaluate and search.

`reelcache` finds them as entry points, so that what extracts need not know what trains. Torch is imported inside.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from train import RecipeError

if TYPE_CHECKING:
    from train.recipe import Recipe
    from train.tasks.base import Metrics


class Found(NamedTuple):
    """What a search finds: a video, or a moment of it in seconds."""

    video: str
    start: float | None
    end: float | None
    score: float | None  # none where moments of one video are asked for: they come in order


Run = Annotated[Path, typer.Argument(help="The folder of a run.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Store = Annotated[str | None, typer.Option(help="Another store with features of the same kind. [default: the run's]")]
Annotations = Annotated[str | None, typer.Option(help="The folder of annotations, if moved. [default: the run's]")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def train(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a recipe that comes along.")] = "",
    run: Annotated[Path | None, typer.Option("--output", "-o", help="The run's folder. [default: runs/RECIPE]")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE, e.g. training.batch=64; may be repeated.")
    ] = None,
    store: Annotated[str | None, typer.Option(help="The store with the features. [default: data.store]")] = None,
    annotations: Annotated[
        str | None, typer.Option(help="The folder of annotations. [default: data.annotations]")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a run; name its folder in place of a recipe.")
    ] = False,
) -> None:
    """Train a system from cached features, as a recipe says. Without a recipe, list those that come along.

    **Examples**

        reelcache train mmt_msrvtt_1k_a --store msrvtt.zarr --annotations msrvtt-1k-a

        reelcache train mine.toml -o runs/first

        reelcache train runs/first --resume
    """
    from train.recipe import load_recipe

    out = _console()
    if not recipe:
        if resume:
            raise RecipeError("--resume goes on with a run: name its folder")
        _list_recipes(out)
        return
    if resume:
        if run:
            raise RecipeError("--resume goes on in the run's own folder: leave out -o")
        from train.runs import open_recipe

        run = Path(recipe)
        chosen = open_recipe(run, _paths(store, annotations, settings or []))
    else:
        paths = _paths(store, annotations)
        named = [f"{key}={json.dumps(path, ensure_ascii=False)}" for key, path in paths.items()]
        chosen = load_recipe(recipe, [*(settings or []), *named])
        run = run or Path("runs") / Path(recipe).stem
    from train.training import train as follow

    left_out = follow(chosen, run, resume)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return  # the first of several processes speaks for all
    for what in left_out:
        out.print(f"left out: {what}", markup=False, highlight=False)
    _mark_random(out, run)
    split = chosen.data.test
    told = f"{run}: trained; `reelcache evaluate {run}` measures it on {split}"
    out.print(told, markup=False, highlight=False, soft_wrap=True)  # a path is not to be broken


def evaluate(
    run: Run,
    split: Annotated[str | None, typer.Option(help="A split of the annotations. [default: the recipe's test]")] = None,
    store: Store = None,
    annotations: Annotations = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="KEY=PATH of another file that was moved; may be repeated.")
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Measure a trained model by its paper's protocol. The figures are also kept in the run, as JSON and CSV.

    **Example**

        reelcache evaluate runs/mmt_msrvtt_1k_a
    """
    from train.runs import random_experts
    from train.testing import evaluate_run

    measured = evaluate_run(run, split, _paths(store, annotations, settings or []), device)
    metrics, random = measured.metrics, sorted(random_experts(run))
    document = {
        "split": measured.split,
        "protocol": metrics.protocol,
        "metrics": metrics.to_dict(),
        "random_features": random,
        "left_out": measured.left_out,
    }
    _keep(run / "evaluation" / measured.split, document, metrics)
    if as_json:
        print(json.dumps(document, indent=1))
        return
    out = _console()
    out.print(_metrics_table(metrics, measured.recipe))
    out.print(f"{measured.split}: {metrics.told()}", highlight=False, markup=False)
    for what in measured.left_out:
        out.print(f"left out: {what}", highlight=False, markup=False)
    _mark_random(out, run)


def index(
    run: Run,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The index to make. [default: moments.zarr in the run]")
    ] = None,
    store: Store = None,
    device: Device = "auto",
    verify: Annotated[
        bool, typer.Option("--verify", help="Make nothing: read an index that is there, and say whether it is whole.")
    ] = False,
) -> None:
    """Embed the moments of all videos of the store, for a run of FVMR; a search is then one matrix product.

    **Examples**

        reelcache index runs/fvmr_charades -o moments.zarr

        reelcache index runs/fvmr_charades -o moments.zarr --verify
    """
    from train.grounding.moments import MomentIndex
    from train.moment_search import INDEX, build_index
    from train.search import open_model

    if verify:
        if store:
            raise RecipeError("--verify reads an index alone: leave out --store")
        there = MomentIndex(output or run / INDEX)
        there.verify()
        _console().print(f"{there.path}: every file is as it was written", markup=False, highlight=False)
        return
    made, out = build_index(open_model(run, _paths(store), device), output), _console()
    out.print(f"{len(made)} moments of {len(made.videos)} videos -> {made.path}", markup=False, highlight=False)
    _mark_random(out, run)


def search(
    run: Run,
    query: Annotated[str, typer.Argument(help="A sentence.", show_default=False)],
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 10,
    store: Store = None,
    annotations: Annotations = None,
    device: Device = "auto",
    index: Annotated[
        Path | None, typer.Option(help="An index of moments. [default: the run's own, made at the first search]")
    ] = None,
    among: Annotated[
        Path | None, typer.Option(help="Look among these videos only: a file of ids, such as test.videos.txt.")
    ] = None,
    video: Annotated[
        str | None, typer.Option(help="Find when in this video, with a run of any grounding system.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="For moments: torch, or faiss if it is installed. [default: torch]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the videos of the store that a sentence fits best, or, with a run of FVMR, the moments of all videos.

    All are embedded at the first search.

    **Examples**

        reelcache search runs/mmt_msrvtt_1k_a "a dog catches a frisbee"

        reelcache search runs/fvmr_charades "a person opens the door" --index moments.zarr

        reelcache search runs/drn_charades "a person opens the door" --video 3MSZA
    """
    from train.annotations import read_ids
    from train.moment_search import moments_of, search_moments
    from train.search import check_query, open_index, open_model
    from train.tasks.base import RetrievalTask

    opened = open_model(run, _paths(store, annotations), device)
    finds_videos = isinstance(opened.task, RetrievalTask)
    if video is not None and (index or among or engine):
        raise RecipeError("--video looks at one video alone: leave out --index, --among and --engine")
    if finds_videos and (index or engine):
        raise RecipeError(f"--index and --engine are for moments; {opened.recipe.model.system} finds videos")
    ids = set(read_ids(among)) if among else None
    if video is not None:
        found = [Found(video, start, end, None) for start, end in moments_of(opened, query, video, top)]
    elif finds_videos:
        found = [Found(hit.video, None, None, hit.score) for hit in open_index(opened).search(query, top, ids)]
    else:
        moments = search_moments(opened, query, top, index, engine or "torch", ids)
        found = [Found(each.video, each.start, each.end, each.score) for each in moments]
    if unknown := check_query(opened.task, query):
        told = f"the model does not know, and passes over: {', '.join(unknown)}"
        Console(stderr=True).print(told, markup=False, highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps([each._asdict() for each in found], indent=1))
        return
    out = _console()
    table = Table(box=None, pad_edge=False)
    cells = [
        {
            "score": None if each.score is None else f"{each.score:.4f}",
            "start s": None if each.start is None else f"{each.start:.1f}",
            "end s": None if each.end is None else f"{each.end:.1f}",
            "video": escape(each.video),
        }
        for each in found
    ]
    for column in (column for column in cells[0] if cells[0][column] is not None):
        table.add_column(column, justify="left" if column == "video" else "right")
    for row in cells:
        table.add_row(*(cell for cell in row.values() if cell is not None))
    out.print(table)
    _mark_random(out, run)


def import_model(
    recipe: Annotated[str, typer.Argument(help="A TOML file, or the name of a recipe.", show_default=False)],
    checkpoint: Annotated[
        Path, typer.Argument(help="The released file: model_best.pth.tar, trained_model.pth, epoch.N.th.")
    ],
    run: Annotated[Path, typer.Option("--output", "-o", help="The run's folder.", show_default=False)],
    vocabularies: Annotated[
        list[Path] | None, typer.Option("--vocabulary", help="A vocabulary released with it; may be repeated.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="SECTION.KEY=VALUE, e.g. data.store=msrvtt.zarr; may be repeated.")
    ] = None,
) -> None:
    """Make a run of a model that its authors released: Dual Encoding, its hybrid space, MMT or HANet.

    The recipe says which system it is, and which features and captions it meets; sizes are read from the file.

    **Example**

        reelcache import-model hanet_msrvtt epoch.30.th --vocabulary word2int.json -o runs/released
    """
    from train.adopting import adopt
    from train.recipe import load_recipe

    chosen, out = load_recipe(recipe, settings or []), _console()
    unnamed = adopt(chosen, checkpoint, vocabularies or [], run)
    split = chosen.data.test
    out.print(
        f"{run}: {chosen.model.system} as released; `reelcache evaluate {run}` measures it on {split}",
        markup=False,
        highlight=False,
    )
    if unnamed:
        out.print(f"Without the vocabulary of {' and '.join(unnamed)} it cannot be trained further.", highlight=False)
    _mark_random(out, run)


def _paths(store: str | None = None, annotations: str | None = None, settings: Sequence[str] = ()) -> dict[str, str]:
    """Paths of a run that are named anew, by their keys in the recipe."""
    paths = {}
    for setting in settings:
        key, equals, path = setting.partition("=")
        if not (equals and path):
            raise RecipeError(f"--set {setting}: write KEY=PATH, e.g. model.word_vectors=glove.6B.300d.txt")
        paths[key] = path
    named = {"data.store": store, "data.annotations": annotations}
    return paths | {key: path for key, path in named.items() if path is not None}


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 120)  # a file or a pipe has no width of its own


def _list_recipes(out: Console) -> None:
    from train.recipe import load_recipe, recipe_names

    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", no_wrap=True)
    table.add_column("what it trains")
    for name in recipe_names():
        table.add_row(name, escape(load_recipe(name).about))
    out.print(table)


def _metrics_table(metrics: Metrics, recipe: Recipe) -> Table:
    table = Table(box=None, pad_edge=False)
    rows = metrics.rows()
    for column in ("", *rows[0].figures):
        table.add_column(column, justify="right" if column else "left")
    for row in rows:
        table.add_row(row.name, *map(_number, row.figures.values()))
        published = [recipe.published.get(f"{row.key}{column}") for column in row.figures]
        if any(value is not None for value in published):
            shown = ("" if value is None else _number(value) for value in published)
            table.add_row("  published", *shown, style="dim")
    return table


def _number(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def _keep(path: Path, document: Mapping[str, Any], metrics: Metrics) -> None:
    import csv

    path.parent.mkdir(exist_ok=True)
    path.with_name(f"{path.name}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    rows = metrics.csv_rows()
    with open(path.with_name(f"{path.name}.csv"), "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _mark_random(out: Console, run: Path) -> None:
    """Say so where features come from random weights."""
    from train.runs import random_experts

    random = random_experts(run)
    if random:
        names = ", ".join(random)
        out.print(
            f"The features of {names} come from random weights: figures say nothing of real ones.", style="yellow"
        )
