"""``volta-switch predict`` on a terminal and over files: what it prints, refuses, and writes whole or not at all."""

import json

import pytest

from asked_tasks import questions, read_lines, write_lines
from synthetic_world import refusal
from volta_switch.cli import main
from volta_switch.predict import Predictor


def printed(capsys, *argv):
    main(["predict", *map(str, argv)])
    return capsys.readouterr().out


def test_one_question_is_answered_as_text_and_as_json(asked, capsys):
    of = asked("TASK1")
    line = questions(of.task, "test")[0]
    flags = [of.folder, "--features", of.features, "--image", line["image"], "--text", line["text"]]
    text = printed(capsys, *flags, "--best", 3).splitlines()
    (values,) = map(json.loads, printed(capsys, *flags, "--json", "--best", 3).splitlines())
    assert text[0] == f"{line['text']}  image {line['image']}" and len(text) == 4
    assert values["answer"] == values["answers"][0]["answer"] and len(values["answers"]) == 3
    assert text[1] == f"  {100 * values['probability']:5.1f} %  {values['answer']}"
    predictor = Predictor.load(of.folder, features=of.features)
    (found,) = predictor(line["text"], line["image"])
    assert (found.label, found.probability, found.score) == (values["answer"], values["probability"], values["score"])


def test_a_box_is_named_by_its_region_and_its_corners(asked, capsys):
    of = asked("TASK10")
    line = questions(of.task, "test")[0]
    flags = [of.folder, "--features", of.features, "--image", line["image"], "--text", line["text"]]
    (values,) = map(json.loads, printed(capsys, *flags, "--json").splitlines())
    box = of.task.store("test")[line["image"]].boxes[values["region"]]
    assert values["box"] == pytest.approx(box.tolist(), abs=0.01)
    assert values["regions"][0] == {"region": values["region"], "probability": values["probability"]}
    assert f"region {values['region']}: " in printed(capsys, *flags).splitlines()[1]


def test_what_the_model_does_not_read_is_said_with_the_answer(asked, capsys):
    of = asked("TASK10")
    line = questions(of.task, "test")[0]
    flags = ["predict", str(of.folder), "--features", of.features, "--image", line["image"]]
    main([*flags, "--text", line["text"], "--json"])
    assert "remark" not in json.loads(capsys.readouterr().out)
    main([*flags, "--text", f"{line['text']} bicycle", "--json"])
    assert json.loads(capsys.readouterr().out)["remark"].endswith("it does not know bicycle")
    main([*flags, "--text", "red " * 60])
    assert "it reads the first 11 of 60 words" in capsys.readouterr().out


def test_captions_of_an_image_and_images_of_a_caption_are_ranked(asked, capsys):
    of = asked("TASK8")
    images = [line["image"] for line in questions(of.task, "test")[:3]]
    flags = [of.folder, "--features", of.features, "--json"]
    captions = ["red cube", "blue ball and green cone", "large glass star"]
    several = [each for caption in captions for each in ("--text", caption)]
    (of_image,) = map(json.loads, printed(capsys, *flags, "--image", images[0], *several).splitlines())
    shown = [each for image in images for each in ("--image", image)]
    (of_caption,) = map(json.loads, printed(capsys, *flags, "--text", captions[0], *shown).splitlines())
    for found, what, names in ((of_image, "text", captions), (of_caption, "image", images)):
        ranking = found["ranking"]
        assert [each["score"] for each in ranking] == sorted((each["score"] for each in ranking), reverse=True)
        assert all(names[each["place"]] == each[what] for each in ranking) and len(ranking) == 3
        assert sum(each["probability"] for each in ranking) == pytest.approx(1)
    (alone,) = map(json.loads, printed(capsys, *flags, "--image", images[0], "--text", "red cube").splitlines())
    assert alone["ranking"][0]["probability"] is None
    assert "–" in printed(capsys, *flags[:-1], "--image", images[0], "--text", "red cube")


def test_a_pair_of_images_and_several_texts(asked, capsys):
    of = asked("TASK12")
    line = questions(of.task, "test")[0]
    images = [each for image in line["images"] for each in ("--image", image)]
    flags = [of.folder, "--features", of.features, *images, "--text", line["text"], "--text", "red cube", "--json"]
    found = [json.loads(each) for each in printed(capsys, *flags).splitlines()]
    assert [each["text"] for each in found] == [line["text"], "red cube"]
    assert all(each["images"] == line["images"] and each["answer"] in ("true", "false") for each in found)


def test_lines_may_name_features_of_their_own_and_ids_stay(asked, tmp_path, capsys):
    of = asked("TASK10")
    lines = questions(of.task, "test")[:3]
    own = [{**line, "features": of.features, "id": number} for number, line in enumerate(lines)]
    given = write_lines(tmp_path / "asked.jsonl", own)
    found = [json.loads(each) for each in printed(capsys, of.folder, "--input", given, "--json").splitlines()]
    same = write_lines(tmp_path / "same.jsonl", lines)
    theirs = printed(capsys, of.folder, "--input", same, "--features", of.features, "--json").splitlines()
    assert [each["id"] for each in found] == [0, 1, 2]
    assert [each["score"] for each in found] == [json.loads(each)["score"] for each in theirs]


