"""Small annotation files in the form of the published ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    """Lines of text; `end` is what follows the last, "" as in many published lists."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(("\n".join(lines) + end).encode())
    return path


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def msrvtt_info(path: Path, splits: Mapping[int, str], captions: int = 2) -> Path:
    """Videos by number with the name of their split, "" for none; sentences go video by video, last video first."""
    videos = [
        {"category": 9, "video_id": f"video{n}", "start time": 1.5, "end time": 9.0, "id": n}
        | ({"split": split} if split else {})
        for n, split in splits.items()
    ]
    sentences = [
        {"sen_id": k, "video_id": f"video{n}", "caption": f"caption {k} of {n}"}
        for n in reversed(splits)
        for k in range(captions)
    ]
    return write_json(path, {"info": {"year": "2016"}, "videos": videos, "sentences": sentences})


def jsfusion_csv(path: Path, numbers: Iterable[int]) -> Path:
    rows = [f'ret{k},msr{n},video{n},"asked, of {n}"' for k, n in enumerate(numbers)]
    return write(path, "key,vid_key,video_id,sentence", *rows)


def msvd(folder: Path, lists: bool = True) -> Path:
    """Two videos a split, of two and one captions."""
    for split in ("train", "val", "test"):
        write(
            folder / f"msvd{split}.caption.txt",
            f"{split}-b_7_10#0 A man slices.",
            f"{split}-b_7_10#1 A man\u2028cuts.",
            f"{split}-a_0_5#0 A cat plays.",
        )
        if lists:
            write(folder / f"msvd{split}.txt", f"{split}-a_0_5", f"{split}-b_7_10", end="")
    return folder


def vatex(path: Path, ids: Sequence[str]) -> Path:
    return write_json(path, [{"videoID": v, "enCap": [f"{v} one", f"{v} two"], "chCap": ["一"]} for v in ids])


def activitynet(path: Path, videos: Mapping[str, tuple[float, list[tuple[float, float, str]]]]) -> Path:
    """{video: (duration, [(start, end, sentence)])}"""
    return write_json(
        path,
        {
            video: {
                "duration": duration,
                "timestamps": [[start, end] for start, end, _ in told],
                "sentences": [sentence for _, _, sentence in told],
            }
            for video, (duration, told) in videos.items()
        },
    )


def charades(folder: Path) -> Path:
    write(
        folder / "charades_sta_train.txt",
        "AO8RW 0.0 6.9##a person puts a book on a shelf.",
        "Y6R7T 20.8 35.0##person plays on a phone.",  # ends after its video
        "LEOL6 8.0 7.0##person is holding medicine.",  # ends before it starts
    )
    write(folder / "charades_sta_test.txt", "3MSZA 24.3 30.4##person turn a light on.", end="")
    header = "id,subject,script,length"
    train = ['AO8RW,HR43,"a book, a shelf",33.67', "Y6R7T,HR43,a phone,29.42", "LEOL6,HR43,medicine,30.0"]
    write(folder / "Charades_v1_train.csv", header, *train)
    write(folder / "Charades_v1_test.csv", header, "3MSZA,HR43,a light,31.0")
    return folder


def tacos(path: Path, video: str = "s17-d69.avi") -> Path:
    """25 frames a second, 100 frames."""
    told = {"timestamps": [[25, 50], [75, 110]], "sentences": ["He took a pan", "He left"]}
    return write_json(path, {video: {**told, "fps": 25.0, "num_frames": 100}})
