from __future__ import annotations

import json

import numpy as np
import pytest

from volta_switch.data.files import safe_pickle
from volta_switch.data.files.json_files import read_json
from volta_switch.errors import UserError
from volta_switch.tasks.refer import load_refer
from volta_switch.tasks.retrieval_dataset import load_hard_negatives, load_retrieval, write_hard_negatives
from volta_switch.tasks.vqa import load_vqa


def ref(number: int, split: str) -> dict:
    sentences = [
        {"raw": f"Raw {number} {i}", "sent": "x", "sent_id": 10 * number + i, "tokens": ["x"]} for i in range(2)
    ]
    ids = [sentence["sent_id"] for sentence in sentences]
    names = {"ref_id": number, "ann_id": 100 + number, "category_id": 1, "image_id": 7}
    return {**names, "split": split, "sent_ids": ids, "sentences": sentences}


@pytest.fixture
def refer_root(tmp_path):
    refs = [ref(i, split) for i, split in enumerate(["train", "val", "testA", "train", "testB"])]
    safe_pickle.dump(tmp_path / "refcoco+" / "refs(unc).p", refs)
    safe_pickle.dump(tmp_path / "refcocog" / "refs(umd).p", refs[:1])
    boxes = [{"id": 100 + i, "image_id": 7, "bbox": [i, 10, 20, 30]} for i in range(5)]
    for task in ("refcoco+", "refcocog"):
        (tmp_path / task / "instances.json").write_text(json.dumps({"annotations": boxes}))
    return tmp_path


def test_expressions_are_raw_sentences_with_boxes_as_corners(refer_root) -> None:
    entries = load_refer(refer_root, "refcoco+", "train")
    assert [(e.caption, e.sent_id, e.ref_id) for e in entries] == [
        ("Raw 0 0", "0", "0"),
        ("Raw 0 1", "1", "0"),
        ("Raw 3 0", "30", "3"),
        ("Raw 3 1", "31", "3"),
    ]
    assert entries[2].box == (3, 10, 23, 40) and entries[2].image_id == "7"


def test_split_test_is_test_a_and_test_b(refer_root) -> None:
    ref_ids = {
        split: {e.ref_id for e in load_refer(refer_root, "refcoco+", split)} for split in ("test", "testA", "testB")
    }
    assert ref_ids == {"test": {"2", "4"}, "testA": {"2"}, "testB": {"4"}}


def test_refcocog_has_its_own_split_file(refer_root) -> None:
    assert len(load_refer(refer_root, "refcocog", "train")) == 2


def test_an_empty_split_of_expressions_lists_the_splits(refer_root) -> None:
    with pytest.raises(UserError, match=r"refs\(umd\)\.p: split 'val' is empty; splits in the file: train"):
        load_refer(refer_root, "refcocog", "val")


def test_an_expression_knows_the_files_own_name_of_its_split(refer_root) -> None:
    assert [e.split for e in load_refer(refer_root, "refcoco+", "test")] == ["testA", "testA", "testB", "testB"]


def test_mteval_is_the_training_expressions_of_the_listed_images(refer_root) -> None:
    listed = refer_root / "cache" / "coco_test_ids.npy"
    with pytest.raises(UserError, match=r"coco_test_ids\.npy: cannot be read .*; split mteval needs it"):
        load_refer(refer_root, "refcoco+", "mteval")
    listed.parent.mkdir()
    np.save(listed, np.array([7, 9]))
    assert load_refer(refer_root, "refcoco+", "mteval") == load_refer(refer_root, "refcoco+", "train")
    np.save(listed, np.array([8]))
    with pytest.raises(UserError, match=r"split 'mteval' is empty; splits in the file: testA, testB, train, val"):
        load_refer(refer_root, "refcoco+", "mteval")


@pytest.mark.parametrize("ids", [np.array([{7}], dtype=object), np.array(7), np.array([1.5])])
def test_other_content_of_the_listed_images_is_named(refer_root, ids) -> None:
    (refer_root / "cache").mkdir()
    np.save(refer_root / "cache" / "coco_test_ids.npy", ids)  # objects are pickled, and must not be unpickled
    with pytest.raises(UserError, match=r"coco_test_ids\.npy: expected an array of image ids"):
        load_refer(refer_root, "refcoco+", "mteval")


