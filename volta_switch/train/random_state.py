"""PyTorch's random generators: one on every process and GPU, kept in checkpoints."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from volta_switch.train.ranks import Ranks


def seed_process(seed: int, ranks: Ranks, step: int = 0) -> None:
    """Gives every process but the first a stream of its own; models are made before this, from one seed.

    ``step``: where the run stands. A run that goes on with another number of processes has no states to go on from,
    and is given new streams, the first process too.
    """
    if ranks.number or step:
        digest = hashlib.blake2b(f"{seed}/{ranks.number}/{step}".encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") % 2**63)


def random_states(ranks: Ranks) -> dict[str, Tensor]:
    """The generators' states of all processes, ``rng/cpu/<process>``, uint8; all processes call it."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        own["cuda"] = torch.cuda.get_rng_state()
    gathered = ranks.gathered({name: state.numpy().tobytes().hex() for name, state in own.items()})
    return {
        f"rng/{name}/{number}": torch.frombuffer(bytearray.fromhex(state), dtype=torch.uint8)
        for number, states in enumerate(gathered)
        for name, state in states.items()
    }


def restore_random_states(states: dict[str, Tensor], seed: int, step: int, ranks: Ranks) -> None:
    """Goes on with what ``random_states`` returned; with another number of processes, starts new streams."""
    if sum(name.startswith("rng/cpu/") for name in states) != ranks.count:
        seed_process(seed, ranks, step)
        return
    torch.set_rng_state(states[f"rng/cpu/{ranks.number}"])
    cuda = states.get(f"rng/cuda/{ranks.number}")
    if cuda is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda)
