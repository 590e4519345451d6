"""Parameters of experts: pretrained (fetched or from a folder) or, when asked for, random."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from extractors.spec import Expert, ExpertError, Network, Weights

PRETRAINED = "pretrained"
RANDOM = "random"


class WeightsError(ExpertError):
    """Parameters that cannot be had; the message names the file, its source and what to do."""


@dataclass(frozen=True)
class Loaded:
    """A network ready to run, and which parameters it holds.

    `source` is "random:<seed>", or the file's name; `sha256` is over all parameters and buffers (of
    pretrained ones only: a random draw may differ in the last bit from one processor to the next).
    """

    network: Network
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
            torch.manual_seed(seed)
            network = expert.random()
        return Loaded(network.eval(), f"{RANDOM}:{seed}", None)
    folder = os.environ.get("REELCACHE_WEIGHTS") if weights == PRETRAINED else weights
    if folder is None:
        network = expert.pretrained(cache_folder(), fetch=True).eval()
    elif Path(folder).is_dir():
        network = expert.pretrained(Path(folder), fetch=False).eval()
    else:
        raise WeightsError(f"--weights {folder}: neither pretrained, random nor an existing folder")
    return Loaded(network, expert.weights.file, state_digest(network))


def state_dict(weights: Weights, folder: Path, fetch: bool) -> dict[str, Tensor]:
    """Read a published state dict from `folder`, downloading it there first if `fetch`.

    torch.hub checks the digest that publishers put into the file's name. Pickles are read with
    `weights_only`, so a file can carry nothing but tensors. Raises WeightsError.
    """
    file = folder / weights.file
    if not file.exists():
        if not fetch:
            raise missing(weights, folder, "it is not there")
        try:
            torch.hub.load_state_dict_from_url(
                weights.url, str(folder), file_name=weights.file, check_hash=True, weights_only=True
            )
        except (URLError, OSError, RuntimeError) as error:
            raise missing(weights, folder, str(error)) from error
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged or hostile file sets off, the user hears of the file
        raise WeightsError(f"{file} cannot be read as weights ({error}); delete it and fetch it again") from error
    return state.get("state_dict", state)


def missing(weights: Weights, folder: Path, reason: str) -> WeightsError:
    """The error for parameters that could not be had."""
    return WeightsError(
        f"pretrained weights {weights.file} could not be had: {reason}\n"
        f"They are published at {weights.url}. Put the file into {folder}, or into any folder and pass "
        "--weights FOLDER. To run without them, say --weights random; the store then records that its "
        "features mean nothing."
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
