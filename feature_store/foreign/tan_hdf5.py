"""The features of 2D-TAN and the grounding models after it, an HDF5 file a corpus.

    ActivityNet Captions   sub_activitynet_v1-3.c3d.hdf5   f["v_xyz"]["c3d_features"]   (n, 500)
    TACoS                  tall_c3d_features.hdf5          f["s17-d69.avi"]             (n, 4096)
    Charades-STA           vgg_rgb_features.hdf5           f["AO8RW"]                   (n, 4096)

TACoS ids end in `.avi` in some files and annotations, and not in others.
"""

from __future__ import annotations

from collections.abc import Iterator

from feature_store.foreign.hdf5_files import open_one_member_a_video

open_tan_hdf5 = open_one_member_a_video


def tan_spellings(video: str) -> Iterator[str]:
    """How the format may write a video's id."""
    yield video
    yield video.removesuffix(".avi") if video.endswith(".avi") else f"{video}.avi"
