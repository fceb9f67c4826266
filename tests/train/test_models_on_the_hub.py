"""Commands that are given a model by its address, ``hf://owner/name``, on a hub of the test's."""

from __future__ import annotations

import json

import pytest

from synthetic_world import json_of
from train.test_model_folders import moved
from volta_switch import UserError, load_config
from volta_switch.cost.executed import parameters
from volta_switch.train.ranks import Ranks
from volta_switch.train.start import check_same_start
from volta_switch.weight_tools.commands import inspect_text
from volta_switch.weights import read_weights

MODEL = "hf://me/model"
TAKE = """
from volta_switch import UserError
from volta_switch.config.model_folder import take_model
from volta_switch.train.flags import finetuning_flags
for address in sys.argv[1:]:
    args = finetuning_flags().parse_args(["--from_pretrained", address, "--set", f"bert_model={address}"])
    try:
        take_model(args)
        print(args.from_pretrained, args.config_file, args.set[0])
    except UserError as error:
        print("error:", error)
"""


@pytest.fixture
def model(hub, finetuned, tmp_path):
    """A fine-tuned Switch-BERT on the hub: the folder that was pushed."""
    folder = moved(finetuned("switchbert", "vqa"), tmp_path / "pushed")
    hub.create("me/model", folder)
    return folder


def done(hub, *flags, **options):
    found = hub.command(*flags, **options)
    assert found.returncode == 0, found.stderr
    return found


def test_the_whole_path_goes_by_an_address_alone(hub, model, finetuned, world):
    data, named = ["--tasks_config_file", world.tasks_file], f"{MODEL}@{hub.commit_of('me/model')}"
    done(hub, "evaluate", *data, "--from_pretrained", MODEL)
    metrics = json_of(hub.folder / "results" / "VQA_model" / "val_metrics.json")
    best = json_of(finetuned("switchbert", "vqa") / "metrics.json")["best_validation"]
    assert metrics["vqa_score"] == pytest.approx(best["vqa_score"], rel=1e-4) and metrics["weights"] == named

    flags = ["--num_epoch", 1, "--batch_size", 8, "--max-steps", 1, "--output_dir", "runs", "--logdir", "logs"]
    done(hub, "finetune", *data, "--from_pretrained", MODEL, *flags, offline=True)
    run = hub.folder / "runs" / "VQA_model"
    assert json_of(run / "run.json")["start"].startswith(f"weights from {named}")
    assert json_of(run / "config.json")["bert_model"] == named
    assert (run / "vocab.txt").read_bytes() == (model / "vocab.txt").read_bytes()

    done(hub, "routes", *data, "--from_pretrained", MODEL, "--out", "routes.json", offline=True)
    routes = json_of(hub.folder / "routes.json")
    assert (routes["weights"], routes["config"], routes["task"]) == (named, named, "TASK1")


def test_a_configuration_comes_without_the_weights(hub, model):
    found = json.loads(done(hub, "flops", MODEL, "--json").stdout)
    assert found["parameters"] == parameters(load_config(model))
    assert not hub.sent["pytorch_model_best.bin"]


def test_what_is_not_there_is_told_before_weights_are_fetched(hub, model):
    refused = hub.command("evaluate", "--from_pretrained", MODEL)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    first, *others = refused.stderr.splitlines()
    assert first.startswith("error: ") and "no such file or folder" in first and "get VQAv2" in first
    named = f"{MODEL}@{hub.commit_of('me/model')}"
    assert any(line.startswith(f"  then weights: {named} is not in the hub's cache") for line in others)
    assert not hub.sent["pytorch_model_best.bin"]


def test_weights_are_inspected_and_read_by_their_address(hub, model):
    said = done(hub, "weights", "inspect", MODEL).stdout
    assert said == inspect_text(model) + "\n"
    code = "from volta_switch.weights import read_weights\nprint(sorted(read_weights(sys.argv[1])))"
    names = hub.python(code, MODEL, offline=True)
    assert names == f"{sorted(read_weights(model / 'pytorch_model_best.bin'))}\n"


def test_a_layout_of_another_program_is_imported_by_its_address(hub, tmp_path):
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 40}
    config = transformers.LxmertConfig(**sizes, l_layers=1, r_layers=1, x_layers=1, vocab_size=99, visual_feat_dim=8)
    transformers.LxmertForPreTraining(config).save_pretrained(tmp_path / "theirs")
    words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n"
    (tmp_path / "theirs" / "vocab.txt").write_text(words)
    hub.create("their/lxmert", tmp_path / "theirs")
    refused = hub.command("evaluate", "--from_pretrained", "hf://their/lxmert", "--task", "TASK1")
    named = f"hf://their/lxmert@{hub.commit_of('their/lxmert')}"
    assert refused.returncode == 2 and refused.stderr.startswith(f"error: {named}: no model of this project")
    assert f"`volta-switch weights import {named} FOLDER`" in refused.stderr and not hub.sent["model.safetensors"]
    done(hub, "weights", "import", "hf://their/lxmert", "ours")
    assert load_config(tmp_path / "ours").fusion_act == "tanh"
    assert (tmp_path / "ours" / "vocab.txt").read_text() == words


def test_addresses_are_those_of_commits_and_name_what_can_be_used(hub):
    ours = {"config.json": b'{"tt_attn_sublayers": []}', "vocab.txt": b"[PAD]\n", "model.safetensors": b"?"}
    hub.create("me/model", ours)
    hub.create("their/bert", {**ours, "config.json": b'{"model_type": "bert"}'})
    hub.create("their/gpt", {**ours, "config.json": b'{"model_type": "gpt2"}'})
    hub.create("their/weights", {"model.safetensors": b"?"})
    hub.create("me/damaged", {**ours, "config.json": b"{"})
    names = ["me/model", "their/bert", "their/gpt", "their/weights", "me/damaged"]
    own, bert, gpt, weights, damaged = hub.python(TAKE, *(f"hf://{name}" for name in names)).splitlines()
    of = {name: f"hf://{name}@{hub.commit_of(name)}" for name in names}
    assert own == f"{of['me/model']} {of['me/model']} bert_model={of['me/model']}"
    assert bert == f"{of['their/bert']} switchbert bert_model={of['their/bert']}"
    assert gpt.startswith(f"error: {of['their/gpt']}: no model of this project (config.json: model_type = 'gpt2')")
    assert weights.startswith(f"{of['their/weights']} switchbert ")
    assert damaged.startswith("error: ") and "expected a JSON object" in damaged
    assert not hub.sent["model.safetensors"]


def test_what_has_no_configuration_of_ours_is_none(hub):
    hub.create("their/bert", {"config.json": b'{"model_type": "bert"}'})
    hub.create("their/weights", {"model.safetensors": b"?"})
    for name, told in (("bert", "a BERT, no model of this project"), ("weights", "it has no config.json")):
        refused = hub.command("flops", f"hf://their/{name}")
        assert refused.returncode == 2 and refused.stderr.startswith(f"error: hf://their/{name}: ")
        assert told in refused.stderr and len(refused.stderr.splitlines()) == 1


def test_processes_that_start_from_different_weights_are_refused():
    class Two(Ranks):
        def gathered(self, value):
            return [value, "other"]

    check_same_start("this", Ranks())
    with pytest.raises(UserError, match=r"given different weights; name a commit \(hf://owner/name@commit\)"):
        check_same_start("this", Two(0, 2))
