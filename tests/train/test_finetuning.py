"""Fine-tuning through the real entry point, on the three tasks."""

import math

import pytest
import torch

from synthetic_world import ENTRY_POINTS, TASKS, equal_weights, json_of, log_of, refusal, weights_of
from train.short_runs import FINETUNING
from volta_switch.checksums import SUMS
from volta_switch.config.model_folder import take_model
from volta_switch.tasks import load_task
from volta_switch.train.flags import finetuning_flags
from volta_switch.train.loop import Trainer

NAMES = {"vqa": "VQA", "retrieval": "RetrievalFlickr30k", "refer": "refcoco+"}


@pytest.mark.parametrize("model", ["ctrl_uniter", "switchbert"])
@pytest.mark.parametrize("task", ["refer", "vqa"])
def test_the_loss_goes_down(finetuned, model, task):
    run = finetuned(model, task)
    first, *_, last = log_of(run, "train")
    assert last["loss"] < 0.9 * first["loss"]
    first, *_, last = log_of(run, "valid")
    assert last["loss"] < first["loss"]


def test_two_captions_are_told_apart_by_heart(world, tmp_path):
    """Retrieval is the hardest of the three to begin with: the model is wider and starts from larger weights."""
    few = world.copy(tmp_path / "world")
    few.keep("retrieval", 2)
    sizes = dict.fromkeys(("hidden_size", "v_hidden_size", "pooler_size", "v_pooler_size"), 32)
    flags = (
        "--batch_size",
        2,
        "--num_epoch",
        30,
        "--lr",
        5e-3,
        "--seed",
        8,
        "--val_split",
        "train",
        "--save_best_only",
    )
    run = few.run("train_task", tmp_path, "ctrl_uniter", *flags, task="retrieval", initializer_range=0.15, **sizes)
    lines = log_of(run, "train")
    assert lines[0]["loss"] == pytest.approx(math.log(4), abs=0.2)  # four alternatives
    assert min(line["loss"] for line in lines) < 0.8 * math.log(4)


@pytest.mark.parametrize("task", TASKS)
def test_a_run_leaves_the_promised_files_and_no_others(finetuned, task):
    run = finetuned("switchbert", task)
    assert run.name == f"{NAMES[task]}_switchbert"
    assert {path.name for path in run.iterdir()} == {
        "config.json", "run.json", "command.txt", "log.jsonl", "metrics.json", "pytorch_model_best.bin", SUMS,
        "checkpoints", ".lock", "vocab.txt", "tokenizer.json", "task.yml", "preprocessor.json", "training.json",
        "README.md", *(["labels.json"] if task == "vqa" else []),
        *(f"pytorch_model_{epoch}.bin" for epoch in range(3)),
    }  # fmt: skip
    assert list((run.parent / "logs" / run.name).glob("events.out.tfevents*"))


def test_the_folder_tells_what_was_run(world, pretrained, finetuned):
    record = json_of(finetuned("switchbert", "refer") / "run.json")
    start = pretrained("switchbert") / "pytorch_model_best.bin"
    assert record["start"] == f"weights from {start}; left out: cls; fresh: clfs_dict"
    data = {
        "boxes": "detected",
        "deterministic": False,
        "volta_compat": False,
        "data_fraction": 1.0,
        "data_fraction_seed": 0,
    }
    assert record["settings"] == {
        "task": "TASK10",
        "train_split": "train",
        "val_split": "val",
        "boxes": "detected",
        "entry": load_task(world.tasks_file, "10").deciding(),
        **data,
    }
    assert record["hyperparameters"]["epochs"] == 3 and record["hyperparameters"]["weight_decay"] == 1e-4
    assert record["data"]["tasks_config_file"] == str(world.tasks_file)


