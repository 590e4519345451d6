"""Features of a real clip against those that v-iashin/video_features publishes for it.

Runs where REELCACHE_REFERENCE names a folder that holds, at any depth, `video_features_v_GGSY1Qvo990.npz` and a clip
`*v_GGSY1Qvo990.mp4`; the comparison of values also needs the pretrained weights in the cache.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_manifests import Video
from extractors import Expert, find_experts, load_expert
from extractors.weights import WeightsError, cache_folder
from pipeline.sampling import Ended, Request, sample_video

FOLDER = Path(os.environ.get("REELCACHE_REFERENCE", "."))
FEATURES = next(FOLDER.rglob("video_features_v_GGSY1Qvo990.npz"), None) if "REELCACHE_REFERENCE" in os.environ else None
CLIP = next(FOLDER.rglob("*v_GGSY1Qvo990.mp4"), None) if FEATURES else None

pytestmark = pytest.mark.skipif(
    CLIP is None, reason="REELCACHE_REFERENCE names no folder with the clip and its features"
)


@dataclass(frozen=True)
class Case:
    """An expert set up as the features were made, their name, and the cosine that rows must reach."""

    expert: str
    features: str
    options: Mapping[str, Any] = field(default_factory=dict)
    cosine: float = 0.99


FPS = 19.62  # of the clip
CASES = [
    Case("vggish", "vggish/v_GGSY1Qvo990_vggish"),
    Case("timm:resnet34.tv_in1k", "resnet/v_GGSY1Qvo990_resnet34_64_None_resnet", {"every": 1 / FPS}),
    Case("i3d", "i3d/v_GGSY1Qvo990_rgb_raft_None_None_None_rgb", {"fps": FPS, "length": 64, "hop": 64}),
    # made from a copy that was encoded anew for its frame rate
    Case("s3d", "s3d/v_GGSY1Qvo990_None_None_None_s3d", {"fps": 25, "length": 64, "hop": 64}, cosine=0.95),
]


def sampled(expert: Expert, request: Request) -> list[torch.Tensor]:
    video = Video("v_GGSY1Qvo990", str(CLIP))
    items = list(sample_video(video, {expert.name: request}))
    assert isinstance(items[-1], Ended) and items[-1].status.status == "ok"
    return [item.data for item in items if not isinstance(item, Ended)]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.expert)
def test_there_are_as_many_rows(case: Case) -> None:
    [expert] = find_experts([case.expert], {case.expert: case.options})
    samples = sampled(expert, Request(expert.samples, lambda frame: torch.from_numpy(frame[:1, :1].copy())))
    with np.load(str(FEATURES), allow_pickle=False) as published:
        assert abs(len(samples) - len(published[case.features])) <= (1 if "resnet" in case.expert else 0)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.expert)
def test_rows_point_the_same_way(case: Case) -> None:
    [expert] = find_experts([case.expert], {case.expert: case.options})
    try:
        network = load_expert(expert, str(cache_folder())).network
    except WeightsError as error:
        pytest.skip(f"pretrained weights are not cached: {error}".splitlines()[0])
    request = Request(expert.samples, lambda frame: network.prepare(frame, torch.device("cpu")))
    samples = sampled(expert, request)
    with torch.inference_mode():
        ours = torch.cat([network(torch.stack(samples[first : first + 4])) for first in range(0, len(samples), 4)])
    with np.load(str(FEATURES), allow_pickle=False) as published:
        theirs = torch.from_numpy(published[case.features]).float()
    rows = min(len(ours), len(theirs))
    cosines = torch.nn.functional.cosine_similarity(ours[:rows], theirs[:rows])
    assert cosines.median() > case.cosine, f"{expert.name}: {cosines}"
