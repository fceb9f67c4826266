"""Pre-training through the real entry point, on a world of 20 pairs."""

import json
import math

import pytest
import torch

from synthetic_world import equal_weights, json_of, log_of, weights_of
from train.short_runs import PRETRAINING
from volta_switch import BertForVLPreTraining, UserError, load_config
from volta_switch.checksums import SUMS
from volta_switch.config.model_folder import take_model
from volta_switch.data.batches.pretraining_batch import IGNORED
from volta_switch.data.tokenizer import Tokenizer
from volta_switch.model.bert import switch_encoder
from volta_switch.train.flags import OBJECTIVES, pretraining_flags
from volta_switch.train.pretraining import split_loader
from volta_switch.weights import load_volta

MODELS = ("ctrl_uniter", "switchbert")
FILES = {
    "config.json", "vocab.txt", "run.json", "command.txt", "log.jsonl", "metrics.json", "pytorch_model_best.bin", SUMS,
    "checkpoints", ".lock", "tokenizer.json", "preprocessor.json", "training.json", "README.md",
    *(f"pytorch_model_{epoch}.bin" for epoch in range(5)),
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_a_run_leaves_the_promised_files_and_no_others(pretrained, model):
    run = pretrained(model)
    assert run.name == model and {path.name for path in run.iterdir()} == FILES
    events = list((run.parent / "logs" / model).iterdir())
    assert events and all(path.name.startswith("events.out.tfevents") for path in events)


@pytest.mark.parametrize("model", MODELS)
def test_the_folder_tells_what_was_run(world, pretrained, model):
    run = pretrained(model)
    vocabulary = f"bert_model={world.path / 'bert-world'}"  # the folder has a copy of it, which counts
    assert load_config(run / "config.json", [vocabulary]) == world.config(model)
    record = json_of(run / "run.json")
    assert record["entry_point"] == "train_concap" and record["start"] == "random initial weights"
    hyper = record["hyperparameters"]
    assert (hyper["epochs"], hyper["batch_size"], hyper["learning_rate"], hyper["seed"]) == (5, 5, 5e-3, 7)
    data = {"volta_compat": False, "data_fraction": 1.0, "data_fraction_seed": 0, "deterministic": False}
    data["shards"] = None
    assert record["settings"] == {
        "objective": 1,
        "masking": "volta",
        "max_seq_length": 38,
        "deterministic": False,
        **data,
    }
    assert record["precision"] == "float32" and "torch" in record["environment"]["versions"]
    weights = BertForVLPreTraining(world.config(model))
    assert record["parameters"] == sum(parameter.numel() for parameter in weights.parameters())
    assert (run / "command.txt").read_text().startswith(f"train_concap.py --config_file demo/{model} --set ")
    assert record["command"][0] == "train_concap.py" and "--learning_rate" in record["command"]


@pytest.mark.parametrize("model", MODELS)
def test_unseen_captions_words_are_learnt(world, tmp_path, model):
    flags = ("--train_batch_size", 10, "--num_train_epochs", 8, "--learning_rate", 1e-2, "--objective", 2)
    run = world.run("train_concap", tmp_path, model, *flags, "--save_best_only")
    first, *_, last = log_of(run, "valid")
    assert last["mlm"] < first["mlm"] - 0.1


@pytest.mark.parametrize("model", MODELS)
def test_every_step_logged_says_where_the_run_stands(pretrained, model):
    lines = log_of(pretrained(model), "train")
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20]  # 20 pairs in batches of 5
    assert [line["samples"] for line in lines] == [20, 40, 60, 80, 100]
    assert [line["epoch"] for line in lines] == [0, 1, 2, 3, 4]
    rates = [5e-3 * min(step / 2, (20 - step) / 18) for step in (4, 8, 12, 16, 20)]  # 2 of 20 steps warm up
    assert [line["lr"] for line in lines] == pytest.approx(rates)
    for line in lines:
        assert {"loss", "mlm", "vision", "itm", "samples_per_second", "time"} < set(line)
        assert line["loss"] == pytest.approx(line["mlm"] + line["vision"] + line["itm"], rel=1e-4)


