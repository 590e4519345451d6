"""What experts look for, a closed set: systems decide by it how they treat an expert's features."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

OTHER: Final = "other"  # features of which nobody says what they are
KINDS: Final = ("appearance", "scene", "motion", "audio", "ocr", "face", "speech", OTHER)

# The first words by which published files call their features, as in "audio", "s3d.kinetics" or "ResNet152-pool5".
_OF_NAMES = {
    "appearance": "rgb resnet resnext senet imagenet inception densenet vgg16 vgg19 clip vit",
    "scene": "scene places",
    "motion": "s3d i3d c3d r2p1d slowfast flow motion",
    "audio": "audio vggish pann panns",
    "ocr": "ocr",
    "face": "face faces",
    "speech": "speech",
}
_KIND_OF_NAME = {name: kind for kind, names in _OF_NAMES.items() for name in names.split()}


def kind_of_name(*names: str | None) -> str:
    """What the features called by one of these names are, as far as names that the field has tell; else "other".

    The first name that tells something counts, and in it the first word.
    """
    for name in names:
        for word in re.split(r"[^a-z0-9]+", (name or "").lower()):
            known = _KIND_OF_NAME.get(word) or _KIND_OF_NAME.get(re.sub(r"\d{2,}$", "", word))
            if known:
                return known
    return OTHER


def kind_of(expert: str, identity: Mapping[str, Any]) -> str:
    """The kind of an expert with this provenance.

    Stores that were made before kinds were a closed set call words on screen and spoken ones "text", and all that was
    imported "imported": those are told by what made them, or by their names.
    """
    kind = str(identity.get("kind"))
    if kind in KINDS:
        return kind
    network = str(identity.get("network"))
    return network if network in KINDS else kind_of_name(identity.get("key"), expert)