@pytest.mark.parametrize("box", [[1, 2, 3], [1, 2, 3, "wide"], [1, 2, float("nan"), 4], None, 5])
def test_a_box_that_is_none_is_named(refer_root, box) -> None:
    (refer_root / "refcoco+" / "instances.json").write_text(json.dumps({"annotations": [{"id": 100, "bbox": box}]}))
    with pytest.raises(UserError, match=r"instances\.json, annotation 1: expected id and bbox: x, y, width, height"):
        load_refer(refer_root, "refcoco+", "train")


def test_a_sentence_that_is_no_text_is_named(refer_root) -> None:
    broken = ref(0, "train")
    broken["sentences"][1]["raw"] = 3
    safe_pickle.dump(refer_root / "refcocog" / "refs(umd).p", [broken])
    with pytest.raises(UserError, match=r"refs\(umd\)\.p, reference 1: .*raw is 3, expected a text"):
        load_refer(refer_root, "refcocog", "train")


def test_a_reference_without_a_box_is_named(refer_root) -> None:
    (refer_root / "refcoco+" / "instances.json").write_text('{"annotations": []}')
    with pytest.raises(UserError, match=r"instances\.json: no annotation 100, which refs\(unc\)\.p names in ref 0"):
        load_refer(refer_root, "refcoco+", "train")


def test_other_content_of_refer_files_is_named(refer_root) -> None:
    (refer_root / "refcoco+" / "instances.json").write_text('{"boxes": []}')
    with pytest.raises(UserError, match=r"instances\.json: expected COCO's object with a list of 'annotations'"):
        load_refer(refer_root, "refcoco+", "train")
    safe_pickle.dump(refer_root / "refcocog" / "refs(umd).p", [{"ref_id": 1}])
    with pytest.raises(UserError, match=r"refs\(umd\)\.p, reference 1: expected ref_id, .* .no 'split'."):
        load_refer(refer_root, "refcocog", "train")


