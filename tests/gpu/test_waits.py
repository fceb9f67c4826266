"""Between two lines of the log a training step never waits for the device, and copies from page-locked memory alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
import torch

from gpu.device import DEVICE, gpu_proper, needs

needs("msgpack", "safetensors", "tensorboard", "tqdm")

from gpu.in_memory import trainer
from model.parts_of_batches import MODELS as GOLDEN
from volta_switch.train.ranks import Ranks

MODELS = [*GOLDEN[:-1], "switchbert"]
FLAGS = {
    "fp32": ("--precision", "fp32"),
    "bf16": ("--precision", "bf16"),
    "fp16": ("--precision", "fp16"),
    "accumulation": ("--precision", "bf16", "--gradient_accumulation_steps", 2),
    "keyed noise": ("--precision", "bf16", "--deterministic"),
    "checkpointing": ("--precision", "bf16", "--gradient_checkpointing"),
}
EVERY = [(model, "bf16") for model in MODELS] + [("switchbert", flags) for flags in FLAGS if flags != "bf16"]
# Before this batch of the first epoch things are made that live as long as the run.
FIRST = 1


class Watched:
    """A loader that has every step but the epoch's first and last watched: from one batch until the next is asked for.

    The last step of an epoch writes a line of the log, which reads from the device.
    """

    def __init__(self, loader: Any, watch: Any) -> None:
        self._loader, self._watch = loader, watch
        self.watched = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def __iter__(self) -> Iterator[Any]:
        parts = self._loader.batch_sampler.parts
        first, last = FIRST * parts, len(self._loader) - parts
        for number, batch in enumerate(self._loader):
            if first <= number < last:
                self.watched += 1
                self._watch(True)
                yield batch
                self._watch(False)
            else:
                yield batch


def run(tmp_path, model, flags, watch, change=lambda made: None):
    made = trainer(
        model, tmp_path, "--device", DEVICE, "--num_train_epochs", 2, "--log_every", 100, *flags, rank=Ranks()
    )
    change(made)
    made.loader = Watched(made.loader, watch)
    try:
        with closing(made.run):
            made.fit()
    finally:
        watch(False)
    assert made.loader.watched >= 4


def waits_are_errors(watched: bool) -> None:
    torch.cuda.set_sync_debug_mode("error" if watched else "default")


@gpu_proper
@pytest.mark.parametrize(("model", "flags"), EVERY)
def test_a_step_never_waits_for_the_device(tmp_path, model, flags):
    run(tmp_path, model, FLAGS[flags], waits_are_errors)


@gpu_proper
def test_a_step_that_reads_a_loss_is_caught(tmp_path):
    """What the watch is worth: a single number read from the device."""

    def read(made):
        made.learner.register_forward_hook(lambda module, given, losses: float(losses["itm"].detach()) and None)

    with pytest.raises(RuntimeError, match="synchronizing"):
        run(tmp_path, "ctrl_uniter", FLAGS["bf16"], waits_are_errors, read)


@gpu_proper
@pytest.mark.parametrize("flags", ["bf16", "accumulation", "keyed noise"])
def test_everything_that_is_sent_to_the_device_comes_from_page_locked_memory(tmp_path, flags):
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
    state = {"on": False, "ended": False}

    def watch(watched: bool) -> None:
        if watched and not state["on"] and not state["ended"]:
            profiler.start()
            state["on"] = True
        elif not watched and state["on"]:
            torch.cuda.synchronize()
            profiler.stop()
            state.update(on=False, ended=True)

    run(tmp_path, "switchbert", FLAGS[flags], watch)
    copies = [event.name for event in profiler.events() if event.name.startswith("Memcpy HtoD")]
    assert copies and not [name for name in copies if "Pageable" in name]


@pytest.mark.parametrize("model", ["ctrl_uniter", "switchbert"])
def test_the_watch_sees_the_steps_of_a_run(tmp_path, model):
    """On any device: which steps are watched, and that none of their batches is lost."""
    seen = []
    run(tmp_path, model, ("--precision", "fp32"), seen.append)
    assert seen.count(True) == 4 and seen[:2] == [True, False]
