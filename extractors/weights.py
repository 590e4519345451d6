"""Parameters of experts: pretrained (fetched or from a folder) or, when asked for, random."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from huggingface_hub import get_session
from torch import nn

from extractors.spec import Expert, ExpertError, Finder, Network, WeightsFile

PRETRAINED = "pretrained"
RANDOM = "random"
PATIENCE = 20  # seconds for a server's first answer


class WeightsError(ExpertError):
    """Parameters that cannot be had; the message names the file, its source and what to do."""


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
    folder = weights if weights != PRETRAINED else os.environ.get("REELCACHE_WEIGHTS") or None
    if folder is None:
        network = expert.pretrained(cache_folder(), fetch=True).eval()
    elif folder and Path(folder).is_dir():
        network = expert.pretrained(Path(folder), fetch=False).eval()
    else:
        raise WeightsError(f"--weights {folder}: neither pretrained, random nor an existing folder")
    return Loaded(network, expert.weights.source, state_digest(network))


def find_file(file: WeightsFile, folder: Path, fetch: bool) -> Path:
    """Where a published file is in `folder`, downloaded there first if it is not and `fetch`. Raises WeightsError.

    A download must have the digest that its publisher tells.
    """
    path = folder / file.name
    if not path.exists():
        if not fetch:
            raise missing(file, folder, "it is not there")
        try:
            knock(file.url)
            folder.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(file.url, str(path), hash_prefix=file.sha256)
        except Exception as error:  # clients raise types of many libraries; all mean: no weights
            raise missing(file, folder, f"{type(error).__name__}: {error}") from error
    return path


def load_published(
    network: nn.Module,
    file: WeightsFile,
    folder: Path,
    fetch: bool,
    rename: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
) -> None:
    """Fill a network with a published state dict from `folder`, downloaded there first if `fetch`.

    Pickles are read with `weights_only`, so a file can carry nothing but tensors. `rename` makes the
    network's state dict of the published one. Raises WeightsError.
    """
    path = find_file(file, folder, fetch)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        network.load_state_dict(rename(state) if rename else state)
    except UnpicklingError as error:  # whose message says how to run what the file carries
        raise unreadable(path, file, "it is damaged, or carries other things than tensors") from error
    except Exception as error:  # whatever else a damaged or hostile file sets off
        raise unreadable(path, file, f"{type(error).__name__}: {error}") from error


def knock(url: str) -> None:
    """Raise soon if nobody answers at `url`; the clients that download only do so after minutes of trying."""
    get_session().head(url, timeout=PATIENCE)


def missing(file: WeightsFile, folder: Path, reason: str) -> WeightsError:
    """The error for parameters that could not be had."""
    source = f"They are published at {file.url}." if file.url else "None are known to be published."
    return WeightsError(
        f"pretrained weights {file.name} could not be had: {reason}\n"
        f"{source} Put the file into {folder}, or into any folder and pass --weights FOLDER. "
        "To run without them, say --weights random; the store then records that its features mean nothing."
    )


def unreadable(path: Path, file: WeightsFile, reason: str) -> WeightsError:
    """The error for a file that does not hold the parameters it should."""
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
