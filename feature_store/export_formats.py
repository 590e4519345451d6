"""What exports look like. Ids and names of experts become names of files by `safe_name`.

    npy          index.json, <expert>/<video>.npy (T, dim) float32, <expert>/<video>.times.npy (T, 2) float64,
                 <expert>/<video>.records.json of experts that find things: a list, a record a row
    hdf5         index.json, <expert>.h5: a group <video> with `features`, `times` and, of experts that find things,
                 `records` (T,) JSON; its attribute `status` is JSON with the id; attributes `expert`, `provenance`
                 and `about` (JSON) of the file
    webdataset   index.json, shard-<number>.tar: of each video <video>.<expert>.npy and <video>.json, which
                 tells its id, and for each expert its file, status, times and records

A video without rows has no arrays, only a status. index.json holds provenance and what was written, and
is what tells an export from any other folder.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from feature_store.foreign.names import safe_name
from feature_store.foreign.npy import TIMES
from feature_store.layout import StoreError, VideoStatus
from feature_store.reader import ExpertInfo, Features

RECORDS = ".records.json"
SHARD_BYTES = 1 << 30  # of features in a tar file, beyond which the next one begins


@dataclass(frozen=True)
class Exported:
    """What an expert has of a video; `records` only if it finds things."""

    features: Features
    records: list[dict[str, Any]] | None


class Add(Protocol):
    """Takes a video with what experts have of it; an expert that did not come to it is left out."""

    def __call__(self, video: str, experts: Mapping[str, Exported]) -> None: ...


@contextmanager
def writing_npy(folder: Path, experts: Mapping[str, ExpertInfo]) -> Iterator[Add]:
    """A file a video an expert."""
    for name in experts:
        (folder / safe_name(name)).mkdir()

    def add(video: str, experts: Mapping[str, Exported]) -> None:
        for name, found in experts.items():
            if len(found.features.values):
                place = folder / safe_name(name) / safe_name(video)
                # np.save on a file would say "6 requested and 0 written" where a disk is full
                Path(f"{place}.npy").write_bytes(_npy(found.features.values))
                Path(f"{place}{TIMES}").write_bytes(_npy(found.features.times))
                if found.records is not None:
                    Path(f"{place}{RECORDS}").write_text(_json(found.records), encoding="utf-8")

    yield add


@contextmanager
def writing_hdf5(folder: Path, experts: Mapping[str, ExpertInfo]) -> Iterator[Add]:
    """A file an expert; videos in the store's order."""
    import h5py  # here, since most commands on a store do without it

    files: dict[str, Any] = {}
    disk: list[HDF5Disk] = []
    try:
        for name, info in experts.items():
            disk.append(HDF5Disk(folder / f"{safe_name(name)}.h5"))
            files[name] = h5py.File(disk[-1], "w", track_order=True)
            documents = {"provenance": json.dumps(dict(info.identity)), "about": json.dumps(dict(info.about))}
            files[name].attrs.update({"expert": name, **documents})

        def add(video: str, experts: Mapping[str, Exported]) -> None:
            for name, found in experts.items():
                group = files[name].create_group(safe_name(video))
                group.attrs["status"] = json.dumps(status_document(found.features.status))
                group["features"], group["times"] = found.features.values, found.features.times
                if found.records is not None:
                    lines = [_json(record) for record in found.records]
                    group.create_dataset("records", data=lines, dtype=h5py.string_dtype())
            for written in disk:
                written.check()

        yield add
    finally:
        for file in files.values():
            file.close()
        for written in disk:
            written.close()
    for written in disk:
        written.check()


class HDF5Disk(io.FileIO):
    """A file that HDF5 writes to. Its library crashes where a write fails, so `check` raises that error later."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), "w+")
        self._failed: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content).cast("B")
        size = len(left)
        try:
            while self._failed is None and len(left):
                left = left[super().write(left) :]
        except OSError as error:
            self._failed = OSError(error.errno, error.strerror, self.name)
        return size

    def flush(self) -> None:
        """Nothing waits in this process; h5py wants the method."""

    def check(self) -> None:
        """Raise the error of the first write that failed, if one did."""
        if self._failed:
            raise self._failed


@contextmanager
def writing_webdataset(folder: Path, experts: Mapping[str, ExpertInfo]) -> Iterator[Add]:
    """Tar files of whole videos, for streaming."""
    from webdataset import ShardWriter  # here, since it loads torch

    # readers of the format take what follows the first dot for the kind of a file, in lower case
    endings = {name: f"{safe_name(name).lower()}.npy" for name in experts}
    if len(set(endings.values())) < len(endings):
        raise StoreError(
            f"experts {', '.join(experts)}: webdataset cannot tell names apart by capitals; export each alone"
        )
    opened: list[IO[bytes]] = []

    def open_shard(number: str) -> IO[bytes]:
        opened.append(open(folder / f"shard-{number}.tar", "wb"))  # noqa: SIM115
        return opened[-1]

    def close_shard(number: str) -> None:
        opened.pop().close()

    # ids and names are kept in the samples' JSON; mtime=0 makes equal exports equal to the byte
    options = {"maxsize": SHARD_BYTES, "encoder": False, "mtime": 0, "format": "PAX_FORMAT", "verbose": 0}
    with closing(ShardWriter("%06d", opener=open_shard, post=close_shard, **options)) as shards:

        def add(video: str, experts: Mapping[str, Exported]) -> None:
            told = {name: _webdataset_document(found, endings[name]) for name, found in experts.items()}
            sample: dict[str, Any] = {"__key__": safe_name(video)}
            sample["json"] = json.dumps({"id": video, "experts": told}).encode()
            values = {endings[name]: found.features.values for name, found in experts.items()}
            sample |= {ending: _npy(rows) for ending, rows in values.items() if len(rows)}
            shards.write(sample)

        yield add


def _webdataset_document(found: Exported, ending: str) -> dict[str, Any]:
    features = found.features
    return {
        "file": ending if len(features.values) else None,
        "status": status_document(features.status),
        "times": features.times.tolist(),
        **({} if found.records is None else {"records": found.records}),
    }


def _json(document: Any) -> str:
    return json.dumps(document, ensure_ascii=False)


def _npy(values: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, values)
    return content.getvalue()


def status_document(status: VideoStatus) -> dict[str, Any]:
    """A video's status as plain data, what is empty of it left out."""
    return {name: value for name, value in asdict(status).items() if value is not None}


WRITERS: Mapping[str, Callable[[Path, Mapping[str, ExpertInfo]], Any]] = {
    "npy": writing_npy,
    "hdf5": writing_hdf5,
    "webdataset": writing_webdataset,
}


def entries(format: str, experts: Mapping[str, Any]) -> list[str]:
    """The names, within an export's folder, of what belongs to it besides the index; tar files go by a pattern."""
    if format == "webdataset":
        return ["shard-*.tar"]
    return [safe_name(name) + (".h5" if format == "hdf5" else "") for name in experts]
