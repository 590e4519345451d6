"""New word vectors for texts that are in a store already: no video is touched."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from extractors.words import WordVectors, find_word_vectors
from feature_store import ExpertReader, FeatureStore, ShardRecord, ShardWriter, StoreError, StoreWriter
from pipeline.shards import unfit


def embed_text(store: str | Path, expert: str, word_vectors: str = "", name: str | None = None) -> tuple[str, int]:
    """Make a variant of an expert that reads or hears words, from its stored texts; returns its name and rows.

    `word_vectors` is a word2vec or GloVe file, "" for hashed vectors; `name` is by default the expert's with the
    file's behind it. Shards that the variant has already are left alone, so the same call goes on where it was
    stopped, and after a longer extraction or one that mended videos. Raises StoreError, NotInStore, ExpertError.
    """
    reader = FeatureStore(store)[expert]
    preprocessing = reader.info.identity.get("preprocessing", {})
    if "words" not in preprocessing:
        raise StoreError(f"{expert} has no texts: only experts that read or hear words have, e.g. ocr and speech")
    vectors = find_word_vectors(word_vectors)
    name = name or f"{expert}_{Path(word_vectors).stem or 'hashed'}"
    identity = json.loads(json.dumps(dict(reader.info.identity)))
    identity |= {
        "kind": reader.info.kind,
        "dim": vectors.dim,
        "preprocessing": {**preprocessing, "words": vectors.provenance()},
    }
    variant = StoreWriter(store).add_expert(name, identity, dict(reader.info.about))
    rows = 0
    for record in reader.shards():
        done = variant.complete(record.shard)
        if done is None or done.videos != record.videos:  # failed videos may have been done again
            rows += _embed_shard(reader, record, vectors, variant.begin(record.shard))
    return name, rows


def _embed_shard(reader: ExpertReader, record: ShardRecord, vectors: WordVectors, writer: ShardWriter) -> int:
    for number, video in enumerate(record.videos):
        if video.rows:
            records: list[dict[str, Any]] = reader.records(video.id)
            times = np.array([(found.pop("start"), found.pop("end")) for found in records])
            features = np.stack([vectors.embed(found["text"]) for found in records])
            if reason := unfit(features, writer.dtype):
                raise StoreError(f"{reader.info.name} of {video.id!r} cannot have these vectors: {reason}")
            writer.append(number, 0, features, times, records)
    run = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname()}
    writer.finish(list(record.videos), run)
    return sum(video.rows for video in record.videos)
