"""Models as folders in Python: saved and loaded bit for bit, wherever they lie; what they answer and refuse."""

import json
import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tokenizers
import torch
import yaml

from volta_switch import BertForVLPreTraining, BertForVLTasks, UserError, load_config
from volta_switch.data.regions import Regions
from volta_switch.weights import shared_names, to_volta

STATIC = ("interbert", "lxmert", "uniter", "vilbert", "visualbert", "vl-bert")
MODELS = [*(f"ctrl_{name}" for name in STATIC), "switchbert"]
HEADS = {
    "TASK1": {"type": "VL-classifier", "num_labels": 7, "max_seq_length": 9, "max_region_num": 4},
    "TASK15": {"type": "VL-classifier-GQA", "num_labels": 5},
    "TASK8": {"type": "VL-logit", "num_labels": 1},
    "TASK10": {"type": "V-logit", "num_labels": 1, "num_clf_layers": 2, "max_region_num": 3},
    "TASK12": {"type": "VL-binary-classifier", "num_labels": 2},
    "TASK13": {"type": "VL-tri-classifier", "num_labels": 3},
}


def task_model(world, name, heads, seed=0):
    """A random model whose scores differ between samples."""
    torch.manual_seed(seed)
    model = BertForVLTasks(world.config(name), heads).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def image(world, boxes=5, seed=0):
    numbers = np.random.default_rng(seed)
    corners = numbers.uniform(0, 50, (boxes, 2))
    places = np.concatenate([corners, corners + numbers.uniform(5, 40, (boxes, 2))], axis=1).astype(np.float32)
    features = numbers.normal(size=(boxes, world.overrides["v_feature_size"])).astype(np.float32)
    return Regions(f"image{seed}", features, places, 100, 100)


