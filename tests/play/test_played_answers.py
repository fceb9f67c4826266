"""What the page is told: the model's own answers, and those with forced choices."""

import json
import shlex

import numpy as np
import pytest

from volta_switch.cli import main
from volta_switch.data.regions import pairwise_iou
from volta_switch.explain.route_choices import route_choices
from volta_switch.explain.subject import Subject
from volta_switch.model.bert import switch_encoder
from volta_switch.tasks import load_task

ANSWERING = ["TASK1", "TASK10", "TASK12", "TASK13"]


def images_of(page, offer):
    images = tuple(page.session.album[key].regions for key in offer.pictures)
    return images if len(images) > 1 else images[0]


@pytest.mark.parametrize("key", ANSWERING)
def test_an_answer_is_the_models_own(page_of, key):
    page = page_of(key)
    for offer in page.session.album.offers[:6]:
        found = page.ask(offer.pictures, offer.texts)
        assert found.status == 200 and found.forced is None
        (expected,) = page.predictor.model.predict(list(offer.texts), [images_of(page, offer)])
        assert found.own["probability"] == pytest.approx(expected.probability)
        if key == "TASK10":
            assert found.own["region"] == expected.region
            assert found.own["probabilities"] == pytest.approx(expected.probabilities.tolist())
        else:
            assert found.own["answer"] == expected.label


def test_captions_are_ranked(page_of):
    page = page_of("TASK8")
    offers = page.session.album.offers
    texts = [offer.texts[0] for offer in offers[:4]]
    found = page.ask(offers[0].pictures, texts)
    expected = page.predictor.model.predict(texts, images_of(page, offers[0]))
    order = np.argsort([-each.score for each in expected], kind="stable")
    assert [each["text"] for each in found.own["ranking"]] == [texts[place] for place in order]
    assert sum(each["probability"] for each in found.own["ranking"]) == pytest.approx(1)
    assert len(found.routes) == 4


@pytest.mark.parametrize("key", ["TASK1", "TASK10", "TASK12"])
def test_every_forced_choice_gives_what_the_explanation_says_of_it(page_of, key):
    page = page_of(key)
    offer = page.session.album.offers[1]
    model = page.predictor.model
    subject = Subject.of(model, offer.texts[0], images_of(page, offer))
    (routes,) = page.ask(offer.pictures, offer.texts).routes
    explained = route_choices(subject)
    assert [(each["row"], each["layer"], each["block"]) for each in routes] == [
        (each.row, each.layer, each.block) for each in explained
    ]
    changed = 0
    for told, choice in zip(routes, explained, strict=True):
        assert sum(option["chosen"] for option in told["options"]) == 1
        for option, expected in zip(told["options"], choice.options, strict=True):
            assert (option["name"], option["chosen"]) == (expected.name, expected.chosen)
            assert option["probability"] == pytest.approx(expected.probability)
            force = {name: told[name] for name in ("row", "layer", "block")} | {"option": option["name"]}
            found = page.ask(offer.pictures, offer.texts, [force])
            now = found.forced
            became = now["region"] if key == "TASK10" else now["answer"]
            assert became == (expected.becomes if key == "TASK10" else subject.label(expected.becomes))
            before = dict_of(found.own)[answer_of(found.own)]
            after = dict_of(now).get(answer_of(found.own))
            if after is not None:
                assert logit(after) - logit(before) == pytest.approx(expected.change, abs=2e-3)
            changed += abs(expected.change) > 1e-3
    assert changed  # forcing does something


def answer_of(values):
    return values["region"] if "region" in values else values["answer"]


def dict_of(values):
    if "probabilities" in values:
        return dict(enumerate(values["probabilities"]))
    return {each["answer"]: each["probability"] for each in values["answers"]}


def logit(share):
    return float(np.log(share) - np.log1p(-share))


def test_models_that_join_both_images_have_examples(page_of):
    page = page_of("TASK12", "ctrl_visualbert")
    offer = page.session.album.offers[0]
    assert len(offer.pictures) == 2 and page.ask(offer.pictures, offer.texts).status == 200


def test_several_choices_are_forced_together(page_of):
    page = page_of("TASK10")
    offer = page.session.album.offers[0]
    encoder = switch_encoder(page.predictor.model)
    forced = [
        {"row": 0, "layer": layer, "block": "modes", "option": encoder.switch.modes[-1]}
        for layer in range(encoder.depth)
    ]
    found = page.ask(offer.pictures, offer.texts, forced)
    one = page.ask(offer.pictures, offer.texts, forced[:1])
    assert found.status == one.status == 200
    assert found.forced["probabilities"] != one.forced["probabilities"]
    assert found.routes == one.routes  # what it chose itself


def test_a_static_architecture_has_no_routes(page_of):
    page = page_of("TASK10", "ctrl_uniter")
    offer = page.session.album.offers[0]
    assert page.ask(offer.pictures, offer.texts).routes == [[]]
    choice = {"row": 0, "layer": 0, "block": "modes", "option": "J"}
    found = page.ask(offer.pictures, offer.texts, [choice])
    assert found.status == 400 and "switches nothing" in found.error


def test_every_region_that_counts_as_right_stands_beside_an_expression(page_of, asked, world):
    page, task = page_of("TASK10"), asked("TASK10").task
    split = load_task(world.tasks_file, "TASK10").val_split
    boxes = {(str(each.image_id), each.caption): each.box for each in task.expressions(task.spec, split)}
    known = [offer for offer in page.session.album.offers if offer.truth]
    assert len(known) > 10
    for offer in known:
        regions = page.session.album[offer.pictures[0]].regions
        box = boxes[regions.image_id, offer.texts[0]]
        overlap = pairwise_iou(np.array([box], np.float32), regions.boxes)[0]
        assert offer.truth == {"regions": [each for each in np.argsort(-overlap).tolist() if overlap[each] > 0.5]}
    assert len({offer.truth["regions"][0] for offer in known}) > 1


@pytest.mark.parametrize(("key", "file", "text", "label"), [
    ("TASK12", "nlvr2/annotations/dev.jsonl", "sentence", "label"),
    ("TASK13", "snli_ve/annotations/dev.jsonl", "sentence2", "gold_label"),
])  # fmt: skip
def test_the_right_label_stands_beside_a_statement(page_of, world, key, file, text, label):
    lines = [json.loads(line) for line in (world.path / "datasets" / file).read_text().splitlines()]
    said = {}
    for line in lines:
        said.setdefault(line[text], set()).add(str(line[label]).lower())
    offers = page_of(key).session.album.offers
    assert len(offers) > 10 and sum(bool(offer.truth) for offer in offers) > len(offers) / 2
    for offer in offers:
        (answer,) = offer.truth.get("answers", ["-"])  # on which the annotators do not agree
        assert answer.lower() in said[offer.texts[0]]


def test_the_command_that_explains_an_answer_runs(page_of, tmp_path, monkeypatch):
    page = page_of("TASK10")
    offer = page.session.album.offers[0]
    monkeypatch.setattr(page.session.album, "explained_by", ["volta-switch", "explain", str(page.predictor_folder)])
    command = shlex.split(page.ask(offer.pictures, offer.texts).why)
    monkeypatch.chdir(tmp_path)
    main(command[1:])
    assert offer.texts[0] in (tmp_path / "why.html").read_text()


def test_what_is_not_read_is_told(page_of):
    page = page_of("TASK10")
    offer = page.session.album.offers[0]
    assert page.ask(offer.pictures, offer.texts).remarks == []
    (remark,) = page.ask(offer.pictures, ["red bicycle"]).remarks
    assert remark.endswith("it does not know bicycle")
