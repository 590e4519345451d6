"""Released models made into runs: evaluated and searched as if they had been trained here.

The sizes of a model are read off its parameters, its vocabularies come from the files that were released with it, and
its features from the store, by a recipe. Whatever of these does not fit the others is told before a run is made.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train import RecipeError, TrainError
from train.annotations import some
from train.features import ExpertFacts
from train.finite import check_parameters
from train.official import take_official
from train.paths import absolute_paths
from train.recipe import Recipe, parse_recipe
from train.released import Released, Words, read_checkpoint, read_vocabularies
from train.retrieval import dual_encoding, hanet
from train.retrieval.dual_encoding import DualEncodingConfig
from train.retrieval.hanet import HANetConfig
from train.retrieval.mmt import LEFT_OUT, MMT, OFFICIAL_TYPES, ExpertTokens, official_names
from train.runs import LAST, RECIPE, chosen_checkpoint, open_store, write_run
from train.tasks import TASKS
from train.tasks.base import Assets
from train.tasks.dual_encoding import EncodersTask
from train.tasks.hanet import SPECIALS as HANET_SPECIALS
from train.tasks.hanet import HANetTask
from train.tasks.mmt import OFFICIAL_NAMES, UNTIMED, MMTTask
from train.text.bert import RANDOM, describe

MMT_VARIANT = {
    "vid_cont": "bert",
    "vid_inp": "both",
    "pos_enc": "tint",
    "out_tok": "mxp",
    "txt_inp": "bertftn",
    "txt_agg": "bertftn",
    "txt_pro": "gbn",
    "txt_wgh": "emb",
    "vid_wgh": "none",
    "l2renorm": False,
}  # how the published configs name the MMT that is built here
TYPE_TABLE = "vid_bert.embeddings.token_type_embeddings.weight"
BERT = "txt_bert."
HEAD = 64  # numbers an attention head of every published BERT

# What a checkpoint says before the first step, so that `reelcache train RUN --resume` tunes the released model.
UNTRAINED: dict[str, Any] = {
    "epoch": 0,
    "global_step": 0,
    "loops": None,
    "callbacks": {},
    "optimizer_states": [],
    "lr_schedulers": [],
    "validated": [],
}


@dataclass(frozen=True)
class Adopted:
    """What a released model is here: values of [model], assets, and how a task takes the parameters.

    `unnamed` are vocabularies that were not given; only what labels are made with in training may lack.
    """

    options: Mapping[str, Any]
    assets: Assets
    load: Callable[[Any], None]
    unnamed: tuple[str, ...] = ()


def adopt(recipe: Recipe, checkpoint: Path, vocabularies: Sequence[Path], run: Path) -> tuple[str, ...]:
    """Make the folder of a run whose model is a released checkpoint; returns what it lacks for training, if anything.

    The run has `recipe` with the sizes of the checkpoint. `compat` is true in it, where the system has that and the
    recipe does not say otherwise: released models were measured with padding as the official code has it.

    Raises RecipeError if a run is there already or the recipe is of another system, TrainError for files that cannot
    be read and for whatever does not fit the model: the store's features, or a vocabulary.
    """
    if (run / RECIPE).exists():
        raise RecipeError(f"{run}: a run is there already; name another folder with -o")
    if recipe.data.scale != "none":
        raise RecipeError("released models take features as they are: --set data.scale=none")
    recipe = absolute_paths(recipe)
    released, system = read_checkpoint(checkpoint), recipe.model.system
    check_parameters(released.state, checkpoint)
    if released.system != system:
        raise RecipeError(f"{checkpoint}: is a model of {released.system}, the recipe is one of {system}")
    experts = _experts(recipe)
    try:
        adopted = ADOPTERS[system](released, recipe.model, experts, read_vocabularies(system, vocabularies))
        chosen = _with_options(recipe, adopted.options)
        task = TASKS[system](chosen.model, experts, adopted.assets)
        adopted.load(task)
    except (ValueError, IndexError, RuntimeError) as error:  # the latter two of torch, by shapes that nothing has
        raise TrainError(f"{checkpoint}: {error}") from error
    content: dict[str, Any] = {"state_dict": {f"task.{name}": tensor for name, tensor in task.state_dict().items()}}
    if not adopted.unnamed:
        content |= {**UNTRAINED, "pytorch-lightning_version": version("lightning")}
    _write_run(run, chosen, experts, {**adopted.assets, "released": _origin(checkpoint)}, content)
    return adopted.unnamed


def _experts(recipe: Recipe) -> dict[str, ExpertFacts]:
    store, names = open_store(recipe.data.store), recipe.data.experts
    absent = [name for name in names if name not in store]
    if absent:
        there = ", ".join(sorted(store.experts)) or "none"
        raise TrainError(
            f"{store.url} lacks {some(absent)}; it has {there}. Extract it, or name others in data.experts"
        )
    return {name: ExpertFacts.of(store.experts[name]) for name in names}


def _with_options(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    model = {**recipe.model.model_dump(mode="json"), **options}
    if "compat" in model and "compat" not in recipe.model.model_fields_set:
        model["compat"] = True
    return parse_recipe({**recipe.model_dump(mode="json"), "model": model}, "the released model")


def _dual_encoding(
    released: Released, options: Any, experts: Mapping[str, ExpertFacts], vocabularies: Words
) -> Adopted:
    hybrid = released.system == "hybrid_space"
    mapping = "{}_mapping.mapping.fc1.weight" if hybrid else "{}_encoding.{}_mapping.fc1.weight"
    config = dual_encoding.config_of_official(released.state, mapping)
    _check_default(config, DualEncodingConfig, "video_kernels", "text_kernels")
    _check_width(config.video_dim, experts)
    rnn = _vocabulary(vocabularies, "rnn", "vocabulary/rnn/word_vocab_5.pkl", config.words)
    words, state = rnn[dual_encoding.SPECIALS :], dict(released.state)
    maps = (mapping.format("text", "text"), "text_mapping.tag_fc.weight")  # where bags of words come in
    if not config.reduced:
        bow = _vocabulary(vocabularies, "bow", "vocabulary/bow/word_vocab_5.pkl", config.bag)
        if set(bow) != set(words):
            raise TrainError(
                f"the vocabularies rnn and bow hold different words, such as {some(sorted(set(bow) ^ set(words)), 3)}: "
                "they are not of one model"
            )
        place = {word: number for number, word in enumerate(bow)}
        order = torch.tensor([place[word] for word in words])
        state |= {name: _reordered(state[name], order) for name in maps if name in state}
    sizes = {"video_units", "text_units", "video_filters", "text_filters", "word_dim", "common_dim", "reduced"}
    changes = {name: getattr(config, name) for name in sizes} | {"word_vectors": ""}
    assets: Assets = {"words": list(words)}
    if hybrid:
        changes["concepts"] = len(state.get("vid_mapping.tag_fc.bias", ()))
        assets["concepts"] = _labels(vocabularies, "concepts", changes["concepts"])

    def load(task: EncodersTask) -> None:
        task.model.load_official(state)

    return Adopted(changes, assets, load, _lacking(vocabularies, *(["concepts"] if hybrid else [])))


def _reordered(weight: Tensor, order: Tensor) -> Tensor:
    """The last columns of a map, which are of a bag of words, in another order."""
    first = weight.shape[1] - len(order)
    return torch.cat([weight[:, :first], weight[:, first:][:, order]], dim=1)


def _hanet(released: Released, options: Any, experts: Mapping[str, ExpertFacts], vocabularies: Words) -> Adopted:
    config = hanet.config_of_official(released.state)
    _check_default(config, HANetConfig, "roles", "verb_kernel", "gate_reduction")
    _check_width(config.video_dim, experts)
    words = _vocabulary(vocabularies, "words", "word2int.json", config.words)
    sizes = ("word_dim", "dim", "verb_concepts", "noun_concepts", "graph_width")
    assets: Assets = {
        "words": list(words[len(HANET_SPECIALS) :]),
        "verbs": _labels(vocabularies, "verbs", config.verb_concepts),
        "nouns": _labels(vocabularies, "nouns", config.noun_concepts),
    }

    def load(task: HANetTask) -> None:
        task.model.load_official(released.state)

    changes = {name: getattr(config, name) for name in sizes} | {"word_vectors": ""}
    return Adopted(changes, assets, load, _lacking(vocabularies, "verbs", "nouns"))


def _mmt(released: Released, options: Any, experts: Mapping[str, ExpertFacts], vocabularies: Words) -> Adopted:
    arguments = _within(released.config, "arch", "args")
    other = [f"{key} = {arguments[key]}" for key, value in MMT_VARIANT.items() if arguments.get(key, value) != value]
    if other:
        raise ValueError(f"is a variant of MMT that is not built here: {some(other)}")
    heads = _within(arguments, "vid_bert_params").get("num_attention_heads", options.heads)
    if not isinstance(heads, int) or heads < 1:
        raise ValueError(f"says that it has {heads!r} heads of attention")
    keep_missing = arguments.get("keep_missing_modalities", options.keep_missing)
    config = MMT.from_official(released.state, OFFICIAL_TYPES, heads, keep_missing).config
    official = {name: _official_expert(name, expert) for name, expert in experts.items()}
    _check_experts(config.experts, official, experts)
    described = _bert(released.state, options.bert, vocabularies)
    changes = {
        "dim": config.dim,
        "layers": config.layers,
        "heads": heads,
        "hidden": config.hidden,
        "types": config.types,
        "max_rows": config.positions - 2,
        "keep_missing": keep_missing,
    }

    def load(task: MMTTask) -> None:
        own = task.model.config.experts
        table = released.state[TYPE_TABLE].clone()
        for expert in own:  # whose rows need not be the official ones
            table[expert.type_id] = released.state[TYPE_TABLE][OFFICIAL_TYPES[official[expert.name]]]
        tokens = [ExpertTokens(official[expert.name], expert.dim, expert.type_id) for expert in own]
        state = {**released.state, TYPE_TABLE: table}
        take_official(task.model, state, lambda name: official_names(tokens, name), LEFT_OUT)
        text = {name.removeprefix(BERT): tensor for name, tensor in state.items() if name.startswith(BERT)}
        take_official(task.bert.network, text, lambda name: [name], ("pooler.", "embeddings.position_ids"))

    return Adopted(changes, {"bert": described}, load)


def _official_expert(name: str, expert: ExpertFacts) -> str:
    """What MMT calls an expert of the store."""
    official = OFFICIAL_NAMES.get(name, name)
    if official in OFFICIAL_TYPES:
        return official
    return expert.kind if expert.kind in UNTIMED else name


def _check_experts(
    wanted: Sequence[ExpertTokens], official: Mapping[str, str], experts: Mapping[str, ExpertFacts]
) -> None:
    lacking = [expert.name for expert in wanted if expert.name not in official.values()]
    strange = [name for name, theirs in official.items() if theirs not in {expert.name for expert in wanted}]
    if lacking or strange or len(set(official.values())) < len(official):
        raise TrainError(
            f"the model compares features of {some([expert.name for expert in wanted], 9)}; data.experts names "
            f"{some(list(official), 9)}. It must name each of them once (rgb is senet154, scene densenet161_places365)"
        )
    for name, theirs in official.items():
        (dim,) = (expert.dim for expert in wanted if expert.name == theirs)
        if experts[name].dim != dim:
            raise TrainError(f"the model wants {dim:,} numbers a row of {theirs}; {name} has {experts[name].dim:,}")


def _bert(state: Mapping[str, Tensor], source: str, vocabularies: Words) -> dict[str, Any]:
    """The BERT of a checkpoint, described as `train.text.bert.describe` does."""
    try:
        words, hidden = state[f"{BERT}embeddings.word_embeddings.weight"].shape
        config = {
            "vocab_size": words,
            "hidden_size": hidden,
            "num_hidden_layers": len(
                {name.split(".")[3] for name in state if name.startswith(f"{BERT}encoder.layer.")}
            ),
            "num_attention_heads": max(1, hidden // HEAD),
            "intermediate_size": len(state[f"{BERT}encoder.layer.0.intermediate.dense.bias"]),
            "max_position_embeddings": len(state[f"{BERT}embeddings.position_embeddings.weight"]),
            "type_vocab_size": len(state[f"{BERT}embeddings.token_type_embeddings.weight"]),
        }
    except (KeyError, ValueError) as error:
        raise ValueError(f"its text encoder is no BERT: {error} is missing or of another shape") from None
    if "bert" not in vocabularies and source != RANDOM:
        vocabularies = {"bert": tuple(describe(source, ())["vocabulary"])}
    return {"config": config, "vocabulary": list(_vocabulary(vocabularies, "bert", "vocab.txt", words))}


def _within(document: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A section of a config; empty if it is not there."""
    for key in keys:
        section = document.get(key)
        document = section if isinstance(section, dict) else {}
    return document