def same(one, other):
    ours, theirs = to_volta(one), to_volta(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("name", MODELS)
def test_models_of_every_kind_come_back_bit_for_bit_with_their_shared_weights(world, name, tmp_path):
    for model in (task_model(world, name, HEADS), BertForVLPreTraining(world.config(name))):
        folder = tmp_path / type(model).__name__
        model.save_pretrained(folder)
        moved = shutil.move(folder, tmp_path / f"moved {type(model).__name__}")
        found = type(model).from_pretrained(moved)
        assert same(model, found) and not found.training
        assert shared_names(found) == shared_names(model)
        assert shared_names(found) or isinstance(found, BertForVLTasks)  # the words' decoder is their table
        again = tmp_path / "again" / type(model).__name__
        shutil.move(moved, tmp_path / f"gone {type(model).__name__}")
        found.save_pretrained(again)  # what lay beside the weights was read when it was loaded
        files = {path.name: path.read_bytes() for path in again.iterdir() if not path.name.endswith(".sums")}
        there = {path.name: path.read_bytes() for path in (tmp_path / f"gone {type(model).__name__}").iterdir()}
        # Of equal weights safetensors writes its metadata in any order, so that the card's checksums differ.
        others = files.keys() - {"model.safetensors", "training.json", "README.md"}
        different = [key for key in others if files[key] != there.get(key)]
        assert all(b"/" + str(tmp_path).encode()[1:] not in content for content in files.values())  # no place is told
        assert same(model, type(model).from_pretrained(again))
        assert (
            not different
            and {"config.json", "model.safetensors", "vocab.txt", "tokenizer.json", "preprocessor.json"} <= files.keys()
        )


@pytest.mark.parametrize("name", ["switchbert", "ctrl_vl-bert"])
@pytest.mark.parametrize("task", HEADS)
def test_every_head_answers_what_its_scores_say(world, task, name):
    model = task_model(world, name, {task: HEADS[task]})
    texts, images = ["what is red ?", "the blue cube"], [image(world, 5), image(world, 2, seed=1)]
    given = images if task != "TASK12" else [(images[0], images[1]), (images[1], images[0])]
    found = model.predict(texts, given)
    alone = [model.predict(text, [each])[0] for text, each in zip(texts, given, strict=True)]
    assert [each.score for each in found] == pytest.approx([each.score for each in alone], abs=1e-5)
    for each in found:
        if task == "TASK10":
            best = int(each.probabilities.argmax())
            assert each.region == best and each.probability == pytest.approx(float(each.probabilities[best]))
        elif task == "TASK8":
            assert each.probability is None and each.label == ""
        else:
            assert len(each.labels) == len(each.probabilities) == HEADS[task]["num_labels"]
            assert each.label == each.labels[int(each.probabilities.argmax())]
            assert each.best(2)[0] == (each.label, each.probability) and each.best(2)[0][1] >= each.best(2)[1][1]
    if task == "TASK10":
        assert [len(each.probabilities) for each in found] == [3, 2]  # max_region_num, all that there are
        assert [each.box for each in found] == [
            tuple(shown.boxes[each.region].tolist()) for each, shown in zip(found, images, strict=True)
        ]


def test_captions_of_an_image_and_images_of_a_caption_are_compared(world):
    model = task_model(world, "ctrl_uniter", {"TASK8": HEADS["TASK8"]})
    images = [image(world, 4, seed) for seed in range(3)]
    for found in (model.predict("a red cube", images), model.predict(["a", "red cube", "blue"], images[0])):
        scores = np.array([each.score for each in found])
        assert [each.probability for each in found] == pytest.approx((np.exp(scores) / np.exp(scores).sum()).tolist())
    assert model.predict("a red cube", images[0])[0].probability is None  # nothing to compare with


def test_a_pretrained_model_tells_whether_a_text_belongs_to_an_image(world):
    model = BertForVLPreTraining(world.config("ctrl_lxmert"))
    (found,) = model.predict("a red cube", image(world))
    assert 0 < found.probability < 1 and model.training  # as it was


def test_texts_are_cut_and_regions_left_out_as_in_training(world):
    model = task_model(world, "ctrl_uniter", {"TASK1": HEADS["TASK1"]})
    shown = image(world, 6)
    long = " ".join(["red"] * 30)
    one, other = model.predict([long, " ".join(["red"] * 7)], [shown, shown])
    assert one.score == pytest.approx(other.score, abs=1e-5)  # 9 tokens, [CLS] and [SEP] included
    cut = Regions("cut", shown.features[:4], shown.boxes[:4], 100, 100)
    assert model.predict("red", cut)[0].score != pytest.approx(model.predict("red", shown)[0].score, abs=1e-7)
    model.tasks["TASK1"]["max_region_num"] = None
    assert model.predict("red", shown)[0].score != pytest.approx(one.score, abs=1e-7)


def test_labels_and_tokens_are_the_folders(world, tmp_path):
    model = task_model(world, "ctrl_uniter", {"TASK1": HEADS["TASK1"]})
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    (folder / "volta_switch.sums").unlink()
    names = [f"answer {number}" for number in range(7)]
    (folder / "labels.json").write_text(json.dumps({"TASK1": names}))
    found = BertForVLTasks.from_pretrained(folder)
    assert found.predict("what ?", image(world))[0].labels == tuple(names)
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = "What is the red Cube's color? unheard-of"
    assert theirs.encode(text).ids == found.tokenizer.encode(text, 512)
    assert yaml.safe_load((folder / "task.yml").read_text())["TASK1"]["num_labels"] == 7


def test_a_folder_is_written_whole_or_not_at_all(world, tmp_path):
    model = task_model(world, "ctrl_uniter", {"TASK1": HEADS["TASK1"]})
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "config.json").write_text("mine")
    with pytest.raises(UserError, match="is there already; give another folder"):
        model.save_pretrained(taken)
    assert (taken / "config.json").read_text() == "mine" and os.listdir(tmp_path) == ["taken"]
    other = BertForVLTasks(load_config(model.config.to_dict(), ["bert_model=/not/there"]), model.tasks)
    with pytest.raises(UserError, match="no vocabulary there"):
        other.save_pretrained(tmp_path / "new")
    assert os.listdir(tmp_path) == ["taken"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda folder: (folder / "task.yml").unlink(), "has no task.yml"),
        (lambda folder: (folder / "task.yml").write_text("TASK1: 3"), "task.yml"),
        (lambda folder: (folder / "task.yml").write_text("TASK2: {type: VL-logit}"), "clfs_dict.TASK2"),
        (lambda folder: (folder / "labels.json").write_text("[1]"), "expected a JSON object"),
        (lambda folder: (folder / "labels.json").write_text('{"TASK1": ["one"]}'), "7 rows, labels.json names 1"),
        (lambda folder: (folder / "vocab.txt").write_text("[PAD]\n"), "missing"),
        (lambda folder: (folder / "config.json").unlink(), "no model's folder"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"0" * 20), "could not be read as weights"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(world, damage, told, tmp_path):
    task_model(world, "ctrl_uniter", {"TASK1": HEADS["TASK1"]}).save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "volta_switch.sums").unlink()
    damage(tmp_path / "model")
    with pytest.raises(UserError, match=told.replace(".", r"\.")) as caught:
        BertForVLTasks.from_pretrained(tmp_path / "model").predict("what ?", image(world))
    assert "\n" not in str(caught.value)


