"""Parameters of experts: pretrained (fetched or from a folder) or, when asked for, random."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download, try_to_load_from_cache
from torch import nn

from extractors.checkpoints import fill, state_of
from extractors.download import DownloadError, again, download, file_digest, knock, locked, settle
from extractors.spec import PLACE, Expert, ExpertError, Finder, Network, WeightsFile

PRETRAINED = "pretrained"
RANDOM = "random"
DIGESTS = "SHA256SUMS"  # in a folder of weights: digests of fetched files, as sha256sum writes and checks them
LONGEST_REASON = 400  # letters; some libraries list every parameter
HUB_FILE = "model.safetensors"  # what a repository of the hub calls its parameters


class WeightsError(ExpertError):
    """Parameters that cannot be had; the message names the file, its source and what to do."""

    exit_code = 1


class WeightsMissing(WeightsError):
    """A file of parameters that is not there and could not be fetched."""


@dataclass(frozen=True)
class HubFile(WeightsFile):
    """Parameters that a repository of the Hugging Face hub holds; `url` is its page there."""

    repository: str = ""


@dataclass(frozen=True)
class Loaded:
    """A network ready to run, and which parameters it holds.

    `source` is "random:<seed>", or the file's name; `sha256` is over all parameters and buffers (of
    pretrained ones only: a random draw may differ in the last bit from one processor to the next).
    """

    network: Network | Finder
    source: str
    sha256: str | None


def cache_folder() -> Path:
    """Where fetched weights are kept: $REELCACHE_CACHE, by default ~/.cache/reelcache."""
    return Path(os.environ.get("REELCACHE_CACHE", "~/.cache/reelcache")).expanduser() / "weights"


def weights_folder() -> Path:
    """Where pretrained weights are looked for: in $REELCACHE_WEIGHTS if that is set, else in the cache."""
    given = os.environ.get("REELCACHE_WEIGHTS")
    return Path(given) if given else cache_folder()


def load_expert(expert: Expert, weights: str = PRETRAINED, seed: int = 0) -> Loaded:
    """Build an expert's network with the parameters `weights` asks for.

    `weights` is "pretrained" (fetched once into the cache; $REELCACHE_WEIGHTS names a folder to use
    instead), "random", or a folder that holds the files of the table. Raises WeightsError.
    """
    if weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            network = expert.random()
        return Loaded(network.eval(), f"{RANDOM}:{seed}", None)
    fetch = weights == PRETRAINED and not os.environ.get("REELCACHE_WEIGHTS")
    folder = weights_folder() if weights == PRETRAINED else Path(weights)
    if not fetch and not (weights and folder.is_dir()):
        raise WeightsError(f"--weights {weights and folder}: neither pretrained, random nor an existing folder")
    try:
        network = expert.pretrained(folder, fetch).eval()
    except WeightsMissing as error:
        raise WeightsMissing(f"{error}\n{how_to_get(expert, folder, fetch)}") from error
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f"weights of {expert.name} in {folder}: {name} holds numbers that are not finite")
    return Loaded(network, expert.weights.source, state_digest(network))


def find_file(file: WeightsFile, folder: Path, fetch: bool) -> Path:
    """Where a published file is in `folder`, fetched there first if it is not and `fetch`. Raises WeightsError.

    A file that torch's own cache holds is used from there. Whatever is fetched, or was before, must have
    its digest, which is computed each time: 0.7 s a GB, no more than loading it. Without `fetch` the
    folder is the user's, and its files are taken as they are; `verify_weights` checks those.
    """
    if path := present(file, folder):
        if path.is_dir():
            raise unreadable(path, file, "it is a folder")
        if fetch and (damage := fault(file, path, folder)):
            raise unreadable(path, file, damage)
        return path
    if not fetch:
        raise missing(file, folder, "it is not there")
    if (path := torch_copy(file)) and not fault(file, path, folder):
        return path
    try:
        if isinstance(file, HubFile):
            path = fetch_from_hub(file, folder)
            if damage := fault(file, path, folder):
                path.resolve().unlink()
                raise DownloadError(f"{damage}. It was deleted")
            return path
        digest = download(file.url, folder / file.name, file.sha256)
        if not file.sha256:
            note_digest(folder, file.name, digest)
        return folder / file.name
    except Exception as error:  # clients raise types of many libraries; all mean: no weights
        raise missing(file, folder, str(error) if isinstance(error, DownloadError) else why(error)) from error


def present(file: WeightsFile, folder: Path) -> Path | None:
    """Where a file is in a folder of weights: under its own name, or where the hub's client keeps it."""
    if Path(file.name).name != file.name or file.name in ("", ".", ".."):
        raise WeightsError(f"{file.name!r} is no name of a file of weights")
    path = folder / file.name
    if path.exists():
        return path
    if isinstance(file, HubFile) and file.repository:
        repository, _, revision = file.repository.partition("@")
        kept = try_to_load_from_cache(repository, HUB_FILE, cache_dir=folder, revision=revision or None)
        return Path(kept) if isinstance(kept, str) else None
    return None


def torch_copy(file: WeightsFile) -> Path | None:
    """The file in the folder where torch.hub, and so most other tools, keep what they downloaded."""
    path = Path(torch.hub.get_dir(), "checkpoints", file.name)
    return path if path.exists() else None


