"""Which device a run takes, and in which precision."""

import os
import subprocess
import sys

import pytest
import torch

from volta_switch import UserError
from volta_switch.train.device import choose_device, prepare_device
from volta_switch.train.flags import TRAINING, parser
from volta_switch.train.ranks import Ranks

GPU = torch.device("cuda", 0)


def prepared(*flags, ranks=None):
    return prepare_device(parser("test", 0, TRAINING).parse_args(list(flags)), ranks)


@pytest.mark.parametrize("flags", [(), ("--device", "auto"), ("--device", "cuda"), ("--device", "cuda:0")])
@pytest.mark.parametrize("ranks", [None, Ranks()])
def test_a_gpu_is_taken_with_its_number_and_bf16(flags, ranks):
    assert prepared(*flags, ranks=ranks) == (GPU, torch.bfloat16)


def test_the_cpu_is_taken_where_it_is_asked_for():
    assert prepared("--device", "cpu") == (torch.device("cpu"), torch.float32)
    assert prepared("--precision", "fp32") == (GPU, torch.float32)


def test_each_of_several_processes_takes_the_gpu_of_its_number(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert choose_device("auto", Ranks(8, 16)) == choose_device("cuda", Ranks(8, 16)) == GPU
    monkeypatch.setenv("LOCAL_RANK", "3")  # of a machine with one
    for name in ("auto", "cuda"):
        with pytest.raises(UserError, match=f"--device {name}: cuda:3: .*ordinal; choose cpu, or cuda .* each process"):
            choose_device(name, Ranks(11, 16))


def test_several_processes_are_not_sent_to_one_gpu(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    for name in ("auto", "cuda"):
        with pytest.raises(UserError, match=f"--device {name}: LOCAL_RANK is not set"):
            choose_device(name, Ranks(1, 2))
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(UserError, match=r"--device cuda:0: would put 2 processes on one GPU; give cuda"):
        choose_device("cuda:0", Ranks(0, 2))


@pytest.mark.parametrize("name", ["cuda:1", "cuda:99"])
def test_a_gpu_that_is_not_there_is_refused(name):
    with pytest.raises(UserError, match=f"--device {name}: {name}: .*ordinal; choose cpu"):
        choose_device(name, Ranks())


@pytest.mark.parametrize("name", ["meta", "mps", "gpu", "cuda:x", "cuda:-1", ""])
def test_other_devices_are_refused(name):
    with pytest.raises(UserError, match=f"--device {name}: .*choose cpu"):
        choose_device(name, Ranks())


def test_deterministic_products_are_asked_of_cublas_before_there_is_one():
    """In a process of its own: the environment is read once."""
    asked = "from volta_switch.train.device import compute_deterministically; import os, torch;"
    asked += "compute_deterministically(torch.device('cuda', 0)); print(os.environ['CUBLAS_WORKSPACE_CONFIG'],"
    asked += "torch.are_deterministic_algorithms_enabled())"
    environment = {name: value for name, value in os.environ.items() if name != "CUBLAS_WORKSPACE_CONFIG"}
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, env=environment, timeout=120)
    assert said.stdout.split() == [":4096:8", "True"], said.stderr
