"""The `reelcache` command. Each command parses, calls one documented Python function, and prints.

Modules are imported inside commands: `reelcache --help` starts without torch.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points

import typer

from pipeline.commands import extracting, interchange, manifests, stores, weights
from pipeline.commands.console import prepare_streams, telling
from pipeline.tuning import keep_freed_memory

# Threads of torch that wait must not keep decoding from the processor; OpenMP reads this once, at its start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
keep_freed_memory()

ANY_TEXT = {"ignore_unknown_options": True}  # ids of YouTube may begin with -, as may what is searched for

app = typer.Typer(
    help="Turn a video corpus into a Zarr store of expert features, once; train from it in minutes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
manifest_app = typer.Typer(help="Make manifests: the list of videos of a corpus.", no_args_is_help=True)
manifest_app.command("build")(manifests.manifest_build)
manifest_app.command("import")(manifests.manifest_import)
app.add_typer(manifest_app, name="manifest")

weights_app = typer.Typer(help="Fetch and check the published parameters of experts.", no_args_is_help=True)
weights_app.command("list")(weights.weights_list)
weights_app.command("fetch")(weights.weights_fetch)
weights_app.command("verify")(weights.weights_verify)
app.add_typer(weights_app, name="weights")

app.command("experts")(extracting.experts)
app.command("extract")(extracting.extract)
app.command("status")(stores.status)
app.command("verify")(stores.verify)
app.command("inspect", context_settings=ANY_TEXT)(stores.inspect)
app.command("diff")(stores.diff)
app.command("embed-text")(extracting.embed_text)
app.command("import-features")(interchange.import_features)
app.command("export")(interchange.export)
for command in sorted(entry_points(group="reelcache.commands")):  # what trains, which pipeline knows nothing of
    settings = ANY_TEXT if command.name == "search" else None
    app.command(command.name, context_settings=settings)(telling(command.load()))
app.command("demo")(extracting.demo)


def main() -> None:
    """The command."""
    prepare_streams()
    app()


if __name__ == "__main__":
    main()
