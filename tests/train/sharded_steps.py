"""One step of training on two processes (gloo, CPU): what ``test_sharded`` compares with one process's."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from model.parts_of_batches import IDS, LOSSES, B, batch_of, counts_of, model_of, part, share_of_losses
from volta_switch.model.encoder import SwitchEncoder, encoder_of
from volta_switch.model.noise import sample_keys
from volta_switch.train.device import autocast
from volta_switch.train.optimisation import Learner
from volta_switch.train.ranks import Ranks, leave_group
from volta_switch.train.replicas import Replicas

RANKS = 2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A model, how it is divided, and what is done with it."""

    name: str
    sharded: bool
    checkpointing: bool = False
    routing: str = "auto"
    nothing_masked: bool = False  # in the second process's part
    precision: torch.dtype = torch.float32

    def __str__(self) -> str:
        flags = (key for key in ("checkpointing", "nothing_masked") if getattr(self, key))
        precision = () if self.precision == torch.float32 else (str(self.precision),)
        return " ".join([self.name, "fsdp" if self.sharded else "ddp", self.routing, *flags, *precision])


CASES = [
    *(Case(name, True, again) for name in ("ctrl_uniter", "ctrl_vilbert", "switch") for again in (False, True)),
    Case("switch", True, nothing_masked=True, routing="hard"),
    *(Case(name, False) for name in ("ctrl_uniter", "ctrl_vilbert")),
    Case("switch", False, checkpointing=True),
    *(Case("switch", False, nothing_masked=True, routing=routing) for routing in ("auto", "hard")),
    *(Case("switch", sharded, precision=torch.bfloat16) for sharded in (True, False)),
]


class Parts(Learner):
    """A part's shares of the whole batch's losses; what it is given are inputs, their counts and the whole's."""

    losses = LOSSES

    def forward(self, batch):
        given, counts, totals = batch
        return share_of_losses(self.model(**given), counts, totals)

    def counts(self, batch):
        return batch[1]


def step(case: Case, rank: int | None) -> dict[str, dict[str, Tensor]]:
    """Losses, gradients and new weights, whole; ``rank`` None: of one process with the whole batch."""
    model = copy.deepcopy(model_of(case.name))
    encoder = encoder_of(model)
    encoder.checkpointing = case.checkpointing and rank is not None
    if isinstance(encoder, SwitchEncoder):
        encoder.routing = case.routing
    ranks = Ranks() if rank is None else Ranks(rank, RANKS)
    replicas = Replicas(Parts(model), ranks, CPU, case.sharded and rank is not None, case.precision)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    batch, keys = batch_of(case.name), sample_keys(3, 1, IDS, B)
    if case.nothing_masked:
        batch["masked_lm_labels"][1::RANKS] = -1
        batch["image_label"][1::RANKS] = -1
    totals = counts_of(batch, case.name)
    rows = slice(None) if rank is None else slice(rank, None, RANKS)
    given = part(batch, rows)
    with replicas.step(LOSSES), replicas.accumulating(last=True):
        with autocast(CPU, case.precision):
            shares = replicas(({**given, "noise_keys": keys[rows]}, counts_of(given, case.name), totals))
        losses = torch.stack([shares[key].detach() for key in LOSSES])
        # Gradients are averaged over the processes.
        (torch.stack(list(shares.values())).sum() * ranks.count).backward()
    if rank is not None:
        dist.all_reduce(losses)
    gradients = {
        name: _whole(parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None
    }
    optimizer.step()
    weights = {name: _whole(parameter.detach()) for name, parameter in model.named_parameters()}
    return {"losses": dict(zip(LOSSES, losses, strict=True)), "gradients": gradients, "weights": weights}


def run(rank: int, folder: Path) -> None:
    """One of the processes: every case, the results of the first process's written to a file of the case's name."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/rendezvous", timedelta(seconds=240), world_size=RANKS, rank=rank)
    for case in CASES:
        found = step(case, rank)
        if rank == 0:
            torch.save(found, folder / f"{case}.pt")
    leave_group()


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()
