"""A run's folder is a model: weights, configuration, vocabulary and task, wherever it lies and however it is called."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from synthetic_world import json_of, refusal
from volta_switch import BertForVLTasks, UserError, load_config
from volta_switch.config.model_folder import (
    TASKS,
    config_name,
    is_model_folder,
    refuse_other_labels,
    take_model,
    task_in,
    weights_in,
)
from volta_switch.routes import route_flags
from volta_switch.routes.run import run_routes
from volta_switch.tasks.task_file import PATH_SETTINGS
from volta_switch.train import evaluation, finetuning
from volta_switch.train.flag_values import load_task_spec
from volta_switch.train.flags import evaluation_flags
from volta_switch.weights import read_weights

ROOT = Path(__file__).parents[2]


def moved(run, to):
    """A copy of a run's folder under another name, without what a model does not need."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("checkpoints", "log.jsonl", "run.json", "command.txt"))
    return to


def args_of(*flags):
    args = evaluation_flags().parse_args([str(flag) for flag in flags])
    take_model(args)
    return args


def test_the_whole_path_goes_by_folders_alone(world, pretrained, finetuned, tmp_path, monkeypatch):
    model = moved(pretrained("switchbert"), tmp_path / "elsewhere" / "my model")
    expected = finetuned("switchbert", "vqa")
    monkeypatch.chdir(tmp_path)
    data = ["--tasks_config_file", str(world.tasks_file)]
    flags = ["--batch_size", "8", "--num_epoch", "3", "--lr", "5e-3", "--seed", "7", "--in_memory"]
    tuned = finetuning.main([*data, "--task", "TASK1", "--from_pretrained", "elsewhere/my model", *flags])
    assert tuned.name == "VQA_my model" and load_config(tuned).switch == load_config(model).switch
    ours, theirs = (read_weights(run / "pytorch_model_best.bin") for run in (tuned, expected))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)

    last = tmp_path / "last"
    shutil.move(tuned, last)
    shutil.rmtree(model)
    found = evaluation.main([*data, "--from_pretrained", "last"])
    assert (tmp_path / "results" / "VQA_last" / "val_metrics.json").is_file()
    best = json_of(expected / "metrics.json")["best_validation"]
    assert found.metrics["vqa_score"] == pytest.approx(best["vqa_score"], rel=1e-4)
    run_routes(route_flags().parse_args([*data, "--from_pretrained", "last", "--out", "routes.json"]))
    assert json_of(tmp_path / "routes.json")["task"] == "TASK1"


def test_a_data_root_is_enough_for_a_fine_tuned_model(world, finetuned, tmp_path, monkeypatch, capsys):
    """Its task's own settings count, such as how many answers it has; paths and splits are VOLTA's."""
    first = finetuned("switchbert", "vqa")
    moved(first, tmp_path / "my model")
    monkeypatch.chdir(tmp_path)
    root = ["--data_root", str(world.path), "--from_pretrained", "my model"]
    by_file = evaluation.main(["--from_pretrained", "my model", "--tasks_config_file", str(world.tasks_file)])
    shutil.rmtree(tmp_path / "results")
    capsys.readouterr()
    assert evaluation.main(root).metrics == by_file.metrics
    assert "trained with" not in capsys.readouterr().err
    assert evaluation.main([*root, "--task", "VQA"]).metrics == by_file.metrics
    run_routes(route_flags().parse_args([*root, "--out", "routes.json", "--checkpoints", "my model"]))
    report = json_of(tmp_path / "routes.json")
    assert report["over training"][0]["vqa_score"] == report["metrics"]["vqa_score"]
    tuned = finetuning.main([*root, "--num_epoch", "1", "--batch_size", "64"])
    assert json_of(tuned / "run.json")["settings"]["entry"] == json_of(first / "run.json")["settings"]["entry"]


def test_a_worlds_files_lie_as_the_shipped_task_file_says(world):
    """So that a data root is enough for them."""
    theirs = yaml.safe_load(world.tasks_file.read_text())
    shipped = yaml.safe_load((ROOT / TASKS).read_text())
    for key, entry in theirs.items():
        for name in ("name", "type", "train_split", "val_split", *set(PATH_SETTINGS) - {"features_h5path2"}):
            assert entry[name] == shipped[key][name], (key, name)


