"""Commands that bring features from other tools, and give them to others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from pipeline.commands.console import Json, Store, err, out, print_json, told
from pipeline.show import plain


class Corpus(NamedTuple):
    """The videos of a manifest, in order, with the seconds that those last of which it tells."""

    ids: list[str]
    durations: dict[str, float]
    digest: Callable[[int, int], str] | None  # which videos a range of them are; none where only ids are known


def import_features(
    format: Annotated[
        str,
        typer.Argument(help="bigfile, mmt-h5, ce-pickle, hgr-hdf5, tan-hdf5, drn-pt, npy or hdf5.", show_default=False),
    ],
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of features.", show_default=False)],
    store: Store,
    expert: Annotated[str, typer.Option(help="The name to store them under.", show_default=False)],
    key: Annotated[str | None, typer.Option(help="Which features, where a file holds several.")] = None,
    kind: Annotated[
        str | None,
        typer.Option(help="appearance, scene, motion, audio, ocr, face, speech or other. [default: by the name]"),
    ] = None,
    every: Annotated[
        float | None, typer.Option(help="Seconds from row to row, where the format does not tell.")
    ] = None,
    window: Annotated[float | None, typer.Option(help="Seconds that a row covers. [default: --every]")] = None,
    spread: Annotated[bool, typer.Option("--spread", help="Rows cover their video evenly; needs --manifest.")] = False,
    untimed: Annotated[bool, typer.Option("--untimed", help="Nobody knows which seconds rows cover.")] = False,
    manifest: Annotated[
        Path | None,
        typer.Option(help="The store's manifest: its videos, in order; or durations.json of `manifest import`."),
    ] = None,
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="Leave out videos not in the store.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float16 or float32. [default: as the source has it]")] = None,
    shard_videos: Annotated[int, typer.Option(help="Videos a shard, in a new store.")] = 64,
    as_json: Json = False,
) -> None:
    """Import published features into a store, new or not. Nothing is written unless all of them are sound.

    **Examples**

        reelcache import-features mmt-h5 mult_h5/ msrvtt.zarr --expert s3d

        reelcache import-features bigfile FeatureData/resnet152/ msrvtt.zarr --expert resnet152 --every 0.5

        reelcache import-features drn-pt C3D charades.zarr --expert c3d --spread --manifest charades-sta/durations.json

        reelcache import-features ce-pickle senet154-avg.pickle msrvtt.zarr --expert senet154 --untimed
    """
    from dataclasses import asdict

    from feature_store import ImportUsageError
    from feature_store import import_features as run
    from pipeline.show import show_import

    with told(), _counting() as show:
        if spread and manifest is None:
            raise ImportUsageError("--spread: name the manifest, which says how long videos are: --manifest FILE")
        corpus = _corpus_of(manifest) if manifest else None
        summary = run(
            format,
            paths,
            store,
            expert=expert,
            key=key,
            kind=kind,
            every=every,
            window=window,
            durations=corpus.durations if corpus and spread else None,
            untimed=untimed,
            dtype=dtype,
            shard_videos=shard_videos,
            videos=corpus.ids if corpus else None,
            digest=corpus.digest if corpus else None,
            skip_unknown=skip_unknown,
            show=show,
        )
    if as_json:
        print_json(asdict(summary))
    else:
        show_import(out, summary)


def export(
    store: Store,
    folder: Annotated[Path, typer.Option("--output", "-o", help="A new folder.", show_default=False)],
    format: Annotated[str, typer.Option(help="npy, hdf5 or webdataset.", show_default=False)],
    experts: Annotated[str | None, typer.Option(help="Names, with commas between. [default: all]")] = None,
    video: Annotated[list[str] | None, typer.Option(help="An id; may be repeated. [default: all]")] = None,
    as_json: Json = False,
) -> None:
    """Write a store's features as files that other tools read, with their times and provenance.

    **Examples**

        reelcache export corpus.zarr -o features/ --format npy

        reelcache export corpus.zarr -o features/ --format hdf5 --experts s3d,vggish

        reelcache export corpus.zarr -o shards/ --format webdataset
    """
    from dataclasses import asdict

    from feature_store import export_features as run

    with told(), _counting() as show:
        summary = run(
            store, folder, format, experts=None if experts is None else _listed(experts), videos=video, show=show
        )
    if as_json:
        print_json(asdict(summary))
    else:
        rows = ", ".join(f"{name} {count} rows" for name, count in summary.rows.items())
        out.print(plain(f"{summary.videos} videos, {rows} -> {folder}"))


def _corpus_of(manifest: Path) -> Corpus:
    """Videos of a manifest, or of a JSON file of durations; those of cuts are the cuts'."""
    from data_manifests import Manifest
    from data_manifests.recipes import read_durations

    if manifest.suffix == ".json":
        durations = read_durations(manifest)
        return Corpus(list(durations), durations, None)
    ids, durations, videos = [], {}, Manifest(manifest)
    for video in videos:
        ids.append(video.id)
        end = video.end if video.end is not None else video.meta.get("duration")
        if isinstance(end, int | float):
            durations[video.id] = end - (video.start or 0.0)
    return Corpus(ids, durations, videos.digest)


def _listed(names: str) -> list[str]:
    return [name.strip() for name in names.split(",") if name.strip()]


@contextmanager
def _counting() -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar that is told of what is done, how many of it, of how many."""
    from rich.progress import Progress

    with Progress(console=err, transient=True, disable=not err.is_terminal) as bars:
        shown: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in shown:
                shown[what] = bars.add_task(what, total=total)
            bars.update(shown[what], completed=done)

        yield show
