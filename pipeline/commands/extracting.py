"""Commands that make features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.console import Json, Options, Store, err, out, parse_options, print_json, told
from pipeline.show import plain


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
    decoders: Annotated[
        int | None, typer.Option(help="Videos decoded at once by each process, a thread each. [default: by machine]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Begin a Dask cluster of so many processes here, e.g. one a GPU.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Join the Dask cluster at this address, e.g. tcp://10.0.0.1:8786.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Samples a batch. [default: by device and expert]")] = None,
    decoder: Annotated[str, typer.Option(help="av, decord or torchcodec.")] = "av",
    store_as: Annotated[
        list[str] | None, typer.Option("--as", help="NAME, or EXPERT=NAME with several experts: store under this name.")
    ] = None,
    option: Options = None,
    word_vectors: Annotated[
        Path | None, typer.Option(help="word2vec or GloVe file for OCR and speech. [default: hashed spelling]")
    ] = None,
    retry_failed: Annotated[bool, typer.Option(help="Also do the videos again that failed before.")] = False,
    time_limit: Annotated[
        float, typer.Option(help="Seconds that a video may take beyond ten times its length.")
    ] = 600.0,
    memory_limit: Annotated[
        float | None, typer.Option(help="GB that each process may take. [default: most of the memory, shared]")
    ] = None,
    log: Annotated[
        Path | None, typer.Option(help="The run's log, JSON Lines. [default: STORE/.run/log.jsonl, on a local disk]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if any video failed or was truncated.")] = False,
    as_json: Json = False,
) -> None:
    """Extract features of a corpus into a store. The same command resumes, extends and adds experts.

    Ctrl-C or SIGTERM lets the shards in flight be finished; a second one stops at once.

    **Examples**

        reelcache extract corpus.jsonl corpus.zarr --experts resnet152,s3d,vggish

        reelcache extract corpus.jsonl corpus.zarr --experts timm:vit_base_patch16_siglip_224 --precision bf16

        reelcache extract corpus.jsonl corpus.zarr --experts s3d --set s3d.hop=8 --as s3d_dense

        reelcache extract corpus.jsonl corpus.zarr --preset mmt --word-vectors GoogleNews-vectors-negative300.bin

        reelcache extract corpus.jsonl s3://bucket/corpus.zarr --preset mmt --workers 8
    """
    with told():
        from dataclasses import asdict

        from extractors import ExpertError, find_experts, find_preset
        from pipeline import extract as run
        from pipeline.progress import Progress
        from pipeline.show import show_summary, weights_text

        if (experts is None) == (preset is None):
            raise ExpertError("say which experts: either --experts NAME,NAME or --preset NAME")
        options = parse_options(option or [])
        names = [name.strip() for name in (experts or "").split(",") if name.strip()]
        if word_vectors:
            named = names or [expert.name for expert in find_preset(str(preset))]
            readers = {"ocr", "speech"} & set(named)
            if not readers:
                raise ExpertError("--word-vectors: neither ocr nor speech is extracted")
            for name in readers:
                options.setdefault(name, {})["words"] = str(word_vectors.absolute())
        chosen = find_preset(preset, options) if preset else find_experts(names, options)
        progress = Progress(err)
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
            decoders=decoders,
            batch_size=batch_size,
            decoder=decoder,
            names=_names(store_as or [], [expert.name for expert in chosen]),
            retry_failed=retry_failed,
            time_limit=time_limit,
            memory_limit=memory_limit,
            watched=True,
            workers=workers,
            scheduler=scheduler,
            log=log,
            show=progress.showing,
            listener=progress.tell,
        )
    if as_json:
        print_json(asdict(summary))
    else:
        show_summary(out, summary)
        if weights == "random":
            out.print("weights ", weights_text(f"random:{seed}"), ": the features serve tests only", sep="")
    if strict and summary.reasons:
        raise typer.Exit(1)


def _names(settings: list[str], experts: list[str]) -> dict[str, str]:
    from extractors import ExpertError

    names: dict[str, str] = {}
    for setting in settings:
        expert, equals, name = setting.rpartition("=")
        if not equals and len(experts) == 1:
            expert = experts[0]
        if expert not in experts or not name:
            raise ExpertError(f"--as {setting}: write EXPERT=NAME, for one of {', '.join(experts)}")
        if expert in names:
            raise ExpertError(f"--as {setting}: {expert} has the name {names[expert]!r} already; it is stored once")
        names[expert] = name
    return names


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
        out.print(plain(f"{rows} words of {expert} -> {name}"))


def demo(
    folder: Annotated[Path, typer.Argument(help="Where to; what is there already is used.")] = Path("demo"),
    videos: Annotated[int, typer.Option(min=6, help="How many videos to make.")] = 96,
) -> None:
    """Make a small corpus of real MP4 files, and run the whole tool on it.

    **Example**

        reelcache demo
    """
    with told():
        from pipeline.demo import run_demo

        run_demo(out, folder, videos)