def test_what_cannot_be_asked_is_refused_in_one_line(world):
    model = task_model(world, "ctrl_uniter", {task: HEADS[task] for task in ("TASK1", "TASK12")})
    shown = image(world)
    narrow = Regions("narrow", shown.features[:, :3], shown.boxes, 100, 100)
    empty = Regions("empty", shown.features[:0], shown.boxes[:0], 100, 100)
    strange = Regions("nan", shown.features * np.nan, shown.boxes, 100, 100)
    for texts, images, task, told in [
        ("what ?", shown, "", "this model has TASK1, TASK12"),
        ("what ?", shown, "TASK3", "this model has TASK1, TASK12"),
        (["a", "b"], [shown], "TASK1", "2 texts and 1 images"),
        ("a", [shown], "TASK12", "about 1 images, expected 2"),
        ("a", [(shown, shown)], "TASK1", "about 2 images, expected 1"),
        ("a", [narrow], "TASK1", "features 3 wide"),
        ("a", [empty], "TASK1", "has no regions"),
        ("a", [strange], "TASK1", "not finite"),
        ([7], [shown], "TASK1", "text 0 is 7, expected a text"),
        (["\ud800"], [shown], "TASK1", "expected a text"),
        (None, shown, "TASK1", "expected texts, one or a list"),
        ("a", [None], "TASK1", "expected images of a text"),
        ("a", replace(shown, features=shown.features.astype(str)), "TASK1", "features are <U"),
        ("a", replace(shown, features=np.full_like(shown.features, 1e30)), "TASK1", "not finite"),
        ("a", replace(shown, boxes=None), "TASK1", "boxes are object"),
        ("a", replace(shown, boxes=shown.boxes / 100), "TASK1", "all within 0..1"),
        ("a", replace(shown, image_w=float("nan")), "TASK1", "nan x 100 pixels"),
    ]:
        with pytest.raises(UserError) as caught:
            model.predict(texts, images, task=task)
        assert told in str(caught.value) and "\n" not in str(caught.value)
    for size in (0, -1, 1.5, None):
        with pytest.raises(UserError, match="expected a whole number from 1 on"):
            model.predict("a", shown, task="TASK1", batch_size=size)


def test_features_of_any_type_and_models_of_any_precision_answer_alike(world):
    model = task_model(world, "switchbert", {"TASK10": HEADS["TASK10"]})
    shown = image(world)
    whole = replace(shown, features=(shown.features * 4).round())
    tensors = replace(shown, features=torch.tensor(shown.features, requires_grad=True), boxes=torch.tensor(shown.boxes))
    lists = replace(shown, features=shown.features.tolist(), boxes=shown.boxes.tolist())
    for one, other in [(shown, tensors), (shown, lists), (whole, replace(whole, features=whole.features.astype(int)))]:
        (ours,), (theirs,) = model.predict("red", one), model.predict("red", other)
        assert (ours.score, ours.box) == (theirs.score, theirs.box)
    scores = model.predict("red", shown)[0].probabilities
    for kind in (torch.float64, torch.float16, torch.bfloat16):
        found = model.to(kind).predict("red", shown)[0].probabilities
        assert found == pytest.approx(scores, abs=0.05)