def test_the_temperature_falls_with_the_samples_seen(world, pretrained):
    switch = world.config("switchbert").switch
    for line in log_of(pretrained("switchbert"), "train"):
        before = line["samples"] - 5  # the last batch was weighed before its samples were counted
        expected = max(switch.min_temperature, switch.temperature * math.exp(-switch.anneal_rate * before))
        assert line["temperature"] == pytest.approx(expected, rel=1e-5)
    assert "temperature" not in log_of(pretrained("ctrl_uniter"), "train")[0]
    weights = weights_of(pretrained("switchbert"), "pytorch_model_4.bin")
    assert weights["bert.encoder.switch_samples"] == 95 and weights["bert.encoder.switch_start_temperature"] == 5.0


@pytest.mark.parametrize("model", MODELS)
def test_validation_logs_soft_routes_beside_hard_ones_for_switch_bert(pretrained, model):
    for line in log_of(pretrained(model), "valid"):
        assert line["score"] == pytest.approx(-line["loss"])  # of hard routes
        soft = {name for name in line if name.endswith("_soft_routes")}
        expected = {f"{name}_soft_routes" for name in ("loss", "mlm", "vision", "itm")}
        assert soft == (expected if model == "switchbert" else set())
    last = log_of(pretrained(model), "valid")[-1]
    assert last.get("loss_soft_routes") != last["loss"]


@pytest.mark.parametrize("model", MODELS)
def test_the_best_epoch_is_kept(pretrained, model):
    run = pretrained(model)
    valid = log_of(run, "valid")
    best = max(valid, key=lambda line: line["score"])
    metrics = json_of(run / "metrics.json")
    assert metrics["best_validation"]["epoch"] == best["epoch"] and metrics["last_validation"]["epoch"] == 4
    assert metrics["best_validation"]["score"] == best["score"]
    assert equal_weights(weights_of(run), weights_of(run, f"pytorch_model_{best['epoch']}.bin"))


def test_weights_are_float32_under_voltas_names_and_load_strictly(world, pretrained):
    model = BertForVLPreTraining(world.config("switchbert"))
    weights = weights_of(pretrained("switchbert"))
    assert load_volta(model, weights) == []
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32, torch.int64}
    assert switch_encoder(model).switch_samples > 0


def test_the_same_seed_gives_the_same_run_and_another_seed_another(world, pretrained, tmp_path):
    first = pretrained("switchbert")
    short = [*PRETRAINING, "--save_best_only"]
    again = world.run("train_concap", tmp_path / "again", "switchbert", *short)
    assert equal_weights(weights_of(first), weights_of(again))
    assert [line["loss"] for line in log_of(first, "valid")] == [line["loss"] for line in log_of(again, "valid")]
    assert not list(again.glob("pytorch_model_[0-9]*.bin"))
    other = world.run("train_concap", tmp_path / "other", "switchbert", *short, "--seed", 8, "--num_train_epochs", 1)
    assert log_of(other, "valid")[0]["loss"] != log_of(first, "valid")[0]["loss"]


def test_the_seed_decides_the_initial_weights(world, tmp_path):
    flags = ("--train_batch_size", 20, "--num_train_epochs", 1, "--learning_rate", 0)  # they come out as they went in
    runs = [
        world.run("train_concap", tmp_path / name, "ctrl_uniter", *flags, "--seed", seed)
        for name, seed in (("first", 1), ("second", 2), ("third", 1))
    ]
    first, second, third = map(weights_of, runs)
    assert equal_weights(first, third) and not equal_weights(first, second)


def test_workers_change_nothing(world, tmp_path):
    flags = ("--train_batch_size", 5, "--num_train_epochs", 2, "--save_best_only")
    runs = [
        world.run("train_concap", tmp_path / str(workers), "switchbert", *flags, "--num_workers", workers)
        for workers in (0, 2)
    ]
    assert equal_weights(*map(weights_of, runs))


@pytest.mark.parametrize("objective", [0, 2])
def test_objectives_say_what_is_predicted(world, tmp_path, objective):
    flags = ("--train_batch_size", 10, "--num_train_epochs", 1, "--objective", objective)
    run = world.run("train_concap", tmp_path, "ctrl_uniter", *flags)
    losses = {"mlm", "vision", "itm"} & set(log_of(run, "train")[0])
    assert losses == ({"mlm", "vision"} if objective == 2 else {"mlm", "vision", "itm"})
    assert json_of(run / "run.json")["settings"]["objective"] == objective and set(OBJECTIVES) == {0, 1, 2}


