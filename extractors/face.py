"""Faces: MTCNN finds them, InceptionResnetV1 tells them apart; one row a face.

Both networks are facenet-pytorch's (Zhang et al., "Joint Face Detection and Alignment", SPL 2016; Schroff et
al., "FaceNet", CVPR 2015, trained on VGGFace2). MTCNN's parameters ship inside that package and are used
whatever --weights says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import torch
from facenet_pytorch import MTCNN, InceptionResnetV1, extract_face, fixed_image_standardization
from PIL import Image
from torch import Tensor, nn

from extractors.images import stacks
from extractors.sampling import FASTEST, Frames
from extractors.spec import ExpertError, Finder, Finding, TimedSample, Weights, WeightsFile, channels_last
from extractors.weights import he_init, load_published

FACE_SIZE = 160  # pixels
IDENTITIES = 8631  # of VGGFace2: the published classifier's, which is dropped
THRESHOLDS = (0.6, 0.7, 0.7)  # of MTCNN's three stages
PYRAMID_FACTOR = 0.709
LOOK_PIXELS, LOOK_FRAMES = 8 << 20, 32  # at once, at most
EMBED_FACES = 64  # at once, at most


@dataclass(frozen=True)
class Face:
    """Face embeddings, L2-normalised: 512-d, a row for every face of a frame, the largest first.

    A record holds the `box` [x1, y1, x2, y2], the detector's `probability`, five `landmarks` [x, y] (eyes, nose,
    corners of the mouth), all in pixels of a frame of `size` [width, height], upright and with square pixels.
    """

    every: float = 0.5  # seconds
    min_face: int = 20  # pixels: the side of the smallest face that is looked for

    kind = "face"
    name = "face"
    weights = Weights(
        files=(
            WeightsFile(
                "20180402-114759-vggface2.pt",
                "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt",
            ),
        ),
        license="MIT",
        paper="FaceNet: A Unified Embedding for Face Recognition and Clustering (Schroff et al., CVPR 2015)",
    )

    def __post_init__(self) -> None:
        if not 1 / FASTEST <= self.every < inf or self.min_face < 12:
            raise ExpertError(f"{self}: every must be at least {1 / FASTEST} seconds, and min_face at least 12 pixels")

    @property
    def samples(self) -> Frames:
        return Frames(self.every)

    def preprocessing(self) -> dict[str, Any]:
        return {
            "detector": {"network": "MTCNN", "thresholds": list(THRESHOLDS), "factor": PYRAMID_FACTOR},
            "crop": FACE_SIZE,
            "interpolation": "bilinear",
            "mean": 127.5,
            "std": 128.0,
        }

    def random(self) -> Finder:
        embedder = InceptionResnetV1()
        he_init(embedder)
        return FaceFinder(embedder, self.min_face)

    def pretrained(self, folder: Path, fetch: bool) -> Finder:
        embedder = InceptionResnetV1(classify=True, num_classes=IDENTITIES)
        load_published(embedder, self.weights.files[0], folder, fetch)
        del embedder.logits
        embedder.classify = False
        return FaceFinder(embedder, self.min_face)


class FaceFinder(Finder):
    """MTCNN over frames of one size, then InceptionResnetV1 over all faces found in them."""

    dim = 512

    def __init__(self, embedder: nn.Module, min_face: int) -> None:
        super().__init__()
        self.detector = MTCNN(
            keep_all=True, min_face_size=min_face, thresholds=list(THRESHOLDS), factor=PYRAMID_FACTOR
        ).eval()
        self.embedder = channels_last(embedder).eval()
        self._min_face = min_face

    def group(self, sample: Tensor) -> int:
        height, width, _ = sample.shape
        return max(1, min(LOOK_FRAMES, LOOK_PIXELS // (height * width)))

    def watch(self) -> FaceWatch:
        return FaceWatch(self)

    def detect(self, frames: Tensor) -> list[list[dict[str, Any]]]:
        """The faces of each of the frames (B, H, W, 3) uint8, as records."""
        height, width = frames.shape[1:3]
        if min(height, width) < self._min_face:
            return [[] for _ in frames]  # MTCNN's pyramid has no level for them
        self.detector.device = self.device
        found = zip(*self.detector.detect(frames.to(self.device), landmarks=True), strict=True)
        return [
            [] if boxes is None else list(_records(boxes, probabilities, landmarks, [width, height]))
            for boxes, probabilities, landmarks in found
        ]

    def embed(self, faces: Tensor) -> np.ndarray:
        """Faces (B, 3, 160, 160) in 0..255 -> (B, 512) float32."""
        inputs = fixed_image_standardization(faces).to(self.device)
        return self.embedder(inputs.contiguous(memory_format=torch.channels_last)).cpu().numpy()


class FaceWatch:
    """Every frame is looked at by itself."""

    def __init__(self, finder: FaceFinder) -> None:
        self._finder = finder

    def look(self, samples: Sequence[TimedSample]) -> list[Finding]:
        frames = [sample.data for sample in samples]
        seen = [records for stack in stacks(frames) for records in self._finder.detect(stack)]
        faces = [(number, record) for number, records in enumerate(seen) for record in records]
        if not faces:
            return []
        images = [Image.fromarray(frame.numpy()) for frame in frames]
        features: list[np.ndarray] = []
        for first in range(0, len(faces), EMBED_FACES):
            some = faces[first : first + EMBED_FACES]
            crops = [extract_face(images[number], record["box"], FACE_SIZE) for number, record in some]
            features += list(self._finder.embed(torch.stack(crops)))
        return [
            Finding(feature, samples[number].start, samples[number].end, record)
            for feature, (number, record) in zip(features, faces, strict=True)
        ]

    def finish(self) -> list[Finding]:
        return []


def _records(boxes: Any, probabilities: Any, landmarks: Any, size: list[int]) -> Iterator[dict[str, Any]]:
    """Records of one frame's faces; a box of which the frame shows less than a pixel is none."""
    for box, probability, points in zip(boxes, probabilities, landmarks, strict=True):
        left, top, right, bottom = (float(number) for number in box)
        if int(min(right, size[0])) > int(max(left, 0)) and int(min(bottom, size[1])) > int(max(top, 0)):
            yield {
                "box": [round(number, 2) for number in (left, top, right, bottom)],
                "probability": round(float(probability), 4),
                "landmarks": [[round(float(x), 2), round(float(y), 2)] for x, y in points],
                "size": size,
            }
