"""``volta-switch ablate``: the table that it prints, the JSON that it writes, and what it refuses in one line."""

import json

import numpy as np
import pytest
from scipy import stats

from ablation.conftest import ENTITIES, TASKS
from volta_switch import BertForVLTasks
from volta_switch.ablation.measurement import PhraseLosses, measure
from volta_switch.ablation.report import loss_rows, over_images, per_phrase, table_text
from volta_switch.cli import main
from volta_switch.data.entities import EntityPhrase, Phrase

WORDS = {"type": "VL-classifier", "num_labels": 3, "max_seq_length": 14}


@pytest.fixture(scope="module")
def folder(random_model, tmp_path_factory):
    """A model's folder."""
    path = tmp_path_factory.mktemp("models") / "own"
    random_model("ctrl_vilbert").save_pretrained(path)
    return path


@pytest.fixture
def ablate(entities_world, folder, tmp_path, capsys):
    """Runs the command; returns what it printed, and the JSON."""

    def run(*flags, model=folder):
        out = tmp_path / "out.json"
        data = ["--tasks_config_file", str(entities_world.path / TASKS), "--out", str(out)]
        main(["ablate", str(model), *data, *map(str, flags)])
        return capsys.readouterr().out, json.loads(out.read_text())

    return run


def test_the_table_and_the_json_hold_what_is_measured(ablate, random_model, split_samples, folder):
    printed, written = ablate("--split", "val")
    samples = split_samples()
    measured = measure(random_model("ctrl_vilbert"), samples)
    assert [(row["direction"], row["masking"], row["loss"]) for row in written["losses"]] == [
        *(("vis4lang", masking, "mlm") for masking in ("none", "object", "all")),
        *(("lang4vis", masking, "mrc_kl") for masking in ("none", "phrase", "all")),
        *(("lang4vis", masking, "mrc_xe") for masking in ("none", "phrase", "all")),
    ]
    images = np.array([phrase.image_id for phrase in samples.phrases])
    for row in written["losses"]:
        values = measured[row["direction"]].values
        own, whole = (values[masking][row["loss"]] for masking in (row["masking"], "none"))
        assert row["value"] == pytest.approx(own.mean(), rel=1e-5)
        assert row["images"] == len(set(images)) == 10 and row["phrases"] == len(images)
        assert row["low"] < row["value"] < row["high"]
        if row["masking"] == "none":
            assert row["more_than_unmasked"] is None
        else:
            more = row["more_than_unmasked"]
            assert more["value"] == pytest.approx((own - whole).mean(), abs=1e-5) and more["low"] < more["high"]
        assert f"| {row['value']:.3f} " in printed and f"{row['low']:.3f} to {row['high']:.3f}" in printed
    assert written["model"] == str(folder) and written["split"] == "val" and written["overlap_threshold"] == 0.5
    listed = written["per phrase"]
    assert listed["text"] == [phrase.text for phrase in samples.phrases]
    column = measured["lang4vis"].values["phrase"]["mrc_kl"]
    np.testing.assert_allclose(listed["lang4vis"]["phrase"]["mrc_kl"], column, rtol=1e-4)


def test_parts_and_another_split_can_be_asked_for(ablate):
    _, whole = ablate("--split", "test", "--direction", "lang4vis")
    printed, part = ablate("--split", "test", "--masking", "phrase", "--overwrite", "--batch-size", 5)
    (row, other) = part["losses"]
    assert {row["loss"], other["loss"]} == {"mrc_kl", "mrc_xe"} and row["more_than_unmasked"] is None
    same = next(each for each in whole["losses"] if each["masking"] == "phrase" and each["loss"] == row["loss"])
    assert row["value"] == pytest.approx(same["value"], rel=1e-5)
    assert "all words" not in printed and "the phrase's words" in printed


def test_intervals_are_about_images():
    """Two phrases of one image count for one: the mean is over phrases, Student's t over images."""
    values, images = np.array([1.0, 3.0, 4.0, 6.0, 8.0, 5.0]), ["a", "a", "b", "b", "c", "c"]
    estimate = over_images(values, images)
    of_images = np.array([2.0, 5.0, 6.5])
    expected = stats.t.interval(0.95, 2, of_images.mean(), stats.sem(of_images))
    assert estimate.value == values.mean() == 4.5 and estimate.interval() == pytest.approx(expected)


def test_what_is_left_out_is_told_and_empty_in_the_json():
    phrases = [EntityPhrase(image, 0, ("ball",), Phrase("7", 0, 1, ()), ()) for image in "abc"]
    found = PhraseLosses(np.array([0, 2]), {"none": {"mlm": np.array([1.0, 2.0])}}, 1)
    text = table_text(loss_rows(phrases, {"vis4lang": found}))
    assert "Left out of vis4lang: 1 phrases lie behind the cut" in text
    assert per_phrase(phrases, {"vis4lang": found})["vis4lang"]["none"]["mlm"] == [1.0, None, 2.0]


