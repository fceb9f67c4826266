"""Annotations as releases and other projects spell them: read as what they mean, or refused by entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from volta_switch.data.files import safe_pickle
from volta_switch.errors import UserError
from volta_switch.tasks.dataset import load_coco_test_ids
from volta_switch.tasks.gqa import load_gqa
from volta_switch.tasks.nlvr2 import load_nlvr2
from volta_switch.tasks.refer import load_refer, other_splits
from volta_switch.tasks.retrieval_dataset import load_hard_negatives, load_retrieval
from volta_switch.tasks.snli_ve import load_snli_ve
from volta_switch.tasks.vqa import load_vqa
from volta_switch.tasks.vqa_files import make_vqa_targets
from volta_switch.train.needed_files import NeededFiles, require


def lines(path: Path, *items: Any, start: bytes = b"") -> Path:
    path.write_bytes(start + "".join(json.dumps(item) + "\n" for item in items).encode())
    return path


NO_TEXTS = [None, 5, 1.5, True, ["a dog"], {"raw": "a dog"}]
CAPTIONS = {"id": "300", "img_path": "300.jpg", "sentences": ["a", "b"]}


@pytest.mark.parametrize(
    "name", ["300.jpg", "flickr30k-images/300.jpg", "COCO_val2014_000000000300.jpg", "000300.png", "300.JPEG"]
)
def test_an_images_path_is_its_id_however_it_is_spelt(tmp_path, name) -> None:
    assert load_retrieval(lines(tmp_path / "x", {**CAPTIONS, "img_path": name})).image_ids == ["300"]


@pytest.mark.parametrize(("name", "text"), [(300, "300"), ("300", "300"), (300.0, "300"), ("my-photo", "my-photo")])
def test_an_id_may_be_a_number_or_a_text(tmp_path, name, text) -> None:
    assert load_retrieval(lines(tmp_path / "x", {**CAPTIONS, "id": name}), "id").image_ids == [text]


@pytest.mark.parametrize("wrong", [[None], ["a", 5], {"raw": "a"}, [{"raw": "a"}], "a", None, []])
def test_captions_that_are_no_texts_are_refused_by_entry(tmp_path, wrong) -> None:
    with pytest.raises(UserError, match=r"x, entry 2: expected sentences and img_path .*; mend or remove it"):
        load_retrieval(lines(tmp_path / "x", CAPTIONS, {**CAPTIONS, "sentences": wrong}))


def test_karpathys_file_is_named(tmp_path) -> None:
    content = {"images": [{"filename": "1.jpg", "sentences": [{"raw": "a"}], "split": "train"}], "dataset": "flickr30k"}
    with pytest.raises(UserError, match=r"x: Karpathy's file of all splits; expected a line for each image"):
        load_retrieval(lines(tmp_path / "x", content))


@pytest.mark.parametrize(
    "names",
    [
        *(["10", "20"], ["10.jpg", "20.jpg"], [b"10", b"20"], ("0010", "0020")),
        *(np.array([10, 20]), np.array([10.0, 20.0])),
    ],
)
def test_hard_negatives_name_images_in_any_spelling(tmp_path, names) -> None:
    annotations = load_retrieval(lines(tmp_path / "x", *({**CAPTIONS, "img_path": f"{i}.jpg"} for i in (10, 20))))
    pool = {"train_hard_pool": np.array([[0.0, 1.0], [1.0, 0.0]]), "train_image_list": names}
    safe_pickle.dump(tmp_path / "hard.pkl", pool)
    assert load_hard_negatives(tmp_path / "hard.pkl", annotations).tolist() == [[1], [0]]


PAIR = {"Flikr30kID": "4705552913.jpg", "sentence2": "a dog", "gold_label": "neutral", "pairID": "1"}


@pytest.mark.parametrize("key", ["Flikr30kID", "Flickr30kID", "Flickr30K_ID"])
@pytest.mark.parametrize("name", ["4705552913.jpg", "4705552913", "4705552913.jpg#2", "004705552913.jpg", 4705552913])
def test_a_pairs_image_is_read_from_every_release(tmp_path, key, name) -> None:
    pair = {field: value for field, value in PAIR.items() if field != "Flikr30kID"} | {key: name}
    entries = load_snli_ve(tmp_path, "train", lines(tmp_path / "x", pair, start=b"\xef\xbb\xbf")).entries
    assert entries[0].image_id == "4705552913"


@pytest.mark.parametrize("wrong", NO_TEXTS)
def test_a_hypothesis_that_is_no_text_is_refused_by_entry(tmp_path, wrong) -> None:
    path = lines(tmp_path / "x", PAIR, {**PAIR, "pairID": "2", "sentence2": wrong})
    with pytest.raises(UserError, match=r"x, entry 2: expected .*sentence2 is .*, expected a text"):
        load_snli_ve(tmp_path, "train", path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"gold_label": None}, "entry 1: .*gold_label is null, expected a text"),
        ({"Flikr30kID": ["1.jpg"]}, "entry 1: .*Flikr30kID is a list, expected an id"),
        ({"pairID": None}, "entry 1: .*pairID is null"),
    ],
)
def test_other_fields_of_a_pair_are_named(tmp_path, change, says) -> None:
    with pytest.raises(UserError, match=f"x, {says}"):
        load_snli_ve(tmp_path, "train", lines(tmp_path / "x", {**PAIR, **change}))
    with pytest.raises(UserError, match="x: pair 1 stands there twice"):
        load_snli_ve(tmp_path, "train", lines(tmp_path / "x", PAIR, PAIR))


STATEMENT = {"identifier": "train-0-0-1", "sentence": "two dogs", "label": "True"}


@pytest.mark.parametrize("label", ["True", "true", True, 1, "1"])
def test_a_true_statement_is_spelt_in_many_ways(tmp_path, label) -> None:
    more = {"synset": "x", "left_url": "http://a", "writer": 1, "validation": {"2": "True"}}
    (entry,) = load_nlvr2(tmp_path, "train", lines(tmp_path / "x", {**STATEMENT, "label": label, **more}))
    assert entry.label == 1 and entry.image_ids == ("train-0-0-img0", "train-0-0-img1")


@pytest.mark.parametrize("wrong", NO_TEXTS)
def test_a_statement_that_is_no_text_is_refused_by_entry(tmp_path, wrong) -> None:
    with pytest.raises(UserError, match=r"x, entry 1: expected .*sentence is .*, expected a text"):
        load_nlvr2(tmp_path, "train", lines(tmp_path / "x", {**STATEMENT, "sentence": wrong}))
    marvl = {"left_img": "a/1.jpg", "right_img": "a/2.jpg", "caption": wrong, "label": "True"}
    with pytest.raises(UserError, match=r"x, entry 1: expected .*caption is .*, expected a text"):
        load_nlvr2(tmp_path, "train", lines(tmp_path / "x", marvl))


Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def vqa(tmp_path):
    """Load VQA's train questions after a change to each, and to each target."""

    def load(question: Change = lambda q: q, target: Change = lambda t: t) -> list[Any]:
        safe_pickle.dump(tmp_path / "trainval_ans2label.pkl", {"yes": 0, "no": 1})
        safe_pickle.dump(tmp_path / "trainval_label2ans.pkl", ["yes", "no"])
        asked = [{"question_id": i, "image_id": 300 + i, "question": f"is it {i} ?"} for i in (10, 9, 100)]
        path = tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json"
        path.write_text(json.dumps({"questions": [question(dict(q)) for q in asked]}), encoding="utf-8-sig")
        targets = [{**q, "labels": [q["question_id"] % 2], "scores": [1.0]} for q in asked[::-1]]
        safe_pickle.dump(tmp_path / "cache" / "train_target.pkl", [target(t) for t in targets])
        return load_vqa(tmp_path, "train").entries

    return load


