"""Several processes that share one job: started by torchrun, or by anything that sets its variables.

A process that fails ends with a line of its own. torchrun then stops the others at once; without torchrun they notice
the closed connection when they next wait for each other, and end with one line, too.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from volta_switch.command import environment_number
from volta_switch.errors import UserError

# Nothing is said between two waits, and the slowest process decides: the time is for a machine that went away silently.
_TIMEOUT = timedelta(days=1)
_parted: list[Any] = []  # groups, see ``leave_group``
# What a process finds when another one has gone, in the words of gloo, NCCL and the store through which they meet; each
# of these also says other things, which must not be taken for it.
_GONE = (
    *("Connection closed", "Connection reset", "Connection refused", "Connection was likely closed", "Broken pipe"),
    *("remote process", "ncclRemoteError", "communicator was aborted"),
)
_OF_EXCHANGES = ("NCCL", "nccl", "gloo", "Gloo", "TCPStore")


@dataclass(frozen=True)
class Ranks:
    """This process's number, from 0, among all of them."""

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Returns whether this is the process that puts together what all have done, and alone writes."""
        return self.number == 0

    @property
    def on_this_machine(self) -> int:
        """Returns this process's number among those of its machine."""
        return environment_number("LOCAL_RANK", 0)

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.count > 1:
            with self.together():
                distributed.barrier()

    def sums(self, values: Sequence[float]) -> list[float]:
        """Adds up each value over all processes, in float64."""
        if self.count == 1:
            return list(values)
        total = torch.tensor(list(values), dtype=torch.float64)
        with self.together():
            distributed.all_reduce(total)
        return total.tolist()

    def gathered(self, value: Any) -> list[Any]:
        """Returns what every process gives, in the order of their numbers; JSON values."""
        if self.count == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with self.together():
            lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
            distributed.all_gather(lengths, torch.tensor([len(own)]))
            longest = max(map(int, lengths))
            sent = torch.nn.functional.pad(own, (0, longest - len(own)))
            received = [torch.empty_like(sent) for _ in range(self.count)]
            distributed.all_gather(received, sent)
        pairs = zip(received, lengths, strict=True)
        return [json.loads(part[: int(length)].numpy().tobytes()) for part, length in pairs]

    @contextmanager
    def together(self) -> Iterator[None]:
        """Makes a block in which the processes wait for each other.

        Raises:
            UserError: another one has ended, or what they exchange cannot be exchanged.
        """
        try:
            yield
        except RuntimeError as error:
            message = str(error)
            if self.count == 1 or not any(word in message for word in (*_GONE, *_OF_EXCHANGES)):
                raise
            goes_on = "what was finished is kept, and the same command goes on (training: with --resume)"
            if any(word in message for word in _GONE):
                why = f"another one has ended, and its own lines say why ({_first_sentence(message)})"
            else:
                why = f"the processes cannot exchange tensors ({_reason(message)}); NCCL_DEBUG=INFO says more of NCCL"
            raise UserError(f"process {self.number} of {self.count}: {why}; {goes_on}") from None


@contextmanager
def ranks() -> Iterator[Ranks]:
    """Meets the other processes that the environment names, if it names any, and parts from them at the end.

    Tensors of the CPU travel by gloo, those of GPUs by NCCL.

    Raises:
        UserError: they cannot meet.
    """
    if environment_number("WORLD_SIZE", 1) == 1:
        yield Ranks()
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        store, rank, count = next(distributed.rendezvous("env://", timeout=_TIMEOUT))
        # torchrun keeps its store when it starts the processes again (PyTorch 2.13): what those before left in it,
        # addresses where nobody listens any more, must not be read.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed.PrefixStore(f"attempt-{attempt}", store)
        distributed.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_TIMEOUT)
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0][:200]
        raise UserError(f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but the processes cannot meet ({reason})") from None
    try:
        yield Ranks(distributed.get_rank(), distributed.get_world_size())
    except BaseException:
        _part_after_error()
        raise
    leave_group()


def leave_group() -> None:
    """Leaves the group of processes that have all come to their end.

    The group stays until the process ends. Gloo's destructor waits for its threads and holds Python's lock meanwhile;
    a thread that is just forgetting a finished exchange waits for that lock, and then both wait for ever.
    """
    _parted.append(distributed.group.WORLD)
    distributed.destroy_process_group()


def _part_after_error() -> None:
    """Parts from processes of which some may be gone.

    NCCL's ordinary end waits for what is still being exchanged, for ever where a peer is gone, and this process's own
    error would never be seen: its communicators are aborted. Gloo notices a closed connection by itself, and has no
    abort.
    """
    if "nccl" in distributed.get_backend_config():
        distributed.distributed_c10d._abort_process_group()  # PyTorch has no public name for it
    else:
        distributed.destroy_process_group()


def _first_sentence(message: str) -> str:
    return message.splitlines()[0].split(". ")[0][:200]


def _reason(message: str) -> str:
    """Returns what NCCL or gloo says of an error, without places in its code; NCCL's own last words, if any."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if line.startswith("Last error:"):
            return " ".join([line.removeprefix("Last error:").strip(), *lines[number + 1 :][:1]]).strip()[:200]
    named = [line for line in lines if line.startswith("nccl")]
    return (named or lines)[0].split("] ")[-1][:200]


def seed_process(seed: int, ranks: Ranks, step: int = 0) -> None:
    """Gives every process but the first a stream of its own; models are made before this, from one seed.

    ``step``: where the run stands. A run that goes on with another number of processes has no states to go on from,
    and is given new streams, the first process too.
    """
    if ranks.number or step:
        digest = hashlib.blake2b(f"{seed}/{ranks.number}/{step}".encode(), digest_size=8).digest()
        torch.manual_seed(int.from_bytes(digest, "little") % 2**63)


def random_states(ranks: Ranks) -> dict[str, Tensor]:
    """Returns the generators' states of all processes, ``rng/cpu/<process>``, uint8; all processes call it."""
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
