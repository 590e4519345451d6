"""An index of the moments of a corpus: embedded once a model, a sentence is then one dot product a moment away.

A Zarr group, whose chunks are mapped into memory:

    moments.zarr/zarr.json       what the index is of: its identity
    moments.zarr/embeddings      (rows, dim) float16: P moments of the first video, P of the second, ...
    moments.zarr/videos          (rows,)     int32: places in the list of ids
    moments.zarr/times           (rows, 2)   float64: start and end, in seconds
    moments.zarr/complete.json   written last: ids of videos, sizes, and the SHA-256 of every file

A search is exact: it ranks as if the query were multiplied in float32 with all rows as they are stored.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import torch
import zarr
from torch import Tensor
from zarr.codecs import Crc32cCodec

from feature_store import StoreError
from feature_store.layout import ATTRIBUTE, COMPLETE, METADATA, file_digest, replace_file, seal, sync_to_disk, unseal
from feature_store.mapped_array import MappedArray
from train import TrainError
from train.devices import CPU, fits
from train.grounding.nms import temporal_nms
from train.grounding.proposals import ProposalMap

FORMAT = 1
EMBEDDINGS, VIDEOS, TIMES = "embeddings", "videos", "times"
CHUNK_BYTES = 64 << 20  # of embeddings
DEVICE_BYTES = 256 << 20  # of a chunk, which a GPU multiplies at a time
PIECE_BYTES = 8 << 20  # of a chunk, which one thread multiplies: so little that none waits long for the last one
ANEW = "make it anew with `reelcache index`"
PARTS = {METADATA, EMBEDDINGS, VIDEOS, TIMES, COMPLETE}  # all that is in the folder
RECORD = {"format", "identity", "videos", "shape", "chunk", "longest", "files"}  # keys of complete.json

Best = Callable[[int], tuple[Tensor, Tensor]]
"""About how many rows to find -> rows (K,), best first, of equal ones the first first, and their scores (K,).