@pytest.mark.parametrize(
    "change",
    [
        lambda q: q,
        lambda q: {**q, "question_id": str(q["question_id"])},
        lambda q: {**q, "image_id": str(q["image_id"])},
        lambda q: {**q, "image_id": f"COCO_train2014_{q['image_id']:012d}"},
        lambda q: {**q, "image_id": f"{q['image_id']}.jpg"},
        lambda q: {**q, "question": ""},
    ],
)
def test_questions_and_targets_meet_whatever_type_their_ids_have(vqa, change) -> None:
    for entries in (vqa(question=change), vqa(target=change), vqa(change, change)):
        assert [entry.question_id for entry in entries] == ["9", "10", "100"]
        assert [entry.labels for entry in entries] == [(1,), (0,), (0,)] and isinstance(entries[0].image_id, str)


@pytest.mark.parametrize("wrong", NO_TEXTS)
def test_a_question_that_is_no_text_is_refused_by_entry(vqa, wrong) -> None:
    with pytest.raises(UserError, match=r"questions\.json, question 1: expected .*question is .*, expected a text"):
        vqa(question=lambda q: {**q, "question": wrong})


@pytest.mark.parametrize(
    ("question", "target", "says"),
    [
        (lambda q: {**q, "question_id": 1}, lambda t: t, r"questions\.json: question 1 stands there twice"),
        (lambda q: {**q, "image_id": None}, lambda t: t, r"questions\.json, question 1: .*image_id is null"),
        (lambda q: [q], lambda t: t, r"questions\.json, question 1: .*a list instead of an object"),
        (lambda q: q, lambda t: {**t, "question_id": 1}, "3 targets do not have the ids of the 3 questions"),
        (lambda q: q, lambda t: {**t, "labels": [1, 1], "scores": [0.3, 0.9]}, "question .* each once"),
        (lambda q: q, lambda t: {**t, "labels": None}, "question '?9'?: .* expected question_id, labels, scores"),
        (lambda q: q, lambda t: {**t, "labels": [2]}, r"has labels \(2,\)"),
        (lambda q: q, lambda t: {**t, "image_id": 7}, "is about image 7, in .* about '309'"),
    ],
)
def test_questions_and_targets_that_do_not_fit_are_named(vqa, question, target, says) -> None:
    with pytest.raises(UserError, match=says):
        vqa(question, target)


