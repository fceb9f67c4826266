"""VQAv2's splits and where their targets lie (the other rules of its files: test_annotations.py)."""

import json
import pickle

import numpy as np
import pytest

from volta_switch.data.files import safe_pickle
from volta_switch.errors import UserError
from volta_switch.tasks.vqa import load_vqa

ANSWERS = ["yes", "no"]


def questions_file(root, name, ids):
    questions = [{"question_id": i, "image_id": i // 10, "question": f"what is {i} ?"} for i in ids]
    (root / f"v2_OpenEnded_mscoco_{name}_questions.json").write_text(json.dumps({"questions": questions}))


def targets(ids, **changes):
    return [{"question_id": i, "image_id": i // 10, "labels": [i % 2], "scores": [0.6], **changes} for i in ids]


@pytest.fixture
def root(tmp_path):
    safe_pickle.dump(tmp_path / "trainval_ans2label.pkl", {answer: label for label, answer in enumerate(ANSWERS)})
    safe_pickle.dump(tmp_path / "trainval_label2ans.pkl", ANSWERS)
    for name, ids in (("train2014", range(50)), ("val2014", range(100, 105)), ("test2015", range(200, 220))):
        questions_file(tmp_path, name, ids)
    questions_file(tmp_path, "test-dev2015", range(200, 205))
    safe_pickle.dump(tmp_path / "cache" / "train_target.pkl", targets(range(50)))
    safe_pickle.dump(tmp_path / "cache" / "val_target.pkl", targets(range(100, 105)))
    np.save(tmp_path / "cache" / "coco_test_ids.npy", np.array([3, 1, 77]))
    return tmp_path


def ids_of(root, split):
    return [int(entry.question_id) for entry in load_vqa(root, split).entries]


def test_mteval_is_trains_questions_on_the_images_listed(root):
    assert ids_of(root, "mteval") == [*range(10, 20), *range(30, 40)]
    assert all(entry.labels is not None for entry in load_vqa(root, "mteval").entries)


def test_test_dev_is_its_own_file(root):
    assert ids_of(root, "test-dev") == list(range(200, 205)) and len(ids_of(root, "test")) == 20
    assert load_vqa(root, "test-dev").entries[0].labels is None


def test_a_test_with_targets_has_answers(root):
    safe_pickle.dump(root / "cache" / "test_target.pkl", targets(range(200, 220)))
    assert load_vqa(root, "test").entries[1].labels == (1,)


def test_targets_may_lie_one_level_up(root):
    (root / "cache" / "val_target.pkl").rename(root / "val_target.pkl")
    assert ids_of(root, "val") == list(range(100, 105))
    safe_pickle.dump(root / "cache" / "val_target.pkl", targets(range(100, 105), labels=[0]))
    assert {entry.labels for entry in load_vqa(root, "val").entries} == {(0,)}  # where both are there, the cache's
    (root / "cache" / "val_target.pkl").unlink()
    (root / "val_target.pkl").unlink()
    with pytest.raises(UserError, match=r"cache/val_target\.pkl: no such file"):
        load_vqa(root, "val")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"image_id": 999}, r"question 100 is about image 999, in v2_OpenEnded.*val2014.*about '10'"),
        ({"scores": [1.5]}, r"question 100 has .* scores from 0 to 1"),
        ({"scores": [float("nan")]}, r"question 100 has .* scores from 0 to 1"),
        ({"labels": [0.5]}, "question 100: .* expected question_id, labels, scores"),
        ({"labels": [-1]}, r"question 100 has labels \(-1,\)"),
    ],
)
def test_targets_that_contradict_the_questions_are_named(root, change, says):
    safe_pickle.dump(root / "cache" / "val_target.pkl", targets(range(100, 105), **change))
    with pytest.raises(UserError, match=rf"val_target\.pkl: .*{says}"):
        load_vqa(root, "val")


def test_label_maps_that_name_labels_differently_are_refused(root):
    safe_pickle.dump(root / "trainval_ans2label.pkl", {"yes": 1, "no": 0})
    with pytest.raises(UserError, match="does not mirror trainval_label2ans"):
        load_vqa(root, "val")


def test_a_list_of_images_that_is_a_pickle_is_not_loaded(root):
    path = root / "cache" / "coco_test_ids.npy"
    np.save(path, np.array([3, "x", None], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"coco_test_ids\.npy: expected an array of image ids"):
        load_vqa(root, "mteval")
    path.write_bytes(pickle.dumps([3]))
    with pytest.raises(UserError, match=r"coco_test_ids\.npy: expected an array of image ids"):
        load_vqa(root, "mteval")
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"coco_test_ids\.npy: expected an array of image ids"):
        load_vqa(root, "mteval")
    path.unlink()
    with pytest.raises(UserError, match=r"coco_test_ids\.npy: cannot be read"):
        load_vqa(root, "mteval")


def test_a_list_of_other_images_leaves_mteval_empty(root):
    np.save(root / "cache" / "coco_test_ids.npy", np.array([77]))
    with pytest.raises(UserError, match="split 'mteval' of VQA is empty"):
        load_vqa(root, "mteval")
