"""Released models become runs that give the official numbers; files that ask for more than they need are refused."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import BertConfig, BertModel
from typer.testing import CliRunner

from extractors import EXPERTS
from feature_store import FeatureStore
from official_numbers import close, parameters, read_golden, read_meta
from pipeline.cli import app
from python2_file import Hostile
from released_files import write_dual_encoding, write_features, write_hanet, write_mmt, write_vocabulary
from train import RecipeError, TrainError
from train.adopting import adopt
from train.evaluation import encode_texts, encode_videos
from train.recipe import Recipe, parse_recipe
from train.released import read_checkpoint, read_vocabulary
from train.retrieval.hanet import HANetText, HANetVideo
from train.retrieval.hanet_scores import hanet_scores
from train.retrieval.mmt import ExpertBatch
from train.runs import load_chosen, open_recipe, open_task
from train.search import open_index, open_model
from train.tasks.base import RetrievalTask
from train.testing import evaluate_run
from train.text.bert import SPECIALS, tokenize
from train.training import train

DUAL_SPECIALS = ("<pad>", "<start>", "<end>", "<unk>")


def make_recipe(folder: Path, system: str, experts: Sequence[str], **model: Any) -> Recipe:
    return parse_recipe(
        {
            "data": {
                "store": str(folder / "corpus.zarr"),
                "annotations": str(folder),
                "experts": list(experts),
                "missing": "drop",
            },
            "model": {"system": system, **model},
            "training": {"epochs": 1, "batch": 4, "learning_rate": 1e-4, "accelerator": "cpu"},
        },
        "here",
    )


def write_captions(folder: Path, texts: Sequence[str]) -> None:
    """One of each video; read_split leaves out those without a word."""
    lines = [json.dumps({"video": f"v{number}", "text": text}) for number, text in enumerate(texts)]
    for split in ("train", "val", "test"):
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
        (folder / f"{split}.videos.txt").write_text("".join(f"v{number}\n" for number in range(len(texts))))


def write_recipe(path: Path, recipe: Recipe) -> Path:
    """As TOML, without what is None."""

    def value(each: Any) -> str:
        if isinstance(each, dict):
            return "{" + ", ".join(f"{name} = {value(one)}" for name, one in each.items() if one is not None) + "}"
        return json.dumps(each)

    document = recipe.model_dump(mode="json", exclude_unset=True)
    path.write_text("\n".join(f"{name} = {value(each)}" for name, each in document.items()))
    return path


def open_run(run: Path) -> tuple[RetrievalTask, FeatureStore]:
    """The model of a run as evaluation and search open it."""
    recipe = open_recipe(run)
    store = FeatureStore(recipe.data.store)
    task = open_task(run, recipe, store)
    load_chosen(task, run, recipe)
    return task.eval(), store


def embeddings(run: Path, texts: Sequence[str]) -> tuple[Any, Any]:
    """Of all videos and of the sentences, through the store and the vocabularies."""
    task, store = open_run(run)
    ids = [f"v{number}" for number in range(len(texts))]
    video = encode_videos(task, task.open_videos(store, ids, "none", "cpu"), torch.arange(len(ids)), ids)
    return video, encode_texts(task, task.read_texts(texts, None), torch.arange(len(texts)), texts)


def check_use(run: Path, query: str) -> None:
    """It is evaluated, and searched with the model's own scores."""
    metrics = evaluate_run(run).metrics
    assert metrics.videos >= 7 and 0 < metrics.t2v.recall_10 <= 100
    hits = open_index(open_model(run)).search(query, 3)
    assert len(hits) == 3 and hits[0].score >= hits[1].score >= hits[2].score


def ragged(rows: Tensor, lengths: Tensor) -> dict[str, Tensor]:
    """Features by video."""
    return {f"v{number}": part for number, part in enumerate(rows.split(lengths.tolist()))}


