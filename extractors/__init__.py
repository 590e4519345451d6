"""What an expert is, the table of experts, and how their weights are loaded."""

from extractors.folders import (
    DamagedFile,
    FetchedFile,
    ListedFile,
    WeightsVerdict,
    fetch_weights,
    is_cached,
    list_weights,
    verify_weights,
)
from extractors.registry import EXPERTS, PRESETS, dimension, find_expert, find_experts, find_preset
from extractors.sampling import Audio, Clips, Frames, Sampling, exact
from extractors.spec import Expert, ExpertError, Finder, Finding, Network, TimedSample, Watch, identity
from extractors.weights import Loaded, WeightsError, load_expert, weights_folder

__all__ = [
    "EXPERTS",
    "PRESETS",
    "Audio",
    "Clips",
    "DamagedFile",
    "Expert",
    "ExpertError",
    "FetchedFile",
    "Finder",
    "Finding",
    "Frames",
    "ListedFile",
    "Loaded",
    "Network",
    "Sampling",
    "TimedSample",
    "Watch",
    "WeightsError",
    "WeightsVerdict",
    "dimension",
    "exact",
    "fetch_weights",
    "find_expert",
    "find_experts",
    "find_preset",
    "identity",
    "is_cached",
    "list_weights",
    "load_expert",
    "verify_weights",
    "weights_folder",
]