def test_a_task_model_starts_from_the_pretrained_encoder(world, pretrained, tmp_path):
    """With a rate of nothing the encoder comes out as it went in."""
    start = pretrained("switchbert") / "pytorch_model_best.bin"
    flags = ("--num_epoch", 1, "--batch_size", 40, "--lr", 0, "--from_pretrained", start)
    run = world.run("train_task", tmp_path, "switchbert", *flags, task="refer")
    before, after = torch.load(start, weights_only=True), weights_of(run)
    encoder = {name for name in after if name.startswith("bert.")}
    annealing = {name for name in encoder if name.rpartition(".")[2].startswith("switch_")}
    assert encoder - annealing == {name for name in before if name.startswith("bert.")} - annealing
    assert all(torch.equal(after[name], before[name]) for name in encoder - annealing)
    assert {name.split(".")[0] for name in after} == {"bert", "clfs_dict"}


def test_a_head_from_another_run_comes_out_as_it_went_in(world, finetuned, tmp_path):
    """The prior is where a fresh head starts, and nothing for one that is loaded."""
    start = finetuned("ctrl_uniter", "refer") / "pytorch_model_best.bin"
    flags = ("--num_epoch", 1, "--batch_size", 40, "--lr", 0, "--head_prior", 0.1, "--from_pretrained", start)
    after = weights_of(world.run("train_task", tmp_path, "ctrl_uniter", *flags, task="refer"))
    before = torch.load(start, weights_only=True)
    assert before["clfs_dict.TASK10.bias"].abs() > 0
    assert all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("task", TASKS)
def test_a_sample_is_an_expression_a_question_a_caption(world, finetuned, task):
    """Of retrieval's four alternatives too: the temperature and the log count captions."""
    samples = len(world.task(task, world.config("switchbert")).dataset("train", training=True))
    lines = log_of(finetuned("switchbert", task), "valid")
    assert [line["samples"] for line in lines] == [samples, 2 * samples, 3 * samples]


@pytest.mark.parametrize("start", ["pretrained", ""])
def test_the_temperature_starts_anew_and_lower(world, pretrained, tmp_path, start):
    weights = pretrained("switchbert") / "pytorch_model_best.bin" if start else ""
    switch = world.config("switchbert").switch
    flags = ("--num_epoch", 2, "--batch_size", 10, "--from_pretrained", weights)
    few = world.copy(tmp_path / "world")
    few.keep("refer", 20)
    run = few.run("train_task", tmp_path, "switchbert", *flags, task="refer")
    found = [line["temperature"] for line in log_of(run, "train")]
    assert found == pytest.approx([switch.finetune_temperature * math.exp(-switch.anneal_rate * n) for n in (10, 30)])
    assert switch.finetune_temperature < switch.temperature


@pytest.mark.parametrize("task", TASKS)
def test_validation_logs_soft_routes_beside_hard_ones(finetuned, task):
    metric = {"vqa": "vqa_score", "retrieval": "accuracy_4way", "refer": "accuracy"}[task]
    for line in log_of(finetuned("switchbert", task), "valid"):
        assert line["score"] == line[metric] and {f"{metric}_soft_routes", "loss_soft_routes"} < set(line)
        assert 0 <= line["score"] <= 100
    lines = log_of(finetuned("switchbert", task), "valid")
    assert any(line["loss_soft_routes"] != line["loss"] for line in lines)


def test_the_best_epoch_is_the_first_of_the_highest_score(finetuned):
    for task in TASKS:
        run = finetuned("switchbert", task)
        valid = log_of(run, "valid")
        best = max(valid, key=lambda line: line["score"])  # max takes the first
        assert json_of(run / "metrics.json")["best_validation"]["epoch"] == best["epoch"]
        assert equal_weights(weights_of(run), weights_of(run, f"pytorch_model_{best['epoch']}.bin"))


def test_the_same_seed_gives_the_same_run(world, pretrained, finetuned, tmp_path):
    start = pretrained("switchbert") / "pytorch_model_best.bin"
    again = world.run("train_task", tmp_path, "switchbert", *FINETUNING, "--from_pretrained", start, task="retrieval")
    assert equal_weights(weights_of(finetuned("switchbert", "retrieval")), weights_of(again))