BAD_LINES = [
    ('{"image": "7"', "line 2: Expecting ',' delimiter"),
    ("7", "line 2: 7 instead of an object"),
    ('{"image": "IMAGE"}', "line 2: expected text or texts, found neither"),
    ('{"image": "IMAGE", "text": "a", "texts": ["b"]}', "line 2: expected text or texts, found both"),
    ('{"image": "IMAGE", "text": 7}', "line 2: a text is 7"),
    ('{"image": "IMAGE", "texts": []}', "line 2: texts is []"),
    ('{"image": "IMAGE", "texts": ["a", "b"]}', "line 2: 2 texts and 1 images; a model with the head V-logit takes"),
    ('{"images": ["IMAGE", "IMAGE"], "text": "a"}', "line 2: 1 texts and 2 images"),
    ('{"image": null, "text": "a"}', "line 2: null is no id"),
    ('{"image": "IMAGE", "text": "a", "id": [1]}', "line 2: id is [1]"),
    ('{"image": "IMAGE", "text": "a", "feature": "x"}', "line 2: unknown key 'feature', did you mean features?"),
    ('{"image": "IMAGE", "text": "a", "text": "b"}', "line 2: text stands there twice"),
    ('{"image": "no such", "text": "a"}', "no image 'no such'"),
    ('{"image": "IMAGE", "text": "a", "features": "nowhere.lmdb"}', "line 2: nowhere.lmdb: image features not found"),
    ('{"image": "IMAGE", "text": "\\ud800"}', "line 2: text 0 is"),
]


@pytest.mark.parametrize(("line", "told"), BAD_LINES)
def test_errors_name_the_line_and_nothing_is_written(asked, tmp_path, capsys, line, told):
    of = asked("TASK10")
    good = questions(of.task, "test")[0]
    given = tmp_path / "asked.jsonl"
    given.write_text(json.dumps(good) + "\n" + line.replace("IMAGE", good["image"]) + "\n")
    flags = ["predict", of.folder, "--features", of.features, "--input", given, "--out", tmp_path / "out.jsonl"]
    said = refusal(main, flags, capsys)
    assert told in said and "asked.jsonl, line 2" in said
    assert [path.name for path in tmp_path.iterdir()] == ["asked.jsonl"]


def test_flags_that_contradict_each_other_are_refused(asked, tmp_path, capsys):
    of = asked("TASK10")
    given = write_lines(tmp_path / "asked.jsonl", questions(of.task, "test")[:1])
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "latin.jsonl").write_bytes(b'{"text": "\xe9"}\n')
    for flags, told in [
        ([], "give --image and --text, or many in --input"),
        (["--image", "7"], "give --image and --text"),
        (["--input", given, "--text", "a"], "leave --text and --image out"),
        (["--input", given, "--out", tmp_path / "x", "--json"], "give one of them"),
        (["--input", given, "--out", given], "is there already"),
        (["--input", given, "--out", given, "--overwrite"], "is the --input, too"),
        (["--input", tmp_path / "no.jsonl"], "no such file of JSON lines"),
        (["--input", tmp_path / "empty.jsonl"], "has no line"),
        (["--input", tmp_path / "latin.jsonl"], "not UTF-8 text"),
        (["--input", given, "--task", "TASK1"], "this model has TASK10"),
        (["--input", given, "--features", tmp_path / "no.lmdb"], "image features not found"),
        (["--image", "7", "--text", "a", "--device", "tpu"], "tpu"),
    ]:
        assert told in refusal(main, ["predict", of.folder, *flags], capsys)
    assert "no model's folder" in refusal(main, ["predict", tmp_path, "--input", given], capsys)
    assert read_lines(given) == questions(of.task, "test")[:1]


def test_a_file_of_answers_is_replaced_only_where_that_is_asked(asked, tmp_path, capsys):
    of = asked("TASK10")
    given = write_lines(tmp_path / "asked.jsonl", questions(of.task, "test")[:2])
    out = tmp_path / "out.jsonl"
    flags = ["predict", str(of.folder), "--features", of.features, "--input", str(given), "--out", str(out)]
    out.write_text("mine")
    refusal(main, flags, capsys)
    assert out.read_text() == "mine"
    main([*flags, "--overwrite"])
    assert len(read_lines(out)) == 2


def test_a_pretrained_model_says_how_probable_it_is_that_text_and_image_belong_together(asked, world, tmp_path, capsys):
    from volta_switch import BertForVLPreTraining

    of = asked("TASK8")
    BertForVLPreTraining(world.config("ctrl_uniter")).save_pretrained(tmp_path / "model")
    image = questions(of.task, "test")[0]["image"]
    flags = [tmp_path / "model", "--features", of.features, "--image", image, "--text", "a", "--text", "red", "--json"]
    (found,) = map(json.loads, printed(capsys, *flags).splitlines())
    assert len(found["ranking"]) == 2 and all(0 < each["probability"] < 1 for each in found["ranking"])
