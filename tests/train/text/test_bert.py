"""BERT against transformers' own, from a folder; random; and where it cannot be had."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer

from data_manifests import ManifestError
from train import TrainError
from train.text.bert import SPECIALS, Bert, describe, tokenize

PIECES = ["a", "dog", "chase", "##s", "##ing", "the", "ball", "!", ".", ",", "'", "run", "cafe", "7", "日", "##7"]
SENTENCES = [
    "a dog chases the ball", "The DOG runs!", "a café, 77 dogs", "日本 chasing", "dog's ball.", "", "a " * 60,
    "xyzzy runs",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers saves a small BERT."""
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    words = [*SPECIALS, *PIECES]
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return folder


def as_mmt_writes(text: str) -> str:
    sentence = " ".join(text.split()[:30]).capitalize()
    return sentence if sentence.endswith((".", "!", "?")) else sentence + "."


def test_tokens_are_those_of_transformers(folder: Path) -> None:
    theirs = BertTokenizer(vocab=str(folder / "vocab.txt"), do_lower_case=True)
    vocabulary = describe(str(folder), [])["vocabulary"]
    ours = tokenize(SENTENCES, vocabulary, max_words=30, max_tokens=12)
    written = [as_mmt_writes(text) for text in SENTENCES]
    assert ours == [theirs.encode(text, truncation=True, max_length=12) for text in written]


def test_a_published_folder_gives_the_outputs_of_transformers(folder: Path) -> None:
    described = describe(str(folder), [])
    bert = Bert(described).eval()
    bert.load_published(str(folder))
    theirs = BertModel.from_pretrained(folder).eval()
    tokens = torch.randint(5, len(described["vocabulary"]), (3, 9))
    lengths = torch.tensor([9, 4, 6])
    mask = torch.arange(9) < lengths[:, None]
    with torch.no_grad():
        expected = theirs(input_ids=tokens, attention_mask=mask.long()).last_hidden_state[:, 0]
        torch.testing.assert_close(bert(tokens, lengths), expected, rtol=0, atol=1e-6)
    assert bert.dim == 16


@torch.no_grad()
def test_padding_does_not_count(folder: Path) -> None:
    bert = Bert(describe(str(folder), [])).eval()
    tokens = torch.tensor([[2, 6, 7, 3, 0, 0]])
    alone = bert(tokens[:, :4], torch.tensor([4]))
    torch.testing.assert_close(bert(tokens, torch.tensor([4])), alone, rtol=0, atol=1e-6)


def test_a_random_one_knows_the_words_it_is_trained_with() -> None:
    described = describe("random", ["a dog runs", "a dog sleeps, a cat"])
    vocabulary = described["vocabulary"]
    assert tuple(vocabulary[:5]) == SPECIALS
    assert len(set(vocabulary)) == len(vocabulary) == described["config"]["vocab_size"]
    ids = tokenize(["A dog sleeps", "god"], vocabulary, 30, 30)
    assert [vocabulary[each] for each in ids[0][:4]] == ["[CLS]", "a", "dog", "sleeps"]
    assert [vocabulary[each] for each in ids[1][1:4]] == ["g", "##o", "##d"], "unknown words are spelt"
    assert Bert(described)(torch.tensor(ids[0])[None], torch.tensor([len(ids[0])])).shape == (1, 128)


def test_a_folder_that_lacks_something_is_told(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainError, match=r"lacks config\.json; the folder needs"):
        describe(str(tmp_path), [])
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    words = (folder / "vocab.txt").read_text().splitlines()
    (tmp_path / "vocab.txt").write_text("\n".join(words[:-2]))
    with pytest.raises(TrainError, match=r"vocab\.txt has 19 words, config\.json says 21"):
        describe(str(tmp_path), [])
    (tmp_path / "vocab.txt").write_text("\n".join(words[5:]))
    with pytest.raises(TrainError, match=r"vocab\.txt lacks \[PAD\]"):
        describe(str(tmp_path), [])
    with pytest.raises(TrainError, match=r"lacks model\.safetensors"):
        Bert(describe(str(folder), [])).load_published(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config.json", b"{", r"config\.json: no BERT can be made of it"),
        ("config.json", b"[]", r"config\.json: no BERT can be made of it"),
        ("config.json", b'{"vocab_size": "x"}', r"config\.json: no BERT can be made of it"),
        ("config.json", b'{"hidden_size": 7, "num_attention_heads": 2}', "not a multiple of the number of attention"),
        ("config.json", b'{"hidden_size": -1}', r"config\.json: no BERT can be made of it"),
        ("vocab.txt", b"[PAD]\ncaf\xe9\n", r"vocab\.txt:2: is not UTF-8 text"),
        ("model.safetensors", b"", r"model\.safetensors: damaged"),
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}", "lacks .* parameters, or has them in another size"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, name: str, content: bytes, told: str) -> None:
    for each in folder.iterdir():
        (tmp_path / each.name).write_bytes(each.read_bytes())
    (tmp_path / name).write_bytes(content)
    with pytest.raises((TrainError, ManifestError), match=told):
        Bert(describe(str(tmp_path), [])).load_published(str(tmp_path))


def test_without_a_network_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(TrainError, match=r"`hf download bert-base-cased .*--set model\.bert=FOLDER"):
        describe("bert-base-cased", [])
