"""Cards are written by every run, read by the hub's own parser, tell no places, and are lost by nobody's edit."""

import getpass
import json
import os
import re
import shutil
import socket
import subprocess
import sys

import pytest
from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import validate_repo_id

from cards.conftest import TASKS
from cards.hub_cards import verified
from synthetic_world import json_of
from train.short_runs import FINETUNING
from volta_switch import UserError, load_config
from volta_switch.cards.card import card_text, is_own_card
from volta_switch.cards.metadata import DATA_SETS, metadata
from volta_switch.cards.origin import describe_origin, hub_model, weights_digest
from volta_switch.cards.record import architecture_of, change_record, find_record, write_record
from volta_switch.config.loading import CONFIG_FOLDERS
from volta_switch.train import evaluation

WEIGHTS = "pytorch_model_best.bin"


def of_run(folder):
    return json_of(folder / "training.json"), (folder / "README.md").read_text()


@pytest.mark.parametrize("model", ["ctrl_uniter", "switchbert"])
def test_a_pretraining_run_ends_with_record_and_card(pretrained, model):
    run = pretrained(model)
    record, text = of_run(run)
    said, metrics = json_of(run / "run.json"), json_of(run / "metrics.json")
    assert record["kind"] == "pre-training" and record["start"] == {
        "words": "random initial weights",
        "kind": "nothing",
    }
    assert record["hyperparameters"] == said["hyperparameters"] and record["steps"] == metrics["finished"]
    assert record["data"]["fingerprints"] == said["data"]["fingerprints"]
    assert record["data"]["synthetic_world"]["images"] == 20
    assert record["seeds"] == {"training": 7, "data_fraction": 0}
    assert record["best_validation"]["loss"] == metrics["best_validation"]["loss"]
    assert record["weights"] == {"file": WEIGHTS, "sha256": weights_digest(run / WEIGHTS)}
    assert record["model"]["configuration"]["name"] == f"demo/{model}"
    assert record["model"]["configuration"]["changed"]["hidden_size"] == 16
    data = verified(run).data.to_dict()
    assert "model-index" not in data and "datasets" not in data and "synthetic-data" in data["tags"]
    assert "volta-switch finetune --from_pretrained FOLDER" in text and "BertForVLPreTraining.from_pretrained" in text
    assert "The data are a synthetic world" in text and "Licence: not stated." in text


def test_a_fine_tuned_model_says_what_it_started_from(pretrained, finetuned):
    start, run = pretrained("ctrl_uniter"), finetuned("ctrl_uniter", "refer")
    record, text = of_run(run)
    before = json_of(start / "training.json")
    assert record["model"]["configuration"] == before["model"]["configuration"]
    assert record["kind"] == "fine-tuning" and record["task"]["name"] == "refcoco+"
    assert record["start"]["training"]["weights"] == before["weights"]
    assert record["start"]["training"]["data"] == before["data"]
    assert f"weights from a file (sha256 {before['weights']['sha256'][:12]}); left out: cls" in text
    assert verified(run).data.to_dict().get("model-index") is None and "None are recorded" not in text
    best = record["best_validation"]
    assert f"Validation after epoch {best['epoch'] + 1} of 3: accuracy {best['accuracy']:.2f}" in text


@pytest.mark.parametrize("task", TASKS)
def test_an_evaluation_stands_on_the_card_of_the_weights_that_it_evaluated(task, evaluated):
    model = evaluated(task)
    record, text = of_run(model)
    (test,) = record["tests"]
    (results,) = (model.parent / "results").glob("*/*_metrics.json")
    metrics = json_of(results)
    assert {name: found["value"] for name, found in test["metrics"].items()} == {
        name: metrics[name] for name in test["metrics"]
    }
    assert test["split"] == TASKS[task][2] and test["synthetic"] and test["data"] == metrics["of"]["data"]
    bounded = [found for found in test["metrics"].values() if "low" in found]
    for found in bounded:
        assert 0 <= found["low"] < found["value"] < found["high"] <= 100 and found["confidence"] == 0.95
    if task == "vqa":  # else a score of 0 or of 100 has none
        assert bounded
    card = verified(model)
    assert {result.metric_value for result in card.data.eval_results} == {
        found["value"] for found in test["metrics"].values()
    }
    assert all(result.dataset_split == test["split"] for result in card.data.eval_results)
    assert all(result.dataset_type == "volta-switch-synthetic-world" for result in card.data.eval_results)
    assert ("pipeline_tag" in card.data.to_dict()) == (task == "vqa") and "## Results" in text