def fetch_from_hub(file: HubFile, folder: Path) -> Path:
    """Have the hub's own client fetch a file, which locks, and resumes what breaks while it runs."""
    if not file.repository:
        raise DownloadError("nobody has published it")
    repository, _, revision = file.repository.partition("@")
    endpoint = file.url.removesuffix(f"/{file.repository}")
    knock(file.url)
    return again(
        lambda: Path(
            hf_hub_download(repository, HUB_FILE, revision=revision or None, cache_dir=folder, endpoint=endpoint)
        )
    )


def known_digest(file: WeightsFile, path: Path, folder: Path) -> str:
    """The digest that a file must have, or its beginning; "" if none is known.

    It is the table's, the hub's, whose client names files by their digests, or the one noted in `folder`.
    """
    blob = path.resolve().name
    if path.name == HUB_FILE and re.fullmatch("[0-9a-f]{64}", blob):
        return blob
    noted = noted_digests(folder).get(path.name, "")
    return noted if noted.startswith(file.sha256) else file.sha256


def fault(file: WeightsFile, path: Path, folder: Path) -> str:
    """What is wrong with a file's content, "" if nothing is or could be known."""
    if path.is_dir():
        return "it is a folder"
    known = known_digest(file, path, folder)
    if known and not (digest := file_digest(path)).startswith(known):
        return f"it is damaged or another file: its SHA-256 begins with {digest[: len(known)]}, not with {known}"
    return ""


def noted_digests(folder: Path) -> dict[str, str]:
    """The digests that a folder of weights notes of its files, by their names."""
    notes = folder / DIGESTS
    try:
        lines = notes.read_text(encoding="utf-8").splitlines() if notes.exists() else []
    except UnicodeDecodeError:
        raise WeightsError(f"{notes}: is no text, so it is damaged: delete it, and fetch the files anew") from None
    return {match[2]: match[1] for line in lines if (match := re.fullmatch(r"([0-9a-f]{64}) [ *]([^/]+)", line))}


def note_digest(folder: Path, name: str, digest: str) -> None:
    """Note a file's digest in its folder, so that damage can be told from then on."""
    with locked(folder / DIGESTS):
        noted = {**noted_digests(folder), name: digest}
        part = folder / f"{DIGESTS}.part"
        part.write_text("".join(f"{noted[name]}  {name}\n" for name in sorted(noted)), encoding="utf-8")
        settle(part, folder / DIGESTS)


def load_published(
    network: nn.Module,
    file: WeightsFile,
    folder: Path,
    fetch: bool,
    rename: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Fill a network with a published state dict from `folder`, downloaded there first if `fetch`.

    Pickles are read with `weights_only`, so a file can carry nothing but tensors. What training scripts wrap around
    a state dict is taken off; `rename` makes the network's of the published one. Raises WeightsError.
    """
    path = find_file(file, folder, fetch)
    try:
        state = state_of(torch.load(path, map_location="cpu", weights_only=True), network.state_dict().keys())
        fill(network, rename(state) if rename else state)
    except Exception as error:  # whatever a damaged or hostile file sets off
        raise unreadable(path, file, why(error)) from error


def missing(file: WeightsFile, folder: Path, reason: str) -> WeightsMissing:
    """The error for parameters that could not be had."""
    source = f"They are published at {file.url}." if file.url else "None are known to be published."
    return WeightsMissing(f"pretrained weights {file.name} could not be had for {folder}: {reason}\n{source}")


def how_to_get(expert: Expert, folder: Path, fetch: bool) -> str:
    """What a user can do who lacks an expert's parameters."""
    options = "".join(f" --set {shlex.quote(f'{expert.name}.{name}={value}')}" for name, value in texts(expert))
    command = f"reelcache weights fetch {shlex.quote(expert.name)}{options}"
    here = f"{command} tries again" if fetch else f"{command} --to {shlex.quote(str(folder))} puts them there"
    return (
        f"With network access, {here}.\n"
        f"Without, run {command} --to FOLDER on a machine that has it, copy FOLDER, and pass --weights FOLDER "
        "or set REELCACHE_WEIGHTS=FOLDER.\n"
        "To run without them, say --weights random; the store then records that its features mean nothing."
    )


def texts(expert: Expert) -> Iterator[tuple[str, str]]:
    """The options of an expert that are text and not as by default: it is those that decide which files it needs."""
    for option in fields(expert):  # type: ignore[arg-type]  # every expert is a dataclass
        value = getattr(expert, option.name)
        chosen = isinstance(value, str) and option.metadata != PLACE and value != option.default
        if chosen and option.name not in ("model", "alias"):
            yield option.name, value


def why(error: Exception) -> str:
    """What a library found wrong with a file, in a phrase."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, EOFError):
        return "it is empty or cut off"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text if isinstance(error, KeyError | ValueError) and text else f"{type(error).__name__}: {text}"


def unreadable(path: Path, file: WeightsFile, reason: str) -> WeightsError:
    """The error for a file that does not hold the parameters it should."""
    path = path.resolve() if path.is_symlink() else path  # the hub's client makes links anew
    if "weights_only" in reason:  # PyTorch's message, which says how to run what the file carries
        reason = "it is damaged, or carries other things than tensors"
    if len(reason) > LONGEST_REASON:
        reason = f"{reason[:LONGEST_REASON]} ..."
    return WeightsError(
        f"{path} cannot be used: {reason}\n"
        f"Put the one from {file.url or 'its publisher'} in its place, or delete it to have it fetched."
    )


def he_init(network: nn.Module) -> None:
    """Draw parameters so that signals keep their size through ReLU layers (He et al. 2015, eq. 10)."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def state_digest(network: nn.Module) -> str:
    """SHA-256 over every parameter and buffer: name, type, shape and bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
