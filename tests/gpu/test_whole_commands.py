"""Whole commands on the device, from files on the disk: pre-training, fine-tuning, evaluation, retrieval."""

from __future__ import annotations

import json

import pytest
import torch

from gpu.device import DEVICE, needs

needs("lmdb", "jsonlines", "msgpack", "yaml", "tokenizers", "safetensors", "tensorboard", "tqdm", "PIL")

from synthetic_world import log_of, weights_of, write_synthetic_world

TASKS = ("vqa", "refer", "retrieval")
SHORT = ("--device", str(DEVICE), "--precision", "bf16")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_synthetic_world(tmp_path_factory.mktemp("small") / "world")


@pytest.fixture(scope="module")
def pretrained(small, tmp_path_factory):
    flags = (*SHORT, "--train_batch_size", 8, "--num_train_epochs", 1, "--num_workers", 1)
    return small.run("train_concap", tmp_path_factory.mktemp("pretrained"), "switchbert", *flags)


def test_pretraining_reads_files_and_writes_weights(pretrained):
    assert log_of(pretrained, "valid") and weights_of(pretrained)
    settings = json.loads((pretrained / "run.json").read_text())
    assert settings["precision"] == "bfloat16"
    if DEVICE.type == "cuda":
        assert settings["environment"]["device"] == torch.cuda.get_device_name()


@pytest.mark.parametrize("task", TASKS)
def test_a_task_is_trained_and_evaluated(small, pretrained, tmp_path, task):
    start = pretrained / "pytorch_model_best.bin"
    flags = (*SHORT, "--batch_size", 8, "--num_epoch", 1, "--from_pretrained", start)
    run = small.run("train_task", tmp_path / "trained", "switchbert", *flags, task=task)
    entry = "eval_retrieval" if task == "retrieval" else "eval_task"
    flags = (*SHORT, "--from_pretrained", run / "pytorch_model_best.bin")
    small.run(entry, tmp_path / "evaluated", "switchbert", *flags, task=task)
    results = [path for path in (tmp_path / "evaluated").rglob("*.json") if path.stat().st_size > 2]
    assert log_of(run, "valid") and results