def test_targets_are_made_with_numbers_as_voltas_are(tmp_path) -> None:
    for name in ("train", "val"):
        asked = {"question_id": "7", "image_id": f"COCO_{name}2014_000000000003", "question": "is it ?"}
        answered = {"question_id": 7, "image_id": 3, "multiple_choice_answer": "yes", "answers": [{"answer": "yes"}]}
        (tmp_path / f"v2_OpenEnded_mscoco_{name}2014_questions.json").write_text(json.dumps({"questions": [asked]}))
        (tmp_path / f"v2_mscoco_{name}2014_annotations.json").write_text(json.dumps({"annotations": [answered]}))
    make_vqa_targets(tmp_path, min_occurrences=1)
    (target,) = safe_pickle.load(tmp_path / "cache" / "train_target.pkl")
    assert (target["question_id"], target["image_id"]) == (7, 3)


@pytest.fixture
def gqa(tmp_path):
    def load(**item: Any) -> list[Any]:
        safe_pickle.dump(tmp_path / "trainval_ans2label.pkl", {"yes": 0})
        safe_pickle.dump(tmp_path / "trainval_label2ans.pkl", ["yes"])
        content = {"01": {"imageId": "n1", "question": "is it ?", "answer": "yes"} | item}
        (tmp_path / "testdev_balanced_questions.json").write_text(json.dumps(content))
        return load_gqa(tmp_path, "testdev").entries

    return load


def test_gqas_ids_are_text(gqa) -> None:
    assert (gqa()[0].question_id, gqa(imageId=23)[0].image_id) == ("01", "23")
    assert gqa(answer="zebra")[0].labels == ()