def test_bf16_runs_on_a_cpu(world, tmp_path):
    flags = ("--num_epoch", 1, "--batch_size", 16, "--lr", 5e-3, "--precision", "bf16")
    for task in TASKS:
        run = world.run("train_task", tmp_path, "switchbert", *flags, task=task)
        assert math.isfinite(log_of(run, "train")[-1]["loss"]) and json_of(run / "run.json")["precision"] == "bfloat16"


@pytest.mark.parametrize("task", TASKS)
def test_accumulated_gradients_are_those_of_the_whole_batch(world, tmp_path, task, monkeypatch):
    few = world.copy(tmp_path / "world")
    few.keep(task, 8)
    whole, halves = (gradients(few, tmp_path / str(steps), task, steps, monkeypatch) for steps in (1, 2))
    scale = max(gradient.abs().max() for gradient in whole.values())
    assert whole.keys() == halves.keys() and scale > 1e-3
    for name, gradient in whole.items():
        # A bias that all alternatives share has gradient 0 but for rounding, which the floor of the tolerance covers.
        torch.testing.assert_close(halves[name], gradient, rtol=1e-5, atol=max(1e-5 * float(scale), 1e-7), msg=name)


def gradients(world, out, task, steps, monkeypatch):
    """The gradients of the only step of an epoch of 8 samples, taken in ``steps`` parts."""
    found = {}

    def look(trainer):
        parameters = trainer.learner.model.named_parameters()
        found.update({name: p.grad.clone() for name, p in parameters if p.grad is not None})
        return update(trainer)

    update = Trainer._update
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_update", look)
        flags = ("--num_epoch", 1, "--batch_size", 8, "--gradient_accumulation_steps", steps, "--deterministic")
        run = world.run("train_task", out, "ctrl_uniter", *flags, task=task)
    (line,) = log_of(run, "train")
    assert (line["step"], line["samples"]) == (1, 8)
    return found


def test_accumulation_counts_the_optimisers_steps(world, tmp_path):
    few = world.copy(tmp_path / "world")
    few.keep("refer", 10)
    flags = ("--num_epoch", 2, "--batch_size", 4, "--gradient_accumulation_steps", 2)
    run = few.run("train_task", tmp_path, "ctrl_uniter", *flags, task="refer")
    lines = log_of(run, "train")  # batches of 4, 4 and 2 samples
    assert [(line["step"], line["samples"]) for line in lines] == [(3, 10), (6, 20)]


def test_flags_override_the_task_file_and_nothing_is_not_ignored(world, tmp_path, capsys):
    for flag in ("--num_epoch", "--batch_size"):
        argv = [*world.flags("train_task", tmp_path / "out", "ctrl_uniter", "refer"), flag, 0]
        message = refusal(ENTRY_POINTS["train_task"], argv, capsys)
        assert message.startswith(f"{flag}: expected a whole number from 1 to 1000000, found 0")
    assert not (tmp_path / "out").exists()


def test_the_task_files_hyperparameters_are_taken(world, tmp_path):
    own = world.copy(tmp_path / "world", num_epoch=1, batch_size=16, lr=3e-3)
    record = json_of(own.run("train_task", tmp_path, "ctrl_uniter", task="refer") / "run.json")["hyperparameters"]
    assert (record["epochs"], record["batch_size"], record["learning_rate"]) == (1, 16, 3e-3)


def test_a_task_may_override_the_fusion_method(world, tmp_path):
    own = world.copy(tmp_path / "world", num_epoch=1, fusion_method="text")
    run = own.run("train_task", tmp_path, "ctrl_uniter", "--save_name", "text", task="vqa")
    assert json_of(run / "config.json")["fusion_method"] == "text" and run.name == "VQA_ctrl_uniter-text"


def test_defaults_are_the_methods():
    flags = finetuning_flags().parse_args([])
    take_model(flags)
    args = vars(flags)
    expected = {
        "warmup_proportion": 0.1, "adam_epsilon": 1e-6, "adam_betas": (0.9, 0.999), "weight_decay": 1e-4,
        "clip_grad_norm": 1.0, "config_file": "switchbert", "tasks_config_file": None,
    }  # fmt: skip
    assert {name: args[name] for name in expected} == expected
