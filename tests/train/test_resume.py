"""A run that was killed and continued ends bit for bit like one that was not."""

import pytest

from synthetic_world import interrupted_at, json_of, log_of, weights_of
from train.run_ends import logged, newest, same_end
from volta_switch import UserError
from volta_switch.command import run_command
from volta_switch.train import finetuning
from volta_switch.train.checkpoints import CheckpointStore
from volta_switch.train.run_folder import CHECKPOINTS

# 20 pairs in batches of 4: 5 steps an epoch. States are saved after steps 2, 4, 5 (the epoch's end), 6, 8 and 10.
PRETRAINING = ("--train_batch_size", 4, "--num_train_epochs", 2, "--learning_rate", 5e-3, "--save_every", 2)
DROPOUT = {"hidden_dropout_prob": 0.1, "v_hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):
    """A pre-training run of Switch-BERT, with dropout and Gumbel noise, that was not interrupted."""
    return world.run("train_concap", tmp_path_factory.mktemp("whole"), "switchbert", *PRETRAINING, **DROPOUT)


@pytest.mark.parametrize(("step", "saved"), [(5, 5), (7, 6), (3, 2), (1, None)])
def test_pretraining_goes_on_from_an_epochs_end_or_its_middle(world, whole, tmp_path, step, saved):
    with interrupted_at(step):
        world.run("train_concap", tmp_path, "switchbert", *PRETRAINING, **DROPOUT)
    store = CheckpointStore(tmp_path / "switchbert" / CHECKPOINTS)
    assert store.newest() == (saved and store.folder / f"step-{saved:08d}")
    run = world.run("train_concap", tmp_path, "switchbert", *PRETRAINING, "--resume", **DROPOUT)
    assert same_end(run, whole)
    assert [line["resumed"] for line in log_of(run, "start")] == [False, saved is not None]
    assert log_of(run, "start")[-1]["step"] == (saved or 0)
    assert log_of(run, "valid")[-1].items() > {"epoch": 1, "step": 10, "samples": 40}.items()
    assert log_of(run, "valid")[-1]["loss"] == log_of(whole, "valid")[-1]["loss"]
    assert logged(run) == logged(whole)  # what was logged behind the checkpoint stands once


@pytest.mark.parametrize("task", ["refer", "retrieval"])
def test_fine_tuning_goes_on_in_the_middle_of_an_epoch(world, tmp_path, task):
    few = world.copy(tmp_path / "world")
    few.keep(task, 10)  # batches of 4, 4 and 2
    flags = ("--batch_size", 4, "--gradient_accumulation_steps", 2, "--num_epoch", 2, "--save_every", 1)
    flags += ("--lr", 5e-3, "--val_split", "train")
    whole = few.run("train_task", tmp_path / "whole", "switchbert", *flags, task=task, **DROPOUT)
    for step in (1, 3, 4):
        out = tmp_path / f"from {step}"
        with interrupted_at(step):
            few.run("train_task", out, "switchbert", *flags, task=task, **DROPOUT)
        assert same_end(few.run("train_task", out, "switchbert", *flags, "--resume", task=task, **DROPOUT), whole)


def test_resume_file_names_the_state_to_go_on_from(world, whole, tmp_path):
    with interrupted_at(7):
        world.run("train_concap", tmp_path / "first", "switchbert", *PRETRAINING, **DROPOUT)
    state = tmp_path / "first" / "switchbert" / CHECKPOINTS / "step-00000006"
    elsewhere = tmp_path / "second"
    run = world.run("train_concap", elsewhere, "switchbert", *PRETRAINING, "--resume_file", state, **DROPOUT)
    assert run == elsewhere / "switchbert" and same_end(run, whole)


def test_a_finished_run_is_left_as_it_is(world, whole, tmp_path):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.suffix in (".bin", ".safetensors")}
    world.run("train_concap", whole.parent, "switchbert", *PRETRAINING, "--resume", **DROPOUT)
    assert before == {path: path.read_bytes() for path in before} and newest(whole).progress.step == 10


def test_a_run_that_starts_anew_discards_the_one_before_where_it_is_asked_to(world, tmp_path):
    with interrupted_at(7):
        world.run("train_concap", tmp_path, "ctrl_uniter", *PRETRAINING)
    store = CheckpointStore(tmp_path / "ctrl_uniter" / CHECKPOINTS)
    before = {path: path.read_bytes() for path in store.folder.parent.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"holds a run that has not ended: .*; --resume goes on, --overwrite discards"):
        world.run("train_concap", tmp_path, "ctrl_uniter", *PRETRAINING)
    assert {path: path.read_bytes() for path in store.folder.parent.rglob("*") if path.is_file()} == before
    with interrupted_at(3):
        world.run("train_concap", tmp_path, "ctrl_uniter", *PRETRAINING, "--overwrite")
    assert [path.name for path in store.folder.iterdir()] == ["step-00000002"]


def test_the_last_two_checkpoints_are_kept(whole):
    names = sorted(path.name for path in (whole / CHECKPOINTS).iterdir())
    assert names == ["step-00000008", "step-00000010"]


def test_a_damaged_checkpoint_is_refused_and_the_one_before_goes_on(world, whole, tmp_path):
    with interrupted_at(7):
        world.run("train_concap", tmp_path, "switchbert", *PRETRAINING, **DROPOUT)
    folder = tmp_path / "switchbert" / CHECKPOINTS
    torn = folder / "step-00000006" / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(UserError, match=r"step-00000006.*--resume_file .*step-00000005"):
        world.run("train_concap", tmp_path, "switchbert", *PRETRAINING, "--resume", **DROPOUT)
    good = ("--resume_file", folder / "step-00000005")
    assert same_end(world.run("train_concap", tmp_path, "switchbert", *PRETRAINING, *good, **DROPOUT), whole)


def test_interrupting_says_how_to_go_on(world, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("volta_switch.train.loop.Trainer._update", interrupted)
    with pytest.raises(SystemExit) as caught:
        run_command(finetuning.main, world.flags("train_task", tmp_path, "ctrl_uniter", "refer"))
    assert caught.value.code == 130 and "--resume" in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoints_weights_are_a_weight_file_too(world, whole, tmp_path):
    weights = whole / CHECKPOINTS / "step-00000010" / "model.safetensors"
    run = world.run("train_concap", tmp_path, "switchbert", "--from_pretrained", weights, *PRETRAINING, **DROPOUT)
    assert json_of(run / "run.json")["start"] == f"weights from {weights}"
    assert weights_of(whole, "pytorch_model_1.bin").keys() == newest(whole).model.keys()