@pytest.mark.parametrize(
    ("entries", "flags", "told"),
    [
        ({"TASK1": {"name": "refcoco+"}}, (), "TASK1 (refcoco+): a VL-classifier, and a V-logit in"),
        ({"TASK1": {"name": "Claims"}}, (), "has no such task; give the task file that has (--tasks_config_file)"),
        ({"TASK1": {"num_labels": "many"}}, (), "task.yml: TASK1: num_labels: "),
        ({"TASK1": {"batch": 3}}, (), "task.yml: TASK1: unknown key batch"),
        ({"TASK10": {}}, ("--tasks_config_file", TASKS), "TASK10 is refcoco+ there, and VQA in the model's task.yml"),
        ({"TASK1": {}}, ("--data_root", "nowhere"), "nowhere: no such folder; --data_root names"),
    ],
)
def test_a_task_that_cannot_be_the_models_is_refused(entries, flags, told, finetuned, tmp_path):
    model = moved(finetuned("switchbert", "vqa"), tmp_path / "model")
    (model / "volta_switch.sums").unlink()
    (own,) = yaml.safe_load((model / "task.yml").read_text()).values()
    (model / "task.yml").write_text(yaml.safe_dump({key: {**own, **changes} for key, changes in entries.items()}))
    with pytest.raises(UserError) as caught:
        load_task_spec(args_of("--from_pretrained", model, *flags))
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_another_task_than_the_models_is_the_task_files(finetuned):
    args = args_of("--from_pretrained", finetuned("switchbert", "vqa"), "--task", "GQA")
    assert args.model_task is None and load_task_spec(args).num_labels == 1842


def test_an_imported_head_is_the_task_of_its_key(finetuned, tmp_path):
    """It says no name: nobody knows on which data set it was trained."""
    model = moved(finetuned("switchbert", "vqa"), tmp_path / "model")
    (model / "volta_switch.sums").unlink()
    (model / "task.yml").write_text("TASK1: {type: VL-classifier, num_labels: 9}\n")
    spec = load_task_spec(args_of("--from_pretrained", model))
    assert (spec.name, spec.num_labels, spec.max_seq_length) == ("VQA", 9, 23)


def test_a_fine_tuned_folder_says_its_task_and_no_places_of_data(world, finetuned):
    run = finetuned("ctrl_uniter", "refer")
    (entry,) = yaml.safe_load((run / "task.yml").read_text()).values()
    theirs = yaml.safe_load(world.tasks_file.read_text())["TASK10"]
    decides = {"type", "process", "loss", "max_seq_length", "max_region_num", "num_labels", "num_clf_layers"}
    assert set(entry) == {"name", "metric", *decides} and entry["metric"] == "accuracy"
    assert all(entry[name] == theirs[name] for name in entry if name in theirs) and entry["name"] == "refcoco+"
    assert str(world.path) not in (run / "task.yml").read_text() and task_in(run) == ("TASK10", entry)
    assert (run / "vocab.txt").read_bytes() == (world.path / "bert-world" / "vocab.txt").read_bytes()


def test_flags_win_over_the_folder(finetuned, world):
    run = finetuned("ctrl_uniter", "refer")
    plain = args_of("--from_pretrained", run)
    assert plain.config_file == str(run / "config.json") and plain.task == "TASK10"
    assert plain.from_pretrained == str(run / "pytorch_model_best.bin")
    given = args_of("--from_pretrained", run, "--task", "TASK1", "--config_file", "demo/switchbert")
    assert given.config_file == "demo/switchbert" and given.task == "TASK1"
    assert args_of("--from_pretrained", run / "pytorch_model_2.bin").config_file == "switchbert"


def test_an_evaluation_with_other_lengths_than_the_models_says_so(finetuned, world, tmp_path, capsys):
    model = moved(finetuned("ctrl_uniter", "refer"), tmp_path / "model")
    (model / "volta_switch.sums").unlink()
    entries = yaml.safe_load((model / "task.yml").read_text())
    entries["TASK10"]["max_seq_length"] += 1
    (model / "task.yml").write_text(yaml.safe_dump(entries))
    flags = [
        "--tasks_config_file",
        str(world.tasks_file),
        "--from_pretrained",
        str(model),
        "--output_dir",
        str(tmp_path),
    ]
    evaluation.main(flags)
    length = entries["TASK10"]["max_seq_length"]
    said = capsys.readouterr().err
    assert f"trained with max_seq_length = {length}, evaluated with {length - 1}" in said


