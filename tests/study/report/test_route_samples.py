from xml.etree import ElementTree

import pytest
from drawn import SVG, Drawn
from route_reports import flow_of, report

from volta_switch.study.report.route_samples import (
    Scenes,
    chosen_samples,
    described,
    route_path,
    samples_markup,
    scene_picture,
)
from volta_switch.world.content import draw_split, draw_world
from volta_switch.world.spec import DATA_SETS, WorldSpec

TASKS = {"refer": "TASK10", "vqa": "TASK1", "retrieval": "TASK8", "snli_ve": "TASK13"}


@pytest.fixture(scope="module")
def drawn_world(world):
    """The content of the small world that lies on disk."""
    return draw_world(WorldSpec(images=20, eval_images=10, render=False))


def said(entry):
    """The first text about a scene, in English, with what it names and the answer."""
    if hasattr(entry, "expressions"):
        target, phrase = entry.expressions[0]
        return phrase.words(), target, ""
    if hasattr(entry, "questions"):
        question, answer, _ = entry.questions[0]
        return question.words(), None, answer
    return entry.captions[0].words(), None, ""


def cards_of(markup):
    return [each for each in ElementTree.fromstring(f"<div>{markup}</div>").iter("li")]


@pytest.mark.parametrize("name", ["refer", "vqa", "retrieval"])
@pytest.mark.parametrize(("split", "part"), [("val", "val"), ("testA", "test")])
def test_scenes_are_found_by_image_and_text(world, drawn_world, name, split, part):
    scenes = Scenes(world.path, TASKS[name], split)
    for entry in getattr(drawn_world, name)[part]:
        text, target, answer = said(entry)
        found = scenes.of(str(entry.scene.image_id), text)
        assert found.scene == entry.scene and found.target == target and found.answer == answer
    assert scenes.of(str(entry.scene.image_id), "another text") is None


def test_samples_of_other_data_have_no_scene(world):
    for scenes in (Scenes(None, "TASK10", "val"), Scenes(world.path / "none", "TASK10", "val")):
        assert scenes.of("200020", "ring") is None
    assert not Scenes(world.path, "TASK99", "val")._found and not Scenes(world.path, "TASK12", "val")._found


def test_a_part_of_a_world_is_drawn_as_the_whole(drawn_world):
    spec = drawn_world.spec
    for name in DATA_SETS:
        for split, entries in getattr(drawn_world, name).items():
            assert draw_split(spec, name, split) == entries, (name, split)


def test_every_object_is_drawn_where_it_is(world, drawn_world):
    for entry in drawn_world.refer["val"]:
        text, target, _ = said(entry)
        shown = Scenes(world.path, "TASK10", "val").of(str(entry.scene.image_id), text)
        drawn = Drawn(scene_picture(shown, "scene"))
        names = drawn.hovers()[1:]
        assert len(names) == len(entry.scene.objects) and f"Named: the {names[target]}." in described(shown)
        assert drawn.texts() == ["named"]
        drawn.readable()
        frame = drawn.all("rect", stroke="#000000")[0]
        x1, y1, x2, y2 = (edge * 220 / 480 for edge in entry.scene.boxes[target])
        left, top = float(frame.get("x")), float(frame.get("y"))
        assert left <= x1 + 1.5 and left + float(frame.get("width")) >= x2 - 1.5
        assert top <= y1 + 1.5 and top + float(frame.get("height")) >= y2 - 1.5


def test_frequent_and_rare_routes_are_both_shown():
    routes = [f"{mode} J{number}" for mode in ("SS", "SC", "CS") for number in range(3)]  # nine, ever rarer
    words = [route for count, route in zip(range(9, 0, -1), routes, strict=True) for _ in range(count)]
    chosen = chosen_samples(flow_of(report(words)))
    assert [words[number] for number in chosen] == [*routes[:3], *routes[-3:]]
    assert chosen == chosen_samples(flow_of(report(words)))


@pytest.mark.parametrize(("words", "count"), [(["J J0"] * 40, 6), (["J J0"] * 3 + ["J J1"] * 2, 4), (["J J0"], 1)])
def test_few_routes_are_shown_by_more_samples_of_the_first(words, count):
    chosen = chosen_samples(flow_of(report(words)))
    assert len(chosen) == len(set(chosen)) == count
    assert {words[number] for number in chosen} == set(words)


def test_a_card_says_the_text_the_answer_the_route_and_how_rare_it_is(world, drawn_world):
    entry = drawn_world.vqa["val"][0]
    text, _, answer = said(entry)
    made = report(["J SS1"] * 3 + ["SS SS0"], task="TASK1", name="VQA")
    made["per sample"] |= {"images": [str(entry.scene.image_id)] * 4, "texts": [text] * 4, "question type": ["a"] * 4}
    markup = samples_markup(flow_of(made, world=world.path))
    cards = cards_of(markup)
    assert len(cards) == 4 and all(len(list(card.iter(f"{SVG}svg"))) == 2 for card in cards)
    words = "".join(cards[-1].itertext())
    assert f"“{text}” — {answer}" in words and "25 % of samples take this route (1 of 4)" in words
    assert "pale is glass" in markup
    alone = samples_markup(flow_of(made))
    assert all(len(list(card.iter(f"{SVG}svg"))) == 1 for card in cards_of(alone))
    assert text in alone and "pale is glass" not in alone


def test_a_path_shows_modes_and_skips():
    drawn = Drawn(route_path((("J", 0), ("SS", 1), ("CS", 2), ("J", 0), ("SC", 3))))
    drawn.readable()
    assert drawn.texts() == ["J", "SS", "CS", "J", "SC"]
    assert len(drawn.all("polygon")) == 4  # an arrow for text, one for vision, and both in the last layer
    assert drawn.hovers() == [
        "Route J, then SS with text from l-2, then CS with vision from l-2, then J, then SC with both from l-2"
    ]