def _check_default(config: Any, kind: type, *names: str) -> None:
    """Sizes that a recipe does not set must be those of the paper."""
    usual = {field.name: field.default for field in fields(kind)}
    for name in names:
        if getattr(config, name) != usual[name]:
            raise ValueError(
                f"is a variant that is not built here: {name} is {getattr(config, name)}, not {usual[name]}"
            )


def _check_width(wanted: int, experts: Mapping[str, ExpertFacts]) -> None:
    given = sum(expert.dim for expert in experts.values())
    if given != wanted:
        each = " + ".join(f"{expert.dim:,}" for expert in experts.values())
        verb = "has" if len(experts) == 1 else "have"
        raise TrainError(f"the model wants {wanted:,} numbers a frame; {' and '.join(experts)} {verb} {each}")


def _vocabulary(vocabularies: Words, role: str, usual: str, size: int) -> tuple[str, ...]:
    if role not in vocabularies:
        raise TrainError(f"the model needs its vocabulary {role}: --vocabulary PATH, released as {usual}")
    words = vocabularies[role]
    if len(words) != size:
        raise TrainError(
            f"the model knows {size:,} words, the vocabulary {role} has {len(words):,}: it is of another one"
        )
    return words


def _labels(vocabularies: Words, role: str, size: int) -> list[str]:
    """The first words of a vocabulary that only labels of training need; without it, names that no caption has."""
    if role not in vocabularies:
        return [f"<{role} {number}>" for number in range(size)]
    if len(vocabularies[role]) < size:
        raise TrainError(f"the model tells {size:,} {role}, their vocabulary has only {len(vocabularies[role]):,}")
    return list(vocabularies[role][:size])


def _lacking(vocabularies: Words, *roles: str) -> tuple[str, ...]:
    return tuple(role for role in roles if role not in vocabularies)


ADOPTERS: dict[str, Callable[[Released, Any, Mapping[str, ExpertFacts], Words], Adopted]] = {
    "dual_encoding": _dual_encoding,
    "hybrid_space": _dual_encoding,
    "mmt": _mmt,
    "hanet": _hanet,
}


def _origin(checkpoint: Path) -> dict[str, str]:
    with open(checkpoint, "rb") as file:
        return {"file": checkpoint.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _write_run(
    run: Path, recipe: Recipe, experts: Mapping[str, ExpertFacts], assets: Assets, checkpoint: Mapping[str, Any]
) -> None:
    for path in {run / LAST, chosen_checkpoint(run, recipe)}:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(checkpoint, path)
    write_run(run, recipe, list(experts.values()), assets, {})
