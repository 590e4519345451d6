"""Commands about the published parameters of experts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.console import Json, Options, err, out, parse_options, print_json, told
from pipeline.show import plain


def weights_list(as_json: Json = False) -> None:
    """List the files of weights of the table, and whether they are here.

    **Example**

        reelcache weights list
    """
    with told():
        from dataclasses import asdict

        from extractors import list_weights, weights_folder
        from pipeline.show import show_weights

        folder, files = weights_folder(), list_weights()
    if as_json:
        print_json({"folder": str(folder), "files": [asdict(file) for file in files]})
    else:
        show_weights(out, str(folder), files)


def weights_fetch(
    experts: Annotated[
        list[str] | None, typer.Argument(help="Names, also with commas between; see reelcache experts.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of experts.")] = None,
    option: Options = None,
    to: Annotated[
        Path | None, typer.Option(help="A folder to fetch into, to be copied to a machine without network access.")
    ] = None,
) -> None:
    """Fetch published parameters, once: into the cache, or into a folder. A broken download is gone on with.

    A file that cannot be had does not stop the others; the command then exits with 1.

    **Examples**

        reelcache weights fetch resnet152 s3d vggish

        reelcache weights fetch --preset dual-encoding --to weights/     # then, there: --weights weights/

        reelcache weights fetch ocr --set ocr.languages=en,fr
    """
    with told():
        from extractors import ExpertError, fetch_weights, find_experts, find_preset
        from pipeline.show import show_fetched

        names = [name.strip() for word in experts or () for name in word.split(",") if name.strip()]
        if bool(names) == bool(preset):
            raise ExpertError("say which experts: either NAME NAME or --preset NAME")
        options = parse_options(option or [])
        chosen = find_preset(preset, options) if preset else find_experts(names, options)
        fetched = fetch_weights(chosen, to, tell=lambda file: show_fetched(out, err, file))
    if any(file.problem for file in fetched):
        note = "The same command goes on from here. HTTPS_PROXY and HF_ENDPOINT (a mirror of the hub) are heeded."
        err.print(note, soft_wrap=True)
        raise typer.Exit(1)
    if to:
        note = f"Copy {to} and pass it as --weights, or set REELCACHE_WEIGHTS to it."
        out.print(plain(note), soft_wrap=True)


def weights_verify(
    folder: Annotated[Path | None, typer.Argument(help="[default: where pretrained weights are looked for]")] = None,
    as_json: Json = False,
) -> None:
    """Check the files of weights in a folder against their digests. Exits with 1 if any is damaged.

    **Example**

        reelcache weights verify weights/
    """
    with told():
        from dataclasses import asdict

        from extractors import verify_weights
        from pipeline.show import show_weights_verdict

        verdict = verify_weights(folder)
    if as_json:
        print_json(asdict(verdict))
    else:
        show_weights_verdict(out, verdict)
    if verdict.damaged:
        raise typer.Exit(1)
