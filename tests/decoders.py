"""The decoders that tests try: PyAV, which is always there, and those that may be missing, which are then skipped."""

from __future__ import annotations

import pytest

from pipeline.backends import LIBRARIES as LOADERS
from pipeline.backends import DecoderMissing


def _library(name: str) -> pytest.ParameterSet:
    """A library as a parameter of tests, skipped for the reason that a user reads."""
    try:
        LOADERS[name]()
    except DecoderMissing as missing:
        return pytest.param(name, marks=pytest.mark.skip(reason=str(missing)))
    return pytest.param(name)


LIBRARIES = [_library(name) for name in LOADERS]
DECODERS = ["av", *LIBRARIES]
