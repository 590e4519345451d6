"""The features of HGR and HANet: `ordered_feature/SA/<feature>/{trn,val,tst}_ft.hdf5`.

One dataset (frames, dim) a video, its name the video's with every `/` written as `_`, since HDF5 takes a
slash for a path. The files of the splits hold different videos: name them all.
"""

from __future__ import annotations

from collections.abc import Iterator

from feature_store.foreign.hdf5_files import open_one_member_a_video

open_hgr_hdf5 = open_one_member_a_video


def hgr_spellings(video: str) -> Iterator[str]:
    """How the format may write a video's id."""
    yield video
    yield video.replace("/", "_")