No row that is left out comes before one that is given. K may be fewer, but not if all rows are asked for.
"""


@dataclass(frozen=True)
class Moment:
    """A moment that was found, in seconds; the greater score is the better."""

    video: str
    start: float
    end: float
    score: float


class MomentIndex:
    """The moments of a corpus, ready to be searched.

        MomentIndex("run/moments.zarr").search(model.encode_text(words, lengths)[0])

    `engine` is "torch", or "faiss" for FAISS's IndexFlatIP, which holds all rows in memory as float32. On a GPU as
    `device` all rows are multiplied there; FAISS and a search among some videos stay on the CPU. Raises TrainError if
    there is no index, it is unfinished or damaged, or FAISS is not installed.
    """

    def __init__(self, path: str | Path, engine: str = "torch", device: torch.device = CPU) -> None:
        if engine not in ENGINES:
            raise TrainError(f"engine {engine!r} for moments: there is {' and '.join(ENGINES)}")
        self.path = Path(path)
        record = _read_record(self.path)
        try:
            self.identity: dict[str, Any] = record["identity"]
            self.videos: tuple[str, ...] = tuple(record["videos"])
            self.rows, self.dim = record["shape"]
            embeddings, videos, times = (MappedArray(self.path / name) for name in (EMBEDDINGS, VIDEOS, TIMES))
            firsts = range(0, self.rows, record["chunk"])
            mapped = [embeddings.rows(first, min(first + record["chunk"], self.rows)) for first in firsts]
            self._chunks = [torch.from_numpy(chunk) for chunk in mapped]
            self._video, self._times = (torch.from_numpy(each.rows(0, self.rows)) for each in (videos, times))
        except (ValueError, TypeError, OverflowError) as error:  # of documents that are sealed, but say other things
            raise TrainError(f"{self.path}: damaged ({error}); {ANEW}") from error
        if engine == "torch" and device.type != "cpu":
            self._engine: Callable[[Tensor], Best] = DeviceProducts(self._chunks, device)
        else:
            self._engine = ENGINES[engine](self._chunks, record["longest"])

    def __len__(self) -> int:
        return self.rows

    def search(
        self, query: Tensor, top_k: int = 10, suppress: float = 0.5, among: Collection[str] | None = None
    ) -> list[Moment]:
        """The best moments of the corpus, or `among` the videos of these ids, for a sentence (dim,), best first.

        A moment takes away those of its own video that overlap it by an IoU above `suppress`. Raises TrainError if
        the query is not of the index's size, or not finite, and if none of the ids is in the index.
        """
        query = query.detach().float().cpu()
        if query.shape != (self.dim,) or not query.isfinite().all():
            raise TrainError(f"{self.path}: a query must be {self.dim} finite numbers, not {tuple(query.shape)}")
        best = self._engine(query) if among is None else self._best_among(query, among)
        top_k = min(top_k, self.rows)
        count = max(64, 8 * top_k)
        while True:
            rows, scores = best(min(count, self.rows))
            kept = self._suppress(rows, scores, suppress, top_k)
            if len(kept) == top_k or count >= self.rows:
                return [self._moment(int(rows[place]), float(scores[place])) for place in kept]
            count *= 4

    def verify(self) -> None:
        """Read all files. Raises TrainError naming the first that has changed since it was written."""
        for name, (_, digest) in _read_record(self.path)["files"].items():
            if file_digest(self.path / name) != digest:
                raise TrainError(f"{self.path / name}: damaged, its content is not what was written; {ANEW}")

    def _best_among(self, query: Tensor, videos: Collection[str]) -> Best:
        """All rows of these videos, scored whatever the engine: few enough, or else no worse than all of them."""
        chosen = torch.tensor([video in videos for video in self.videos])
        rows = chosen[self._video.long()].nonzero()[:, 0]
        if not len(rows):
            raise TrainError(f"{self.path}: holds none of the videos to look among")
        order = (scores := exact_scores(self._chunks, rows, query)).sort(descending=True, stable=True)
        ranked = rows[order.indices], scores[order.indices]
        return lambda count: (ranked[0][:count], ranked[1][:count])

    def _suppress(self, rows: Tensor, scores: Tensor, threshold: float, top_k: int) -> list[int]:
        """Places among ranked rows that stay, at most top_k. Videos do not compete, so each is done for itself."""
        videos, times, kept = self._video[rows], self._times[rows], []
        for video in videos.unique():
            places = (videos == video).nonzero()[:, 0]
            picks = temporal_nms(times[places], scores[None, places], threshold, top_k)[0]
            kept += places[picks[picks >= 0]].tolist()
        return sorted(kept)[:top_k]

    def _moment(self, row: int, score: float) -> Moment:
        start, end = self._times[row].tolist()
        return Moment(self.videos[int(self._video[row])], start, end, score)


class MappedProducts:
    """Scores all rows as they are stored, roughly, and exactly those that can be among the best.

    torch multiplies float16 with float16, sums in float32, and rounds; on a CPU that takes half the time of float32,
    which is twice the bytes. By so much a sum can be wrong: the query's own rounding, times the longest row, and what
    float32 loses. The last rounding keeps order, so a row below the k-th best rough score is below it by that much.

    As many threads as torch has share the rows, each taking the next piece when it is done with one: torch's own halve
    every product, and where other programs keep the cores busy, all wait for the slowest at each.
    """

    def __init__(self, chunks: list[Tensor], longest: float) -> None:
        self._chunks, self._longest = chunks, longest or 1.0
        rows = max(1, PIECE_BYTES // (2 * chunks[0].shape[1]))
        self._pieces = [piece for chunk in chunks for piece in chunk.split(rows)]
        self._threads = _lone_threads(torch.get_num_threads())

    def __call__(self, query: Tensor) -> Best:
        scale = float(query.double().norm()) * self._longest or 1.0  # no score is above 1, which float16 can hold
        unit = query.double() / scale
        halved = unit.half()
        wrong = self._longest * float((unit - halved.double()).norm()) + len(query) * 2.0**-23
        rough = torch.cat(list(self._threads.map(lambda piece: torch.mv(piece, halved), self._pieces)))

        def best(count: int) -> tuple[Tensor, Tensor]:
            least = rough.topk(count).values[-1] if count < len(rough) else rough.min()
            rows = torch.from_numpy(np.flatnonzero((rough >= least).numpy()))  # torch would wake threads for it
            scores = exact_scores(self._chunks, rows, query)
            if len(rows) < len(rough):
                sure = scores.double() > (float(least) + wrong) * scale
                rows, scores = rows[sure], scores[sure]
            order = scores.sort(descending=True, stable=True)
            return rows[order.indices], order.values

        return best


def _lone_threads(count: int) -> ThreadPoolExecutor:
    """Threads in each of which torch computes without further ones."""
    begun = Barrier(count + 1)
    pool = ThreadPoolExecutor(count, "products", initializer=torch.set_num_threads, initargs=(1,))
    for _ in range(count):
        pool.submit(begun.wait)  # none ends before all are there
    begun.wait()
    torch.set_num_threads(count)  # of this thread, and of such as begin later
    return pool


def exact_scores(chunks: Sequence[Tensor], rows: Tensor, query: Tensor) -> Tensor:
    """Products in float32 of rows, which ascend, with the query: (K,) -> (K,)."""
    size = len(chunks[0])
    counts = torch.bincount(rows // size, minlength=len(chunks)).tolist()
    of_chunks = zip(chunks, rows.split(counts), strict=True)
    return torch.cat([chunk[of_chunk % size].float() @ query for chunk, of_chunk in of_chunks if len(of_chunk)])


class DeviceProducts:
    """Scores all rows in float32 on a GPU, which holds them as they are stored, or is sent them if they do not fit."""

    def __init__(self, chunks: list[Tensor], device: torch.device) -> None:
        rows = max(1, DEVICE_BYTES // (2 * chunks[0].shape[1]))
        self._device = device
        held = device if fits(sum(chunk.nbytes for chunk in chunks) + 3 * DEVICE_BYTES, device) else CPU
        self._pieces = [piece.to(held) for chunk in chunks for piece in chunk.split(rows)]

    def __call__(self, query: Tensor) -> Best:
        query = query.to(self._device)
        scores = torch.cat([piece.to(self._device).float() @ query for piece in self._pieces])

        def best(count: int) -> tuple[Tensor, Tensor]:
            least = scores.topk(count).values[-1]
            rows = (scores >= least).nonzero()[:, 0]  # with all that score as the last one
            order = scores[rows].sort(descending=True, stable=True)
            return rows[order.indices].cpu(), order.values.cpu()

        return best


class FaissProducts:
    """The same from FAISS, which orders equal scores as it does."""

    def __init__(self, chunks: list[Tensor], longest: float) -> None:
        try:
            faiss = import_module("faiss")
        except ImportError:
            raise TrainError(
                "the engine 'faiss' needs FAISS, which is not installed: pip install faiss-cpu, or use 'torch'"
            ) from None
        self._index = faiss.IndexFlatIP(chunks[0].shape[1])
        for chunk in chunks:
            self._index.add(chunk.float().numpy())

    def __call__(self, query: Tensor) -> Best:
        def best(count: int) -> tuple[Tensor, Tensor]:
            scores, rows = self._index.search(query[None].numpy(), count)
            return torch.from_numpy(rows[0]), torch.from_numpy(scores[0])

        return best


ENGINES: dict[str, Callable[[list[Tensor], float], Callable[[Tensor], Best]]] = {
    "torch": MappedProducts,
    "faiss": FaissProducts,
}


def write_index(
    path: str | Path,
    identity: Mapping[str, Any],
    proposals: ProposalMap,
    videos: Sequence[str],
    durations: Sequence[float],
    batches: Iterable[Tensor],
) -> None:
    """Write an index whole, in place of an older one, or leave what is there as it is.

    Args:
        path: the folder to make.
        identity: what decides the embeddings, e.g. the digest of the model and the store; given back by MomentIndex.
        proposals: which moments a video has.
        videos: their ids.
        durations: of the videos, in seconds.
        batches: embeddings (B, P, dim), in the order of the videos, all of them.

    Raises TrainError if the folder holds other things, or numbers do not fit float16; ValueError if batches are not
    of these videos and moments.
    """
    path, count = Path(path), len(proposals.cells)
    if path.exists() and not _replaceable(path):
        raise TrainError(f"{path}: holds other things than an index of moments; name another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary:
        folder = Path(temporary) / "index"
        document = {"format": FORMAT, "identity": dict(identity)}
        group = zarr.open_group(folder, mode="w", attributes={ATTRIBUTE: seal(document)})
        shape, chunk, longest = _write_embeddings(group, videos, count, batches)
        times = proposals.segments(torch.tensor(durations, dtype=torch.float64)).flatten(0, 1).numpy()
        if len(times) != shape[0]:
            raise ValueError(f"{len(durations)} durations for {len(videos)} videos")
        _create(group, TIMES, times.shape, "float64", len(times))[:] = times
        _create(group, VIDEOS, shape[:1], "int32", shape[0])[:] = np.repeat(np.arange(len(videos)), count)
        record = {**document, "videos": list(videos), "shape": shape, "chunk": chunk, "longest": longest}
        _complete(folder, record)
        if path.exists():
            (path / COMPLETE).unlink(missing_ok=True)  # first: what is half removed is no index
            shutil.rmtree(path)
        os.replace(folder, path)
        sync_to_disk(path.parent)


def _replaceable(path: Path) -> bool:
    """Whether it is an empty folder, or an index and nothing else: others have a complete.json, too."""
    names = {each.name for each in path.iterdir()} if path.is_dir() else {""}
    return not names or (EMBEDDINGS in names and names <= PARTS)


def _write_embeddings(
    group: zarr.Group, videos: Sequence[str], count: int, batches: Iterable[Tensor]
) -> tuple[tuple[int, int], int, float]:
    """Shape, rows of a chunk, and the length of the longest row; a chunk at a time is held in memory."""
    array, rows, longest, done = None, len(videos) * count, 0.0, 0
    waiting = np.empty((0, 0), np.float16)
    for batch in batches:
        if batch.ndim != 3 or batch.shape[1] != count:
            raise ValueError(f"embeddings are {tuple(batch.shape)}, not videos by {count} moments by their size")
        halved = batch.detach().float().half().cpu()  # (B, P, dim)
        if not (finite := halved.isfinite().flatten(1).all(dim=1)).all():
            video = videos[(done + len(waiting)) // count + int(finite.int().argmin())]
            raise TrainError(f"video {video!r}: its embeddings are no finite float16; the model may have diverged")
        longest = max(longest, float(halved.float().norm(dim=2).max()))
        if array is None:
            waiting = np.empty((0, halved.shape[2]), np.float16)
            chunks = max(1, -(-rows * halved.shape[2] * 2 // CHUNK_BYTES))
            array = _create(group, EMBEDDINGS, (rows, halved.shape[2]), "float16", -(-rows // chunks))
        waiting = np.concatenate([waiting, halved.flatten(0, 1).numpy()])
        if done + len(waiting) > rows:
            raise ValueError(f"embeddings of more videos than the {len(videos)} that were named")
        whole = len(waiting) // array.chunks[0] * array.chunks[0]
        array[done : done + whole] = waiting[:whole]
        done, waiting = done + whole, waiting[whole:].copy()
    if array is None or done + len(waiting) < rows:
        raise ValueError(f"embeddings of {(done + len(waiting)) // count} videos, where {len(videos)} were named")
    array[done:] = waiting
    return array.shape, array.chunks[0], longest


def _create(group: zarr.Group, name: str, shape: Sequence[int], dtype: str, chunk: int) -> Any:
    """Uncompressed, so that chunks can be mapped; with CRC-32C, so that any reader of Zarr notices damage."""
    return group.create_array(
        name,
        shape=tuple(shape),
        chunks=(chunk, *shape[1:]),
        dtype=dtype,
        compressors=Crc32cCodec(),
        fill_value=0,
        config={"write_empty_chunks": True},
    )


def _complete(folder: Path, record: Mapping[str, Any]) -> None:
    """Have all files survive a power cut, then mark the index as complete."""
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            files[file.relative_to(folder).as_posix()] = file.stat().st_size, file_digest(file)
        sync_to_disk(file)
    document = json.loads(json.dumps({**record, "files": files}))
    replace_file(folder / COMPLETE, json.dumps(seal(document), ensure_ascii=False, indent=1).encode())


def _read_record(path: Path) -> dict[str, Any]:
    """complete.json, once all the files that it names are there in their sizes."""
    if not (path / COMPLETE).exists():
        raise TrainError(f"{path}: there is no index of moments, or it was never finished; {ANEW}")
    try:
        record = unseal(json.loads((path / COMPLETE).read_bytes()), path / COMPLETE)
    except (StoreError, ValueError, RecursionError) as error:
        raise TrainError(f"{path / COMPLETE}: damaged ({error}); {ANEW}") from None
    if not record.keys() >= RECORD:
        raise TrainError(f"{path}: is no index of moments, but something else; name another folder")
    if record["format"] != FORMAT:
        raise TrainError(f"{path}: is of format {record['format']}; this version reads {FORMAT}: {ANEW}")
    for name, (size, _) in record["files"].items():
        if not (path / name).is_file() or (path / name).stat().st_size != size:
            raise TrainError(f"{path / name}: damaged, it is missing or not of {size} bytes; {ANEW}")
    return record
