"""What the four entry points share: exit codes, devices, truth values, run names."""

import argparse

import pytest
import torch

from volta_switch import UserError
from volta_switch.command import run_command
from volta_switch.config.model_folder import take_model
from volta_switch.train.device import prepare_device
from volta_switch.train.flag_values import run_name
from volta_switch.train.flags import TRAINING, parser
from volta_switch.train.run_data import load_tokenizer


def parsed(*flags):
    return parser("", 3, TRAINING).parse_args([str(flag) for flag in flags])


def test_a_command_that_ends_well_exits_with_nothing(capsys):
    run_command(lambda argv: print(argv), ["a", "b"])
    assert capsys.readouterr() == ("['a', 'b']\n", "")


def test_bad_input_is_one_line_and_exit_code_2(capsys):
    def refuse(argv):
        raise UserError("file.json: broken; write it again")

    with pytest.raises(SystemExit) as caught:
        run_command(refuse, [])
    assert caught.value.code == 2 and capsys.readouterr() == ("", "error: file.json: broken; write it again\n")


def test_other_errors_are_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(lambda argv: 1 / 0, [])


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("1", True), ("yes", True), ("False", False), ("0", False), ("", False)],
)
def test_in_memory_is_a_switch_or_takes_a_truth_value(text, value):
    assert parsed("--in_memory", text).in_memory is value
    assert parsed("--in_memory").in_memory is True and parsed().in_memory is False


def test_auto_takes_float32_on_a_cpu():
    assert prepare_device(parsed("--device", "cpu")) == (torch.device("cpu"), torch.float32)
    assert prepare_device(parsed("--device", "cpu", "--precision", "bf16"))[1] == torch.bfloat16
    assert prepare_device(parsed("--device", "cpu", "--precision", "fp32"))[1] == torch.float32


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x", ""])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(UserError, match=f"--device {device}: .*choose cpu") as caught:
        prepare_device(parsed("--device", device))
    assert "\n" not in str(caught.value)


def test_threads_are_set_where_asked_for():
    before = torch.get_num_threads()
    prepare_device(parsed("--device", "cpu", "--threads", before + 1))
    try:
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    prepare_device(parsed("--device", "cpu"))
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("flags", "name"), [
    ((), "switchbert"), (("--config", "demo/ctrl_uniter.json"), "ctrl_uniter"),
    (("--save_name", "x"), "switchbert-x"),
])  # fmt: skip
def test_a_run_is_named_by_its_model(flags, name):
    args = parsed(*flags)
    take_model(args)
    assert run_name(args) == name and run_name(args, "VQA_") == f"VQA_{name}"


@pytest.mark.parametrize("length", [2, 65])
def test_texts_must_fit_the_models_positions(world, length):
    with pytest.raises(UserError, match=f"max_seq_length is {length}, expected 3 to 64"):
        load_tokenizer(world.config("ctrl_uniter"), length)
    assert load_tokenizer(world.config("ctrl_uniter"), 64).vocab_size == world.config("ctrl_uniter").vocab_size


def test_the_help_names_every_flags_default(capsys):
    with pytest.raises(SystemExit) as caught:
        parsed("--help")
    assert caught.value.code == 0 and "(default: checkpoints)" in capsys.readouterr().out
    assert isinstance(parser("", 0, TRAINING), argparse.ArgumentParser)