@pytest.mark.parametrize("field", ["question", "answer"])
@pytest.mark.parametrize("wrong", NO_TEXTS)
def test_gqas_texts_are_texts(gqa, field, wrong) -> None:
    with pytest.raises(UserError, match=rf"questions\.json, question 1: .*{field} is .*, expected a text"):
        gqa(**{field: wrong})


@pytest.fixture
def refer(tmp_path):
    """Load RefCOCO+'s train expressions after a change to each reference, under a file's name."""

    def load(change: Change = lambda r: r, name: str = "refs(unc).p", split: str = "train") -> list[Any]:
        sentences = [{"raw": "red dog", "sent": "x", "sent_id": 5, "tokens": []}]
        reference = {"ref_id": 1, "ann_id": 2, "category_id": 1, "image_id": 7, "split": "train", "sent_ids": [5]}
        safe_pickle.dump(tmp_path / "refcoco+" / name, [change({**reference, "sentences": sentences})])
        boxes = {"annotations": [{"id": 2, "bbox": [1, 2, 3, 4]}]}
        (tmp_path / "refcoco+" / "instances.json").write_text(json.dumps(boxes))
        return load_refer(tmp_path, "refcoco+", split)

    return load


@pytest.mark.parametrize("field", ["ref_id", "ann_id", "image_id"])
def test_references_have_ids_of_any_type(refer, field) -> None:
    (entry,) = refer(lambda r: {**r, field: str(r[field]), "sent_ids": ["5"]})
    assert (entry.sent_id, entry.ref_id, entry.image_id, entry.box) == ("5", "1", "7", (1, 2, 4, 6))


@pytest.mark.parametrize("wrong", [*NO_TEXTS, b"red dog"])
def test_an_expression_that_is_no_text_is_refused_by_reference(refer, wrong) -> None:
    with pytest.raises(UserError, match=r"refs\(unc\)\.p, reference 1: .*raw is .*, expected a text"):
        refer(lambda r: {**r, "sentences": [{**r["sentences"][0], "raw": wrong}]})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: {**r, "sentences": [{"sent": "x"}]}, "reference 1: .*no raw among its sent"),
        (lambda r: {**r, "sent_ids": []}, "reference 1: .*shorter"),
        (lambda r: {**r, "image_id": None}, "reference 1: .*image_id is null"),
        (lambda r: {**r, "sentences": r["sentences"] * 2, "sent_ids": [5, 5]}, "sentence 5 stands there twice"),
    ],
)
def test_references_that_do_not_fit_are_named(refer, change, says) -> None:
    with pytest.raises(UserError, match=rf"refs\(unc\)\.p.*{says}"):
        refer(change)


def test_splits_that_are_there_are_named(refer) -> None:
    with pytest.raises(
        UserError, match=r"refs\(unc\)\.p: no such file \(beside it refs\(google\)\.p, with other splits"
    ):
        refer(name="refs(google).p")
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: split 'testC' is empty; splits in the file: train"):
        refer(split="testC")


@pytest.mark.parametrize("ids", [[7, 9], ["7", "COCO_val2014_000000000009"], [7.0, 9.0]])
def test_the_listed_images_are_known_in_any_spelling(tmp_path, ids) -> None:
    (tmp_path / "cache").mkdir()
    np.save(tmp_path / "cache" / "coco_test_ids.npy", np.array(ids))
    assert load_coco_test_ids(tmp_path) == {"7", "9"}


def test_a_command_that_looks_for_its_files_first_names_other_splits_too(refer, tmp_path) -> None:
    with pytest.raises(UserError):
        refer(name="refs(google).p")
    path = tmp_path / "refcoco+" / "refs(unc).p"
    with pytest.raises(UserError, match=r"refs\(unc\)\.p: no such file or folder \(beside it refs\(google\)\.p, with"):
        require(NeededFiles([(path,)], None, "", lambda _: None))
    assert other_splits(path.with_name("instances.json")) == ""
