"""Commands that look at stores."""

from __future__ import annotations

from contextlib import suppress
from typing import Annotated

import typer

from pipeline.commands.console import Json, Store, out, print_json, told


def status(
    store: Store,
    as_json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Go on showing it, and who is at work on what, until Ctrl-C.")
    ] = False,
    every: Annotated[float, typer.Option(help="Seconds between two looks of --watch.", min=0.1)] = 2.0,
) -> None:
    """Show how far a store is: per expert, what is done, failed and pending, and every failure's reason.

    **Examples**

        reelcache status corpus.zarr

        reelcache status corpus.zarr --watch
    """
    from dataclasses import asdict

    from feature_store import summarize
    from feature_store.places import open_place
    from pipeline.show import show_holders, show_status
    from pipeline.watching import Holders
    from pipeline.watching import watch as watch_store

    if watch and as_json:
        raise typer.BadParameter("--watch shows tables or lines: leave --json out")
    with told():
        if watch:
            with suppress(KeyboardInterrupt):
                watch_store(store, out, every)
            return
        summary = summarize(store)
        holders = Holders(open_place(store)).look()
    if as_json:
        print_json(asdict(summary))
    else:
        show_status(out, summary)
        show_holders(out, holders)


def verify(
    store: Store,
    repair: Annotated[bool, typer.Option(help="Drop damaged shards, so that extract does them again.")] = False,
    as_json: Json = False,
) -> None:
    """Check every file of a store against its digest, and what they say against each other.

    Exits with 1 if anything is damaged and not repaired.

    **Examples**

        reelcache verify corpus.zarr

        reelcache verify corpus.zarr --repair
    """
    from dataclasses import asdict

    from feature_store import verify as check
    from pipeline.show import show_verdict

    with told():
        verdict = check(store, repair)
    if as_json:
        print_json(asdict(verdict))
    else:
        show_verdict(out, verdict, repair)
    if verdict.damaged and not repair:
        raise typer.Exit(1)


def inspect(
    store: Store,
    video: Annotated[str, typer.Argument(help="The video's id.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Show one video: how it went for every expert, its rows' times and norms.

    **Example**

        reelcache inspect corpus.zarr video7010
    """
    from feature_store import inspect_video
    from pipeline.show import show_video

    with told():
        found = inspect_video(store, video)
    if as_json:
        print_json({name: view and view.document() for name, view in found.items()})
    else:
        show_video(out, video, found)


def diff(
    a: Annotated[str, typer.Argument(help="A store.", show_default=False)],
    b: Annotated[str, typer.Argument(help="Another.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Compare two stores: can these features be reproduced?

    **Example**

        reelcache diff mine.zarr theirs.zarr
    """
    from dataclasses import asdict

    from feature_store import diff_stores
    from pipeline.show import show_differences

    with told():
        found = diff_stores(a, b)
    if as_json:
        print_json({name: each if isinstance(each, str) else asdict(each) for name, each in found.items()})
    else:
        show_differences(out, found)
