"""Giving features to other tools: a video at a time, whatever the size of the store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_store.export_formats import RECORDS, WRITERS, Exported, entries, status_document
from feature_store.foreign.npy import INDEX
from feature_store.foreign.source import ImportUsageError
from feature_store.foreign.survey import Show
from feature_store.layout import StoreError, replace_file
from feature_store.places import naming
from feature_store.reader import ExpertInfo, ExpertReader, FeatureStore, unknown_video

MAKER = "reelcache export"


@dataclass(frozen=True)
class ExportSummary:
    """What an export wrote; `rows` by expert."""

    format: str
    folder: str
    videos: int
    rows: dict[str, int]


def export_features(
    store: str | Path,
    folder: str | Path,
    format: str,
    *,
    experts: Sequence[str] | None = None,
    videos: Sequence[str] | None = None,
    show: Show | None = None,
) -> ExportSummary:
    """Write features as files that other tools read; `export_formats` says how they lie there.

    Values are float32, which float16 features become without loss. Records of experts that find things go with
    them; `import_features` does not take those back. A folder that holds a previous export is written anew; of
    one that is cut off index.json says that it is not complete.

    Args:
        store: the store, a folder or an object store's URL.
        folder: a new or empty folder, or that of a previous export.
        format: "npy", "hdf5" or "webdataset".
        experts: their names; by default all.
        videos: their ids; by default all that are done for any of the experts, in the store's order.
        show: told of progress: what is done, how many, of how many.

    Raises:
        ImportUsageError: the format or an expert is none that there is, or no expert is named.
        NotInStore: a video is not in the store.
        StoreError: the store is damaged, holds values that are not finite, or the folder holds other things.
    """
    folder = Path(folder)
    opened = FeatureStore(store)
    chosen = _experts(opened, experts)
    if format not in WRITERS:
        raise ImportUsageError(f"format {format!r}: must be one of {', '.join(WRITERS)}")
    ids = _videos(opened, list(chosen), videos)
    _clear(folder)
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
        index: dict[str, Any] = {"made_by": MAKER, "format": format, "complete": False, "experts": _about(chosen)}
        _write_index(folder, index)
        rows = dict.fromkeys(chosen, 0)
        with WRITERS[format](folder, chosen) as add:
            for number, video in enumerate(ids, 1):
                exported = {name: _export(opened[name], video) for name in chosen if video in opened[name]}
                add(video, exported)
                for name, found in exported.items():
                    rows[name] += len(found.features.values)
                    index["experts"][name]["videos"].append(status_document(found.features.status))
                if show is not None:
                    show("exporting", number, len(ids))
        _write_index(folder, {**index, "complete": True})
    return ExportSummary(format, str(folder), len(ids), rows)


def _export(expert: ExpertReader, video: str) -> Exported:
    features = expert.read(video)
    if features.first_not_finite is not None:
        raise StoreError(
            f"{expert.info.name} has values of {video} that are not finite, the first in row "
            f"{features.first_not_finite}: extract it anew, or export other videos"
        )
    return Exported(features, expert.records(video) if expert.info.has_records else None)


def _experts(store: FeatureStore, names: Sequence[str] | None) -> dict[str, ExpertInfo]:
    unknown = [name for name in names or () if name not in store]
    if names is not None and not names:
        raise ImportUsageError("no expert is named; leave the experts out to export all")
    if not store.experts:
        raise StoreError(f"{store.url}: there is no expert in it, so nothing to export")
    if unknown:
        raise ImportUsageError(f"{store.url}: has no expert {', '.join(unknown)}; it has {', '.join(store.experts)}")
    return {name: store.experts[name] for name in names or store.experts}


def _videos(store: FeatureStore, experts: Sequence[str], videos: Sequence[str] | None) -> list[str]:
    """What is asked for, or all that is there, in the store's order."""
    shards: dict[int, list[str]] = {}
    for name in experts:
        for record in store[name].shards():
            shards.setdefault(record.shard, [video.id for video in record.videos])
    there = [video for shard in sorted(shards) for video in shards[shard]]
    if videos is None:
        return there
    known = set(there)
    for video in videos:
        if video not in known:
            raise unknown_video(store.url, video, there)
    return list(dict.fromkeys(videos))


def _about(experts: dict[str, ExpertInfo]) -> dict[str, Any]:
    return {
        name: {"dim": info.dim, "identity": dict(info.identity), "about": dict(info.about), "videos": []}
        for name, info in experts.items()
    }


def _clear(folder: Path) -> None:
    """Remove a previous export. Raises StoreError if the folder holds anything else."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"{folder} is a file; an export is a folder")
    if not any(folder.iterdir()):
        return
    ours = list(_previous(folder))
    others = sorted(set(folder.iterdir()) - set(ours))
    if others:
        raise StoreError(f"{folder} holds other things, e.g. {others[0].name}; name a new folder for the export")
    for path in ours:
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != INDEX:  # replaced last: it tells whose the folder is
            path.unlink()


def _previous(folder: Path) -> Iterator[Path]:
    """What a previous export wrote into its folder, by its index."""
    index = folder / INDEX
    try:
        document = json.loads(index.read_bytes())
        patterns = entries(document["format"], document["experts"]) if document["made_by"] == MAKER else []
    except (OSError, ValueError, KeyError, TypeError):
        raise StoreError(f"{folder} holds other things; name a new folder for the export") from None
    for pattern in [INDEX, *patterns]:
        for path in folder.glob(pattern):
            strange = (
                [file for file in path.iterdir() if not file.name.endswith((".npy", RECORDS))] if path.is_dir() else []
            )
            if strange or path.is_symlink():
                raise StoreError(f"{path} holds other things than an export; name a new folder for the export")
            yield path


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    replace_file(folder / INDEX, json.dumps(index, ensure_ascii=False, indent=1).encode())
