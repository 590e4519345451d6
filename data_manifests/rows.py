"""The rows a corpus is made of: videos, their captions, and moments in them.

A manifest file is JSON Lines, one row a line; `data_manifests.jsonl` reads and writes it.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, FiniteFloat, model_validator
from pydantic.dataclasses import dataclass


class ManifestError(ValueError):
    """A manifest that cannot be used; the message names the file, the line and the mend."""

    exit_code = 1


def _storable(text: str) -> str:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no Unicode text") from None
    return text


Text = Annotated[str, AfterValidator(_storable)]
Id = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_storable)]
Seconds = Annotated[FiniteFloat, Field(ge=0)]

_STRICT = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True, config=_STRICT)
class Video:
    """One video of a corpus: a file, or the part of a file between two times.

    `id` is any non-empty Unicode text, unique in its manifest. `path` is a local file, or an object in a store,
    e.g. s3://bucket/name. `start` and `end` (seconds of the file, counted from its first frame) cut a part out;
    times of features then count from `start`. `meta` is free for what else is known, e.g. the results of probing.
    """

    id: Id
    path: Annotated[str, Field(min_length=1), AfterValidator(_storable)]
    start: Seconds | None = None
    end: Seconds | None = None
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.end is not None and self.end <= (self.start or 0.0):
            raise ValueError(f"end ({self.end} s) is not after start ({self.start or 0.0} s)")
        return self


@dataclass(frozen=True, slots=True, config=_STRICT)
class Caption:
    """A sentence about a whole video."""

    video: Id
    text: Text
    meta: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True, config=_STRICT)
class Moment:
    """A sentence about the seconds from `start` to `end` of a video."""

    video: Id
    text: Text
    start: Seconds
    end: Seconds
    meta: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.end <= self.start:
            raise ValueError(f"end ({self.end} s) is not after start ({self.start} s)")
        return self
