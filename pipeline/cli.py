"""The `reelcache` command. Each command parses, calls one documented Python function, and prints.

Modules are imported inside commands: `reelcache --help` starts without torch.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from pipeline.tuning import keep_freed_memory

if TYPE_CHECKING:
    from data_manifests import Video

# Threads of torch that wait must not keep decoding from the processor; OpenMP reads this once, at its start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
keep_freed_memory()

app = typer.Typer(
    help="Turn a video corpus into a Zarr store of expert features, once; train from it in minutes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
manifest_app = typer.Typer(help="Make manifests: the list of videos of a corpus.", no_args_is_help=True)
app.add_typer(manifest_app, name="manifest")
weights_app = typer.Typer(help="Fetch and check the published parameters of experts.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")

WIDTH = None if sys.stdout.isatty() else 120  # a file or a pipe has no width of its own
out, err = Console(width=WIDTH), Console(stderr=True)

Store = Annotated[str, typer.Argument(help="The store, a folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]


@contextmanager
def told() -> Iterator[None]:
    """Errors that a user can mend are told in a sentence: exit code 2 for wrong usage, 1 for the rest."""
    try:
        yield
    except KeyboardInterrupt:
        err.print("stopped; the same command goes on from here")
        raise typer.Exit(1) from None
    except Exception as error:
        code = _exit_code(error)
        if code is None:
            raise
        err.print("error: ", style="bold red", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(code) from None


def _exit_code(error: Exception) -> int | None:
    """None for what no user can mend: a bug, whose traceback is wanted."""
    from data_manifests import ManifestError
    from feature_store import StoreError

    if isinstance(error, ManifestError | StoreError | OSError):
        return 1
    if "extractors" not in sys.modules:
        return None
    from extractors import ExpertError, WeightsError
    from pipeline.backends import DecoderMissing
    from pipeline.extraction import ExtractError

    if isinstance(error, WeightsError | DecoderMissing):
        return 1
    return 2 if isinstance(error, ExpertError | ExtractError) else None


def print_json(document: Any) -> None:
    print(json.dumps(document, ensure_ascii=False, indent=1))


@manifest_app.command("build")
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


@weights_app.command("list")
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


@weights_app.command("fetch")
def weights_fetch(
    experts: Annotated[
        list[str] | None, typer.Argument(help="Names, also with commas between; see reelcache experts.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of experts.")] = None,
    to: Annotated[
        Path | None, typer.Option(help="A folder to fetch into, to be copied to a machine without network access.")
    ] = None,
) -> None:
    """Fetch published parameters, once: into the cache, or into a folder. A broken download is gone on with.

    A file that cannot be had does not stop the others; the command then exits with 1.

    **Examples**

        reelcache weights fetch resnet152 s3d vggish

        reelcache weights fetch --preset dual-encoding --to weights/     # then, there: --weights weights/
    """
    with told():
        from extractors import ExpertError, fetch_weights, find_experts, find_preset
        from pipeline.show import show_fetched

        names = [name.strip() for word in experts or () for name in word.split(",") if name.strip()]
        if not (names or preset):
            raise ExpertError("say which experts: NAME NAME or --preset NAME")
        chosen = [*find_experts(names), *(find_preset(preset) if preset else ())]
        fetched = fetch_weights(chosen, to, tell=lambda file: show_fetched(out, err, file))
    if any(file.problem for file in fetched):
        note = "The same command goes on from here. HTTPS_PROXY and HF_ENDPOINT (a mirror of the hub) are heeded."
        err.print(note, soft_wrap=True)
        raise typer.Exit(1)
    if to:
        note = f"Copy {to} and pass it as --weights, or set REELCACHE_WEIGHTS to it."
        out.print(note, highlight=False, markup=False, soft_wrap=True)


@weights_app.command("verify")
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


@app.command()
def experts(as_json: Json = False) -> None:
    """List the experts that can be extracted, and whether their weights are here.

    **Example**

        reelcache experts
    """
    with told():
        from dataclasses import asdict

        from extractors import EXPERTS, PRESETS, dimension, is_cached
        from pipeline.show import show_experts

        listed = [
            {
                "name": expert.name,
                "kind": expert.kind,
                "dim": dimension(expert),
                "sampling": asdict(expert.samples),
                "cached": is_cached(expert),
                **asdict(expert.weights),
            }
            for expert in EXPERTS.values()
        ]
        presets = {name: [expert.name for expert in preset] for name, preset in PRESETS.items()}
        if as_json:
            print_json({"experts": listed, "presets": presets})
        else:
            show_experts(out, EXPERTS.values(), listed, presets)


@app.command()
def extract(
    manifest: Annotated[Path, typer.Argument(help="The manifest, JSONL.", show_default=False)],
    store: Store,
    experts: Annotated[str | None, typer.Option(help="Names, with commas between; see reelcache experts.")] = None,
    preset: Annotated[str | None, typer.Option(help="A named set of experts, e.g. mmt; see reelcache experts.")] = None,
    weights: Annotated[str, typer.Option(help="pretrained, random, or a folder of weights.")] = "pretrained",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32, bf16 or fp16: what networks compute in.")] = "fp32",
    dtype: Annotated[str, typer.Option(help="float16 or float32: what is stored.")] = "float16",
    shard_videos: Annotated[int, typer.Option(help="Videos a shard: the unit of resuming.")] = 64,
    workers: Annotated[
        int | None, typer.Option(help="Videos decoded at once, a thread each. [default: by machine]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a batch. [default: by device and expert]")] = None,
    decoder: Annotated[str, typer.Option(help="av, decord or torchcodec.")] = "av",
    store_as: Annotated[
        list[str] | None, typer.Option("--as", help="NAME, or EXPERT=NAME with several experts: store under this name.")
    ] = None,
    option: Annotated[
        list[str] | None, typer.Option("--set", help="EXPERT.OPTION=VALUE, e.g. s3d.hop=8; may be repeated.")
    ] = None,
    word_vectors: Annotated[
        Path | None, typer.Option(help="word2vec or GloVe file for OCR and speech. [default: hashed spelling]")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Also do the videos again that failed before.")] = False,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if any video failed or was truncated.")] = False,
    as_json: Json = False,
) -> None:
    """Extract features of a corpus into a store. The same command resumes, extends and adds experts.

    **Examples**

        reelcache extract corpus.jsonl corpus.zarr --experts resnet152,s3d,vggish

        reelcache extract corpus.jsonl corpus.zarr --experts timm:vit_base_patch16_siglip_224 --precision bf16

        reelcache extract corpus.jsonl corpus.zarr --experts s3d --set s3d.hop=8 --as s3d_dense

        reelcache extract corpus.jsonl corpus.zarr --preset mmt --word-vectors GoogleNews-vectors-negative300.bin
    """
    with told():
        from dataclasses import asdict

        from extractors import ExpertError, find_experts, find_preset
        from pipeline import extract as run
        from pipeline.progress import Progress
        from pipeline.show import show_summary, weights_text

        if (experts is None) == (preset is None):
            raise ExpertError("say which experts: either --experts NAME,NAME or --preset NAME")
        options = _options(option or [])
        names = [name.strip() for name in (experts or "").split(",") if name.strip()]
        if word_vectors:
            named = names or [expert.name for expert in find_preset(str(preset))]
            for name in {"ocr", "speech"} & set(named):
                options.setdefault(name, {})["words"] = str(word_vectors)
        chosen = find_preset(preset, options) if preset else find_experts(names, options)
        summary = run(
            manifest,
            store,
            chosen,
            weights=weights,
            seed=seed,
            device=device,
            precision=precision,
            dtype=dtype,
            shard_videos=shard_videos,
            workers=workers,
            batch_size=batch_size,
            decoder=decoder,
            names=_names(store_as or [], [expert.name for expert in chosen]),
            retry_failed=retry_failed,
            show=Progress(err).showing,
        )
    if as_json:
        print_json(asdict(summary))
    else:
        show_summary(out, summary)
        if weights == "random":
            out.print("weights ", weights_text(f"random:{seed}"), ": the features serve tests only", sep="")
    if strict and summary.reasons:
        raise typer.Exit(1)


def _options(settings: list[str]) -> dict[str, dict[str, str]]:
    from extractors import ExpertError

    options: dict[str, dict[str, str]] = {}
    for setting in settings:
        place, equals, value = setting.partition("=")
        expert, dot, name = place.rpartition(".")
        if not (equals and dot and expert and name):
            raise ExpertError(f"--set {setting}: write EXPERT.OPTION=VALUE, e.g. s3d.hop=8")
        options.setdefault(expert, {})[name] = value
    return options


def _names(settings: list[str], experts: list[str]) -> dict[str, str]:
    from extractors import ExpertError

    names = {}
    for setting in settings:
        expert, equals, name = setting.rpartition("=")
        if not equals and len(experts) == 1:
            expert = experts[0]
        if expert not in experts or not name:
            raise ExpertError(f"--as {setting}: write EXPERT=NAME, for one of {', '.join(experts)}")
        names[expert] = name
    return names


@app.command()
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


@app.command()
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


@app.command()
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


@app.command()
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


@app.command("import-features")
def import_features(
    format: Annotated[
        str,
        typer.Argument(help="bigfile, mmt-h5, ce-pickle, hgr-hdf5, tan-hdf5, drn-pt, npy or hdf5.", show_default=False),
    ],
    paths: Annotated[list[Path], typer.Argument(help="Files or folders of features.", show_default=False)],
    store: Store,
    expert: Annotated[str, typer.Option(help="The name to store them under.", show_default=False)],
    key: Annotated[str | None, typer.Option(help="Which features, where a file holds several.")] = None,
    kind: Annotated[str | None, typer.Option(help="What they are, e.g. motion.")] = None,
    every: Annotated[
        float | None, typer.Option(help="Seconds from row to row, where the format does not tell.")
    ] = None,
    window: Annotated[float | None, typer.Option(help="Seconds that a row covers. [default: --every]")] = None,
    spread: Annotated[bool, typer.Option("--spread", help="Rows cover their video evenly; needs --manifest.")] = False,
    untimed: Annotated[bool, typer.Option("--untimed", help="Nobody knows which seconds rows cover.")] = False,
    manifest: Annotated[Path | None, typer.Option(help="The store's manifest: its videos, in its order.")] = None,
    skip_unknown: Annotated[bool, typer.Option("--skip-unknown", help="Leave out videos not in the store.")] = False,
    dtype: Annotated[str | None, typer.Option(help="float16 or float32. [default: as the source has it]")] = None,
    shard_videos: Annotated[int, typer.Option(help="Videos a shard, in a new store.")] = 64,
    as_json: Json = False,
) -> None:
    """Import published features into a store, new or not. Nothing is written unless all of them are sound.

    **Examples**

        reelcache import-features mmt-h5 mult_h5/ msrvtt.zarr --expert s3d

        reelcache import-features bigfile FeatureData/resnet152/ msrvtt.zarr --expert resnet152 --every 0.5

        reelcache import-features tan-hdf5 sub_activitynet_v1-3.c3d.hdf5 a.zarr --expert c3d --manifest a.jsonl --spread

        reelcache import-features ce-pickle senet154-avg.pickle msrvtt.zarr --expert senet154 --untimed
    """
    from dataclasses import asdict

    from data_manifests import Manifest
    from feature_store import ImportUsageError
    from feature_store import import_features as run
    from pipeline.show import show_import

    with told(), _misuse(), _counting() as show:
        if spread and manifest is None:
            raise ImportUsageError("--spread: name the manifest, which says how long videos are: --manifest FILE")
        videos = Manifest(manifest) if manifest else None
        summary = run(
            format,
            paths,
            store,
            expert=expert,
            key=key,
            kind=kind,
            every=every,
            window=window,
            durations=_durations(videos) if videos is not None and spread else None,
            untimed=untimed,
            dtype=dtype,
            shard_videos=shard_videos,
            videos=None if videos is None else [video.id for video in videos],
            digest=None if videos is None else videos.digest,
            skip_unknown=skip_unknown,
            show=show,
        )
    if as_json:
        print_json(asdict(summary))
    else:
        show_import(out, summary)


@app.command()
def export(
    store: Store,
    folder: Annotated[Path, typer.Option("--output", "-o", help="A new folder.", show_default=False)],
    format: Annotated[str, typer.Option(help="npy, hdf5 or webdataset.", show_default=False)],
    experts: Annotated[str | None, typer.Option(help="Names, with commas between. [default: all]")] = None,
    videos: Annotated[str | None, typer.Option(help="Ids, with commas between. [default: all]")] = None,
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

    with told(), _misuse(), _counting() as show:
        summary = run(
            store, folder, format, experts=_listed(experts) or None, videos=_listed(videos) or None, show=show
        )
    if as_json:
        print_json(asdict(summary))
    else:
        rows = ", ".join(f"{name} {count} rows" for name, count in summary.rows.items())
        out.print(f"{summary.videos} videos, {rows} -> {folder}", markup=False, highlight=False)


def _durations(videos: Iterable[Video]) -> dict[str, float]:
    """How long videos are, or their cuts, where their manifest says so."""
    found = {}
    for video in videos:
        end = video.end if video.end is not None else video.meta.get("duration")
        if isinstance(end, int | float):
            found[video.id] = end - (video.start or 0.0)
    return found


def _listed(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


@contextmanager
def _misuse() -> Iterator[None]:
    """Within, an import or export that is asked for in a wrong way ends with exit code 2."""
    from feature_store import ImportUsageError

    try:
        yield
    except ImportUsageError as error:
        err.print("error: ", style="bold red", end="")
        err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None


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


@app.command("embed-text")
def embed_text(
    store: Store,
    expert: Annotated[str, typer.Argument(help="ocr, speech, or a variant of them.", show_default=False)],
    word_vectors: Annotated[
        Path | None, typer.Option(help="word2vec (.bin, .txt, .vec) or GloVe (.txt) file. [default: hashed spelling]")
    ] = None,
    store_as: Annotated[str | None, typer.Option("--as", help="Name of the variant. [default: EXPERT_FILE]")] = None,
    as_json: Json = False,
) -> None:
    """Give the words that were read or heard other vectors, as a variant of the expert, without any video.

    **Example**

        reelcache embed-text corpus.zarr ocr --word-vectors GoogleNews-vectors-negative300.bin --as ocr_news
    """
    with told():
        from pipeline.embedding import embed_text as embed

        name, rows = embed(store, expert, str(word_vectors or ""), store_as)
    if as_json:
        print_json({"expert": name, "rows": rows})
    else:
        out.print(f"{rows} words of {expert} -> {name}", highlight=False, markup=False)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where to; what is there already is used.")] = Path("demo"),
    videos: Annotated[int, typer.Option(min=1, help="How many videos to make.")] = 24,
) -> None:
    """Make a small corpus of real MP4 files, and run the whole tool on it.

    **Example**

        reelcache demo
    """
    with told():
        from pipeline.demo import run_demo

        run_demo(out, folder, videos)


if __name__ == "__main__":
    app()