@pytest.fixture
def vqa_root(tmp_path):
    answers = ["yes", "no", "red"]
    safe_pickle.dump(tmp_path / "trainval_ans2label.pkl", {answer: i for i, answer in enumerate(answers)})
    safe_pickle.dump(tmp_path / "trainval_label2ans.pkl", answers)
    for name, file, first, count in (
        ("train", "train2014", 0, 4),
        ("val", "val2014", 100, 3010),
        ("", "test2015", 9000, 2),
    ):
        ids = [first + i for i in range(count)][::-1]
        questions = [{"question_id": i, "image_id": i // 10, "question": f"what is {i} ?"} for i in ids]
        (tmp_path / f"v2_OpenEnded_mscoco_{file}_questions.json").write_text(json.dumps({"questions": questions}))
        if name:
            targets = [
                {"question_id": i, "image_id": i // 10, "labels": [i % 3], "scores": [0.3]} for i in ids[1:] + ids[:1]
            ]
            targets[0]["labels"], targets[0]["scores"] = [], []
            safe_pickle.dump(tmp_path / "cache" / f"{name}_target.pkl", targets)
    return tmp_path


def test_questions_and_targets_meet_by_id_in_order(vqa_root) -> None:
    annotations = load_vqa(vqa_root, "train", num_labels=3)
    assert [e.question_id for e in annotations.entries] == ["0", "1", "2", "3"]
    assert annotations.label2ans == ["yes", "no", "red"]
    assert [e.labels for e in annotations.entries] == [(0,), (1,), (), (0,)]
    assert annotations.entries[1].question == "what is 1 ?" and annotations.entries[1].scores == (0.3,)


def test_minval_and_trainval_share_out_val(vqa_root) -> None:
    ids = {
        split: [e.question_id for e in load_vqa(vqa_root, split).entries]
        for split in ("val", "minval", "trainval", "train")
    }
    assert ids["minval"] == ids["val"][10:] and ids["trainval"] == ids["train"] + ids["val"][:10]


def test_test_questions_have_no_answers(vqa_root) -> None:
    assert [(e.question_id, e.labels, e.scores) for e in load_vqa(vqa_root, "test").entries] == [
        ("9000", None, None),
        ("9001", None, None),
    ]


def test_another_number_of_answers_is_stated(vqa_root) -> None:
    with pytest.raises(UserError, match=r"trainval_ans2label\.pkl: 3 answers, but the task's head has 3129"):
        load_vqa(vqa_root, "train", num_labels=3129)


def test_unknown_and_empty_splits_of_questions_are_named(vqa_root) -> None:
    with pytest.raises(UserError, match="no split 'dev'; expected train, val"):
        load_vqa(vqa_root, "dev")
    (vqa_root / "v2_OpenEnded_mscoco_test2015_questions.json").write_text('{"questions": []}')
    with pytest.raises(UserError, match="split 'test' of VQA is empty"):
        load_vqa(vqa_root, "test")


@pytest.mark.parametrize(
    ("targets", "says"),
    [
        ([], "0 targets do not have the ids of the 4 questions"),
        ([{"question_id": i, "labels": [0], "scores": [1.0]} for i in range(1, 5)], "do not have the ids"),
        ([{"question_id": i, "labels": [3], "scores": [1.0]} for i in range(4)], r"question 0 has labels \(3,\)"),
        ([{"question_id": i, "labels": [1], "scores": []} for i in range(4)], "expected as many of each"),
        ([{"question_id": i} for i in range(4)], "question 0: .*expected question_id, labels, scores"),
    ],
)
def test_targets_that_do_not_fit_the_questions_are_named(vqa_root, targets, says) -> None:
    safe_pickle.dump(vqa_root / "cache" / "train_target.pkl", targets)
    with pytest.raises(UserError, match=rf"train_target\.pkl: .*{says}"):
        load_vqa(vqa_root, "train")


def test_answer_lists_that_differ_are_named(vqa_root) -> None:
    safe_pickle.dump(vqa_root / "trainval_label2ans.pkl", ["yes"])
    with pytest.raises(UserError, match="does not mirror trainval_label2ans"):
        load_vqa(vqa_root, "train")


def test_questions_of_another_form_are_named(vqa_root) -> None:
    (vqa_root / "v2_OpenEnded_mscoco_train2014_questions.json").write_text('[{"question": "x"}]')
    with pytest.raises(UserError, match=r"train2014_questions\.json: a list; expected VQAv2's questions"):
        load_vqa(vqa_root, "train")


def write_lines(path, lines):
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def test_captions_know_their_image(tmp_path) -> None:
    lines = [
        {"img_path": "000300.jpg", "id": "x9", "sentences": ["a", "b"]},
        {"img_path": "7.jpg", "id": 4, "sentences": ["c"]},
    ]
    path = write_lines(tmp_path / "train_ann.jsonl", lines)
    flickr, coco = load_retrieval(path), load_retrieval(path, image_id_from="id")
    assert flickr.image_ids == ["300", "7"] and coco.image_ids == ["x9", "4"]
    assert flickr.captions == ["a", "b", "c"] and flickr.caption_image.tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "the split is empty"),
        ([{"sentences": ["a"]}], "entry 1: expected sentences and img_path"),
        ([{"img_path": "1.jpg", "sentences": ["a"]}, {"img_path": "2.jpg", "sentences": []}], "entry 2: .*no sentence"),
        ([{"img_path": "1.jpg", "sentences": "a dog"}], "entry 1: .*no list of texts"),
        ([{"img_path": "1.jpg", "sentences": ["a", 2]}], "entry 1: .*no list of texts"),
        ([{"img_path": "1.jpg", "sentences": ["a"]}] * 2, "image '1' stands on two lines"),
    ],
)
def test_caption_lines_that_do_not_fit_are_named(tmp_path, lines, says) -> None:
    with pytest.raises(UserError, match=rf"train_ann\.jsonl.*{says}"):
        load_retrieval(write_lines(tmp_path / "train_ann.jsonl", lines))


def test_a_line_that_is_no_json_is_numbered(tmp_path) -> None:
    (tmp_path / "x.jsonl").write_text('{"img_path": "1.jpg", "sentences": ["a"]}\n\n{"img\n')
    with pytest.raises(UserError, match=r"x\.jsonl, line 3: not JSON"):
        load_retrieval(tmp_path / "x.jsonl")


