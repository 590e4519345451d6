"""Where things lie in a store, and the documents in it.

    corpus.zarr/zarr.json                      the shard plan
    corpus.zarr/<expert>/zarr.json             the expert's provenance
    corpus.zarr/<expert>/<shard>/features      (rows, dim)   float16 | float32
    corpus.zarr/<expert>/<shard>/times         (rows, 2)     float64, seconds
    corpus.zarr/<expert>/<shard>/offsets       (videos + 1,) int64: rows of video i are offsets[i]:offsets[i + 1]
    corpus.zarr/<expert>/<shard>/records       (bytes,) uint8: of experts that find things, a JSON object a row
    corpus.zarr/<expert>/<shard>/record_offsets (rows + 1,) int64: where in them the rows begin, and the end
    corpus.zarr/<expert>/<shard>/complete.json written last: who is in the shard, how it went, every file's digest
    corpus.zarr/.run/                          of runs that write: what they tell each other, and what is half written

Documents are sealed: they carry the SHA-256 of their own content.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveInt, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

FORMAT = 1
ATTRIBUTE = "reelcache"  # the key of our documents in Zarr attributes
COMPLETE = "complete.json"
METADATA = "zarr.json"  # of a group or an array
FEATURES, TIMES, OFFSETS = "features", "times", "offsets"
RECORDS, RECORD_OFFSETS = "records", "record_offsets"
NOT_OFFERED = {errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EACCES, errno.EBADF}
NAME_BYTES = 200  # of a folder's name; file systems take 255

_STRICT = ConfigDict(extra="forbid")

Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
State = Literal["ok", "truncated", "no_stream", "failed"]


class StoreError(Exception):
    """A store that cannot be used as asked; the message says where, why and what to do."""

    exit_code = 1


class NoFeatures(StoreError):
    """Metadata of Zarr that is none of a feature store's: a group that somebody else made."""


class NotInStore(StoreError, KeyError):
    """An expert or a video that the store does not have; the message names those of like names."""

    __str__ = Exception.__str__  # KeyError's shows the message in quotes


@checked(frozen=True, slots=True, config=_STRICT)
class VideoStatus:
    """How one video went for one expert.

    `ok`; `truncated` at `at` seconds, the rows before it kept; `no_stream`, e.g. no audio; `failed` at
    a `stage` for a `reason`. `seconds` is how much of the video the rows are about.
    """

    id: str
    status: State
    rows: NonNegativeInt = 0
    seconds: Seconds = 0.0
    at: Seconds | None = None
    stage: str | None = None
    reason: str | None = None

    def __post_init__(self) -> None:
        if self.rows and self.status in ("failed", "no_stream"):
            raise ValueError(f"{self.id!r} has {self.rows} rows, though its status is {self.status}")


@checked(frozen=True, slots=True, config=_STRICT)
class ShardRecord:
    """What complete.json says: a shard of one expert, done."""

    expert: str
    shard: int
    provenance: str  # digest of the provenance the rows were made under
    videos: tuple[VideoStatus, ...]
    files: dict[str, str]  # path within the shard -> SHA-256
    run: dict[str, Any]  # host, decoder, device and time of the run: for people, not for identity


@checked(frozen=True, slots=True, config=_STRICT)
class Segment:
    """`videos` consecutive videos cut into shards of `shard_videos`; `digest` says which videos they are."""

    videos: PositiveInt
    shard_videos: PositiveInt
    digest: str


@dataclass(frozen=True)
class ShardPlan:
    """How the videos of a corpus are cut into shards. Videos added later make segments of their own."""

    segments: tuple[Segment, ...]

    @property
    def videos(self) -> int:
        return sum(segment.videos for segment in self.segments)

    def __len__(self) -> int:
        return sum(_shards(segment) for segment in self.segments)

    def bounds(self, shard: int) -> tuple[int, int]:
        """The first video of a shard and the one after its last."""
        first_video, first_shard = 0, 0
        for segment in self.segments:
            if shard < first_shard + _shards(segment):
                first = first_video + (shard - first_shard) * segment.shard_videos
                return first, min(first + segment.shard_videos, first_video + segment.videos)
            first_video += segment.videos
            first_shard += _shards(segment)
        raise IndexError(f"shard {shard} of {len(self)}")