class Dual:
    """A released Dual Encoding or hybrid space: its files, and the sentences of the official numbers."""

    def __init__(self, folder: Path, golden: Mapping[str, Tensor], **options: Any) -> None:
        hyper = read_meta(golden)["hyper"]
        self.golden, self.state, self.folder = golden, parameters(golden), folder
        self.hybrid = "tag_vocab_size" in hyper
        self.words = [f"w{number}" for number in range(hyper["bow_vocab_size"])]
        self.rnn = write_vocabulary(folder / "rnn/word_vocab_5.pkl", [*DUAL_SPECIALS, *self.words], **options)
        self.bow = write_vocabulary(folder / "bow/word_vocab_5.pkl", self.words, **options)
        write_features(
            folder / "corpus.zarr", {"cnn": ragged(golden["input/video_raw"], golden["input/video_raw_lengths"])}
        )
        known = [*("" for _ in DUAL_SPECIALS[:3]), "unheard", *self.words]
        self.texts = [
            " ".join(filter(None, (known[each] for each in ids))) for ids in golden["input/text_ids"].tolist()
        ]
        write_captions(folder, self.texts)

    def recipe(self, **model: Any) -> Recipe:
        return make_recipe(self.folder, "hybrid_space" if self.hybrid else "dual_encoding", ["cnn"], **model)

    def check(self, run: Path, suffix: str = "") -> None:
        video, text = embeddings(run, self.texts)
        for ours, side in ((video, "video"), (text, "text")):
            for each, name in zip(ours, ("latent", "concept") if self.hybrid else ("embedding",), strict=True):
                close(each, self.golden[f"output/eval/{side}_{name}{suffix}"], 1e-5)


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return read_golden("dual_encoding")


@pytest.fixture
def dual(tmp_path: Path, golden: dict[str, Tensor]) -> Dual:
    return Dual(tmp_path, golden)


@pytest.mark.parametrize("python2", [True, False])
def test_a_released_dual_encoding_gives_the_official_numbers(
    tmp_path: Path, golden: dict[str, Tensor], python2: bool
) -> None:
    """Padded as the official code pads, unless the recipe says otherwise; from Python 2 and from Python 3."""
    files = Dual(tmp_path, golden, python2=python2)
    path = write_dual_encoding(tmp_path / "model_best.pth.tar", files.state, python2=python2)
    assert adopt(files.recipe(), path, [files.bow, files.rnn], tmp_path / "run") == ()
    chosen = open_recipe(tmp_path / "run")
    assert chosen.model.compat and (chosen.model.video_units, chosen.model.text_units) == (16, 14)
    files.check(tmp_path / "run")
    check_use(tmp_path / "run", "w3 w7")
    adopt(files.recipe(compat=False), path, [files.bow, files.rnn], tmp_path / "alone")
    files.check(tmp_path / "alone", "_alone")


def test_training_goes_on_from_the_released_parameters(dual: Dual, tmp_path: Path) -> None:
    path = write_dual_encoding(tmp_path / "model_best.pth.tar", dual.state)
    adopt(dual.recipe(), path, [dual.bow, dual.rnn], tmp_path / "run")
    train(open_recipe(tmp_path / "run"), tmp_path / "run", resume=True)
    task, _ = open_run(tmp_path / "run")
    moved = (task.model.embedding.weight - dual.state["text_encoding.embed.weight"]).abs().max()
    assert 0 < moved < 1e-3  # two steps of Adam at 1e-4


def test_bags_of_words_may_be_in_an_order_of_their_own(dual: Dual, tmp_path: Path) -> None:
    weight = dual.state["text_encoding.text_mapping.fc1.weight"]
    first = weight.shape[1] - len(dual.words)
    turned = {"text_encoding.text_mapping.fc1.weight": torch.cat([weight[:, :first], weight[:, first:].flip(1)], dim=1)}
    path = write_dual_encoding(tmp_path / "model_best.pth.tar", {**dual.state, **turned})
    bow = write_vocabulary(tmp_path / "turned/word_vocab_5.pkl", dual.words[::-1])
    adopt(dual.recipe(), path, [dual.rnn, bow], tmp_path / "run")
    dual.check(tmp_path / "run")


def test_a_released_hybrid_space_gives_the_official_numbers(tmp_path: Path) -> None:
    files = Dual(tmp_path, read_golden("dual_encoding_hybrid"), protocol=4, module="__main__")
    path = write_dual_encoding(tmp_path / "model_best.pth.tar", files.state)
    concepts = tmp_path / "tag_vocab_30.json"
    concepts.write_text(json.dumps([f"c{number}" for number in range(30)]))
    assert adopt(files.recipe(), path, [files.bow, files.rnn, concepts], tmp_path / "run") == ()
    assert open_recipe(tmp_path / "run").model.concepts == 30
    assert json.loads((tmp_path / "run/assets.json").read_text())["concepts"][29] == "c29"
    files.check(tmp_path / "run")
    check_use(tmp_path / "run", "w3 w7")


