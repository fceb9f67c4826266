"""A run that was killed and continued ends bit for bit like one that was not."""

import pytest
import torch

from small_world import interrupted_at, json_of, log_of, weights_of
from volta_switch.train import arguments, finetuning
from volta_switch.train.checkpoints import FORMAT, Progress
from volta_switch.train.run_folder import LATEST

# 20 pairs in batches of 4: 5 steps an epoch. States are saved after steps 2, 4, 5 (the epoch's end), 6, 8 and 10.
PRETRAINING = ("--train_batch_size", 4, "--num_train_epochs", 2, "--learning_rate", 5e-3, "--save_steps", 2)
DROPOUT = {"hidden_dropout_prob": 0.1, "v_hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


def same_end(left, right):
    """Whether two runs ended with equal weights, optimiser states, random states and progress."""
    left, right = (torch.load(run / LATEST, weights_only=True) for run in (left, right))
    assert left["progress"] == right["progress"]
    return (
        all(torch.equal(tensor, right["model_state_dict"][name]) for name, tensor in left["model_state_dict"].items())
        and torch.equal(left["rng"]["cpu"], right["rng"]["cpu"])
        and left["scheduler_state_dict"] == right["scheduler_state_dict"]
        and all(
            torch.equal(tensor, right["optimizer_state_dict"]["state"][key][name])
            for key, values in left["optimizer_state_dict"]["state"].items()
            for name, tensor in values.items()
        )
    )


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A pre-training run of Switch-BERT, with dropout and Gumbel noise, that was not interrupted."""
    return world.run("train_concap", tmp_path_factory.mktemp("whole"), "switchbert", *PRETRAINING, **DROPOUT)


@pytest.mark.parametrize(("step", "saved"), [(5, 5), (7, 6), (3, 2), (1, None)])
def test_pretraining_goes_on_from_an_epochs_end_or_its_middle(world, whole, tmp_path, step, saved):
    with interrupted_at(step):
        world.run("train_concap", tmp_path, "switchbert", *PRETRAINING, **DROPOUT)
    state = tmp_path / "switchbert" / LATEST
    assert state.is_file() == (saved is not None)
    if saved is not None:
        assert torch.load(state, weights_only=True)["progress"]["step"] == saved
    run = world.run("train_concap", tmp_path, "switchbert", *PRETRAINING, "--resume", **DROPOUT)
    assert same_end(run, whole)
    assert [line["resumed"] for line in log_of(run, "start")] == [False, saved is not None]
    assert log_of(run, "start")[-1]["step"] == (saved or 0)
    assert log_of(run, "valid")[-1].items() > {"epoch": 1, "step": 10, "samples": 40}.items()
    assert log_of(run, "valid")[-1]["loss"] == log_of(whole, "valid")[-1]["loss"]
    best, expected = (json_of(folder / "metrics.json")["best_validation"] for folder in (run, whole))
    assert best == expected


@pytest.mark.parametrize("task", ["refer", "retrieval"])
def test_fine_tuning_goes_on_in_the_middle_of_an_epoch(world, tmp_path, task):
    few = world.copy(tmp_path / "world")
    few.keep(task, 10)  # 5 parts of 2: 2 steps an epoch, and a part left over
    flags = ("--batch_size", 4, "--gradient_accumulation_steps", 2, "--num_epoch", 2, "--save_steps", 1)
    flags += ("--lr", 5e-3, "--val_split", "train")
    whole = few.run("train_task", tmp_path / "whole", "switchbert", *flags, task=task, **DROPOUT)
    for step in (1, 2, 3):
        out = tmp_path / f"from {step}"
        with interrupted_at(step):
            few.run("train_task", out, "switchbert", *flags, task=task, **DROPOUT)
        assert same_end(few.run("train_task", out, "switchbert", *flags, "--resume", task=task, **DROPOUT), whole)


def test_resume_file_names_the_state_to_go_on_from(world, whole, tmp_path):
    with interrupted_at(7):
        world.run("train_concap", tmp_path / "first", "switchbert", *PRETRAINING, **DROPOUT)
    state = tmp_path / "first" / "switchbert" / LATEST
    elsewhere = tmp_path / "second"
    run = world.run("train_concap", elsewhere, "switchbert", *PRETRAINING, "--resume_file", state, **DROPOUT)
    assert run == elsewhere / "switchbert" and same_end(run, whole)


def test_a_finished_run_is_left_as_it_is(world, whole, tmp_path):
    before = {path.name: path.read_bytes() for path in whole.iterdir() if path.suffix in (".bin", ".tar")}
    world.run("train_concap", whole.parent, "switchbert", *PRETRAINING, "--resume", **DROPOUT)
    assert before == {path.name: path.read_bytes() for path in whole.iterdir() if path.suffix in (".bin", ".tar")}


def test_a_killed_run_leaves_no_half_written_file(world, tmp_path, monkeypatch):
    with interrupted_at(7):
        world.run("train_concap", tmp_path, "ctrl_uniter", *PRETRAINING)
    run = tmp_path / "ctrl_uniter"
    good = (run / LATEST).read_bytes()
    save = torch.save

    def dying(value, path):
        save({"half": torch.zeros(3)}, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dying)
    with pytest.raises(KeyboardInterrupt):
        world.run("train_concap", tmp_path, "ctrl_uniter", *PRETRAINING, "--resume")
    monkeypatch.undo()
    assert (run / LATEST).read_bytes() == good
    assert not [path for path in run.iterdir() if path.name.startswith(".")]
    world.run("train_concap", tmp_path, "ctrl_uniter", *PRETRAINING, "--resume")


def test_interrupting_says_how_to_go_on(world, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("volta_switch.train.loop.Trainer._step", interrupted)
    with pytest.raises(SystemExit) as caught:
        arguments.run_command(finetuning.main, world.flags("train_task", tmp_path, "ctrl_uniter", "refer"))
    assert caught.value.code == 130 and "--resume" in capsys.readouterr().err.splitlines()[-1]


def test_the_state_holds_plain_data_only(whole):
    state = torch.load(whole / LATEST, weights_only=True)
    assert state["format"] == FORMAT and Progress(**state["progress"]).step == 10
    assert state["identity"]["hyperparameters"]["batch_size"] == 4
    assert weights_of(whole, "pytorch_model_1.bin").keys() == state["model_state_dict"].keys()
