"""``volta-switch quick``: it trains, tests, and draws what was answered; with fewer steps here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from synthetic_world import json_of, log_of
from volta_switch.cli import main as volta_switch
from volta_switch.quick import SHOWN, _some
from volta_switch.world.content import draw_split
from volta_switch.world.pictures import COLUMNS, HEAD, RIGHT_COLOUR, WRONG_COLOUR, Answer, draw_answers
from volta_switch.world.spec import CANVAS_HEIGHT, CANVAS_WIDTH, WorldSpec

ROOT = Path(__file__).parents[1]


def test_one_command_ends_in_a_picture_and_a_score_beside_the_blind_guess(tmp_path):
    own = tmp_path / "out: #1" / "world"  # a name that YAML would read as something else, and a world of the user's
    own.mkdir(parents=True)
    (own / "world.json").write_text("{}")
    command = [sys.executable, "-m", "volta_switch", "quick", "--out", "out: #1", "--max-steps", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (own / "world.json").read_text() == "{}"
    run = tmp_path / "out: #1" / "refcoco+_switchbert"
    assert log_of(run, "train")[-1]["step"] == 3 and json_of(run / "run.json")["start"] == "random initial weights"
    score, blind = map(float, re.findall(r"(\d+\.\d) %", done.stdout))
    assert 0 <= score <= 100 and 10 < blind < 15 and "out: #1/answers.png: what it saw and answered" in done.stdout
    with Image.open(tmp_path / "out: #1" / "answers.png") as picture:
        assert picture.width > COLUMNS * CANVAS_WIDTH and picture.height > SHOWN // COLUMNS * CANVAS_HEIGHT
    assert [path.name for path in tmp_path.iterdir()] == ["out: #1"]
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and again.stdout.splitlines()[-2:] == done.stdout.splitlines()[-2:]


def test_the_makefile_runs_it_after_set_up():
    (rule,) = re.findall(r"^quick: setup\n\t(.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert rule == "$(BIN)/volta-switch quick"


@pytest.fixture(scope="module")
def answers():
    """Answers about a world's scenes; every third one names another object than the right one."""
    entries = draw_split(WorldSpec(images=20, eval_images=12), "refer", "test")
    made = []
    for number, entry in enumerate(entries):
        for target, phrase in entry.expressions:
            other = (target + 1) % len(entry.scene.boxes)
            chosen = other if number % 3 == 0 else target
            boxes = [entry.scene.boxes[index] for index in (target, chosen)]
            made.append(Answer(entry.scene, phrase.words(), *boxes, right=chosen == target, route=["J", "SS"]))
    return made


def colours_on_the_frame(picture, box, corner):
    """The colours right above a box of a scene that stands at a corner of the picture."""
    x1, y1, x2, _ = (int(edge) for edge in box)
    return {picture.getpixel((corner[0] + x, max(corner[1] + y1 - 4, corner[1] + 1))) for x in range(x1, x2)}


def test_the_right_box_is_green_and_a_wrong_answer_red(answers):
    wrong = next(answer for answer in answers if not answer.right and answer.box[1] > 10 and answer.chosen[1] > 10)
    right = next(answer for answer in answers if answer.right and answer.box[1] > 10)
    for answer, has_red in ((wrong, True), (right, False)):
        picture = draw_answers([answer], "title", "subtitle")
        corner = (24, HEAD)
        assert RIGHT_COLOUR in colours_on_the_frame(picture, answer.box, corner)
        assert (WRONG_COLOUR in colours_on_the_frame(picture, answer.chosen, corner)) == has_red


def test_the_choice_is_spread_over_scenes_and_shows_wrong_answers_in_their_share(answers):
    chosen = _some(answers)
    assert len(chosen) == SHOWN == len({answer.scene.image_id for answer in chosen})
    assert sum(not answer.right for answer in chosen) == 2
    lengths = [len(answer.text.split()) for answer in chosen if answer.right]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("right", [True, False])
def test_a_choice_can_be_made_where_all_is_right_or_wrong(answers, right):
    alike = [answer for answer in answers if answer.right is right]
    assert {answer.right for answer in _some(alike)} == {right}


@pytest.mark.parametrize("steps", ["-3", "x", "1.5"])
def test_a_bad_number_of_steps_is_refused_before_anything_is_written(tmp_path, capsys, steps):
    with pytest.raises(SystemExit) as caught:
        volta_switch(["quick", "--out", str(tmp_path / "out"), "--max-steps", steps])
    assert caught.value.code == 2 and "--max-steps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