@torch.no_grad()
def test_a_released_hanet_gives_the_official_numbers(tmp_path: Path) -> None:
    golden = read_golden("hanet")
    path = write_hanet(tmp_path / "epoch.34.th", parameters(golden))
    lengths = golden["input/attn_lens"].tolist()
    frames = {f"v{number}": golden["input/attn_fts"][number, :length] for number, length in enumerate(lengths)}
    write_features(tmp_path / "corpus.zarr", {"cnn": frames})
    words = ["<BOS>", "<EOS>", "<UNK>", *(f"w{number}" for number in range(3, 60))]
    (tmp_path / "word2int.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (tmp_path / "verb_words_freq.json").write_text(json.dumps({f"verb{rank}": 900 - rank for rank in range(600)}))
    ids = golden["input/sent_ids"].tolist()
    sentences = [row[:length] for row, length in zip(ids, golden["input/sent_lens"].tolist(), strict=True)]
    texts = [" ".join("unheard" if each == 2 else f"w{each}" for each in sentence) for sentence in sentences]
    write_captions(tmp_path, texts)
    vocabularies = [tmp_path / "word2int.json", tmp_path / "verb_words_freq.json"]
    assert adopt(make_recipe(tmp_path, "hanet", ["cnn"]), path, vocabularies, tmp_path / "run") == ("nouns",)

    video, text = embeddings(tmp_path / "run", texts)
    close(video.event, golden["output/eval/vid_global"], 2e-5)
    close(video.verb_clips, golden["output/eval/vid_verb_clips"], 2e-5)
    close(video.noun_concepts, golden["output/eval/vid_noun_concepts"], 2e-5)
    close(text.event, golden["output/eval/txt_global"], 2e-5)
    close(text.verb_concepts, golden["output/eval/txt_verb_concepts"], 2e-5)
    task, _ = open_run(tmp_path / "run")  # with the graphs of the official numbers
    names = ("sent_ids", "sent_lens", "verb_masks", "noun_masks", "node_roles", "rel_edges")
    text = task.encode_text(tuple(golden[f"input/{name}"] for name in names))
    scores = hanet_scores(HANetVideo(*video), HANetText(*text)).ranking()
    close(scores, golden["output/eval/scores_fused"], 2e-5)
    assert json.loads((tmp_path / "run/assets.json").read_text())["verbs"][-1] == "verb511"
    check_use(tmp_path / "run", "w3 w7")
    with pytest.raises(TrainError, match="imported without its vocabulary, so it cannot be trained further"):
        train(open_recipe(tmp_path / "run"), tmp_path / "run", resume=True)


class Mmt:
    """A released MMT with a BERT of 24 numbers; one expert has another name in the store than in the model."""

    def __init__(self, folder: Path) -> None:
        self.golden, self.folder = read_golden("mmt"), folder
        self.vocabulary = [*SPECIALS, ".", *"abcdefghij", *(f"##{letter}" for letter in "abcdefghij")]
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(self.vocabulary),
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=1,
            intermediate_size=48,
            max_position_embeddings=40,
        )
        self.bert = BertModel(config).eval()
        text = {f"txt_bert.{name}": tensor.clone() for name, tensor in self.bert.state_dict().items()}
        self.state = {**parameters(self.golden), **text, "txt_bert.embeddings.position_ids": torch.arange(40)[None]}
        hyper = read_meta(self.golden)["hyper"]
        self.arguments = {
            "vid_bert_params": hyper["vid_bert_params"],
            "keep_missing_modalities": False,
            "pos_enc": "tint",
        }
        (folder / "vocab.txt").write_text("\n".join(self.vocabulary) + "\n")
        self.names = {"vggish": "vggish", "s3d": "s3d", "texts": "ocr"}  # as the store has them, and the model
        there = {name: self.golden[f"input/features_ind/{theirs}"].bool() for name, theirs in self.names.items()}
        features = {
            name: {f"v{row}": self.golden[f"input/features/{theirs}"][row][there[name][row]] for row in range(7)}
            for name, theirs in self.names.items()
        }
        write_features(folder / "corpus.zarr", features, {"texts": EXPERTS["ocr"].kind})
        self.texts = [f"{letter}{letter} a b" for letter in "abcdefg"]
        write_captions(folder, self.texts)

    def recipe(self, **model: Any) -> Recipe:
        return make_recipe(self.folder, "mmt", list(self.names), **model)


@pytest.fixture
def mmt(tmp_path: Path) -> Mmt:
    return Mmt(tmp_path)


