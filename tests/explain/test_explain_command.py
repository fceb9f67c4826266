"""``volta-switch explain``: one page for every head, what stands in it, and what is refused."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from asked_tasks import questions
from synthetic_world import refusal
from volta_switch.cli import main
from volta_switch.explain import explain, page_of
from volta_switch.explain.page import signed
from volta_switch.explain.pictures import find_scene, shown_image
from volta_switch.predict import load_model
from volta_switch.routes.record import MEANINGS

HEADS = ("TASK1", "TASK8", "TASK10", "TASK12", "TASK13", "TASK15")


def flags_of(of, line, text=""):
    images = [each for image in line.get("images", [line.get("image")]) for each in ("--image", image)]
    text = text or line.get("text") or line["texts"][0]
    return ["explain", str(of.folder), "--features", of.features, *images, "--text", text]


def values_of(page):
    return json.loads(re.search(r'<script type="application/json" id="values">(.*?)</script>', page, re.S)[1])


@pytest.mark.parametrize("model", ["switchbert", "ctrl_vilbert"])
@pytest.mark.parametrize("key", HEADS)
def test_a_page_shows_the_scene_its_regions_and_all_measures(asked, tmp_path, key, model):
    of = asked(key, model)
    line, out = questions(of.task, "test")[0], tmp_path / "page.html"
    main([*flags_of(of, line), "--out", str(out)])
    page = out.read_text()
    values = values_of(page)
    count = page.count('<g class="region')
    assert page.count('class="word"') == len((line.get("text") or line["texts"][0]).split())
    assert page.count("data:image/png;base64,") == (2 if key == "TASK12" else 1)
    assert "the drawing of a synthetic scene, with its regions" in page
    assert [measure["name"] for measure in values["measures"][:4]] == ["occlusion", "attention", "gradient", "1.1"]
    for measure in values["measures"]:
        assert len(measure["regions"]) == count
    assert ("Route of this sample" in page) == (model == "switchbert")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page) and "http" not in re.sub(r"http-equiv", "", page)
    assert str(of.folder) not in page and of.folder.name in page


def test_numbers_of_the_page_are_the_explanations(asked):
    of = asked("TASK10")
    line = questions(of.task, "test")[1]
    regions = of.task.store("test")[line["image"]]
    found = explain(load_model(of.folder), line["text"], regions)
    page = page_of(found, [shown_image(regions, of.features)])
    measures = {measure["name"]: measure for measure in values_of(page)["measures"]}
    worth = [None if np.isnan(value) else round(float(value), 6) for value in found.regions.change]
    assert measures["occlusion"]["regions"] == worth
    assert np.array(measures["attention"]["words"]) == pytest.approx(found.of_words("attention"), abs=1e-4)
    rolled, T = found.attention.rolled[0], found.attention.T
    start = found.subject.layout.boxes_from
    links = np.array(measures["attention"]["to_regions"])  # (words, regions)
    assert links[0] == pytest.approx(rolled[1, T + start :], abs=1e-4)  # the first word stands behind [CLS]
    back = np.array(measures["attention"]["to_words"])
    assert back[2] == pytest.approx(rolled[T + start + 2, 1 : 1 + len(found.subject.words)], abs=1e-4)
    head = found.attention.sublayers[1]
    assert np.array(measures["2.2"]["to_regions"])[0] == pytest.approx(head.text[0, 1, 1, T + start :], abs=1e-4)
    joint = np.array(measures["occlusion"]["to_regions"], float)
    assert joint == pytest.approx(np.round(found.joint, 6), abs=1e-4, nan_ok=True)
    assert np.array(measures["occlusion"]["to_words"], float) == pytest.approx(joint.T, nan_ok=True)


def test_words_that_the_model_does_not_know_and_its_options_are_explained(asked):
    of = asked("TASK10")
    line = questions(of.task, "test")[1]
    regions = of.task.store("test")[line["image"]]
    model = load_model(of.folder)
    found = explain(model, "red bicycle", regions)
    page = page_of(found, [shown_image(regions, of.features)])
    assert "Not all of this is read by the model: it does not know bicycle." in page
    assert page.count('class="word unknown" title="unknown to the model"') == 1
    for choice in found.choices:
        for option in choice.options:
            assert f"<dt>{option.name}</dt><dd>{MEANINGS[option.name]}</dd>" in page
    joint = [signed(value) for value in found.joint.T.ravel()]
    table = page[page.index('class="stacked pairs"') :]
    assert [cell for cell in re.findall(r'<td class="number"[^>]*>([^<]*)</td>', table)][: len(joint)] == joint
    assert "Not all of this" not in page_of(explain(model, line["text"], regions), [shown_image(regions, of.features)])


def test_texts_stay_texts(asked, tmp_path):
    of = asked("TASK1")
    line = questions(of.task, "test")[0]
    bad = "</script><script>alert(1)</script> <b>\"red\" & 'blue'"
    main([*flags_of(of, line, bad), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert page.count("<script") == 2 and "<b>" not in page and "alert(1)&lt;/script&gt;" in page


def test_a_picture_lies_upright_behind_the_regions(asked, tmp_path):
    of = asked("TASK10")
    line = questions(of.task, "test")[0]
    picture = Image.new("RGB", (720, 960), (250, 0, 0))
    picture.paste((0, 0, 250), (0, 0, 720, 480))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter, clockwise: 960 x 720
    picture.save(tmp_path / "photo.jpg", exif=turned)
    flags = [*flags_of(of, line), "--picture", str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "page.html")]
    main(flags)
    page = (tmp_path / "page.html").read_text()
    assert "data:image/jpeg;base64," in page and "the picture photo.jpg" in page
    regions = of.task.store("test")[line["image"]]
    shown = shown_image(regions, picture=tmp_path / "photo.jpg")
    import base64
    import io

    upright = Image.open(io.BytesIO(base64.b64decode(shown.address.partition(",")[2])))
    assert upright.size == (960, 720)
    left, right = upright.getpixel((40, 360)), upright.getpixel((920, 360))
    assert left[0] > 200 > left[2] and right[2] > 200 > right[0]


def test_regions_of_another_file_lie_on_an_empty_canvas(asked, tmp_path):
    of = asked("TASK10")
    regions = of.task.store("test")[questions(of.task, "test")[0]["image"]]
    assert find_scene(tmp_path / "elsewhere.lmdb", regions) is None
    (tmp_path / "world.json").write_text('{"countries": []}')  # somebody else's
    assert find_scene(tmp_path / "elsewhere.lmdb", regions) is None
    moved = replace(regions, boxes=regions.boxes[:, ::-1].copy())  # no boxes of this scene
    from pathlib import Path

    assert find_scene(Path(of.features), regions) is not None and find_scene(Path(of.features), moved) is None
    shown = shown_image(regions, str(tmp_path / "elsewhere.lmdb"))
    assert shown.address == "" and "an empty canvas" in shown.about and set(shown.names) == {""}
    found = explain(load_model(of.folder), "red cube", regions)
    assert page_of(found, [shown]).count('<g class="region') == len(regions)


def test_names_of_regions_are_those_of_the_objects_below_them(asked):
    of = asked("TASK10")
    from pathlib import Path

    regions = of.task.store("test")[questions(of.task, "test")[0]["image"]]
    scene, shown = find_scene(Path(of.features), regions), shown_image(regions, of.features)
    for box, name in zip(regions.boxes, shown.names, strict=True):
        middle = (box[:2] + box[2:]) / 2
        inside = [at for at, (x1, y1, x2, y2) in enumerate(scene.boxes) if x1 < middle[0] < x2 and y1 < middle[1] < y2]
        assert len(inside) == 1
        colour = scene.objects[inside[0]][1]
        assert name.split()[1] == ("red", "green", "blue", "yellow", "white", "black")[colour]


def test_what_cannot_be_explained_is_refused_and_nothing_is_written(asked, tmp_path, capsys, world):
    of = asked("TASK10")
    flags = flags_of(of, questions(of.task, "test")[0])
    out = tmp_path / "page.html"
    (tmp_path / "text.jpg").write_text("no picture")
    Image.new("RGB", (100, 100)).save(tmp_path / "square.png")
    base = ["explain", of.folder]
    for argv, told in [
        (base, "give --image and --text"),
        ([*flags, "--json"], "is for --evaluate"),
        ([*flags, "--image", "7"], "1 texts and 2 images"),
        ([*flags[:2], of.folder, *flags[2:]], "several models are for --evaluate"),
        ([*flags, "--picture", tmp_path / "no.jpg"], "no such picture"),
        ([*flags, "--picture", tmp_path / "text.jpg"], "not a picture; expected one of"),
        ([*flags, "--picture", tmp_path / "square.png"], "is 100 x 100 pixels"),
        ([*base, "--image", "x.jpg", "--text", "a"], "a picture needs a detector"),
        ([*base, "--image", "x.jpg", "--text", "a", "--picture", "y.jpg"], "shows the image of --features"),
        ([*flags, "--evaluate", world.path], "leave --image, --text and others out"),
        ([*base, "--evaluate", tmp_path], "world.json"),
        (["explain", asked("TASK8").folder, "--evaluate", world.path], "the truth of its texts is not known"),
        ([*base, asked("TASK1").folder, "--evaluate", world.path], "models of different tasks"),
    ]:
        assert told in refusal(main, [*argv, "--out", out], capsys), told
        assert not out.exists()
    out.write_text("mine")
    assert "is there already" in refusal(main, [*flags, "--out", out], capsys) and out.read_text() == "mine"


def test_the_wait_is_announced(asked, tmp_path, capsys):
    of = asked("TASK10")
    line = questions(of.task, "test")[0]
    main([*flags_of(of, line), "--out", str(tmp_path / "page.html")])
    words, regions = len(line["text"].split()), len(of.task.store("test")[line["image"]])
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith(f"the model is asked {1 + words + regions} times")
    assert said[1].startswith(f"then {words * regions} times")
