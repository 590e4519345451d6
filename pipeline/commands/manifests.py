"""Commands that make manifests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.console import err, out, told


def manifest_build(
    source: Annotated[
        str, typer.Argument(help="A folder, a glob pattern in quotes, or a .csv or .tsv with a path column.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write, e.g. corpus.jsonl.")],
    drop_unreadable: Annotated[
        bool, typer.Option(help="Leave unreadable files out. By default they stay, and extract records why they fail.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Write it anew. By default the videos of an existing one keep their places.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Files probed at once.")] = os.cpu_count() or 1,
) -> None:
    """Find videos, read their headers and first frame, and write the manifest.

    Of a manifest that is there, videos keep their order and ids, so that stores made from it can be extended: new ones
    go to the end, and those whose files are gone stay.

    **Examples**

        reelcache manifest build videos/ -o corpus.jsonl

        reelcache manifest build 'videos/**/*.mkv' -o corpus.jsonl

        reelcache manifest build clips.csv -o corpus.jsonl     # columns: path, and if wanted id, start, end
    """
    from dataclasses import replace

    from rich.progress import track

    from data_manifests import Manifest, write_rows
    from pipeline.corpus import find_videos, grow, probe_videos, relative_to
    from pipeline.show import show_problems

    with told():
        found = find_videos(source)
        grown = grow([] if fresh or not output.exists() else Manifest(output), found.videos)
        folder = output.absolute().parent
        problems = list(found.problems)
        videos = []
        probing = probe_videos(grown.videos, min(workers, len(grown.videos)))
        for probed in track(probing, "probing", len(grown.videos), console=err, transient=True):
            if probed.problem:
                problems.append((probed.video.id, probed.problem))
            if not (probed.problem and drop_unreadable):
                videos.append(replace(probed.video, path=relative_to(folder, probed.video)))
        folder.mkdir(parents=True, exist_ok=True)
        written = write_rows(output, videos)
    show_problems(out, problems)
    seconds = sum(video.meta.get("duration", 0.0) for video in videos)
    if found.passed_over:
        _say(found.passed_over)
    if grown.added < written:
        gone = f", {len(grown.gone)} of them gone ({', '.join(grown.gone[:3])}); --fresh leaves them out"
        _say(f"{written - grown.added} videos as before{gone if grown.gone else ''}; {grown.added} new")
    _say(f"{written} videos, {seconds / 3600:.2f} hours, {len(problems)} unreadable -> {output}")


def manifest_import(
    dataset: Annotated[str, typer.Argument(help="The dataset and its split, e.g. msrvtt-1k-a.", show_default=False)],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(help="Its annotation files, in any order, or folders of them; none: say what is needed."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The folder for the splits.", show_default=False)
    ] = None,
    any_counts: Annotated[
        bool, typer.Option("--any-counts", help="Import even if the counts are not those that the authors publish.")
    ] = False,
) -> None:
    """Turn a dataset's annotation files, as its authors publish them, into captions or moments by split.

    Writes of every split S: S.jsonl, its rows, and S.videos.txt, the ids of its videos; and import.json, the counts.
    Without PATHS it tells which files it reads, what they look like, and where they are published.

    **Captions** msrvtt-full, msrvtt-1k-a, msrvtt-1k-a-7k, msrvtt-1k-b, msvd, vatex, activitynet-captions, lsmdc, tgif,
    tgif-li

    **Moments** charades-sta, activitynet-captions-moments, tacos, tacos-ctrl, qvhighlights

    **Examples**

        reelcache manifest import msvd

        reelcache manifest import msvd msvd/ -o msvd-splits

        reelcache manifest import charades-sta charades_sta_*.txt Charades_v1_*.csv -o charades
    """
    from data_manifests import ManifestError
    from data_manifests.recipes import RECIPES, import_dataset

    with told():
        if dataset not in RECIPES:
            raise ManifestError(f"{dataset}: there is no such dataset; there are {', '.join(RECIPES)}")
        recipe = RECIPES[dataset]
        if not paths:
            out.print(str(recipe), markup=False, highlight=False, soft_wrap=True)
            return
        if output is None:
            raise ManifestError("say with -o which folder the splits go to")
        record = import_dataset(recipe, paths, output, any_counts)
    for name, split in record["splits"].items():
        rows = split[f"{recipe.kind}s"]
        _say(f"{name}: {split['videos']:,} videos, {rows:,} {recipe.kind}s -> {output / name}.jsonl")
        for note, count in split["notes"].items():
            _say(f"  {note}: {count:,}")
    for note, count in record["notes"].items():
        _say(f"{note}: {count:,}")
    for problem in record["problems"]:
        _say(f"accepted: {problem}")


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