def test_the_vocabulary_beside_a_model_is_its_own(pretrained, tmp_path):
    model = moved(pretrained("ctrl_uniter"), tmp_path / "model")
    assert load_config(model).bert_model == str(model)
    assert load_config(model, ["bert_model=elsewhere"]).bert_model == "elsewhere"
    (model / "vocab.txt").unlink()
    with pytest.raises(UserError, match=r"vocab\.txt"):  # which its checksums know of
        load_config(model)
    (model / "volta_switch.sums").unlink()
    assert load_config(model).bert_model != str(model)


def test_a_shipped_name_is_no_folder_of_that_name(pretrained, tmp_path, monkeypatch):
    moved(pretrained("ctrl_uniter"), tmp_path / "switchbert")
    monkeypatch.chdir(tmp_path)
    assert load_config("switchbert").switch is not None
    assert args_of("--from_pretrained", "switchbert").config_file == "switchbert/config.json"
    assert load_config("switchbert/config.json").switch is None


def test_a_run_is_called_by_its_models_folder_and_its_task_once(pretrained, finetuned, tmp_path, monkeypatch):
    assert config_name(pretrained("ctrl_uniter")) == "ctrl_uniter" == config_name("demo/ctrl_uniter")
    run = finetuned("ctrl_uniter", "refer")
    assert config_name(run) == "refcoco+_ctrl_uniter" == config_name(run / "config.json")
    monkeypatch.chdir(run)
    assert config_name("config.json") == "refcoco+_ctrl_uniter"


def test_safetensors_come_before_what_volta_loads(tmp_path):
    (tmp_path / "pytorch_model_best.bin").write_bytes(b"")
    assert weights_in(tmp_path).name == "pytorch_model_best.bin"
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert weights_in(tmp_path).name == "model.safetensors"


def test_what_is_no_model_folder_is_left_to_others(world, tmp_path):
    assert not is_model_folder(tmp_path) and not is_model_folder(tmp_path / "not there")
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 16}))
    assert not is_model_folder(bert)
    assert args_of("--from_pretrained", bert).from_pretrained == str(bert)


@pytest.mark.parametrize(("model", "task"), [("switchbert", "vqa"), ("ctrl_uniter", "refer")])
def test_in_python_a_folder_answers_as_the_test_says(world, finetuned, tmp_path, model, task):
    run = finetuned(model, task)
    evaluation.main(
        [*world.data_flags("eval_task", task), "--from_pretrained", str(run), "--output_dir", str(tmp_path)]
    )
    (results,) = tmp_path.glob("*/val_result.json")
    expected = json_of(results)
    loaded = BertForVLTasks.from_pretrained(moved(run, tmp_path / "moved"))
    read = world.task(task, loaded.config).dataset("val", training=False)
    asked = [(entry.question if task == "vqa" else entry.caption, str(entry.image_id)) for entry in read.entries]
    store = world.task(task, loaded.config).store("val")
    found = loaded.predict([text for text, _ in asked], [store[name] for _, name in asked], batch_size=5)
    if task == "vqa":
        by_id = {str(entry.question_id): each.label for entry, each in zip(read.entries, found, strict=True)}
        assert by_id == {str(result["question_id"]): result["answer"] for result in expected} and len(by_id) > 20
        labels = json_of(run / "labels.json")["TASK1"]
        assert labels == read.label2ans == list(found[0].labels)
    else:
        by_id = {entry.sent_id: each.region for entry, each in zip(read.entries, found, strict=True)}
        assert by_id == {result["id"]: result["target"] for result in expected} and len(by_id) > 20
        assert not (run / "labels.json").exists()


