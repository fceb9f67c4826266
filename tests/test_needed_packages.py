"""What runs without which packages: each case in a process in which they cannot be imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# Everything that is declared but PyTorch and NumPy.
ALL = (
    "yaml safetensors tokenizers huggingface_hub lmdb msgpack jsonlines jinja2 tqdm tabulate tensorboard PIL scipy "
    "h5py webdataset transformers tensorpack hypothesis selenium"
)
BARE_GPU_MACHINE = "lmdb jsonlines webdataset selenium tensorpack"  # what one lacked that had the commoner ones
STEP = """
import torch
from volta_switch import BertForVLPreTraining, load_config
from volta_switch.cost.counts import some_batch
for name in ("ctrl_uniter", "switchbert"):
    config = load_config({**load_config(f"demo/{name}").to_dict(), "vocab_size": 30522})
    model = BertForVLPreTraining(config).train()
    loss = model(**some_batch(2, config=config)).loss
    loss.backward()
    assert torch.isfinite(loss) and any(parameter.grad is not None for parameter in model.parameters())
"""


def python(missing, *words, **more):
    """Python with these arguments, in a process in which packages are missing."""
    folders = [TESTS.parent, TESTS, TESTS.parent / "benchmarks"]
    environment = {**os.environ, "MISSING_PACKAGES": missing, "PYTHONPATH": os.pathsep.join(map(str, folders)), **more}
    command = [sys.executable, *words]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_losses_and_gradients_need_torch_and_numpy_alone():
    done = python(ALL, "-c", f"import missing_packages\n{STEP}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("package", ["yaml", "lmdb"])
def test_a_package_is_missing_where_it_is_said_to_be(package):
    """The cases above and below are not blind."""
    done = python(package, "-c", f"import missing_packages, {package}")
    assert done.returncode == 1 and f"No module named {package!r}" in done.stderr


def test_what_a_gpu_machine_runs_needs_none_of_what_it_lacks():
    modules = "train_step, attention, retrieval, volta_switch.train.pretraining, volta_switch.train.start"
    done = python(BARE_GPU_MACHINE, "-c", f"import missing_packages, {modules}")
    assert done.returncode == 0, done.stderr
