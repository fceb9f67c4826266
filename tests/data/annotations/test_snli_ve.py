"""SNLI-VE's files: two names, three relations, pairs without a gold label."""

import json

import pytest

from volta_switch.errors import UserError
from volta_switch.tasks.snli_ve import RELATIONS, load_snli_ve

LINE = {"Flikr30kID": "0100207720.jpg", "sentence2": "Two dogs run.", "gold_label": "neutral", "pairID": "100.jpg#1r1n"}


def write_lines(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("name", ["dev.jsonl", "snli_ve_dev.jsonl"])
def test_pairs_have_an_image_a_hypothesis_and_a_relation(tmp_path, name):
    lines = [{**LINE, "gold_label": relation, "pairID": relation} for relation in ("entailment", "contradiction", "-")]
    write_lines(tmp_path / name, *lines, LINE)
    annotations = load_snli_ve(tmp_path, "dev")
    assert annotations.label2ans == RELATIONS == ["contradiction", "neutral", "entailment"]
    assert [entry.labels for entry in annotations.entries] == [(2,), (0,), (), (1,)]
    assert [entry.scores for entry in annotations.entries] == [(1.0,), (1.0,), (), (1.0,)]
    entry = annotations.entries[3]
    assert (entry.question_id, entry.image_id, entry.question) == ("100.jpg#1r1n", "100207720", "Two dogs run.")


def test_a_pair_without_an_id_is_called_by_its_line(tmp_path):
    line = {name: value for name, value in LINE.items() if name != "pairID"}
    path = write_lines(tmp_path / "other.jsonl", line, line)
    assert [entry.question_id for entry in load_snli_ve(tmp_path, "ar_test", path).entries] == ["0", "1"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gold_label": "maybe"}, "gold_label is 'maybe'"),
        ({"gold_label": []}, "gold_label is a list, expected a text"),
        ({"Flikr30kID": None}, "Flikr30kID is null, expected an id"),
    ],
)
def test_lines_of_another_form_are_named(tmp_path, change, says):
    write_lines(tmp_path / "dev.jsonl", LINE, {**LINE, **change})
    with pytest.raises(UserError, match=rf"dev\.jsonl, entry 2: expected Flikr30kID, .*{says}"):
        load_snli_ve(tmp_path, "dev")


def test_files_and_splits_that_are_not_there_are_named(tmp_path):
    write_lines(tmp_path / "dev.jsonl", {"sentence2": "x"})
    with pytest.raises(UserError, match=r"dev\.jsonl, entry 1: .*no gold_label among its sentence2"):
        load_snli_ve(tmp_path, "dev")
    write_lines(tmp_path / "dev.jsonl", "x")
    with pytest.raises(UserError, match=r"dev\.jsonl, entry 1: .*'x' instead of an object"):
        load_snli_ve(tmp_path, "dev")
    write_lines(tmp_path / "dev.jsonl")
    with pytest.raises(UserError, match=r"dev\.jsonl: the split is empty"):
        load_snli_ve(tmp_path, "dev")
    with pytest.raises(UserError, match=r"train\.jsonl: no such file"):
        load_snli_ve(tmp_path, "train")
    with pytest.raises(UserError, match="SNLI-VE has no split 'val'; expected train, dev, test"):
        load_snli_ve(tmp_path, "val")
