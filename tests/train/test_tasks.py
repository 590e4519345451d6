"""What the systems take from stores, captions and published files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_runs import SIZES, SYSTEMS, small_recipe, write_corpus

from feature_store import FeatureStore
from train import RecipeError, TrainError
from train.annotations import read_split
from train.features import ExpertFacts
from train.recipe import Recipe
from train.tasks import TASKS
from train.tasks.base import RetrievalTask
from train.tasks.mmt import MMTTask


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


def facts(store: FeatureStore) -> dict[str, ExpertFacts]:
    return {name: ExpertFacts.of(store.experts[name]) for name in SIZES}


def build(recipe: Recipe, experts: dict[str, ExpertFacts] | None = None) -> RetrievalTask:
    task_type, folder = TASKS[recipe.model.system], Path(recipe.data.annotations)
    assets = task_type.prepare(recipe.model, read_split(folder, "train"), folder)
    return task_type(recipe.model, experts or facts(FeatureStore(recipe.data.store)), assets)


def rows_of_words(task: RetrievalTask) -> tuple[list[str], torch.Tensor]:
    embedding = task.model.text.embedding if hasattr(task.model.text, "embedding") else task.model.embedding  # type: ignore[union-attr]
    return list(task.assets["words"]), embedding.weight.detach()  # type: ignore[union-attr, return-value]


@pytest.mark.parametrize(("system", "specials"), [("dual_encoding", 4), ("hybrid_space", 4), ("hanet", 3)])
def test_words_start_with_their_published_vectors(corpus: Path, tmp_path: Path, system: str, specials: int) -> None:
    vector = np.linspace(-3, 3, 8)
    (tmp_path / "v.txt").write_text(f"dog {' '.join(map(str, vector))}\nzebra {' '.join(map(str, -vector))}\n")
    task = build(small_recipe(corpus, system, model={"word_vectors": str(tmp_path / "v.txt")}))
    before = rows_of_words(task)[1].clone()
    task.start()
    words, weight = rows_of_words(task)
    place = specials + words.index("dog")
    np.testing.assert_allclose(weight[place], vector, rtol=1e-6)
    others = torch.arange(len(weight)) != place
    if system == "hanet":
        assert torch.equal(weight[others], before[others])
    else:  # as the official code draws them
        assert 0.5 < weight[others].abs().max() <= 1


def test_vectors_of_another_size_are_refused_before_training(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "v.txt").write_text("dog 1 2 3\n")
    task = build(small_recipe(corpus, model={"word_vectors": str(tmp_path / "v.txt")}))
    with pytest.raises(TrainError, match=r"model\.word_dim=3"):
        task.start()


def test_rare_words_are_unknown(corpus: Path) -> None:
    task = build(small_recipe(corpus, model={"min_count": 3}))
    tokens, lengths, bag = task.read_texts(["a dog flabbergasts a 13"], None).batch(torch.tensor([0]))
    start, unknown, end = 1, 3, 2
    words = task.assets["words"]
    known = [4 + words.index(word) for word in ("a", "dog")]
    assert tokens.tolist() == [[start, *known, unknown, known[0], unknown, end]]
    assert lengths.tolist() == [7]
    assert bag.sum() == 3 and bag[0, words.index("a")] == 2


def test_mmt_knows_when_a_feature_was(corpus: Path) -> None:
    recipe = small_recipe(corpus, "mmt", model={"max_rows": 4, "window": 1.0})
    store = FeatureStore(recipe.data.store)
    task = build(recipe)
    looks, sounds = task.open_videos(store, ["v01", "v04"], "ram", "cpu").batch(torch.tensor([0, 1]), None)
    assert looks.positions[0, :3].tolist() == [2.25, 2.75, 3.25]  # rows of half a second; seconds begin at 2
    assert looks.valid.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert sounds.positions[0, :2].tolist() == pytest.approx([2.4, 3.2])
    assert not sounds.valid[1].any(), "v04 has no sound"
    own = store["looks"].read("v04").values
    np.testing.assert_allclose(looks.pooled[1], own.max(axis=0))
    assert len(own) > 4, "the maximum is also over rows that were not chosen"


def test_mmt_gives_experts_their_official_rows_and_others_free_ones(corpus: Path) -> None:
    experts = {name: ExpertFacts(name, "motion", 3, "", "") for name in ("clip", "s3d", "vggish", "mine")}
    task = build(small_recipe(corpus, "mmt"), experts)
    assert isinstance(task, MMTTask)
    rows = {each.name: each.type_id for each in task.model.config.experts}
    assert (rows["s3d"], rows["vggish"]) == (1, 2)
    assert len(set(rows.values())) == 4
    assert not {rows["clip"], rows["mine"]} & {0, 1, 2, 3, 5, 6, 7, 9}
    with pytest.raises(RecipeError, match=r"model\.types is 3: there is no row left for clip"):
        build(small_recipe(corpus, "mmt", model={"types": 3}), experts)


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_what_a_system_is_comes_back_from_its_recipe_and_assets(corpus: Path, system: str) -> None:
    """Assets are plain data, so that they can be written as JSON."""
    import json

    recipe = small_recipe(corpus, system)
    task = build(recipe)
    assets = json.loads(json.dumps(task.assets))
    again = TASKS[system](recipe.model, facts(FeatureStore(recipe.data.store)), assets)
    again.load_state_dict(task.state_dict())
