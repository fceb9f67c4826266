"""GQA's files: targets by split, test-dev with and without answers."""

import json

import pytest

from volta_switch.data.files import safe_pickle
from volta_switch.errors import UserError
from volta_switch.tasks.gqa import load_gqa

ANSWERS = ["yes", "no", "left"]


def target(number, **changes):
    return {
        "question_id": f"{number:06d}", "image_id": f"n{number % 7}", "question": f"is it {number} ?",
        "labels": [number % 3], "scores": [1.0], **changes,
    }  # fmt: skip


@pytest.fixture
def root(tmp_path):
    safe_pickle.dump(tmp_path / "trainval_ans2label.pkl", {answer: label for label, answer in enumerate(ANSWERS)})
    safe_pickle.dump(tmp_path / "trainval_label2ans.pkl", ANSWERS)
    for name, numbers in (("train", range(4)), ("val", range(4, 6)), ("trainval", range(3005))):
        safe_pickle.dump(tmp_path / f"{name}_target.pkl", [target(number) for number in reversed(numbers)])
    return tmp_path


def write_testdev(root, **items):
    (root / "testdev_balanced_questions.json").write_text(json.dumps(items))


QUESTION = {"imageId": "n1", "question": "which side ?"}


def test_questions_are_ordered_by_an_id_that_stays_a_string(root):
    entries = load_gqa(root, "train", num_labels=3).entries
    assert [entry.question_id for entry in entries] == ["000000", "000001", "000002", "000003"]
    assert (entries[2].image_id, entries[2].question) == ("n2", "is it 2 ?")
    assert (entries[2].labels, entries[2].scores) == ((2,), (1.0,))
    assert len(load_gqa(root, "val").entries) == 2


def test_minval_and_trainval_share_out_trainval(root):
    ids = {split: [entry.question_id for entry in load_gqa(root, split).entries] for split in ("trainval", "minval")}
    assert ids["trainval"] == [f"{number:06d}" for number in range(5)]
    assert ids["minval"] == [f"{number:06d}" for number in range(5, 3005)]


@pytest.mark.parametrize("split", ["test", "testdev"])
def test_test_dev_may_have_answers_of_which_some_have_no_label(root, split):
    write_testdev(root, **{"201": {**QUESTION, "answer": "left"}, "007": {**QUESTION, "answer": "purple"}})
    entries = load_gqa(root, split).entries
    assert [(e.question_id, e.labels, e.scores) for e in entries] == [("201", (2,), (1.0,)), ("007", (), ())]
    write_testdev(root, **{"201": QUESTION})
    assert load_gqa(root, split).entries[0].labels is None


def test_files_of_another_form_are_named(root):
    write_testdev(root, **{"1": {**QUESTION, "answer": "left"}, "2": QUESTION})
    with pytest.raises(UserError, match="question 2 has no answer and others do"):
        load_gqa(root, "test")
    write_testdev(root, **{"1": {"question": "x"}})
    with pytest.raises(UserError, match=r"question 1: expected imageId and question .no imageId among its question"):
        load_gqa(root, "test")
    (root / "testdev_balanced_questions.json").write_text("[]")
    with pytest.raises(UserError, match="expected GQA's questions by their ids, found a list"):
        load_gqa(root, "test")
    write_testdev(root)
    with pytest.raises(UserError, match="split 'test' of GQA is empty"):
        load_gqa(root, "test")
    for corrupted, says in (
        ({"labels": [3]}, "question 000001 has labels"),
        ({"labels": None}, "question '000001': .*expected question_id, labels"),
    ):
        safe_pickle.dump(root / "val_target.pkl", [target(1, **corrupted)])
        with pytest.raises(UserError, match=rf"val_target\.pkl: .*{says}"):
            load_gqa(root, "val")
    with pytest.raises(UserError, match="GQA has no split 'dev'; expected train, val, trainval, minval, test"):
        load_gqa(root, "dev")
    with pytest.raises(UserError, match="3 answers, but the task's head has 1842"):
        load_gqa(root, "train", num_labels=1842)