def _shards(segment: Segment) -> int:
    return -(-segment.videos // segment.shard_videos)


def node_name(expert: str) -> str:
    """The name of an expert's folder: its own name with what could leave the store escaped, and cut if long."""
    if not expert:
        raise StoreError("an expert must have a name")
    if any("\ud800" <= char <= "\udfff" for char in expert):
        raise StoreError(f"{expert!a} can be no expert's name: it is no Unicode text")
    escaped = quote(expert, safe=":@+=,-._")
    if escaped.startswith((".", "__")) or escaped == "zarr.json":  # "..", hidden files, names that Zarr keeps
        escaped = f"%{ord(escaped[0]):02X}{escaped[1:]}"
    if len(escaped) > NAME_BYTES:
        digest = hashlib.sha256(escaped.encode()).hexdigest()
        escaped = f"{escaped[: NAME_BYTES - 2 - len(digest)]}%%{digest}"  # %% stands in no escaped name
    return escaped


def shard_name(shard: int) -> str:
    return f"{shard:06d}"


def digest_of(document: Any) -> str:
    """SHA-256 of a document's content, whatever its formatting."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def seal(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with its own digest added."""
    return {**document, "sha256": digest_of(dict(document))}


def unseal(document: Any, where: str | Path) -> dict[str, Any]:
    """The document without its digest; raises StoreError if it is not what was sealed."""
    if not isinstance(document, dict) or "sha256" not in document:
        raise StoreError(f"{where}: not a document of a feature store")
    content = {key: value for key, value in document.items() if key != "sha256"}
    if digest_of(content) != document["sha256"]:
        raise StoreError(f"{where}: its content does not match its own digest: it was damaged or edited")
    return content


def differences(a: Any, b: Any, field: str = "") -> list[str]:
    """The fields in which two documents differ, each with both values."""
    if isinstance(a, dict) and isinstance(b, dict):
        return [line for key in sorted({*a, *b}) for line in differences(a.get(key), b.get(key), f"{field}.{key}")]
    return [] if a == b else [f"{field.lstrip('.')}: {json.dumps(a)} against {json.dumps(b)}"]


_record_adapter = TypeAdapter(ShardRecord)


def dump_record(record: ShardRecord) -> bytes:
    """complete.json; what is empty of a video's status is left out."""
    document = asdict(record)
    document["videos"] = [
        {key: value for key, value in video.items() if value is not None} for video in document["videos"]
    ]
    return json.dumps(seal(document), ensure_ascii=False, indent=1).encode()


def load_record(path: Path) -> ShardRecord:
    """Read a complete.json. Raises StoreError if it is damaged, FileNotFoundError if it is not there."""
    return parse_record(path.read_bytes(), path)


def parse_record(content: bytes, where: str | Path) -> ShardRecord:
    """What a complete.json says. Raises StoreError, naming `where` it lies, if it is damaged."""
    try:
        return _record_adapter.validate_python(unseal(json.loads(content), where))
    except ValidationError as error:
        raise StoreError(f"{where}: damaged ({first_problem(error)})") from None
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{where}: damaged (no JSON: {error})") from None


def first_problem(error: ValidationError) -> str:
    """What is wrong with a document, as a phrase: the field, and what it should be."""
    problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
    where = ".".join(map(str, problem["loc"]))
    return f"{where}: {problem['msg'].removeprefix('Value error, ')}" if where else problem["msg"]


def parse_attributes(content: bytes, where: str | Path) -> dict[str, Any]:
    """The sealed document in a group's zarr.json. Raises StoreError, naming `where` it lies, if it holds none."""
    try:
        metadata = json.loads(content)
        if metadata["zarr_format"] in (2, 3) and ATTRIBUTE not in metadata.get("attributes", {}):
            raise NoFeatures(f"{where}: not the metadata of a feature store, or damaged")
        if (metadata["zarr_format"], metadata["node_type"]) == (3, "group"):
            return unseal(metadata["attributes"][ATTRIBUTE], where)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise StoreError(f"{where}: not the metadata of a feature store, or damaged")


def split_records(content: np.ndarray, ends: np.ndarray) -> list[dict[str, Any]]:
    """Records of consecutive rows from their bytes; `ends` holds the rows' ends, after the first one's beginning."""
    places = (ends - ends[0]).tolist()
    text = content.tobytes()
    return [json.loads(text[first:stop]) for first, stop in pairwise(places)]


def file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_to_disk(path: Path) -> None:
    """Have a file or folder survive a power cut. Some file systems (SMB, exFAT) cannot do that for folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in NOT_OFFERED or not path.is_dir():
            raise
    finally:
        os.close(handle)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file that is there whole, and for good, or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(content)
        sync_to_disk(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync_to_disk(path.parent)
