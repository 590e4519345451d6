"""Published annotation files become splits, and what is wrong with them is said: where, and what to do."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recipe_files import activitynet, charades, jsfusion_csv, msrvtt_info, msvd, tacos, vatex, write, write_json
from typer.testing import CliRunner

from data_manifests import Caption, ManifestError, Moment, read_rows
from data_manifests.recipes import RECIPES, Expected, import_dataset, read_durations
from data_manifests.recipes.moments import BACKWARDS, Published, rows_of
from pipeline.cli import app


def imported(name: str, output: Path, *paths: Path, any_counts: bool = False, **counts: tuple[int, int]) -> Any:
    """Import with the counts of small files in place of the published ones."""
    expected = {split: Expected(*counts.get(split, (None, None))) for split in RECIPES[name].expected}
    return import_dataset(replace(RECIPES[name], expected=expected), paths, output, any_counts)


def refused(name: str, output: Path, *paths: Path, **counts: tuple[int, int]) -> str:
    with pytest.raises(ManifestError) as caught:
        imported(name, output, *paths, **counts)
    assert not output.exists() or not list(output.glob("*.jsonl"))  # nothing by halves
    return str(caught.value)


def captions(output: Path, split: str) -> list[tuple[str, str]]:
    return [(row.video, row.text) for row in read_rows(output / f"{split}.jsonl", Caption)]


def moments(output: Path, split: str) -> list[Moment]:
    return list(read_rows(output / f"{split}.jsonl", Moment))


def videos(output: Path, split: str) -> list[str]:
    return (output / f"{split}.videos.txt").read_text().splitlines()


# MSR-VTT.


def test_msrvtt_full_follows_the_split_field_in_one_file_or_two(tmp_path: Path) -> None:
    one = msrvtt_info(tmp_path / "one" / "MSRVTT_data.json", {0: "train", 6513: "validate", 7010: "test"})
    msrvtt_info(tmp_path / "two" / "train_val_videodatainfo.json", {0: "train", 6513: "val"})
    msrvtt_info(tmp_path / "two" / "test_videodatainfo.json", {7010: "test"})
    counts = {"train": (1, 2), "val": (1, 2), "test": (1, 2)}
    imported("msrvtt-full", tmp_path / "a", one, **counts)
    imported("msrvtt-full", tmp_path / "b", tmp_path / "two", **counts)
    for split, video in (("train", 0), ("val", 6513), ("test", 7010)):
        expected = [(f"video{video}", f"caption {k} of {video}") for k in range(2)]
        assert captions(tmp_path / "a", split) == captions(tmp_path / "b", split) == expected


def test_msrvtt_without_a_split_field_goes_by_the_numbers_of_videos(tmp_path: Path) -> None:
    info = msrvtt_info(tmp_path / "info.json", dict.fromkeys((0, 6512, 6513, 7009, 7010, 9999), ""))
    imported("msrvtt-full", tmp_path / "out", info)
    assert videos(tmp_path / "out", "train") == ["video0", "video6512"]
    assert videos(tmp_path / "out", "val") == ["video6513", "video7009"]
    assert videos(tmp_path / "out", "test") == ["video7010", "video9999"]


def test_msrvtt_is_read_gzipped(tmp_path: Path) -> None:
    info = msrvtt_info(tmp_path / "info.json", {0: "train"})
    zipped = tmp_path / "info.json.gz"
    zipped.write_bytes(gzip.compress(info.read_bytes()))
    assert imported("msrvtt-full", tmp_path / "out", zipped)["splits"]["train"]["captions"] == 2


def test_1k_a_asks_the_one_caption_of_the_csv_and_keeps_its_order(tmp_path: Path) -> None:
    info = msrvtt_info(tmp_path / "info.json", dict.fromkeys((0, 1, 7020, 7021, 8000), "train"))
    asked = jsfusion_csv(tmp_path / "MSRVTT_JSFUSION_test.csv", [7021, 7020])
    nine = write(tmp_path / "train_list_jsfusion.txt", "video8000", "video0", "video1", end="")
    imported("msrvtt-1k-a", tmp_path / "9k", asked, nine, info, train=(3, 6), test=(2, 2))
    assert captions(tmp_path / "9k", "test") == [("video7021", "asked, of 7021"), ("video7020", "asked, of 7020")]
    assert videos(tmp_path / "9k", "train") == ["video8000", "video0", "video1"]
    seven = write(tmp_path / "MSRVTT_train.7k.csv", "video_id", "video1", "video0")
    record = imported("msrvtt-1k-a-7k", tmp_path / "7k", info, seven, asked, train=(2, 4), test=(2, 2))
    assert record["notes"] == {"videos in no split": 1}


def test_1k_b_asks_the_first_caption_only(tmp_path: Path) -> None:
    msrvtt_info(tmp_path / "in" / "info.json", {0: "train", 7010: "test"})
    write(tmp_path / "in" / "train_list_miech.txt", "video0", end="")
    write(tmp_path / "in" / "test_list_miech.txt", "video7010")
    imported("msrvtt-1k-b", tmp_path / "out", tmp_path / "in", train=(1, 2), test=(1, 1))
    assert captions(tmp_path / "out", "test") == [("video7010", "caption 0 of 7010")]


def test_both_forms_of_msrvtt_at_once_are_refused(tmp_path: Path) -> None:
    one = msrvtt_info(tmp_path / "all.json", {0: "train", 7010: "test"})
    two = msrvtt_info(tmp_path / "test_videodatainfo.json", {7010: "test"})
    assert "video7010 stands in" in refused("msrvtt-full", tmp_path / "out", one, two)


# The other captions.


def test_msvd_keeps_the_order_of_the_lists_and_all_captions(tmp_path: Path) -> None:
    counts = dict.fromkeys(("train", "val", "test"), (2, 3))
    imported("msvd", tmp_path / "out", msvd(tmp_path / "in"), **counts)
    assert videos(tmp_path / "out", "test") == ["test-a_0_5", "test-b_7_10"]
    assert captions(tmp_path / "out", "test")[:2] == [
        ("test-a_0_5", "A cat plays."),
        ("test-b_7_10", "A man slices."),
    ]
    assert captions(tmp_path / "out", "test")[2] == ("test-b_7_10", "A man\u2028cuts.")  # one line, for the authors
    imported("msvd", tmp_path / "unlisted", msvd(tmp_path / "captions", lists=False), **counts)
    assert videos(tmp_path / "unlisted", "test") == ["test-b_7_10", "test-a_0_5"]


def test_vatex_divides_the_validation_captions_by_the_lists(tmp_path: Path) -> None:
    vatex(tmp_path / "in" / "vatex_training_v1.0.json", ["-a_000001_000011", "_b_000001_000011"])
    vatex(tmp_path / "in" / "vatex_validation_v1.0.json", ["v_000001_000011", "t_000001_000011"])
    np.save(tmp_path / "in" / "val_names.npy", np.array(["v_000001_000011"]))
    write(tmp_path / "in" / "tst_names.txt", "t_000001_000011", end="")
    imported("vatex", tmp_path / "out", tmp_path / "in", train=(2, 4), val=(1, 2), test=(1, 2))
    assert captions(tmp_path / "out", "test") == [("t_000001_000011", f"t_000001_000011 {k}") for k in ("one", "two")]
    assert videos(tmp_path / "out", "train") == ["-a_000001_000011", "_b_000001_000011"]


def test_a_list_that_is_a_pickle_is_not_loaded(tmp_path: Path) -> None:
    vatex(tmp_path / "in" / "vatex_training_v1.0.json", ["a"])
    vatex(tmp_path / "in" / "vatex_validation_v1.0.json", ["v", "t"])
    np.save(tmp_path / "in" / "val_names.npy", np.array(["v"], dtype=object))
    write(tmp_path / "in" / "tst_names.txt", "t")
    assert "val_names.npy: is no array of ids" in refused("vatex", tmp_path / "out", tmp_path / "in")


def test_a_paragraph_is_all_sentences_in_the_order_of_the_file(tmp_path: Path) -> None:
    told = [(5.0, 9.0, "He runs. "), (0.0, 4.0, " He stands.")]
    activitynet(tmp_path / "in" / "train.json", {"v_a": (10.0, told), "v_b": (8.0, [(0.0, 1.0, " ")])})
    activitynet(tmp_path / "in" / "val.json", {"v_c": (10.0, told)})  # as 2D-TAN names val_1
    record = imported("activitynet-captions", tmp_path / "out", tmp_path / "in", train=(2, 2), val_1=(1, 1))
    assert captions(tmp_path / "out", "train") == [("v_a", "He runs. He stands.")]
    assert videos(tmp_path / "out", "train") == ["v_a", "v_b"]
    assert record["splits"]["train"]["notes"]["videos without a caption"] == 1
    assert not (tmp_path / "out" / "val_2.jsonl").exists()


def test_lsmdc_takes_quotation_marks_and_missing_sentences_as_they_are(tmp_path: Path) -> None:
    times = "\t".join(["00.00.01.000"] * 4)
    train = write(
        tmp_path / "LSMDC16_annos_training.csv",
        f'0001_A_1\t{times}\t"He" says SOMEONE, leaving.',
        f"0001_A_2\t{times}\t",
        f"0001_A_3\t{times}",
        f"0001_A_1\t{times}\tHe leaves.",
    )
    test = write(tmp_path / "LSMDC16_challenge_1000_publictect.csv", f"0002_B_1\t{times}\tShe sits.\r")
    record = imported("lsmdc", tmp_path / "out", train, test, train=(3, 4), test=(1, 1))
    said = ['"He" says SOMEONE, leaving.', "He leaves."]
    assert captions(tmp_path / "out", "train") == [("0001_A_1", text) for text in said]
    assert captions(tmp_path / "out", "test") == [("0002_B_1", "She sits.")]
    assert videos(tmp_path / "out", "train") == ["0001_A_1", "0001_A_2", "0001_A_3"]
    assert record["splits"]["train"]["left_out"] == 2


def test_tgif_names_a_gif_by_its_file(tmp_path: Path) -> None:
    def url(name: str) -> str:
        return f"https://38.media.tumblr.com/9f6c/tumblr_{name}.gif"

    tsv = write(tmp_path / "tgif-v1.0.tsv", *(f"{url(name)}\tit is {name}" for name in ("a", "b", "c", "c", "d")))
    lists = [
        write(tmp_path / f"{split}.txt", url(name)) for split, name in zip(("train", "val", "test"), "abc", strict=True)
    ]
    record = imported("tgif-li", tmp_path / "out", tsv, *lists, train=(1, 1), val=(1, 1), test=(1, 2))
    assert captions(tmp_path / "out", "test") == [("tumblr_c", "it is c")] * 2
    assert record["notes"] == {"GIFs in no split, left out": 1}
    assert "1 captions are of 1 videos in no split: tumblr_d" in refused("tgif", tmp_path / "release", tsv, *lists)


# Moments.


def test_charades_moments_are_cut_at_the_length_and_backward_ones_left_out(tmp_path: Path) -> None:
    record = imported("charades-sta", tmp_path / "out", charades(tmp_path / "in"), train=(3, 3), test=(1, 1))
    rows = moments(tmp_path / "out", "train")
    assert [(row.video, row.start, row.end) for row in rows] == [("AO8RW", 0.0, 6.9), ("Y6R7T", 20.8, 29.42)]
    assert rows[1].meta == {"duration": 29.42}
    assert rows[1].text == "person plays on a phone", "the full stop ends the line, not the sentence"
    assert videos(tmp_path / "out", "train") == ["AO8RW", "Y6R7T", "LEOL6"]
    told = record["splits"]["train"]
    assert (told["moments"], told["left_out"], told["notes"]["videos without a moment"]) == (2, 1, 1)


def test_charades_lengths_may_come_from_json_and_must_come_from_somewhere(tmp_path: Path) -> None:
    folder = charades(tmp_path / "in")
    sentences = sorted(folder.glob("*.txt"))
    assert "Charades_v1_train.csv" in refused("charades-sta", tmp_path / "none", *sentences)
    lengths = dict.fromkeys(("AO8RW", "Y6R7T", "LEOL6", "3MSZA"), 31.0)
    durations = write_json(tmp_path / "Charades_duration.json", lengths)
    record = imported("charades-sta", tmp_path / "json", *sentences, durations)
    assert moments(tmp_path / "json", "train")[1].end == 31.0
    assert [Path(file["path"]).name for file in record["files"]][-1] == "Charades_duration.json"
    both = imported("charades-sta", tmp_path / "both", folder, durations)
    assert "Charades_duration.json" not in {Path(file["path"]).name for file in both["files"]}  # it was not read


def test_moments_of_videos_of_unknown_length_are_told_all_at_once_and_left_out_on_demand(tmp_path: Path) -> None:
    folder = charades(tmp_path / "in")
    lines = [f"{video} 1.0 2.0##off." for video in ("ZZZZZ", "YYYYY", "ZZZZZ")]
    write(folder / "charades_sta_test.txt", "3MSZA 24.3 30.4##on.", *lines)
    counts: dict[str, tuple[int, int]] = {"train": (3, 3), "test": (3, 4)}
    with pytest.raises(ManifestError, match=r"test: 3 moments left out, whose video's length is not known: ZZZZZ, YYY"):
        imported("charades-sta", tmp_path / "out", folder, **counts)
    record = imported("charades-sta", tmp_path / "out", folder, any_counts=True, **counts)
    assert (record["splits"]["test"]["moments"], record["splits"]["test"]["left_out"]) == (1, 3)


def test_how_long_videos_are_is_kept_also_of_those_whose_moments_are_left_out(tmp_path: Path) -> None:
    imported("charades-sta", tmp_path / "out", charades(tmp_path / "in"), train=(3, 3), test=(1, 1))
    expected = {"AO8RW": 33.67, "Y6R7T": 29.42, "LEOL6": 30.0, "3MSZA": 31.0}
    assert read_durations(tmp_path / "out" / "durations.json") == expected
    write_json(tmp_path / "none.json", {"AO8RW": 0})
    with pytest.raises(ManifestError, match=r"none\.json: AO8RW: .* greater than 0"):
        read_durations(tmp_path / "none.json")


@pytest.mark.parametrize("line", ["3MSZA 24.3##on.", "3MSZA a 3##on.", "3MSZA 1 inf##on.", "3MSZA 1 2 on."])
def test_a_malformed_line_is_named(tmp_path: Path, line: str) -> None:
    folder = charades(tmp_path / "in")
    write(folder / "charades_sta_test.txt", "3MSZA 24.3 30.4##on.", "", line)
    assert "charades_sta_test.txt:3: is not `VIDEO start end" in refused("charades-sta", tmp_path / "out", folder)


def test_activitynet_shares_videos_between_its_validation_splits(tmp_path: Path) -> None:
    told = [(0.0, 4.0, " One."), (3.0, 3.0, "None."), (4.0, 12.0, "Two.")]
    for split in ("train", "val_1", "val_2"):
        activitynet(tmp_path / "in" / f"{split}.json", {"v_t" if split == "train" else "v_v": (10.0, told)})
    counts = dict.fromkeys(("train", "val_1", "val_2"), (1, 3))
    imported("activitynet-captions-moments", tmp_path / "out", tmp_path / "in", **counts)
    rows = moments(tmp_path / "out", "val_2")
    assert [(row.text, row.start, row.end) for row in rows] == [("One.", 0.0, 4.0), ("Two.", 4.0, 10.0)]


def test_tacos_times_are_frames_of_each_videos_own_rate(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        tacos(tmp_path / "in" / f"{split}.json", f"s1{len(split)}-d69.avi")
    imported("tacos", tmp_path / "out", tmp_path / "in", train=(1, 2), val=(1, 2), test=(1, 2))
    rows = moments(tmp_path / "out", "val")
    assert [(row.video, row.start, row.end) for row in rows] == [("s13-d69.avi", 1.0, 2.0), ("s13-d69.avi", 3.0, 4.0)]
    assert rows[0].meta == {"duration": 4.0}


def test_a_query_of_qvhighlights_keeps_all_its_windows(tmp_path: Path) -> None:
    query = {"qid": 7, "query": "A dog.", "duration": 150, "vid": "x_60.0_210.0", "saliency_scores": [[1, 2, 3]]}
    for split in ("train", "val"):
        line = json.dumps({**query, "vid": f"{split}_60.0_210.0", "relevant_windows": [[10, 20], [140, 152]]})
        write(tmp_path / "in" / f"highlight_{split}_release.jsonl", line)
    imported("qvhighlights", tmp_path / "out", tmp_path / "in", train=(1, 1), val=(1, 1))
    (row,) = moments(tmp_path / "out", "val")
    assert (row.start, row.end, row.meta["qid"]) == (10.0, 20.0, 7)
    assert row.meta["windows"] == [[10.0, 20.0], [140.0, 150.0]]
    line = json.dumps({**query, "vid": "test_60.0_210.0", "relevant_windows": [[0, 2]]})
    write(tmp_path / "in" / "highlight_test_with_gt.jsonl", line)
    imported("qvhighlights", tmp_path / "out", tmp_path / "in", train=(1, 1), val=(1, 1), test=(1, 1))
    assert [(row.start, row.end) for row in moments(tmp_path / "out", "test")] == [(0.0, 2.0)]


finite = st.floats(-1e6, 1e6)


@given(finite, finite, finite)
def test_every_moment_that_is_kept_lies_in_its_video(start: float, end: float, duration: float) -> None:
    rows, notes = rows_of([Published("v", "he runs", start, end, duration)])
    assert len(rows) + notes[BACKWARDS] == 1
    assert all(0 <= row.start < row.end <= duration and row.end <= end for row in rows)


# What is refused.


def test_counts_that_are_not_the_published_ones_are_refused_and_can_be_accepted(tmp_path: Path) -> None:
    folder = msvd(tmp_path / "in")
    write(folder / "msvdval.txt", "val-a_0_5", "val-b_7_10", "val-c_0_1")
    counts = {"train": (2, 3), "val": (2, 4), "test": (2, 3)}
    message = refused("msvd", tmp_path / "out", folder, **counts)
    assert "val: expected 2 videos, found 3" in message
    assert "val: expected 4 captions, found 3; 1 of its videos have none" in message and "--any-counts" in message
    record = imported("msvd", tmp_path / "out", folder, any_counts=True, **counts)
    assert len(record["problems"]) == 2
    assert videos(tmp_path / "out", "val")[-1] == "val-c_0_1"  # without captions, yet of the gallery
    assert json.loads((tmp_path / "out" / "import.json").read_text()) == record


def test_a_caption_of_a_video_in_no_split_is_refused_and_can_be_left_out(tmp_path: Path) -> None:
    folder = msvd(tmp_path / "in")
    write(folder / "msvdval.txt", "val-a_0_5")
    assert "2 captions are of 1 videos in no split: val-b_7_10" in refused("msvd", tmp_path / "out", folder)
    imported("msvd", tmp_path / "out", folder, any_counts=True)
    assert captions(tmp_path / "out", "val") == [("val-a_0_5", "A cat plays.")]


def test_a_video_in_two_splits_is_refused(tmp_path: Path) -> None:
    folder = msvd(tmp_path / "in", lists=False)
    write(folder / "msvdtest.caption.txt", "train-a_0_5#0 A cat plays.")
    assert "train and test have 1 videos in common: train-a_0_5" in refused("msvd", tmp_path / "out", folder)


def test_a_missing_file_is_described_with_where_to_get_it(tmp_path: Path) -> None:
    folder = msvd(tmp_path / "in")
    (folder / "msvdval.caption.txt").unlink()
    message = refused("msvd", tmp_path / "out", folder)
    assert "needs 1 more" in message and "msvdval.caption.txt: `id#k caption` a line; published at github" in message


def test_a_wrong_file_is_refused_when_named_and_passed_over_in_a_folder(tmp_path: Path) -> None:
    folder = msvd(tmp_path / "in")
    notes = write(folder / "notes.txt", "remember the milk")
    imported("msvd", tmp_path / "out", folder)
    assert "notes.txt: is none of the files" in refused("msvd", tmp_path / "other", folder, notes)
    fake = write(tmp_path / "msvdtrain.caption.txt", "remember the milk")
    assert "is named like msvdtrain.caption.txt, but does not look like it" in refused("msvd", tmp_path / "o", fake)


def test_two_files_that_could_be_the_same_are_refused_but_copies_are_not(tmp_path: Path) -> None:
    folder = msvd(tmp_path / "in")
    write(folder / "old" / "msvdval.caption.txt", "val-a_0_5#0 Another.")
    message = refused("msvd", tmp_path / "out", folder)
    assert "each could be msvdval.caption.txt" in message
    imported("msvd", tmp_path / "named", folder, folder / "msvdval.caption.txt")  # what is named goes first
    msvd(folder / "old")
    imported("msvd", tmp_path / "copies", folder)


def test_an_id_that_is_listed_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    folder = msvd(tmp_path / "in")
    write(folder / "msvdval.txt", "val-a_0_5", "val-b_7_10", "val-a_0_5")
    assert "msvdval.txt:3: val-a_0_5 stands already in line 1" in refused("msvd", tmp_path / "out", folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b'{"v_a": {"duration": 10.0, "timestamps": [[0, 4]], "sentences": [', "val_1.json: Invalid JSON"),
        (b'{"v_a": {"duration": NaN, "timestamps": [], "sentences": []}}', "val_1.json: v_a.duration: "),
        (b'{"v_a": {"duration": 9, "timestamps": [[0]], "sentences": ["a"]}}', "val_1.json: v_a.timestamps[0]"),
        (b'{"v_a": {"duration": 9, "timestamps": [], "sentences": ["a"]}}', "v_a has 1 sentences and 0 timestamps"),
        (b'{"v_a": {"duration": 9, "timestamps": [[0, 1]], "sentences": ["\xff"]}}', "val_1.json: "),
    ],
)
def test_damaged_json_is_refused_with_the_place(tmp_path: Path, text: bytes, told: str) -> None:
    activitynet(tmp_path / "in" / "train.json", {"v_t": (10.0, [(0.0, 4.0, "One.")])})
    (tmp_path / "in" / "val_1.json").write_bytes(text)
    assert told in refused("activitynet-captions", tmp_path / "out", tmp_path / "in")


def test_text_that_is_not_utf8_is_refused_with_its_line(tmp_path: Path) -> None:
    folder = msvd(tmp_path / "in")
    (folder / "msvdval.caption.txt").write_bytes(b"val-a_0_5#0 A cat.\nval-a_0_5#1 Caf\xe9.\n")
    assert "msvdval.caption.txt:2: is not UTF-8" in refused("msvd", tmp_path / "out", folder)


def test_a_broken_gzip_file_is_named(tmp_path: Path) -> None:
    info = msrvtt_info(tmp_path / "info.json", {0: "train"}, captions=1000)
    whole = gzip.compress(info.read_bytes())
    (tmp_path / "cut.json.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "not.json.gz").write_bytes(info.read_bytes())
    for name in ("cut.json.gz", "not.json.gz"):
        assert f"{name}: is not, or not all of" in refused("msrvtt-full", tmp_path / "out", tmp_path / name)


def test_a_csv_without_its_columns_is_refused(tmp_path: Path) -> None:
    folder = charades(tmp_path / "in")
    write(folder / "Charades_v1_test.csv", "id,lengthy,length of it", "3MSZA,1,2")
    assert "Charades_v1_test.csv:1: has no column length" in refused("charades-sta", tmp_path / "out", folder)


# The folder written.


def test_a_folder_holds_one_dataset_and_can_be_imported_again(tmp_path: Path) -> None:
    folder, out = msvd(tmp_path / "in"), tmp_path / "out"
    first = imported("msvd", out, folder)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert imported("msvd", out, folder) == first
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert len(before) == 7 and not any(name.endswith(".part") for name in before)
    with pytest.raises(ManifestError, match="holds msvd already"):
        imported("charades-sta", out, charades(tmp_path / "charades"))


def test_the_command_imports_and_tells_the_counts(tmp_path: Path) -> None:
    folder, out = msvd(tmp_path / "in"), tmp_path / "out"
    run = CliRunner().invoke
    words = ["manifest", "import", "msvd", str(folder), "-o", str(out)]
    strict = run(app, words)
    assert strict.exit_code == 1 and "train: expected 1,200 videos, found 2" in strict.output
    loose = run(app, [*words, "--any-counts"])
    assert loose.exit_code == 0 and "test: 2 videos, 3 captions" in loose.output
    assert "accepted: train: expected 1,200 videos, found 2" in loose.output


def test_the_command_tells_what_a_dataset_needs_and_which_there_are() -> None:
    run = CliRunner().invoke
    told = run(app, ["manifest", "import", "vatex"])
    assert told.exit_code == 0 and "vatex_training_v1.0.json" in told.output and "published at" in told.output
    unknown = run(app, ["manifest", "import", "imagenet"])
    assert unknown.exit_code == 1 and "there is no such dataset" in unknown.output
    listed = run(app, ["manifest", "import", "--help"], env={"COLUMNS": "200"})
    assert [name for name in RECIPES if name not in listed.output] == []
