"""The table of experts and of the sets of them that published systems use."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import torch

from extractors.appearance import TIMM_PREFIX, TimmExpert
from extractors.audio import VGGish
from extractors.face import Face
from extractors.motion import C3D, I3D, S3D
from extractors.ocr import OCR
from extractors.scene import DenseNetPlaces
from extractors.spec import Expert, ExpertError
from extractors.speech import Speech
from extractors.video_hub import I3DR50, SlowFastR50

EXPERTS: dict[str, Expert] = {
    expert.name: expert
    for expert in (
        TimmExpert("resnet152.tv_in1k", alias="resnet152"),
        TimmExpert("resnext101_32x8d.tv_in1k", alias="resnext101"),
        TimmExpert("legacy_senet154.in1k", alias="senet154"),
        DenseNetPlaces(),
        S3D(),
        I3D(),
        I3DR50(),
        SlowFastR50(),
        C3D(),
        VGGish(),
        OCR(),
        Face(),
        Speech(),
    )
}

PRESETS: dict[str, tuple[Expert, ...]] = {
    "dual-encoding": (EXPERTS["resnet152"], EXPERTS["resnext101"]),
    "hanet": (EXPERTS["resnet152"],),
    "drn": (EXPERTS["i3d_r50"],),
    "fvmr": (EXPERTS["c3d"],),
    "mmt": tuple(
        EXPERTS[name] for name in ("senet154", "s3d", "vggish", "densenet161_places365", "ocr", "face", "speech")
    ),
    "demo": (TimmExpert("resnet18.tv_in1k"), S3D(resize=128, crop=112), VGGish(), Face(every=1)),  # for two CPU cores
}


def find_expert(name: str) -> Expert:
    """The expert called `name`; raises ExpertError naming those of like names or of that kind, and all."""
    if name.startswith(TIMM_PREFIX):
        expert = TimmExpert(name.removeprefix(TIMM_PREFIX))
        expert.preprocessing()  # an unknown model is told of now, not after the corpus was read
        return expert
    if name in EXPERTS:
        return EXPERTS[name]
    near = dict.fromkeys(expert.name for expert in EXPERTS.values() if name.lower() in (expert.kind, expert.name))
    near |= dict.fromkeys(difflib.get_close_matches(name.lower(), EXPERTS, n=3))
    nearest = f" (near it: {', '.join(near)})" if near else ""
    there = ", ".join(EXPERTS)
    raise ExpertError(f"no expert is called {name!r}{nearest}; there are {there} and timm:<any timm model>")


def find_experts(names: Iterable[str], options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Expert]:
    """The experts called `names`, with `options` ({"s3d": {"hop": 8}}) in place of their defaults."""
    return configure([find_expert(name) for name in names], options or {})


def find_preset(name: str, options: Mapping[str, Mapping[str, Any]] | None = None) -> list[Expert]:
    """The experts of a preset; raises ExpertError listing the presets."""
    if name not in PRESETS:
        raise ExpertError(f"no preset is called {name!r}; there are {', '.join(PRESETS)}")
    return configure(PRESETS[name], options or {})


def dimension(expert: Expert) -> int:
    """How many numbers a feature row of an expert has; its network is built for that, without parameters."""
    with torch.device("meta"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")
        return expert.random().dim


def configure(experts: Iterable[Expert], options: Mapping[str, Mapping[str, Any]]) -> list[Expert]:
    """Give experts their options; raises ExpertError for an option or expert that is not there."""
    configured = []
    unused = dict(options)
    for expert in experts:
        changes = dict(unused.pop(expert.name, {}))
        known = {field.name: field.type for field in fields(expert)}  # type: ignore[arg-type]
        for option in changes:
            if option not in known or option in ("model", "alias"):
                choice = ", ".join(name for name in known if name not in ("model", "alias")) or "none"
                raise ExpertError(f"{expert.name} has no option {option!r}; its options: {choice}")
        typed = {option: _typed(value, known[option], f"{expert.name}.{option}") for option, value in changes.items()}
        configured.append(replace(expert, **typed))  # type: ignore[type-var]
    if unused:
        chosen = ", ".join(expert.name for expert in configured)
        raise ExpertError(f"options for {', '.join(unused)}, but the chosen experts are {chosen}")
    return configured


def _typed(value: Any, kind: Any, option: str) -> float | str:
    """An option's value as the type that its field has; a number may be written as text."""
    if kind == "str":
        if isinstance(value, str):
            return value
        raise ExpertError(f"{option} is {value!r}; it must be text")
    try:
        number = float(value)
        if kind != "int":
            return number
        if number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise ExpertError(f"{option} is {value!r}; it must be a {'whole ' if kind == 'int' else ''}number")