@torch.no_grad()
def test_a_released_mmt_gives_the_official_numbers(mmt: Mmt, tmp_path: Path) -> None:
    path = write_mmt(tmp_path / "trained_model.pth", mmt.state, mmt.arguments)
    adopt(mmt.recipe(), path, [tmp_path / "vocab.txt"], tmp_path / "run")
    chosen = open_recipe(tmp_path / "run")
    assert (chosen.model.heads, chosen.model.max_rows, chosen.model.types) == (2, 30, 10)
    assert not chosen.model.keep_missing
    task, _ = open_run(tmp_path / "run")
    kinds = ("features", "features_t", "features_ind", "features_maxpool")
    video = task.encode_video(
        tuple(ExpertBatch(*(mmt.golden[f"input/{kind}/{name}"] for kind in kinds)) for name in mmt.names.values())
    )
    text = task.model.encode_text(mmt.golden["input/text_cls"])
    close(video[0].flip(1), mmt.golden["output/eval/vid_embds"], 1e-5)  # experts in the recipe's order
    close(task.similarities()[0](video, text).T, mmt.golden["output/eval/drop_missing/sims"], 1e-5)

    tokens = torch.tensor(tokenize(["aa a b"], mmt.vocabulary, 30, 30))
    expected = mmt.bert(tokens).last_hidden_state[:, 0]
    close(task.bert(pad(tokens, (0, 2)), torch.tensor([tokens.shape[1]])), expected, 1e-5)
    check_use(tmp_path / "run", "aa a b")


