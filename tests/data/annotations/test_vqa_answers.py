"""The form in which answers are compared. Expected values were worked out by hand from the official rules."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volta_switch.errors import UserError
from volta_switch.tasks.vqa_files import CONTRACTIONS, as_written, load_annotators, normalised


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("Yes", "yes"),
        ("a red  ball", "red ball"),
        ("The dog", "dog"),
        ("two", "2"),
        ("none", "0"),
        ("twenty two", "twenty 2"),
        ("dont know", "don't know"),
        ("it's", "it's"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("black/white", "black white"),  # a mark between letters leaves a blank
        ("black / white", "black white"),  # one beside a blank leaves nothing: two blanks stay, and are one
        ("black- white", "black white"),
        ("t-shirt - blue", "tshirt blue"),  # one mark beside a blank takes out all its kind
        ("1,000", "1000"),  # digits around a comma: everything is taken out
        ("1,000-dollar", "1000dollar"),
        ("red,blue", "red blue"),
        ("stop.", "stop"),
        ("2.5", "2.5"),
        ("u.s.a.", "usa"),
        ("10:30", "10:30"),
        ("what?!", "what"),
        ("an", ""),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_the_official_evaluator_does(answer, expected):
    assert normalised(answer) == expected


def test_only_thirty_two_periods_are_taken_out():
    assert normalised("." * 40 + "x") == "." * 8 + "x"


def test_an_apostrophe_is_restored_wherever_one_is_lacking():
    assert CONTRACTIONS["yall'd've"] == CONTRACTIONS["y'alld've"] == CONTRACTIONS["y'all'dve"] == "y'all'd've"
    assert CONTRACTIONS["oclock"] == "o'clock" and CONTRACTIONS["thats"] == "that's"
    assert not {"were", "well", "shell", "shed", "its", "ill"} & set(CONTRACTIONS)  # words of their own


@given(st.text(alphabet="abT he.,'-/!?12 "))
def test_normalising_leaves_single_blanks_no_capitals_and_no_articles(answer):
    result = normalised(answer)
    assert result == " ".join(result.split()) == result.lower()
    assert not {"a", "an", "the"} & set(result.split())


def test_an_answer_as_written_keeps_all_but_its_white_space():
    assert as_written(" The\tbig\nDog. ") == "The big Dog."


def annotation(question_id, *answers, **changes):
    given = [{"answer": answer, "answer_id": n} for n, answer in enumerate(answers, 1)]
    return {
        "question_id": question_id, "image_id": 7, "multiple_choice_answer": "yes", "answers": given, **changes
    }  # fmt: skip


def write(path, *annotations):
    path.write_text(json.dumps({"annotations": annotations}))
    return path


def test_annotators_are_ordered_by_question(tmp_path):
    first, second = load_annotators(write(tmp_path / "x.json", annotation(9, "no", "yes"), annotation(2, "yes")))
    assert (first.question_id, first.answers) == ("2", ("yes",)) and (second.question_id, second.image_id) == ("9", "7")
    assert second.answers == ("no", "yes") and second.consensus == "yes"


@pytest.mark.parametrize(
    ("annotations", "says"),
    [
        ([annotation(1)], "question 1 has no answers"),
        ([annotation(1, "a"), annotation(2, "b"), annotation(1, "c")], "question 1 stands there twice"),
        ([annotation(1, "a", answers=[{"x": 1}])], "annotation 1: expected .* .no answer among its x.; mend"),
        ([{"question_id": 1}], "annotation 1: expected .*no image_id among its question_id"),
        ([annotation(1.5, "a"), annotation(1, "a")], "annotation 1: .*question_id is 1.5, expected an id"),
    ],
)
def test_annotations_of_another_form_are_named(tmp_path, annotations, says):
    with pytest.raises(UserError, match=rf"x\.json.*{says}"):
        load_annotators(write(tmp_path / "x.json", *annotations))
