"""The flags that say how a step is computed: what they leave as it is, and what they refuse."""

import pytest
import torch

from synthetic_world import log_of, weights_of
from train.run_ends import newest
from volta_switch import UserError
from volta_switch.train import loop, start

FLAGS = ("--train_batch_size", 10, "--num_train_epochs", 2, "--learning_rate", 5e-3, "--log_every", 1)
DROPOUT = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.1)


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory):
    return world.run("train_concap", tmp_path_factory.mktemp("plain"), "switchbert", *FLAGS, **DROPOUT)


def losses(run):
    return [line["loss"] for line in log_of(run, "train")]


@pytest.mark.parametrize("noise", [(), ("--deterministic",)])
def test_recomputing_layers_changes_nothing(world, plain, tmp_path, noise):
    again = world.run(
        "train_concap", tmp_path / "again", "switchbert", *FLAGS, "--gradient_checkpointing", *noise, **DROPOUT
    )
    kept = world.run("train_concap", tmp_path / "kept", "switchbert", *FLAGS, *noise, **DROPOUT) if noise else plain
    assert losses(again) == pytest.approx(losses(kept), rel=1e-6)
    assert noise == () or losses(kept) != losses(plain)


def test_fp16_scales_the_loss_and_lowers_the_scale_where_it_overflows(world, tmp_path):
    run = world.run("train_concap", tmp_path, "ctrl_uniter", *FLAGS, "--precision", "fp16")
    scale = newest(run).plain["loss_scale"]["scale"]
    assert [line["loss_scale"] for line in log_of(run, "train")][-1] == scale and 1 < scale <= 65536
    assert not log_of(run, "skipped")  # an overflow of a scaled loss is no fault of the samples
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(run).values() if tensor.is_floating_point())
    longer = world.run(
        "train_concap", tmp_path, "ctrl_uniter", *FLAGS, "--precision", "fp16", "--resume", "--num_train_epochs", 2
    )
    assert newest(longer).plain["loss_scale"]["scale"] == scale


@pytest.mark.parametrize("model", ["ctrl_uniter", "ctrl_lxmert", "switchbert"])
def test_fp16_leaves_out_few_steps_where_image_biases_are_drawn(world, tmp_path, model):
    """A step that overflows is left out and halves the scale of 65,536; ``test_first_gradients`` says why they do."""
    flags = (*FLAGS, "--precision", "fp16", "--num_train_epochs", 12)
    plain, drawn = (
        world.run("train_concap", tmp_path / name, model, *flags, **fields)
        for name, fields in (("plain", {"image_bias_range": 0}), ("drawn", {"image_bias_range": 0.05}))
    )
    scales = [[line["loss_scale"] for line in log_of(run, "train")] for run in (plain, drawn)]
    assert [len(of_run) for of_run in scales] == [24, 24]
    assert scales[0][-1] <= 65536 / 2**6 and scales[1][-1] >= 65536 / 2**4
    assert all(torch.isfinite(tensor).all() for tensor in weights_of(drawn).values() if tensor.is_floating_point())
    before, *_, after = (line["loss"] for line in log_of(drawn, "valid"))
    assert after < before - 0.2


def test_a_scaled_loss_trains_like_one_that_is_not(world, tmp_path, monkeypatch):
    """In float32, with the scale that float16 would have: the step is the same."""
    plain = world.run("train_concap", tmp_path / "plain", "ctrl_uniter", *FLAGS, "--clip_grad_norm", 0.5)
    scaler = torch.amp.GradScaler
    monkeypatch.setattr(loop.torch.amp, "GradScaler", lambda device, enabled: scaler(device, enabled=True))
    scaled = world.run("train_concap", tmp_path / "scaled", "ctrl_uniter", *FLAGS, "--clip_grad_norm", 0.5)
    for name, tensor in weights_of(plain).items():
        torch.testing.assert_close(weights_of(scaled)[name], tensor, rtol=1e-5, atol=1e-6)


def test_layers_are_compiled_where_asked(world, tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(start, "compile_layers", compiled.append)
    world.run("train_concap", tmp_path, "ctrl_uniter", *FLAGS, "--compile")
    assert [type(model).__name__ for model in compiled] == ["BertForVLPreTraining"]


@pytest.mark.parametrize(
    ("model", "flags", "changes", "message"),
    [
        ("ctrl_uniter", ("--fsdp",), {}, "--fsdp divides a model among several processes; start them with torchrun"),
        ("ctrl_uniter", ("--fsdp", "--precision", "fp16"), {}, "take bf16"),
        ("ctrl_vl-bert", ("--deterministic", "--gradient_accumulation_steps", 2), {}, "--deterministic with 2 parts: "),
        (
            "ctrl_uniter",
            ("--deterministic", "--gradient_accumulation_steps", 2),
            {"visual_target_weights": {"2": 1}},
            "--deterministic with 2 parts: ",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(world, tmp_path, model, flags, changes, message):
    with pytest.raises(UserError) as caught:
        world.run("train_concap", tmp_path / "out", model, *FLAGS, *flags, **changes)
    assert message in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--save_every", "often"), ("--save_every", "-1"), ("--save_every", "nanm"), ("--keep_checkpoints", "0"),
        ("--gradient_accumulation_steps", "0"), ("--log_every", "x"), ("--precision", "fp8"),
    ],
)  # fmt: skip
def test_flags_out_of_range_are_refused(world, tmp_path, capsys, flag, value):
    with pytest.raises(SystemExit) as caught:
        world.run("train_concap", tmp_path / "out", "ctrl_uniter", flag, value)
    assert caught.value.code == 2 and flag in capsys.readouterr().err


def test_a_checkpoint_may_be_due_by_the_clock(world, tmp_path, monkeypatch):
    saved, save = [], loop.Trainer._save

    def noting(trainer):
        saved.append(trainer.progress.step)
        return save(trainer)

    monkeypatch.setattr(loop.Trainer, "_save", noting)
    world.run("train_concap", tmp_path / "always", "ctrl_uniter", *FLAGS, "--save_every", "0.0000001m")
    assert saved == [0, 1, 2, 2, 3, 4]  # before each step but also at the end of each epoch
    saved.clear()
    world.run("train_concap", tmp_path / "never", "ctrl_uniter", *FLAGS, "--save_every", 0)
    assert saved == [2, 4]
