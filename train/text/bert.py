"""BERT (Devlin et al., NAACL 2019) as MMT uses it: the state of [CLS] in the last layer, tuned with the rest.

From a folder or the Hugging Face hub, or, for runs without either, small and random. MMT lowers all text although the
vocabulary is the cased one, since its tokenizer was made so; published checkpoints expect that, so it is done here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from data_manifests.text_files import read_text
from train import TrainError

RANDOM = "random"
PADDING, SPECIALS = "[PAD]", ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RANDOM_SIZES = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 512}
RANDOM_WORDS = 8000  # at most, of the captions it is trained with


def describe(source: str, texts: Sequence[str]) -> dict[str, Any]:
    """All that decides a BERT but its parameters: {"config": ..., "vocabulary": [...]}.

    `source` is a folder with config.json and vocab.txt, a name on the hub, or "random", for which the vocabulary is
    taken from `texts`. Raises TrainError, saying how to get them, if the files cannot be had.
    """
    if source == RANDOM:
        words = Counter(chain.from_iterable(map(_words, texts)))
        letters = sorted(set(chain.from_iterable(words)))
        frequent = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))]
        pieces = dict.fromkeys([*SPECIALS, *letters, *(f"##{each}" for each in letters), *frequent[:RANDOM_WORDS]])
        return {"config": {**RANDOM_SIZES, "vocab_size": len(pieces)}, "vocabulary": list(pieces)}
    from transformers import BertConfig

    path = _file(source, "config.json")
    try:
        config = BertConfig.from_pretrained(str(path))
        with torch.device("meta"):
            Bert({"config": config.to_diff_dict()})
    except Exception as error:  # transformers raises whatever a wrong config sets off
        raise TrainError(f"{path}: no BERT can be made of it ({str(error).splitlines()[0]})") from error
    vocabulary = read_text(_file(source, "vocab.txt")).removesuffix("\n").split("\n")
    lacking = [word for word in SPECIALS if word not in vocabulary]
    if lacking:
        raise TrainError(f"BERT {source}: vocab.txt lacks {', '.join(lacking)}; it is not one of BERT's")
    if config.vocab_size != len(vocabulary):
        raise TrainError(f"BERT {source}: vocab.txt has {len(vocabulary)} words, config.json says {config.vocab_size}")
    return {"config": config.to_diff_dict(), "vocabulary": vocabulary}


class Bert(nn.Module):
    """Sentences to the last state of [CLS]."""

    def __init__(self, described: dict[str, Any]) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel  # takes seconds to import

        self.network = BertModel(BertConfig.from_dict(described["config"]), add_pooling_layer=False)
        self.dim: int = self.network.config.hidden_size

    def begin_without_order(self) -> None:
        """Let all positions begin equal: of few captions, words are learnt sooner if their order is learnt after."""
        nn.init.zeros_(self.network.embeddings.position_embeddings.weight)

    def load_published(self, source: str) -> None:
        """Take the parameters of a folder or of the hub. Raises TrainError if they cannot be had, or do not fit."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = _file(source, "model.safetensors")
        try:
            state = load_file(path)
        except SafetensorError as error:
            raise TrainError(f"{path}: damaged, or no such file ({error}); fetch it again") from error
        named = {name.removeprefix("bert."): tensor for name, tensor in state.items()}
        for old, new in (("gamma", "weight"), ("beta", "bias")):  # as checkpoints of 2018 call them
            named = {name.replace(f"LayerNorm.{old}", f"LayerNorm.{new}"): tensor for name, tensor in named.items()}
        sizes = {name: tensor.shape for name, tensor in self.network.state_dict().items() if "position_ids" not in name}
        lacking = [name for name, size in sizes.items() if name not in named or named[name].shape != size]
        if lacking:
            raise TrainError(
                f"BERT {source}: model.safetensors lacks {len(lacking)} parameters, or has them in another size than "
                f"config.json says, such as {lacking[0]}"
            )
        self.network.load_state_dict(named, strict=False)

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, T) and lengths (B,) -> (B, dim)."""
        mask = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        return self.network(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[:, 0]


def tokenize(texts: Sequence[str], vocabulary: Sequence[str], max_words: int, max_tokens: int) -> list[list[int]]:
    """Ids of [CLS] sentence [SEP], cut at `max_tokens` with [SEP] last, of sentences as MMT writes them."""
    from tokenizers import BertWordPieceTokenizer

    ids = {word: number for number, word in enumerate(vocabulary)}
    tokenizer = BertWordPieceTokenizer(ids, lowercase=True)
    encoded = tokenizer.encode_batch([_sentence(text, max_words) for text in texts])
    separator = ids["[SEP]"]
    return [each.ids if len(each.ids) <= max_tokens else [*each.ids[: max_tokens - 1], separator] for each in encoded]


def _sentence(text: str, max_words: int) -> str:
    """The first words, with a capital and a full stop."""
    sentence = " ".join(text.split()[:max_words]).capitalize()
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def _words(text: str) -> list[str]:
    """As BERT splits before it looks for pieces."""
    return "".join(char if char.isalnum() else f" {char} " for char in text.lower()).split()


def _file(source: str, name: str) -> Path:
    folder = Path(source)
    if folder.is_dir():
        if not (folder / name).is_file():
            raise TrainError(f"BERT {folder}: lacks {name}; the folder needs config.json, vocab.txt, model.safetensors")
        return folder / name
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(source, name))
    except Exception as error:  # the hub raises its own, its HTTP client's, and the system's
        raise TrainError(
            f"BERT {source}: {name} cannot be fetched ({type(error).__name__}). On a machine with network access, "
            f"`hf download {source} config.json vocab.txt model.safetensors --local-dir FOLDER`; then say "
            f'--set model.bert=FOLDER. To try things out without: --set model.bert="{RANDOM}"'
        ) from None
