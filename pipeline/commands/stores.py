"""Commands that look at stores."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.console import Json, Store, out, print_json, told


def status(store: Store, as_json: Json = False) -> None:
    """Show how far a store is: per expert, what is done, failed and pending, and every failure's reason.

    **Example**

        reelcache status corpus.zarr
    """
    from dataclasses import asdict

    from feature_store import summarize
    from pipeline.show import show_status

    with told():
        summary = summarize(store)
    if as_json:
        print_json(asdict(summary))
    else:
        show_status(out, summary)


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
