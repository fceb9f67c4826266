"""Two processes whose parts reach different parameters: what ``test_averaging`` looks at."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as distributed
from torch import nn

from volta_switch.train import replicas
from volta_switch.train.optimisation import Learner
from volta_switch.train.ranks import Ranks, leave_group
from volta_switch.train.replicas import AveragedLearner

RANKS = 2
# Of each step, by process and part: the parameters that are reached, and with what gradient.
STEPS = {
    "each reaches its own": ([{"a": 2.0}], [{"b": 4.0}]),
    "all reach all": ([{"a": 1.0, "b": 1.0, "c": 1.0}], [{"a": 3.0, "b": 3.0, "c": 3.0}]),
    "the last part reaches nothing that others did": ([{"a": 2.0}, {"b": 2.0}], [{"a": 2.0}, {"a": 2.0}]),
}


class Three(Learner):
    """Three weights; a batch names the ones that its loss reaches."""

    losses = ("loss",)

    def __init__(self):
        super().__init__(nn.ParameterDict({name: nn.Parameter(torch.ones(2)) for name in "abc"}))

    def forward(self, batch):
        return {"loss": sum(weight * self.model[name].sum() for name, weight in batch.items())}

    def counts(self, batch):
        return {"loss": 1}


def one_step(averaged, learner, parts, names):
    """The gradients after a step."""
    learner.zero_grad(set_to_none=True)
    with averaged.step(names):
        for number, part in enumerate(parts):
            with averaged.exchanging(number == len(parts) - 1):
                sum(averaged(part).values()).backward()
    return {name: None if p.grad is None else p.grad.tolist() for name, p in learner.model.items()}


def run(rank: int, folder: Path) -> None:
    """One of the processes; writes its gradients, step by step, to a file of its number."""
    torch.set_num_threads(1)
    place = f"file://{folder}/rendezvous"
    distributed.init_process_group("gloo", place, timedelta(seconds=100), world_size=RANKS, rank=rank)
    learner = Three()
    averaged = AveragedLearner(learner, Ranks(rank, RANKS))
    found = {name: one_step(averaged, learner, parts[rank], (name,)) for name, parts in STEPS.items()}
    again = "each reaches its own"
    found["again"] = one_step(averaged, learner, STEPS[again][rank], (again,))
    replicas.LOOK_AGAIN = 2  # the next of its steps is looked at
    try:
        one_step(averaged, learner, STEPS["all reach all"][rank], (again,))
    except RuntimeError as error:
        found["said"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(found))
    leave_group()
