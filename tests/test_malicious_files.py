"""Code in a file that a user was given is never run, and the file is refused in one line."""

import os
import pickle

import pytest
import torch

from synthetic_world import ENTRY_POINTS, refusal, run_script

TASK = {"train_concap": "", "train_task": "refer", "eval_task": "refer", "eval_retrieval": "retrieval"}


@pytest.fixture
def refused(world, tmp_path, capsys):
    """refused(entry, *flags) -> the message; checks that the entry point wrote nothing."""

    def run(entry, *flags, at=world):
        argv = [*at.flags(entry, tmp_path / "out", "ctrl_uniter", TASK[entry]), *flags]
        message = refusal(ENTRY_POINTS[entry], argv, capsys)
        assert not (tmp_path / "out").exists()
        return message

    return run


class Malicious:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def malicious_weights(folder, protocol=2):
    """A weight file, and the folder that appears if code in it is run."""
    path = folder / "weights.bin"
    path.write_bytes(pickle.dumps({"weight": Malicious(folder / "executed")}, protocol=protocol))
    return path, folder / "executed"


def test_the_malicious_file_is_one(tmp_path):
    path, executed = malicious_weights(tmp_path)
    pickle.loads(path.read_bytes())
    assert executed.exists()


@pytest.mark.parametrize("entry", TASK)
@pytest.mark.parametrize("protocol", [2, 4])
def test_code_in_a_weight_file_is_not_run(refused, tmp_path, entry, protocol):
    path, executed = malicious_weights(tmp_path, protocol)
    message = refused(entry, "--from_pretrained", path)
    assert message.startswith(f"{path}: could not be read as weights (") and "nothing in it was run" in message
    assert not executed.exists()


def test_code_in_a_zip_of_weights_is_not_run(refused, tmp_path):
    torch.save({"bert.attention_self.x": Malicious(tmp_path / "executed")}, tmp_path / "weights.bin")
    message = refused("train_task", "--from_pretrained", tmp_path / "weights.bin")
    assert "could not be read as weights (" in message and not (tmp_path / "executed").exists()


def test_code_in_a_state_or_an_annotation_file_is_not_run(refused, world, tmp_path):
    path, executed = malicious_weights(tmp_path)
    assert "could not be read as a checkpoint" in refused("train_task", "--resume_file", path)
    bad = world.copy(tmp_path / "world")
    safe = bad.path / "datasets/refcoco+_unc/annotations/refcoco+/refs(unc).p"
    safe.write_bytes(path.read_bytes())
    assert "which plain data and NumPy arrays do not need" in refused("train_task", at=bad)
    assert not executed.exists()


def test_a_script_says_one_line_of_it(world, tmp_path):
    """Warnings of libraries included, and PyTorch's advice to run the code after all."""
    path, executed = malicious_weights(tmp_path, protocol=4)
    argv = world.flags("eval_retrieval", tmp_path / "out", "ctrl_uniter", "retrieval")
    done = run_script("eval_retrieval", argv, "--from_pretrained", path)
    assert done.returncode == 2 and done.stdout == "" and "weights_only" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith(f"error: {path}: could not be read as weights")
    assert not executed.exists() and not (tmp_path / "out").exists()
