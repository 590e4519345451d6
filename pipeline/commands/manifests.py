"""Commands that make manifests."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.console import err, out, told


def manifest_build(
    source: Annotated[
        str, typer.Argument(help="A folder, a glob pattern in quotes, or a CSV file with a path column.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write, e.g. corpus.jsonl.")],
    drop_unreadable: Annotated[
        bool, typer.Option(help="Leave unreadable files out. By default they stay, and extract records why they fail.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Files probed at once.")] = os.cpu_count() or 1,
) -> None:
    """Find videos, read their headers and first frame, and write the manifest.

    **Examples**

        reelcache manifest build videos/ -o corpus.jsonl

        reelcache manifest build 'videos/**/*.mkv' -o corpus.jsonl

        reelcache manifest build clips.csv -o corpus.jsonl     # columns: path, and if wanted id, start, end
    """
    from dataclasses import replace

    from rich.progress import track

    from data_manifests import write_rows
    from pipeline.corpus import find_videos, probe_videos, relative_to
    from pipeline.show import show_problems

    with told():
        found = find_videos(source)
        folder = output.absolute().parent
        problems = list(found.problems)
        videos = []
        probing = probe_videos(found.videos, min(workers, len(found.videos)))
        for probed in track(probing, "probing", len(found.videos), console=err, transient=True):
            if probed.problem:
                problems.append((probed.video.id, probed.problem))
            if not (probed.problem and drop_unreadable):
                videos.append(replace(probed.video, path=relative_to(folder, probed.video)))
        folder.mkdir(parents=True, exist_ok=True)
        written = write_rows(output, videos)
    show_problems(out, problems)
    seconds = sum(video.meta.get("duration", 0.0) for video in videos)
    out.print(f"{written} videos, {seconds / 3600:.2f} hours, {len(problems)} unreadable -> {output}", highlight=False)
