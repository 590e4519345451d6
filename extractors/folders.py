"""Folders of weights: what is in them, how they are filled, and whether it is sound."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from extractors.download import file_digest, locked, settle
from extractors.registry import EXPERTS, PRESETS, find_expert
from extractors.spec import Expert, WeightsFile
from extractors.weights import (
    HUB_FILE,
    HubFile,
    WeightsError,
    cache_folder,
    fault,
    find_file,
    known_digest,
    note_digest,
    noted_digests,
    present,
    torch_copy,
    weights_folder,
    why,
)

HUB_BLOBS = "models--*/blobs/*"  # where the hub's client keeps files, each named by its digest


@dataclass(frozen=True)
class ListedFile:
    """A file of the table, and whether a folder has it.

    `size` in bytes and `sha256` (or its beginning) are None and "" where they are not known; `where` is
    "fetched", "in torch's cache" or "missing".
    """

    expert: str
    file: str
    size: int | None
    license: str
    source: str
    sha256: str
    where: str


@dataclass(frozen=True)
class FetchedFile:
    """A file that was asked for: where it is now, or else why it could not be had."""

    expert: str
    file: str
    license: str
    path: str = ""
    problem: str = ""


@dataclass(frozen=True)
class DamagedFile:
    file: str
    reason: str


@dataclass(frozen=True)
class WeightsVerdict:
    """What a check of a folder found: files that agree with their digests, that do not, and that have none."""

    folder: str
    sound: list[str]
    damaged: list[DamagedFile]
    no_digest: list[str]


def known_experts() -> Iterator[Expert]:
    """The experts of the table and of the presets, each set of weights once."""
    seen = set()
    for expert in (*EXPERTS.values(), *(expert for preset in PRESETS.values() for expert in preset)):
        if expert.weights.files not in seen:
            seen.add(expert.weights.files)
            yield expert


def list_weights(folder: Path | None = None) -> list[ListedFile]:
    """Every file of the table, and whether it is in `folder`: by default where pretrained weights are looked for."""
    folder = folder or weights_folder()
    listed = []
    for expert in known_experts():
        for file in expert.weights.files:
            path = present(file, folder)
            shared = None if path or folder != cache_folder() else torch_copy(file)
            where = "fetched" if path else "in torch's cache" if shared else "missing"
            found = path or shared
            size = found.stat().st_size if found else file.size or None
            digest = known_digest(file, found, folder) if found else file.sha256
            listed.append(ListedFile(expert.name, file.name, size, expert.weights.license, file.url, digest, where))
    return listed


def is_cached(expert: Expert, folder: Path | None = None) -> bool:
    """Whether all files of an expert are there, so that it can be loaded without network access."""
    folder = folder or weights_folder()
    shared = folder == cache_folder()  # only beside the cache is torch's looked into
    return all(present(file, folder) or (shared and torch_copy(file)) for file in expert.weights.files)


def fetch_weights(
    experts: Iterable[str | Expert],
    to: Path | str | None = None,
    tell: Callable[[FetchedFile], None] = lambda fetched: None,
) -> list[FetchedFile]:
    """Fetch the published parameters of experts to where they are looked for by default, or into the folder `to`.

    Such a folder serves as `--weights FOLDER` on a machine without network access; what the cache has is
    copied from there. A file that cannot be had does not keep the others from being fetched: its
    `problem` says why. `tell` hears of each file as it is done.
    """
    folder = Path(to) if to else weights_folder()
    if folder.exists() and not folder.is_dir():
        raise WeightsError(f"{folder}: is a file; name a folder for the weights")
    chosen = [find_expert(expert) if isinstance(expert, str) else expert for expert in experts]
    results = []
    for expert in chosen:
        for file in expert.weights.files:
            license = expert.weights.license
            try:
                path = find_file(file, folder, fetch=True) if folder == cache_folder() else fill(file, folder)
                result = FetchedFile(expert.name, file.name, license, path=str(path))
            except (WeightsError, OSError) as error:
                problem = str(error) if isinstance(error, WeightsError) else why(error)
                result = FetchedFile(expert.name, file.name, license, problem=problem)
            results.append(result)
            tell(result)
    return results


def fill(file: WeightsFile, folder: Path) -> Path:
    """Put a file under its own name into a folder that is to be copied elsewhere, and note its digest there."""
    path = folder / file.name
    cached = present(file, cache_folder()) or torch_copy(file) or isinstance(file, HubFile)
    if cached and not path.exists():
        source = find_file(file, cache_folder(), fetch=True)
        with locked(path):
            part = path.with_name(f"{path.name}.part")
            shutil.copyfile(source, part)
            settle(part, path)
        note_digest(folder, path.name, file_digest(source))
    find_file(file, folder, fetch=True)
    note_digest(folder, path.name, file_digest(path))
    return path


def verify_weights(folder: Path | str | None = None) -> WeightsVerdict:
    """Check every file in a folder of weights whose digest is known: by the table, the hub, or SHA256SUMS.

    By default the folder is where pretrained weights are looked for. Raises WeightsError if it is none.
    """
    folder = Path(folder) if folder else weights_folder()
    if not folder.is_dir():
        raise WeightsError(f"{folder}: there is no such folder of weights")
    noted = noted_digests(folder)
    files = {file.name: file for expert in known_experts() for file in expert.weights.files}
    files |= {name: WeightsFile(name, "", digest) for name, digest in noted.items() if name not in files}
    verdict = WeightsVerdict(str(folder), [], [], [])
    for name in sorted(files):
        path = folder / name
        if not path.exists():
            if name in noted:
                verdict.damaged.append(DamagedFile(name, "it is noted in SHA256SUMS, but is not there"))
        elif not known_digest(files[name], path, folder):
            verdict.no_digest.append(name)
        elif reason := fault(files[name], path, folder):
            verdict.damaged.append(DamagedFile(name, reason))
        else:
            verdict.sound.append(name)
    for blob in sorted(folder.glob(HUB_BLOBS)):
        if len(blob.name) != 64:
            continue  # a small file, or one that is still on its way
        digest = file_digest(blob)
        names = [str(link.relative_to(folder)) for link in blob.parents[1].glob(f"snapshots/*/{HUB_FILE}")]
        name = next((name for name in names if (folder / name).resolve() == blob.resolve()), str(blob))
        if digest == blob.name:
            verdict.sound.append(name)
        else:
            verdict.damaged.append(DamagedFile(name, f"it is damaged: its SHA-256 is {digest}, not {blob.name}"))
    return verdict