def test_a_released_mmt_of_another_build_or_for_other_features_is_refused(mmt: Mmt, tmp_path: Path) -> None:
    vocabulary = [tmp_path / "vocab.txt"]
    path = write_mmt(tmp_path / "other.pth", mmt.state, {**mmt.arguments, "out_tok": "avg"})
    with pytest.raises(TrainError, match="variant of MMT that is not built here: out_tok = avg"):
        adopt(mmt.recipe(), path, vocabulary, tmp_path / "run")
    path = write_mmt(tmp_path / "trained_model.pth", mmt.state, mmt.arguments)
    with pytest.raises(TrainError, match=r"compares features of ocr, s3d, vggish; data\.experts names s3d, vggish\."):
        adopt(make_recipe(tmp_path, "mmt", ["s3d", "vggish"]), path, vocabulary, tmp_path / "run")
    with pytest.raises(TrainError, match=r"needs its vocabulary bert: .* vocab\.txt"):
        adopt(mmt.recipe(bert="random"), path, [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_commands_import_measure_and_search(dual: Dual, tmp_path: Path) -> None:
    path = write_dual_encoding(tmp_path / "model_best.pth.tar", dual.state)
    recipe, run = write_recipe(tmp_path / "mine.toml", dual.recipe()), str(tmp_path / "run")
    told = ["--vocabulary", str(dual.rnn), "--vocabulary", str(dual.bow), "-o", run, "--set", "model.compat=false"]
    done = CliRunner().invoke(app, ["import-model", str(recipe), str(path), *told])
    assert done.exit_code == 0 and "dual_encoding as released" in done.output, done.output
    assert open_recipe(Path(run)).model.compat is False
    for command in (["evaluate", run], ["search", run, "w3 w7"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output
    again = CliRunner().invoke(app, ["import-model", str(recipe), str(path), *told])
    assert again.exit_code == RecipeError.exit_code


def test_what_does_not_fit_the_model_is_told(dual: Dual, tmp_path: Path) -> None:
    path = write_dual_encoding(tmp_path / "model_best.pth.tar", dual.state)

    def refused(match: str, recipe: Recipe, vocabularies: Sequence[Path]) -> None:
        with pytest.raises(TrainError, match=match):
            adopt(recipe, path, vocabularies, tmp_path / "run")
        assert not (tmp_path / "run").exists()

    both = [dual.rnn, dual.bow]
    refused(r"model_best\.pth\.tar: is a model of dual_encoding", make_recipe(tmp_path, "hanet", ["cnn"]), both)
    refused("needs its vocabulary bow", dual.recipe(), [dual.rnn])
    refused("are the same vocabulary", dual.recipe(), [dual.rnn, dual.rnn])
    few = write_vocabulary(tmp_path / "few/word_vocab_5.pkl", dual.words[:9])
    refused("knows 46 words, the vocabulary bow has 9", dual.recipe(), [dual.rnn, few])
    other = write_vocabulary(tmp_path / "other/word_vocab_5.pkl", [*dual.words[1:], "zebra"])
    refused("rnn and bow hold different words, such as w0, zebra", dual.recipe(), [dual.rnn, other])
    scaled = dual.recipe().model_copy(update={"data": dual.recipe().data.model_copy(update={"scale": "standard"})})
    refused("data.scale=none", scaled, both)
    refused("lacks resnet152; it has cnn", make_recipe(tmp_path, "dual_encoding", ["resnet152"]), both)
    write_features(tmp_path / "wide.zarr", {"cnn": {"v0": torch.zeros(2, 40)}})
    wide = dual.recipe().model_copy(
        update={"data": dual.recipe().data.model_copy(update={"store": str(tmp_path / "wide.zarr")})}
    )
    refused("wants 24 numbers a frame; cnn has 40", wide, both)
    broken = {name: tensor[:1] if name.endswith("bn_1.bias") else tensor for name, tensor in dual.state.items()}
    path = write_dual_encoding(path, broken)
    refused(r"model_best\.pth\.tar: not an official DualEncoding model: sizes that do not fit", dual.recipe(), both)


class Unknown:
    """Of no program that released anything."""


class Evaluating:
    """Evaluates text when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("1",)


@pytest.mark.parametrize("python2", [True, False])
def test_a_hostile_checkpoint_is_refused_and_does_nothing(dual: Dual, tmp_path: Path, python2: bool) -> None:
    trace = tmp_path / "trace"
    for content, asked in (
        (Hostile(trace), r"asks for \w+\.system"),
        (Evaluating(), "asks for .*eval"),
        (Unknown(), r"asks for test_released\.Unknown"),
    ):
        path = write_dual_encoding(tmp_path / "bad.pth.tar", dual.state, python2=python2, opt=content)
        with pytest.raises(TrainError, match=asked):
            read_checkpoint(path)
        assert not trace.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_vocabulary_is_refused_and_does_nothing(tmp_path: Path, protocol: int) -> None:
    trace, path = tmp_path / "trace", tmp_path / "word_vocab_5.pkl"
    for content, asked in (
        ({"a": Hostile(trace)}, r"asks for \w+\.system"),
        (Unknown(), "Unknown"),
        ({"a": 1}, "no Vocab"),
    ):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(TrainError, match=rf"word_vocab_5\.pkl: not a vocabulary .*{asked}"):
            read_vocabulary(path)
        assert not trace.exists()


def test_a_file_that_is_no_released_model_is_told_by_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    torch.save({"weights": torch.ones(2), "step": 3}, path)
    with pytest.raises(TrainError, match=r"not a released model .* holds weights, step"):
        read_checkpoint(path)
    torch.save({"video_encoder": {"a": 3}, "text_encoder": {}}, path)
    with pytest.raises(TrainError, match="video_encoder is not a table of parameters"):
        read_checkpoint(path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(TrainError, match="not a checkpoint, or a damaged one"):
        read_checkpoint(path)
    with pytest.raises(TrainError, match="cannot be read"):
        read_checkpoint(tmp_path / "nowhere.pth")


def test_a_released_model_of_numbers_that_are_not_finite_is_refused(dual: Dual, tmp_path: Path) -> None:
    name, tensor = next(iter(dual.state.items()))
    spoilt = tensor.clone()
    spoilt.view(-1)[0] = float("nan")
    path = write_dual_encoding(tmp_path / "model_best.pth.tar", {**dual.state, name: spoilt})
    with pytest.raises(TrainError, match=r"model_best\.pth\.tar: 1 of \d+ parameters hold numbers that are not finite"):
        adopt(dual.recipe(), path, [dual.rnn, dual.bow], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_vocabularies_are_read_in_the_order_of_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "word2int.json"
    path.write_text('{"dog": 4, "cat": 3}')
    assert read_vocabulary(path) == ("", "", "", "cat", "dog")
    np.save(tmp_path / "int2word.npy", np.array(["cat", "dog"]))
    assert read_vocabulary(tmp_path / "int2word.npy") == ("cat", "dog")
    for wrong in ('{"dog": 4, "cat": 2}', "[1, 2]", "[]", "3", "{"):
        path.write_text(wrong)
        with pytest.raises(TrainError, match=r"word2int\.json: not a vocabulary"):
            read_vocabulary(path)
    np.save(tmp_path / "objects.npy", np.array(["cat", None], dtype=object), allow_pickle=True)
    with pytest.raises(TrainError, match="not a vocabulary"):
        read_vocabulary(tmp_path / "objects.npy")