def test_a_folder_with_the_name_of_a_shipped_configuration_has_its_own(world, tmp_path, monkeypatch):
    model = task_model(world, "switchbert", {"TASK1": HEADS["TASK1"]})
    monkeypatch.chdir(tmp_path)
    model.save_pretrained("switchbert")
    assert same(BertForVLTasks.from_pretrained("switchbert"), model)


def test_labels_that_are_gone_and_bfloat16_weights(world, tmp_path):
    model = task_model(world, "ctrl_uniter", {"TASK1": HEADS["TASK1"]}).to(torch.bfloat16)
    model.files = {"labels.json": json.dumps({"TASK1": list("abcdefg")}).encode()}
    model.save_pretrained(tmp_path / "model")
    assert same(BertForVLTasks.from_pretrained(tmp_path / "model"), model.float())
    (tmp_path / "model" / "labels.json").unlink()
    with pytest.raises(UserError, match=r"labels\.json: gone"):
        BertForVLTasks.from_pretrained(tmp_path / "model")


def test_another_vocabulary_can_be_asked_for(world, tmp_path):
    task_model(world, "ctrl_uniter", {"TASK1": HEADS["TASK1"]}).save_pretrained(tmp_path / "model")
    (tmp_path / "bert").mkdir()
    words = (tmp_path / "model" / "vocab.txt").read_text().splitlines()
    (tmp_path / "bert" / "vocab.txt").write_text("\n".join([*words[:5], *reversed(words[5:])]) + "\n")
    found = BertForVLTasks.from_pretrained(tmp_path / "model", overrides=[f"bert_model={tmp_path / 'bert'}"])
    known = BertForVLTasks.from_pretrained(tmp_path / "model")
    assert found.tokenizer.encode("red cube", 9) != known.tokenizer.encode("red cube", 9)


PUSH = """
from volta_switch import BertForVLTasks
model = BertForVLTasks.from_pretrained(sys.argv[1])
print(model.push_to_hub("me/model"))
"""
PULL = """
from volta_switch import BertForVLTasks
sources = [("me/model", ""), ("hf://me/model", ""), ("me/model", sys.argv[2]), (f"hf://me/model@{sys.argv[2]}", "")]
models = [BertForVLTasks.from_pretrained(source, revision=revision) for source, revision in sources]
for number, model in enumerate(models):
    model.save_pretrained(f"{sys.argv[1]}/{number}")
"""


def test_the_hub_gives_what_was_pushed_by_name_and_by_revision(world, hub, tmp_path):
    first, second = (task_model(world, "switchbert", {"TASK1": HEADS["TASK1"]}, seed) for seed in (1, 2))
    for number, model in enumerate((first, second)):
        model.save_pretrained(tmp_path / f"own {number}")
        (tmp_path / f"own {number}" / "labels.json").write_text(json.dumps({"TASK1": list("abcdefg")}))
    hub.python(PUSH, tmp_path / "own 0")
    commit = hub.commit_of("me/model")
    hub.python(PUSH, tmp_path / "own 1")
    assert commit != hub.commit_of("me/model")
    hub.python(PULL, tmp_path, commit)
    for number, model in enumerate((second, second, first, first)):
        found = BertForVLTasks.from_pretrained(tmp_path / str(number))
        assert same(found, model) and found.labels("TASK1") == tuple("abcdefg") and found.tasks == model.tasks
    card = hub.files("me/model", "main")["README.md"].decode()
    assert card.startswith("---\n") and "library_name: volta-switch" in card
    told = hub.python(
        "from volta_switch import BertForVLTasks, UserError\ntry:\n BertForVLTasks.from_pretrained('me/no')\n"
        "except UserError as error:\n print(error)"
    )
    assert "me/no" in told and len(told.strip().splitlines()) == 1