def test_one_image_has_no_interval():
    phrases = [EntityPhrase("a", 0, ("ball",), Phrase("7", 0, 1, ()), ())] * 2
    found = PhraseLosses(np.array([0, 1]), {"none": {"mlm": np.array([1.0, 2.0])}})
    (row,) = loss_rows(phrases, {"vis4lang": found})
    assert row.to_dict()["low"] is None and "| 1.500  | –" in table_text([row])


@pytest.mark.parametrize(("flags", "said"), [
    (("--masking", "phrase", "--direction", "vis4lang"), "--masking phrase: is of --direction lang4vis; vis4lang has"),
    (("--split", "dev"), "dev.txt: no such list of images; name a split"),
    (("--split", "../val"), "--split ../val: expected the name of a list"),
    (("--task", "8", "--tasks_config_file", "{world}/tasks.yml"), "no task FlickrGrounding, Flickr30k Entities"),
    (("--features", "none.lmdb"), "none.lmdb: image features not found"),
    (("--features", "{flickr}"), "has no cls_prob, with which predicted classes are compared"),
    (("--set", "max_position_embeddings=5"), "shape"),
    (("--overlap_threshold", "1.5"), "--overlap_threshold"),
    (("--out", "{world}"), "expected a file's name"),
    (("--out", "{world}/tasks.yml"), "tasks.yml: is there already; give another --out"),
    (("--data_root", "none"), "none: no such folder; --data_root"),
])  # fmt: skip
def test_bad_input_is_one_line(entities_world, folder, tmp_path, capsys, flags, said):
    places = {"world": entities_world.path, "flickr": "datasets/flickr30k/resnet101_faster_rcnn_genome_imgfeats/volta/"
              "flickr30k_feat.lmdb"}  # fmt: skip
    given = [flag.format(**places) for flag in flags]
    out = [] if "--out" in given else ["--out", str(tmp_path / "out.json")]
    message = refused(capsys, folder, "--tasks_config_file", str(entities_world.path / TASKS), *out, *given)
    assert said in message and not (tmp_path / "out.json").exists()


def refused(capsys, model, *flags):
    with pytest.raises(SystemExit) as ended:
        main(["ablate", str(model), *flags])
    message = capsys.readouterr().err
    assert ended.value.code == 2 and message.startswith("error: ") and message.count("\n") == 1
    return message


def test_a_fine_tuned_model_and_a_missing_one_are_refused(entities_world, tmp_path, capsys):
    tuned = tmp_path / "tuned"
    BertForVLTasks(entities_world.config("ctrl_uniter"), {"TASK1": WORDS}).save_pretrained(tuned)
    flags = ("--tasks_config_file", str(entities_world.path / TASKS), "--out", str(tmp_path / "out.json"))
    assert "fine-tuned on TASK1, so that the heads of pre-training are gone" in refused(capsys, tuned, *flags)
    assert "no such folder; a model's is one with config.json" in refused(capsys, tmp_path / "none", *flags)


def test_a_caption_longer_than_the_model_reads_is_refused(entities_world, folder, tmp_path, capsys):
    text = (entities_world.path / TASKS).read_text()
    tasks = tmp_path / "tasks.yml"
    length = next(line for line in text.splitlines() if "max_seq_length" in line)
    tasks.write_text(text.replace(length, "  max_seq_length: 9999"))
    flags = ("--tasks_config_file", str(tasks), "--data_root", str(entities_world.path), "--out", str(tmp_path / "o"))
    assert "max_seq_length is 9999, more than the model's max_position_embeddings" in refused(capsys, folder, *flags)


def test_a_changed_file_of_the_world_is_refused(entities_world, folder, tmp_path, capsys):
    copy = entities_world.copy(tmp_path / "world")
    (copy.path / "volta_switch.sums").write_bytes((entities_world.path / "volta_switch.sums").read_bytes())
    sentences = sorted((copy.path / ENTITIES / "Sentences").iterdir())
    for path in sentences:
        path.write_text(path.read_text().replace("red", "green"))
    flags = ("--tasks_config_file", str(copy.path / TASKS), "--out", str(tmp_path / "out.json"))
    assert "copy it again or have it written again" in refused(capsys, folder, *flags)


def test_a_model_is_taken_by_its_address(hub, ablate, entities_world, folder):
    """The file names the commit, and the numbers are those of the folder."""
    hub.create("me/model", folder)
    flags = ("--split", "val", "--direction", "vis4lang", "--masking", "none")
    data = ("--tasks_config_file", entities_world.path / TASKS)
    done = hub.command("ablate", "hf://me/model", *data, *flags)
    assert done.returncode == 0, done.stderr
    named = json.loads((hub.folder / "results" / "model" / "val_ablation.json").read_text())
    _, own = ablate(*flags)
    assert named["model"] == f"hf://me/model@{hub.commit_of('me/model')}"
    assert [row["value"] for row in named["losses"]] == pytest.approx([row["value"] for row in own["losses"]])
    assert named["weights"] == own["weights"]
