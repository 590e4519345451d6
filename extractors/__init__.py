"""What an expert is, the table of experts, and how their weights are loaded."""

from extractors.registry import EXPERTS, PRESETS, find_expert, find_experts, find_preset
from extractors.sampling import Audio, Clips, Frames, Sampling, exact
from extractors.spec import Expert, ExpertError, Network, identity
from extractors.weights import Loaded, WeightsError, load_expert

__all__ = [
    "EXPERTS",
    "PRESETS",
    "Audio",
    "Clips",
    "Expert",
    "ExpertError",
    "Frames",
    "Loaded",
    "Network",
    "Sampling",
    "WeightsError",
    "exact",
    "find_expert",
    "find_experts",
    "find_preset",
    "identity",
    "load_expert",
]
