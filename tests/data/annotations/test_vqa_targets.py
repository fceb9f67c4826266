"""Soft targets made from the official files."""

import json
import shutil

import pytest

from volta_switch.data.files import safe_pickle
from volta_switch.errors import UserError
from volta_switch.tasks.vqa import load_vqa
from volta_switch.tasks.vqa_files import make_vqa_targets, soft_label


def write_official(root, name, rows):
    """rows: question id, consensus, ten answers."""
    questions = [{"question_id": i, "image_id": i, "question": f"what is {i} ?"} for i, *_ in rows]
    annotations = [
        {
            "question_id": i,
            "image_id": i,
            "multiple_choice_answer": consensus,
            "answers": [{"answer": answer, "answer_id": n} for n, answer in enumerate(answers, 1)],
        }
        for i, consensus, answers in rows
    ]
    (root / f"v2_OpenEnded_mscoco_{name}2014_questions.json").write_text(json.dumps({"questions": questions[::-1]}))
    (root / f"v2_mscoco_{name}2014_annotations.json").write_text(json.dumps({"annotations": annotations}))


@pytest.fixture
def root(tmp_path):
    agreed = ["red"] * 7 + ["dark red"] * 2 + ["Red"]
    write_official(
        tmp_path,
        "train",
        [
            (1, "red", agreed),
            (2, "The Red", ["blue"] * 4 + ["two"] * 3 + ["red"] * 2 + ["pink"]),
            (3, "two", ["x"] * 10),
        ],
    )
    write_official(tmp_path, "val", [(11, "two", ["2"] * 10), (12, "2", ["2"] + ["two"] * 9), (13, "blue", ["2"] * 10)])
    return tmp_path


def test_soft_labels_of_votes_are_voltas():
    assert [soft_label(votes) for votes in range(6)] == [0, 0.3, 0.6, 0.9, 1, 1] and soft_label(10) == 1


def test_answers_that_are_often_the_consensus_get_labels_and_votes_become_scores(root):
    counts = make_vqa_targets(root, min_occurrences=2)
    assert safe_pickle.load(root / "trainval_label2ans.pkl") == ["red", "2"]  # normalised; blue is the consensus once
    assert safe_pickle.load(root / "trainval_ans2label.pkl") == {"red": 0, "2": 1}
    assert safe_pickle.load(root / "cache" / "train_target.pkl") == [
        {"question_id": 1, "image_id": 1, "labels": [0], "scores": [1.0]},
        {"question_id": 2, "image_id": 2, "labels": [0], "scores": [0.6]},  # "two" is not "2" as it was given
        {"question_id": 3, "image_id": 3, "labels": [], "scores": []},
    ]
    assert [target["scores"] for target in safe_pickle.load(root / "cache" / "val_target.pkl")] == [[1.0], [0.3], [1.0]]
    assert counts == {"answers": 2, "train": 3, "train_unlabelled": 1, "val": 3, "val_unlabelled": 0}
    assert [entry.labels for entry in load_vqa(root, "train", num_labels=2).entries] == [(0,), (0,), ()]


def test_label_maps_that_are_there_stay_unless_told_otherwise(root):
    safe_pickle.dump(root / "trainval_label2ans.pkl", ["blue", "red", "pink"])
    safe_pickle.dump(root / "trainval_ans2label.pkl", {"blue": 0, "red": 1, "pink": 2})
    assert make_vqa_targets(root)["answers"] == 3
    assert safe_pickle.load(root / "trainval_label2ans.pkl") == ["blue", "red", "pink"]
    assert safe_pickle.load(root / "cache" / "train_target.pkl")[1]["labels"] == [0, 1, 2]
    assert make_vqa_targets(root, min_occurrences=1, keep_labels=False)["answers"] == 3
    assert safe_pickle.load(root / "trainval_label2ans.pkl") == ["red", "2", "blue"]


def test_the_small_worlds_targets_are_made_again(world, tmp_path):
    root = tmp_path / "annotations"
    shutil.copytree(world.path / "datasets/vqa/annotations", root)
    before = {name: safe_pickle.load(root / "cache" / f"{name}_target.pkl") for name in ("train", "val")}
    for path in (root / "cache").iterdir():
        path.unlink()
    counts = make_vqa_targets(root)
    for name, targets in before.items():
        assert counts[name] == len(targets) > 0
        made = safe_pickle.load(root / "cache" / f"{name}_target.pkl")
        assert [dict(zip(t["labels"], t["scores"], strict=True)) for t in made] == [
            dict(zip(t["labels"], t["scores"], strict=True))
            for t in sorted(targets, key=lambda target: target["question_id"])
        ]


def test_questions_and_annotations_that_differ_are_named(root):
    write_official(root, "val", [(11, "two", ["2"] * 10)])
    path = root / "v2_mscoco_val2014_annotations.json"
    path.write_text(path.read_text().replace('"image_id": 11', '"image_id": 12'))
    with pytest.raises(UserError, match=r"val2014_annotations\.json: 1 annotations do not have the ids of the 1 quest"):
        make_vqa_targets(root)
    path.unlink()
    with pytest.raises(UserError, match=r"val2014_annotations\.json: no such file"):
        make_vqa_targets(root)


def test_a_minimum_that_no_answer_reaches_is_named_and_nothing_is_written(root):
    with pytest.raises(UserError, match="no answer is the consensus on 9 questions"):
        make_vqa_targets(root)
    assert not (root / "cache").exists() and not (root / "trainval_label2ans.pkl").exists()