@pytest.mark.skipif(not os.environ.get("HUB_VALIDATION"), reason="HUB_VALIDATION is not set: the hub itself is asked")
@pytest.mark.parametrize("task", TASKS)
def test_the_hub_accepts_the_cards(task, evaluated, pretrained):
    check = (
        "import sys; from huggingface_hub import ModelCard\nfor card in sys.argv[1:]: ModelCard.load(card).validate()"
    )
    cards = [folder / "README.md" for folder in (evaluated(task), pretrained("switchbert"))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "0"}  # the suite's own processes ask nobody
    done = subprocess.run([sys.executable, "-c", check, *cards], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_neither_file_has_places_or_names_of_this_machine(world, evaluated, pretrained, finetuned):
    folders = [evaluated(task) for task in TASKS]
    places = ["secret", "/tmp", str(world.path), str(pretrained("ctrl_uniter")), str(finetuned("ctrl_uniter", "refer"))]
    for folder in [*folders, pretrained("switchbert")]:
        for name in ("training.json", "README.md"):
            text = (folder / name).read_text()
            assert not [place for place in places if place in text]
            assert not {socket.gethostname(), getpass.getuser()} & set(re.findall(r"[\w.-]+", text))


def again(world, model, *flags, task="refer"):
    flags = ("--from_pretrained", model / WEIGHTS, "--overwrite", *flags)
    return world.run("eval_task", model.parent / "again", "ctrl_uniter", *flags, task=task)


@pytest.fixture
def model(evaluated, tmp_path):
    """A copy of a tested model's folder."""
    shutil.copytree(evaluated("refer"), tmp_path / "model")
    return tmp_path / "model"


def test_a_second_evaluation_is_added_and_the_same_one_replaces_its_numbers(world, model):
    again(world, model, "--split", "test")
    assert len(json_of(model / "training.json")["tests"]) == 1
    again(world, model, "--split", "val")
    again(world, model, "--split", "val", "--precision", "bf16")
    tests = json_of(model / "training.json")["tests"]
    assert [(test["split"], test["settings"]["precision"]) for test in tests] == [
        ("test", "float32"),
        ("val", "float32"),
        ("val", "bfloat16"),
    ]
    names = [result.metric_name for result in verified(model).data.eval_results if result.dataset_split == "val"]
    assert {"accuracy (boxes: detected)", "accuracy (bfloat16, boxes: detected)"} < set(names)
    assert len(set(names)) == len(names)


def test_an_evaluation_of_other_weights_is_never_written_on_a_card(world, model, finetuned, capsys):
    before = of_run(model)
    again(world, model, "--split", "val", "--from_pretrained", model / "pytorch_model_2.bin")
    assert of_run(model) == before
    shutil.copy(model / "pytorch_model_2.bin", model / WEIGHTS)  # another epoch's in the place of the best
    (model / "volta_switch.sums").unlink()
    capsys.readouterr()
    again(world, model, "--split", "val")
    assert "is about other weights than were evaluated, and is left as it is" in capsys.readouterr().err
    assert of_run(model) == before


@pytest.mark.parametrize("name", ["training.json", "preprocessor.json"])
def test_a_record_that_was_spoilt_by_hand_costs_one_line_and_no_evaluation(world, model, name, capsys):
    (model / "volta_switch.sums").unlink()
    record = json_of(model / "training.json")
    text = json.dumps({key: value for key, value in record.items() if key != "hyperparameters"})
    (model / name).write_text(text if name == "training.json" else "{")
    before = (model / "README.md").read_bytes()
    again(world, model, "--split", "val")
    (told,) = [line for line in capsys.readouterr().err.splitlines() if "card is not renewed" in line]
    assert name in told and "remove it, or copy it again" in told and (model / "README.md").read_bytes() == before


def test_an_evaluation_with_other_settings_says_which(world, model):
    again(world, model, "--split", "val", "--set", "fusion_act=tanh")
    *_, test = json_of(model / "training.json")["tests"]
    assert ["fusion_act", "relu", "tanh"] in test["otherwise"]
    assert "fusion_act tanh, trained with relu" in (model / "README.md").read_text()


def test_a_card_that_somebody_has_edited_is_left_as_it_is(world, model, capsys):
    card = model / "README.md"
    edited = card.read_text().replace("library_name", "license: mit\nlibrary_name")
    card.write_text(edited)
    capsys.readouterr()
    again(world, model, "--split", "val")
    said = [line for line in capsys.readouterr().err.splitlines() if "README.md" in line]
    assert len(said) == 1 and said[0].startswith(f"{card}: not as it was written, and left as it is")
    assert card.read_text() == edited and len(json_of(model / "training.json")["tests"]) == 2
    assert ModelCard.load(card).data.license == "mit" and not is_own_card(card)
    card.unlink()
    write_record(model, find_record(model))
    assert is_own_card(card)


def test_a_damaged_record_is_told_and_the_evaluation_is_written(world, model, capsys):
    (model / "training.json").write_text("{")
    again(world, model, "--split", "val")
    assert "the model's card is not renewed: " in capsys.readouterr().err
    assert list((model.parent / "again").glob("*/val_metrics.json"))
    (model / "volta_switch.sums").unlink()
    for content in ("{", "[]", '{"weights": 3}'):
        (model / "training.json").write_text(content)
        with pytest.raises(UserError, match=r"training\.json: not as this project writes it"):
            find_record(model)


def test_overwriting_a_run_removes_what_was_written_and_keeps_what_was_edited(world, tmp_path):
    flags = (*FINETUNING, "--num_epoch", "1")
    run = world.run("train_task", tmp_path, "ctrl_uniter", *flags, task="refer")
    first, card = json_of(run / "training.json"), run / "README.md"
    card.write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        world.run("train_task", tmp_path, "ctrl_uniter", *flags, task="refer")
    world.run("train_task", tmp_path, "ctrl_uniter", *flags, "--seed", "8", "--overwrite", task="refer")
    assert card.read_text() == "mine" and json_of(run / "training.json")["seeds"]["training"] == 8
    assert json_of(run / "training.json")["weights"] != first["weights"]
    card.unlink()
    world.run("train_task", tmp_path, "ctrl_uniter", *flags, "--overwrite", task="refer")
    assert is_own_card(card)  # a PyTorch file has a name in it that differs from one writing to the next
    assert json_of(run / "training.json") | {"weights": None} == first | {"weights": None}


def test_a_resumed_run_that_has_ended_writes_its_card_again(world, tmp_path):
    flags = (*FINETUNING, "--num_epoch", "1")
    run = world.run("train_task", tmp_path, "ctrl_uniter", *flags, task="refer")
    record = json_of(run / "training.json")
    again(world, run, "--split", "val")
    tests = json_of(run / "training.json")["tests"]
    (run / "README.md").unlink()
    world.run("train_task", tmp_path, "ctrl_uniter", *flags, "--resume", task="refer")
    assert json_of(run / "training.json") == {**record, "tests": tests} and is_own_card(run / "README.md")


def test_a_model_from_the_hubs_cache_is_named_by_its_hub_name(tmp_path, finetuned):
    run = finetuned("ctrl_uniter", "refer")
    revision = "0123456789abcdef0123456789abcdef01234567"
    folder = tmp_path / "hub" / "models--some-org--some-model" / "snapshots" / revision
    shutil.copytree(run, folder)
    source = str(folder / WEIGHTS)
    origin = describe_origin(source, f"weights from {source}; left out: cls")
    assert origin["words"] == "weights from some-org/some-model; left out: cls"
    assert (origin["kind"], origin["name"], origin["revision"]) == ("hub", "some-org/some-model", revision)
    assert origin["training"]["weights"]["sha256"] == origin["sha256"]
    record = json_of(run / "training.json") | {"start": {"kind": "file", "training": {"start": origin}}}
    assert hub_model(record["start"]) == metadata(record, "a model")["base_model"] == "some-org/some-model"
    assert evaluation.digest_beside_card(folder / WEIGHTS) == ""  # nothing is written into the cache


def test_a_start_is_told_by_its_place_in_the_words_alone(finetuned, tmp_path, monkeypatch):
    shutil.copy(finetuned("ctrl_uniter", "refer") / WEIGHTS, tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    origin = describe_origin("w", "weights from w; left out: cls")
    assert origin["words"] == f"weights from a file (sha256 {origin['sha256'][:12]}); left out: cls"


@pytest.mark.parametrize(
    "change",
    [{"kind": 3}, {"model": {}}, {"start": {"kind": "file", "training": "x"}, "task": 1}, {"tests": [1]}],
)
def test_a_record_of_another_program_is_one_line(change, finetuned, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finetuned("ctrl_uniter", "refer"), run)
    (run / "training.json").write_text(json.dumps(json_of(run / "training.json") | change))
    (run / "volta_switch.sums").unlink()
    change_record(run, lambda record: {**record, "steps": 1})
    said = capsys.readouterr().err
    assert f"{run}: the model's card is not renewed: {run / 'training.json'}: not as this project" in said
    assert not hub_model({"kind": "file", "training": "x"}) and not hub_model({"training": {"start": [1]}})


def test_scores_on_real_data_are_of_that_data_set(finetuned, evaluated):
    folder = evaluated("vqa")
    record = json_of(folder / "training.json")
    del record["data"]["synthetic_world"]
    record["tests"][0]["synthetic"] = False
    card = ModelCard(card_text(record, load_config(folder), {"detector": "any | other", "width": 64}))
    data = card.data.to_dict()
    assert data["datasets"] == ["vqa"] and data["pipeline_tag"] == "visual-question-answering"
    assert {(each.dataset_type, each.dataset_name) for each in card.data.eval_results} == {("vqa", "VQA")}
    assert "synthetic" not in card.content and "| detector | any \\| other |" in card.text
    for known in DATA_SETS.values():
        validate_repo_id(known.id)


def test_every_shipped_configuration_is_of_the_architecture_that_its_name_says():
    names = {"switchbert": "switch-bert", "interbert": "interbert", "lxmert": "lxmert", "uniter": "uniter"}
    names |= {"vilbert": "vilbert", "visualbert": "visualbert", "vl-bert": "vl-bert"}
    paths = [path for path in CONFIG_FOLDERS[0].rglob("*.json")]
    assert len(paths) > 10
    for path in paths:
        name = path.stem.removeprefix("ctrl_").removesuffix("_base")
        assert architecture_of(load_config(path)) == names[name], path


def test_whatever_a_study_is_called_the_card_is_whole(finetuned):
    run = finetuned("ctrl_uniter", "refer")
    record = json_of(run / "training.json")
    counts = {"compared": 3, "equal": 2, "differing": ["model | a"]}
    score = {"task": "refcoco+", "metric": "accuracy", "scope": "test", "synthetic": True, "mean": 50.0, "low": None}
    entry = {
        "study": "a | b\n---\n<script>", "table": "t", "arm": "x", "beside": ["y"], "varies": ["model"],
        "seeds": [0, 1],
        "scores": [score | {"high": None, "problem": "with one seed the spread over seeds is unknown"}],
        "settings": {"planned": counts, "recorded": {"runs": 4, **counts}},
    }  # fmt: skip
    card = ModelCard(card_text(record | {"comparison": [entry]}, load_config(run), {}))
    assert "a \\| b --- &lt;script>" in card.text and "<script>" not in card.text
    assert "Planned settings: 3 compared, 2 equal; different: `model \\| a`" in card.text
    assert "none: with one seed" in card.text


def test_papers_say_where_they_were_read(tmp_path):
    papers = json.loads((CONFIG_FOLDERS[0].parent / "volta_switch" / "cards" / "papers.json").read_text())
    assert {"switch-bert", "volta"} < papers.keys()
    for paper in papers.values():
        assert paper["read_at"] and all(page.startswith("http") for page in paper["read_at"])
        assert paper["year"].isdecimal() and len(paper["authors"]) > 1 and paper["title"]


def test_results_are_round_trips_of_the_librarys_own_kind(evaluated):
    data = verified(evaluated("retrieval")).data.to_dict()
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "UNITER, fine-tuned on retrieval (synthetic)" and all(
        isinstance(each, EvalResult) for each in results
    )