def test_json_files_that_cannot_be_read_are_named(tmp_path) -> None:
    with pytest.raises(UserError, match=r"instances\.json: no such file"):
        read_json(tmp_path / "instances.json")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(UserError, match=r"latin\.json: not UTF-8"):
        read_json(tmp_path / "latin.json")


@pytest.fixture
def three_images(tmp_path):
    lines = [{"img_path": f"{name}.jpg", "sentences": ["a"]} for name in (10, 20, 30)]
    return load_retrieval(write_lines(tmp_path / "train_ann.jsonl", lines))


def test_captions_may_hold_any_character_that_json_lets_them(tmp_path) -> None:
    (tmp_path / "x.jsonl").write_text('{"img_path": "1.jpg", "sentences": ["a\u2028b"]}\n', encoding="utf-8")
    assert load_retrieval(tmp_path / "x.jsonl").captions == ["a\u2028b"]


def test_json_nested_too_deep_is_named(tmp_path) -> None:
    (tmp_path / "x.jsonl").write_text("[" * 100_000)
    for read in (load_retrieval, read_json):
        with pytest.raises(UserError, match=r"x\.jsonl: not JSON"):
            read(tmp_path / "x.jsonl")


def hard_negatives(tmp_path, annotations, pool, names):
    path = tmp_path / "hard_negative.pkl"
    safe_pickle.dump(path, {"train_hard_pool": np.array(pool, dtype=np.float64), "train_image_list": names})
    return load_hard_negatives(path, annotations)


def test_hard_negatives_follow_the_annotations_order(tmp_path, three_images) -> None:
    # in the file's order 30, 10, 40, 20, the neighbours of 10 are 20 and 30, of 20 30 and 10, of 30 10 and 20
    pool = [[0, 1, 3], [1, 3, 0], [2, 0, 1], [3, 0, 1]]
    assert hard_negatives(tmp_path, three_images, pool, [30, 10, 40, 20]).tolist() == [[1, 2], [2, 0], [0, 1]]


def test_hard_negatives_are_never_the_image_itself_or_outside_the_split(tmp_path, three_images) -> None:
    pool = [[0, 0, 1], [1, 3, 2], [2, 0, 2], [3, 0, 1]]
    assert hard_negatives(tmp_path, three_images, pool, [10, 20, 30, 99]).tolist() == [[1, 1], [2, 2], [0, 0]]


def test_hard_negatives_are_written_as_voltas_are_read(tmp_path, three_images) -> None:
    path = tmp_path / "hard_negative.pkl"
    write_hard_negatives(path, np.array([30, 10, 20]), np.array([[0, 1], [1, 2], [2, 0]]))
    content = safe_pickle.load(path)
    assert content["train_image_list"] == [30, 10, 20] and content["train_hard_pool"].dtype == np.float64
    assert load_hard_negatives(path, three_images).tolist() == [[1], [2], [0]]  # 10: 20, 20: 30, 30: 10


@pytest.mark.parametrize("pool", [[[0], [1]], [[0, 1]], [[1, 0], [0, 1]], [[0, 1], [1, 2]], [[0, 1], [1, -1]], [0, 1]])
def test_a_pool_that_does_not_list_each_image_and_its_neighbours_is_not_written(tmp_path, pool) -> None:
    with pytest.raises(ValueError, match="expected 2 rows of indices below 2"):
        write_hard_negatives(tmp_path / "hard_negative.pkl", [10, 20], np.array(pool))


@pytest.mark.parametrize(
    ("pool", "names", "says"),
    [
        ([[0, 1], [1, 0]], [10, 20], "1 images .* are not in train_image_list, first '30'"),
        ([[0, 1], [1, 0]], [10, 20, 30], "expected train_hard_pool"),
        ([[0], [1], [2]], [10, 20, 30], "expected train_hard_pool"),
        ([[0, 1], [1, 0], [2, 7]], [10, 20, 30], "indices beyond train_image_list"),
        ([[0, 1], [1, 0], [2, 2]], [10, 20, 30], "image '30' has no hard negative"),
    ],
)
def test_hard_negatives_that_do_not_fit_are_named(tmp_path, three_images, pool, names, says) -> None:
    with pytest.raises(UserError, match=rf"hard_negative\.pkl: .*{says}"):
        hard_negatives(tmp_path, three_images, pool, names)
