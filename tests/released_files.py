"""Released checkpoints and vocabularies, small: pickled as the authors' programs pickle them."""

from __future__ import annotations

import pickle
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from extractors import EXPERTS
from feature_store import StoreWriter, VideoStatus
from python2_file import _Python2Pickler, write_checkpoint
from small_stores import identity, plan, times

PARTS = ("vid_encoding", "text_encoding", "vid_mapping", "text_mapping")


class Vocabulary:
    def __init__(self, text_style: str, words: Sequence[str]) -> None:
        self.word2idx = {word: number for number, word in enumerate(words)}
        self.idx2word = dict(enumerate(words))
        self.idx = len(words)
        self.text_style = text_style


class ConfigParser:
    def __init__(self, config: Mapping[str, Any]) -> None:
        self.resume = None
        self.cfg_fname = Path("configs/eccv20/MSRVTT.json")
        self._config = dict(config)
        self._save_dir = Path("exps/MSRVTT")
        self._web_dirs = [Path("exps/MSRVTT/visualisations")]
        self._args = Namespace(config="configs/eccv20/MSRVTT.json", resume=None, device="0")


@contextmanager
def named(kind: type, module: str) -> Iterator[None]:
    """Meanwhile the class is of a module of the authors' programs, so that a pickle says so."""
    own, names = kind.__module__, {module, module.split(".")[0]}
    before = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update({name: ModuleType(name) for name in names})
    setattr(sys.modules[module], kind.__name__, kind)
    kind.__module__ = module
    try:
        yield
    finally:
        kind.__module__ = own
        for name in names:
            del sys.modules[name]
        sys.modules.update(before)


def write_vocabulary(
    path: Path, words: Sequence[str], *, module: str = "util.vocab", protocol: int = 2, python2: bool = False
) -> Path:
    """A word_vocab_5.pkl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    vocabulary = Vocabulary(path.parent.name, words)
    with named(Vocabulary, module), open(path, "wb") as file:
        if python2:
            _Python2Pickler(file, {}).dump(vocabulary)
        else:
            pickle.dump(vocabulary, file, protocol)
    return path


def write_dual_encoding(path: Path, state: Mapping[str, Tensor], *, python2: bool = False, **more: Any) -> Path:
    """A model_best.pth.tar of Dual Encoding, or of its hybrid space if the state has maps of their own."""
    parts = {part: _part(state, f"{part}.") for part in PARTS}
    content = {
        "epoch": 17,
        "model": [part for part in parts.values() if part],
        "best_rsum": 147.3,
        "opt": Namespace(rootpath="/home/daniel/VisualSearch", dropout=0.2, visual_kernel_sizes=[2, 3, 4, 5]),
        "Eiters": 16965,
        **more,
    }
    if python2:
        write_checkpoint(content, path)
    else:
        torch.save(content, path)
    return path


def write_mmt(path: Path, state: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> Path:
    """A trained_model.pth, with the state of its optimizer."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([parameter])
    parameter.grad = torch.ones(3)
    optimizer.step()
    content = {
        "arch": "CENet",
        "epoch": 50,
        "state_dict": dict(state),
        "monitor_best": np.float64(50.0),
        "config": ConfigParser({"n_gpu": 1, "arch": {"type": "CENet", "args": dict(arguments)}}),
        "n_samples": 1_600_000,
        "n_steps": 50_000,
        "optimizer": optimizer.state_dict(),
        "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1).state_dict(),
    }
    with named(ConfigParser, "parse_config"):
        torch.save(content, path)
    return path


def write_hanet(path: Path, state: Mapping[str, Tensor]) -> Path:
    """An epoch.N.th."""
    torch.save({side: _part(state, f"{side}.") for side in ("video_encoder", "text_encoder")}, path)
    return path


def write_features(path: Path, experts: Mapping[str, Mapping[str, Tensor]], kinds: Mapping[str, str] = {}) -> Path:
    """A store with these features, (rows, dim) of each video; one that an expert lacks has no stream for it."""
    store, videos = StoreWriter(path), list(dict.fromkeys(video for each in experts.values() for video in each))
    plan(store, videos, len(videos))
    for name, features in experts.items():
        dim = next(iter(features.values())).shape[1]
        kind = kinds.get(name) or (EXPERTS[name].kind if name in EXPERTS else "appearance")
        expert = store.add_expert(name, identity(dim=dim, kind=kind), {"host": "here"})
        writer = expert.begin(0)
        statuses = []
        for number, video in enumerate(videos):
            rows = len(features.get(video, ()))
            if rows:
                writer.append(number, 0, features[video].numpy(), times(rows))
                statuses.append(VideoStatus(video, "ok", rows=rows, seconds=rows / 2))
            else:
                statuses.append(VideoStatus(video, "no_stream", reason="nothing there"))
        writer.finish(statuses, {"host": "here"})
    return path


def _part(state: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    return {name.removeprefix(beginning): tensor for name, tensor in state.items() if name.startswith(beginning)}