def test_interberts_masking_and_every_visual_target_train(world, tmp_path):
    targets = {str(target): 1.0 for target in range(7)}
    flags = ("--train_batch_size", 10, "--num_train_epochs", 1, "--masking", "span")
    run = world.run("train_concap", tmp_path, "ctrl_interbert", *flags, visual_target_weights=targets)
    assert math.isfinite(log_of(run, "valid")[0]["loss"])


@pytest.mark.parametrize("model", MODELS)
def test_bf16_runs_on_a_cpu_and_leaves_float32_weights(world, tmp_path, model):
    flags = ("--train_batch_size", 10, "--num_train_epochs", 2, "--learning_rate", 5e-3, "--precision", "bf16")
    run = world.run("train_concap", tmp_path, model, *flags)
    first, last = log_of(run, "valid")
    assert last["mlm"] < first["mlm"] and json_of(run / "run.json")["precision"] == "bfloat16"
    assert not any(tensor.dtype == torch.bfloat16 for tensor in weights_of(run).values())


@pytest.mark.parametrize("compat", [False, True])
def test_voltas_validation_is_restored_on_request(world, tmp_path, compat):
    given = world.flags("train_concap", tmp_path, "ctrl_uniter", add_global_imgfeat="last")
    args = pretraining_flags().parse_args([*given, "--objective", "1", *(["--volta-compat"] if compat else [])])
    config = world.config("ctrl_uniter", add_global_imgfeat="last")
    masked_of_mismatched, slots = {}, {}
    for split in ("train", "valid"):
        (batch,) = split_loader(args, config, Tokenizer(config.bert_model), split, 20)
        mismatched = batch.inputs["next_sentence_label"] == 1
        masked_of_mismatched[split] = bool((batch.inputs["masked_lm_labels"][mismatched] != IGNORED).any())
        slots[split] = batch.global_slot
    assert masked_of_mismatched == {"train": False, "valid": compat}
    assert slots == {"train": -1, "valid": 0 if compat else -1}


def test_a_second_run_in_the_folder_is_marked_in_the_log(world, tmp_path):
    for _ in range(2):
        flags = ("--train_batch_size", 20, "--num_train_epochs", 1, "--overwrite")
        run = world.run("train_concap", tmp_path, "ctrl_uniter", *flags)
    assert [line["resumed"] for line in log_of(run, "start")] == [False, False]


def test_a_batch_smaller_than_its_parts_is_refused_before_anything_is_written(world, tmp_path):
    flags = ("--train_batch_size", 32, "--gradient_accumulation_steps", 33)
    with pytest.raises(UserError, match="a batch of 32 cannot be divided into 33 parts"):
        world.run("train_concap", tmp_path / "out", "ctrl_uniter", *flags)
    assert not (tmp_path / "out").exists()


def test_defaults_are_the_methods():
    flags = pretraining_flags().parse_args([])
    take_model(flags)
    args = vars(flags)
    expected = {
        "train_batch_size": 256, "learning_rate": 1e-4, "num_train_epochs": 10, "max_seq_length": 38, "objective": 1,
        "warmup_proportion": 0.1, "adam_epsilon": 1e-6, "adam_betas": (0.9, 0.999), "weight_decay": 0.01,
        "clip_grad_norm": 5.0, "config_file": "switchbert",
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected


def test_voltas_command_lines_are_taken():
    line = """--bert_model bert-base-uncased"""  # not VOLTA's any more: it lies in the configuration
    with pytest.raises(SystemExit):
        pretraining_flags().parse_args(line.split())
    line = """--config config/ctrl_uniter_base.json --train_batch_size 256 --gradient_accumulation_steps 1
        --max_seq_length 38 --learning_rate 1e-4 --adam_epsilon 1e-6 --adam_betas 0.9 0.999 --weight_decay 0.01
        --warmup_proportion 0.1 --clip_grad_norm 5.0 --objective 1 --annotations_path a --features_path f
        --output_dir o --logdir l --num_train_epochs 10.0 --local_rank 0 --cache 5000 --distributed"""
    args = pretraining_flags().parse_args(line.split())
    assert args.num_train_epochs == 10 and args.config_file == "config/ctrl_uniter_base.json"
    assert json.dumps(args.adam_betas) == "[0.9, 0.999]"