def test_the_card_is_of_the_weights_that_are_saved_and_an_edited_one_is_kept(world, finetuned, tmp_path, capsys):
    run = finetuned("switchbert", "vqa")
    model = BertForVLTasks.from_pretrained(run)
    model.save_pretrained(tmp_path / "same")
    known, saved = (json.loads((folder / "training.json").read_text()) for folder in (run, tmp_path / "same"))
    assert saved.pop("weights")["file"] == "model.safetensors" and known.pop("weights") and saved == known
    card = ModelCard.load(tmp_path / "same" / "README.md")
    assert card.data.library_name == "volta-switch" and "fine-tuned on" in card.text
    with torch.no_grad():
        model.clfs_dict["TASK1"].logit_fc[3].bias[0] += 1
    model.save_pretrained(tmp_path / "changed")
    changed = json.loads((tmp_path / "changed" / "training.json").read_text())
    assert (
        changed["kind"] == "python" and not changed["tests"] and changed["start"]["training"]["kind"] == "fine-tuning"
    )
    assert "How its weights came about is not recorded" in (tmp_path / "changed" / "README.md").read_text()
    assert "were changed" in (tmp_path / "changed" / "README.md").read_text()
    for number, other in enumerate([["switch.top_k=2"], []]):
        model = BertForVLTasks.from_pretrained(run, overrides=other)
        if not other:
            model.tasks["TASK1"]["max_seq_length"] = 5
        model.save_pretrained(tmp_path / f"other {number}")  # the scores are those of other settings
        assert json.loads((tmp_path / f"other {number}" / "training.json").read_text())["kind"] == "python"
    mine = "---\nlicense: mit\n---\nMine.\n"
    (tmp_path / "same" / "README.md").write_text(mine)
    BertForVLTasks.from_pretrained(tmp_path / "same").save_pretrained(tmp_path / "kept")
    assert (tmp_path / "kept" / "README.md").read_text() == mine
    assert "left as it is" in capsys.readouterr().err


def test_answers_in_another_order_are_refused(world, finetuned, tmp_path, capsys):
    model = moved(finetuned("switchbert", "vqa"), tmp_path / "model")
    (model / "volta_switch.sums").unlink()
    labels = json_of(model / "labels.json")
    labels["TASK1"][1:3] = labels["TASK1"][2:0:-1]
    (model / "labels.json").write_text(json.dumps(labels))
    flags = [*world.data_flags("eval_task", "vqa"), "--from_pretrained", str(model), "--output_dir", str(tmp_path)]
    for command in (evaluation.main, finetuning.main):
        with pytest.raises(UserError, match=r"labels\.json: not the answers of the data .*: answer 1 is") as caught:
            command(flags)
        assert "\n" not in str(caught.value) and os.listdir(tmp_path) == ["model"]
    other = {"TASK2": labels["TASK1"]}  # of a head that is not asked for
    (model / "labels.json").write_text(json.dumps(other))
    evaluation.main(flags)
    (model / "labels.json").write_text(json.dumps({"TASK1": labels["TASK1"][:-1]}))
    with pytest.raises(UserError, match="not the answers of the data"):
        evaluation.main([*flags, "--overwrite"])


def test_a_folder_without_a_model_cannot_be_evaluated(world, tmp_path, capsys):
    (tmp_path / "model").mkdir()
    flags = ["--from_pretrained", tmp_path / "model", "--data_root", world.path, "--task", "10"]
    flags += ["--set", f"bert_model={world.path / 'bert-world'}"]
    said = refusal(evaluation.main, flags, capsys)
    assert said.startswith(f"{tmp_path / 'model'}: a folder without a model, whose config.json would say what it is;")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda model: (model / "config.json").write_text("{"), "config.json"),
        (lambda model: (model / "pytorch_model_best.bin").unlink(), "holds neither model.safetensors nor"),
        (lambda model: (model / "task.yml").write_text("- a list"), "expected one task, as fine-tuning writes it"),
        (
            lambda model: (model / "task.yml").write_text("TASK1: {}\nTASK2: {}\n"),
            "found TASK1, TASK2; name one with --task",
        ),
        (lambda model: (model / "task.yml").write_text(": : :"), "task.yml"),
    ],
)
def test_a_damaged_folder_is_refused_in_one_line(damage, told, finetuned, tmp_path):
    model = moved(finetuned("ctrl_uniter", "refer"), tmp_path / "model")
    (model / "volta_switch.sums").unlink()
    damage(model)
    with pytest.raises(UserError) as caught:
        args_of("--from_pretrained", model)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_labels_of_the_working_directory_are_not_those_of_a_start_without_a_file(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"tt_attn_sublayers": []}')
    (tmp_path / "labels.json").write_text('{"TASK1": ["yes"]}')
    monkeypatch.chdir(tmp_path)
    refuse_other_labels("", "TASK1", ["no"])
    refuse_other_labels("bert-base-uncased", "TASK1", ["no"])
    with pytest.raises(UserError, match="not the answers of the data"):
        refuse_other_labels("model.bin", "TASK1", ["no"])
