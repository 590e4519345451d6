"""The table of experts, presets, and options."""

from __future__ import annotations

import json
from typing import Any

import pytest

from extractors import (
    EXPERTS,
    PRESETS,
    Audio,
    Clips,
    ExpertError,
    Frames,
    exact,
    find_expert,
    find_experts,
    find_preset,
    identity,
)
from feature_store.kinds import KINDS, OTHER

# Files whose publishers tell no digest.
WITHOUT_DIGEST = {
    "20180402-114759-vggface2.pt",
    "craft_mlt_25k.zip",
    "english_g2.zip",
    "wav2vec2_fairseq_base_ls960_asr_ls960.pth",
    "rgb_imagenet.pt",
    "c3d.pickle",
    "I3D_8x8_R50.pyth",
    "SLOWFAST_8x8_R50.pyth",
    "densenet161_places365.pth.tar",
}


@pytest.mark.parametrize("name", [*EXPERTS, "timm:test_resnet"])
def test_every_expert_can_be_told_apart_and_described_as_plain_data(name: str) -> None:
    expert = find_expert(name)
    document = json.loads(json.dumps(identity(expert)))
    assert expert.name == name == document["network"]
    assert document["sampling"]["of"] in ("frames", "clips", "audio")
    assert document["preprocessing"] and document["options"] is not None
    assert expert.kind in KINDS and expert.kind != OTHER
    assert str(expert.samples)


@pytest.mark.parametrize("name", EXPERTS)
def test_weights_have_a_file_an_address_and_a_license(name: str) -> None:
    weights = EXPERTS[name].weights
    assert weights.files and weights.license and weights.paper
    for file in weights.files:
        assert file.url.startswith(("https://", "http://"))
        assert file.name.endswith(".safetensors") or file.sha256 or file.name in WITHOUT_DIGEST


def test_every_option_is_part_of_the_identity() -> None:
    (plain,) = find_experts(["s3d"])
    for options in ({"length": 8}, {"fps": 25}, {"hop": 8}, {"resize": 300}, {"crop": 112}):
        (changed,) = find_experts(["s3d"], {"s3d": options})
        assert identity(changed) != identity(plain) and changed.name == plain.name


@pytest.mark.parametrize(
    ("preset", "names"),
    [
        ("dual-encoding", ["resnet152", "resnext101"]),
        ("hanet", ["resnet152"]),
        ("drn", ["i3d_r50"]),
        ("fvmr", ["c3d"]),
    ],
)
def test_presets_are_the_experts_of_published_systems(preset: str, names: list[str]) -> None:
    assert [expert.name for expert in find_preset(preset)] == names


def test_the_demo_preset_sees_hears_and_follows_motion_at_small_sizes() -> None:
    experts = find_preset("demo")
    assert {type(expert.samples) for expert in experts} == {Frames, Clips, Audio}
    assert all(expert.preprocessing().get("crop", 0) <= 224 for expert in experts)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_options(preset: str) -> None:
    first = find_preset(preset)[0]
    option = "every" if isinstance(first.samples, Frames) else "hop"
    changed = find_preset(preset, {first.name: {option: "3"}})
    assert getattr(changed[0].samples, option) == 3 and changed[1:] == find_preset(preset)[1:]


def test_an_unknown_preset_is_an_error_that_lists_them() -> None:
    with pytest.raises(ExpertError, match=r"'mmd'; there are .*hanet"):
        find_preset("mmd")


@pytest.mark.parametrize(
    ("name", "near"),
    [("s3b", "s3d"), ("resnet512", "resnet152"), ("vgish", "vggish"), ("scene", "densenet161_places365")],
)
def test_an_unknown_expert_is_an_error_that_names_near_ones(name: str, near: str) -> None:
    with pytest.raises(ExpertError) as unknown:
        find_expert(name)
    assert f"no expert is called {name!r} (near it: {near}" in str(unknown.value)
    assert all(each in str(unknown.value) for each in EXPERTS)


def test_an_expert_that_resembles_none_is_an_error_that_names_all() -> None:
    with pytest.raises(ExpertError) as unknown:
        find_experts(["s3d", "?!"])
    assert all(name in str(unknown.value) for name in EXPERTS)


@pytest.mark.parametrize(("value", "typed"), [("8", 8), (8, 8), (8.0, 8), ("8.0", 8)])
def test_a_whole_number_may_be_written_as_text_or_number(value: Any, typed: int) -> None:
    (expert,) = find_experts(["s3d"], {"s3d": {"hop": value}})
    assert expert.samples == Clips(16, 16.0, typed)
    assert type(identity(expert)["options"]["hop"]) is int


def test_options_have_one_type_however_they_are_written() -> None:
    written = [{"fps": "25"}, {"fps": 25}, {"fps": 25.0}, {"fps": "2.5e1"}]
    found = {json.dumps(identity(find_experts(["s3d"], {"s3d": options})[0])) for options in written}
    assert len(found) == 1


@pytest.mark.parametrize("value", ["eight", "", None, [8], 8.5, "8.5", "nan", float("inf")], ids=repr)
def test_a_value_that_is_no_whole_number_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(ExpertError, match=r"s3d\.hop is .*must be a whole number"):
        find_experts(["s3d"], {"s3d": {"hop": value}})


@pytest.mark.parametrize("value", ["fast", "", None, [25], "16 fps"], ids=repr)
def test_a_value_that_is_no_number_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(ExpertError, match=r"s3d\.fps is .*must be a number"):
        find_experts(["s3d"], {"s3d": {"fps": value}})


@pytest.mark.parametrize("value", ["0", -1, "nan", "inf"])
def test_a_value_that_cannot_work_is_refused(value: Any) -> None:
    with pytest.raises(ExpertError, match=r"every must be at least 0\.001"):
        find_experts(["resnet152"], {"resnet152": {"every": value}})


def test_an_unknown_option_is_an_error_that_lists_the_options() -> None:
    with pytest.raises(ExpertError, match="s3d has no option 'hpo'; its options: length, fps, hop, resize, crop"):
        find_experts(["s3d"], {"s3d": {"hpo": 8}})
    with pytest.raises(ExpertError, match="vggish has no option 'hop'; its options: none"):
        find_experts(["vggish"], {"vggish": {"hop": 1}})
    for option in ("model", "alias"):
        with pytest.raises(ExpertError, match=f"has no option '{option}'; its options: every"):
            find_experts(["resnet152"], {"resnet152": {option: "x"}})


def test_options_of_an_expert_that_is_not_asked_for_are_an_error() -> None:
    with pytest.raises(ExpertError, match="options for vggish, i3d, but the chosen experts are"):
        find_experts(["s3d"], {"vggish": {}, "i3d": {"hop": 8}})


def test_options_leave_the_table_as_it_is() -> None:
    before = identity(EXPERTS["s3d"])
    find_experts(["s3d"], {"s3d": {"hop": 8}})
    assert identity(EXPERTS["s3d"]) == before


def test_seconds_are_the_decimals_that_were_written() -> None:
    assert exact(0.1) * 10 == 1 and exact(0.96) * 100 == 96


@pytest.mark.parametrize("value", [6, None, ["fc6"], 6.0], ids=repr)
def test_a_value_that_is_no_text_is_refused_by_its_name(value: Any) -> None:
    with pytest.raises(ExpertError, match=r"c3d\.layer is .*must be text"):
        find_experts(["c3d"], {"c3d": {"layer": value}})
