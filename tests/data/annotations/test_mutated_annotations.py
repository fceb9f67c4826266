"""Annotation files in which one thing is wrong: a clear error in one line, or data; nothing else."""

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from volta_switch.errors import UserError
from volta_switch.tasks.gqa import load_gqa
from volta_switch.tasks.nlvr2 import load_nlvr2
from volta_switch.tasks.snli_ve import load_snli_ve
from volta_switch.tasks.vqa import load_vqa
from volta_switch.tasks.vqa_files import load_annotators

LABELS = ["yes", "no"]
QUESTIONS = {"questions": [{"question_id": n, "image_id": 9, "question": "is it ?"} for n in range(3)]}
TARGETS = [{"question_id": n, "image_id": 9, "labels": [n % 2], "scores": [0.9]} for n in range(3)]
GIVEN = [{"answer": "yes", "answer_id": n} for n in range(1, 11)]
ANNOTATIONS = {
    "annotations": [
        {"question_id": n, "image_id": 9, "multiple_choice_answer": "yes", "answers": GIVEN} for n in range(2)
    ]
}
GQA = [
    {"question_id": f"0{n}", "image_id": "n9", "question": "is it ?", "labels": [1], "scores": [1.0]} for n in range(3)
]
TESTDEV = {f"0{n}": {"imageId": "n9", "question": "is it ?", "answer": "no"} for n in range(2)}
NLVR2 = [{"identifier": f"dev-0-0-{n}", "sentence": "two dogs", "label": "True"} for n in range(2)]
MARVL = [{"left_img": "a/1.jpg", "right_img": "2.jpg", "caption": "mbwa", "label": False, "id": n} for n in range(2)]
PAIRS = [{"Flikr30kID": "12.jpg", "sentence2": "two dogs", "gold_label": "neutral", "pairID": n} for n in range(2)]
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 2**70), st.floats(), st.text(max_size=5), st.just([]), st.just({}),
    st.lists(st.one_of(st.integers(), st.text(max_size=2)), max_size=3),
)  # fmt: skip
PICKLED = st.one_of(PLAIN, st.just(np.zeros((2, 2))), st.just(np.arange(3)), st.binary(max_size=3))


def json_lines(content):
    return "".join(json.dumps(line) + "\n" for line in content).encode()


def as_json(content):
    return json.dumps(content).encode()


FILES = {  # name: its content, how it is written
    "v2_OpenEnded_mscoco_train2014_questions.json": (QUESTIONS, as_json),
    "cache/train_target.pkl": (TARGETS, pickle.dumps),
    "trainval_label2ans.pkl": (LABELS, pickle.dumps),
    "trainval_ans2label.pkl": ({"yes": 0, "no": 1}, pickle.dumps),
    "answers.json": (ANNOTATIONS, as_json),
    "val_target.pkl": (GQA, pickle.dumps),
    "testdev_balanced_questions.json": (TESTDEV, as_json),
    "dev.jsonl": (NLVR2, json_lines),
    "marvl.jsonl": (MARVL, json_lines),
    "snli_ve_test.jsonl": (PAIRS, json_lines),
}
READERS = {  # name: the files of which one is corrupted (indices into FILES), and who reads them
    "vqa": (slice(0, 4), lambda root: load_vqa(root, "train")),
    "annotators": (slice(4, 5), lambda root: load_annotators(root / "answers.json")),
    "gqa": (slice(5, 7), lambda root: (load_gqa(root, "val"), load_gqa(root, "test"))),
    "nlvr2": (slice(7, 9), lambda root: (load_nlvr2(root, "dev"), load_nlvr2(root, "dev", root / "marvl.jsonl"))),
    "snli_ve": (slice(9, 10), lambda root: load_snli_ve(root, "test")),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("annotations")
    (path / "cache").mkdir()
    for name, (content, write) in FILES.items():
        (path / name).write_bytes(write(content))
    return path


def places(content, path=()):
    """Where a value stands in nested containers, as the keys that lead to it."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    found = [place for key, value in inside for place in places(value, (*path, key))]
    return [*([path] if path else []), *found]


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(root, name):
    assert READERS[name][1](root)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_corrupted_file_is_an_error_in_one_line_or_data(root, name, data):
    files, read = READERS[name]
    file = data.draw(st.sampled_from(list(FILES)[files]))
    content, write = FILES[file]
    if data.draw(st.booleans(), "cut off"):
        whole = write(content)
        corrupted = whole[: data.draw(st.integers(0, len(whole) - 1))]
    else:
        changed = copy.deepcopy(content)
        *way, last = data.draw(st.sampled_from(places(changed)))
        holder = changed
        for key in way:
            holder = holder[key]
        if data.draw(st.booleans(), "drop"):
            del holder[last]
        else:
            holder[last] = data.draw(PICKLED if write is pickle.dumps else PLAIN)
        corrupted = write(changed)
    (root / file).write_bytes(corrupted)
    try:
        assert read(root)
    except UserError as error:
        assert "\n" not in str(error) and str(root) in str(error)
    finally:
        (root / file).write_bytes(write(content))
