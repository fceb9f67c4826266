"""What training on many GPUs costs, by arithmetic: the tables of docs/scaling.md.

Everything follows from the models' sizes, from ``volta_switch/cost`` and from ``Assumptions``, which says of each
number whether it was measured here. No GPU was measured. ``python benchmarks/scaling.py --arithmetic`` prints the
tables.

Legend: N processes, one for each GPU; b samples of a step on each of them; P parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from train_step import OurStep, Setting

from volta_switch import BertForVLPreTraining, load_config
from volta_switch.config import Config
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import training_step
from volta_switch.model.encoder import encoder_of

MODELS = (
    *("ctrl_uniter_base", "ctrl_visualbert_base", "ctrl_vl-bert_base", "ctrl_interbert_base"),
    *("ctrl_lxmert", "ctrl_vilbert_base", "switchbert"),
)
SHOWN = "switchbert"  # the model of the tables that show one
FLOAT = 4  # bytes: weights, gradients and what AdamW keeps stay in float32 under autocast
BACKWARD = 2 / 3  # of a step's computing; exchange can run behind it
RUNS = ((1, 256), (1, 1024), (8, 256), (8, 1024), (64, 1024), (64, 8192))  # GPUs, samples of a global batch


@dataclass(frozen=True)
class Assumptions:
    """What the tables stand on besides sizes and FLOPs; ``--assume NAME=VALUE`` puts in another number."""

    # Assumed. Rates of links and disks are what they are sold as, one way; programs reach some 70 to 90 % of that.
    pairs: float = 2.7e6  # image-caption pairs of an epoch
    epochs: float = 10
    products: float = 725e12  # FLOP/s of matrix products alone in bfloat16: 13,000 samples/s would be 45 % of it
    utilisation: float = 0.40  # of that rate
    start: float = 5e-6  # seconds in which the host starts an operator, while layers are not compiled
    ethernet: float = 12.5e9  # bytes/s of a machine's link: 100 Gbit/s
    infiniband: float = 50e9  # bytes/s of a machine's link: 400 Gbit/s
    nvlink: float = 450e9  # bytes/s of a GPU
    disk: float = 1e9  # bytes/s
    minutes: float = 30  # between checkpoints: the default of --save-every
    # Measured on the machine of benchmarks/RESULTS.md.
    operators: float = 3800  # that a step of Switch-BERT starts, rounded; see ``operators_of_a_step``
    hop: float = 50e-6  # seconds of a small message from one process to another; see Step.of
    loopback: float = 0.8e9  # bytes/s that each of two processes sends in an all-reduce
    lmdb_bytes: float = 585788  # of a sample in VOLTA's format
    compact_bytes: float = 168028
    shard_bytes: float = 167480
    lmdb_rate: float = 3005  # samples/s of one loader process
    compact_rate: float = 3494
    cpu_step: float = 8.35  # seconds of Switch-BERT's step of 32 samples, one process on one core
    cpu_gain: float = 1.6  # times as fast with two processes (DDP) on two cores, by CPU time

    @property
    def flops(self) -> float:
        """Useful FLOP/s of a GPU."""
        return self.products * self.utilisation


@dataclass(frozen=True)
class Size:
    """Parameters of a pre-training model. sublayers: those of its encoder's; word_table: of the word embeddings."""

    parameters: int
    sublayers: int
    word_table: int

    @classmethod
    def of(cls, config: Config) -> Size:
        """Of a configuration."""
        with torch.device("meta"):
            model = BertForVLPreTraining(config)
        return cls(_count(model), _count(encoder_of(model).layer), config.vocab_size * config.hidden_size)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def ddp_bytes(size: Size, processes: int) -> float:
    """Bytes that each process sends in a step: a ring's all-reduce of the gradients, 2 (N - 1) / N x 4 P.

    Accumulation changes nothing: gradients are exchanged in the last part.
    """
    return 2 * (processes - 1) / processes * FLOAT * size.parameters


def fsdp_bytes(size: Size, processes: int, parts: int = 1) -> float:
    """The same of FSDP2 as ``volta_switch.train.replicas`` divides a model, with ``parts`` accumulation steps.

    Sublayers are gathered for the forward and again for the backward pass of each part; the rest is gathered once for
    both; the gradients are scattered in the last part: (N - 1) / N x 4 (parts x (2 sublayers + rest) + P).
    """
    rest = size.parameters - size.sublayers
    return (processes - 1) / processes * FLOAT * (parts * (2 * size.sublayers + rest) + size.parameters)


def flops_of_a_sample(config: Config, batch: Mapping[str, Tensor]) -> float:
    """Useful FLOPs of a training step for one sample of a batch, the mean."""
    return training_step(config, BatchCounts.from_batch(config, batch)) / len(batch["input_ids"])


def operators_of_a_step(config: Config) -> int:
    """How many operators a step starts, forward to update, layers not compiled; views, which start nothing, aside."""
    step = OurStep(Setting(config, torch.device("cpu"), torch.float32), [some_batch(4)])
    step(0)  # the optimiser's state is made
    with _Operators() as counter:
        step(0)
    return counter.count


class _Operators(TorchDispatchMode):
    """Counts what is started within it."""

    VIEWS = frozenset(
        (
            *("alias", "as_strided", "detach", "expand", "permute", "select", "slice", "split", "split_with_sizes"),
            *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "_reshape_alias", "_unsafe_view"),
        )
    )

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func.overloadpacket.__name__ not in self.VIEWS
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Step:
    """Seconds of a step on N GPUs.

    host: in which the host starts operators, and agrees with the others on what the step has: a ring of 2 (N - 1)
    messages. exposed: of the exchange, what does not run behind the backward pass.
    """

    computing: float
    host: float
    exchange: float
    exposed: float

    @classmethod
    def of(cls, size: Size, flops: float, processes: int, batch: int, a: Assumptions) -> Step:
        """Of DDP: by NVLink on up to 8 GPUs, else through each machine's InfiniBand link.

        The word table, at both ends of a model, has its gradient last: its exchange is never hidden.
        """
        computing, host = flops * batch / processes / a.flops, a.operators * a.start + 2 * (processes - 1) * a.hop
        exchange = ddp_bytes(size, processes) / (a.nvlink if processes <= 8 else a.infiniband)
        exposed = left(size, exchange, max(computing, host))
        return cls(computing, host, exchange, exposed)

    @property
    def seconds(self) -> float:
        """Of the whole step; a GPU and its host work at the same time."""
        return max(self.computing, self.host) + self.exposed


def left(size: Size, exchange: float, working: float) -> float:
    """Seconds of an exchange that do not run behind the backward pass."""
    return max(exchange - BACKWARD * working, exchange * size.word_table / size.parameters)


def tables(a: Assumptions) -> list[str]:
    """The tables of docs/scaling.md, in its order."""
    configs, batch = {name: load_config(name) for name in MODELS}, some_batch(256)
    sizes = {name: Size.of(config) for name, config in configs.items()}
    flops = {name: flops_of_a_sample(config, batch) for name, config in configs.items()}
    size, each = sizes[SHOWN], flops[SHOWN]
    return [
        volumes(sizes, flops),
        links(size, each, a),
        data(each, a),
        runs(size, each, a),
        on_cpus(a),
        checkpoints(sizes, a),
    ]


def volumes(sizes: dict[str, Size], flops: dict[str, float]) -> str:
    """What each process sends in a step, by model."""
    rows = []
    for name, size in sizes.items():
        ddp, fsdp = ([f"{sent(size, N) / 1e6:.0f}" for N in (2, 8, 64)] for sent in (ddp_bytes, fsdp_bytes))
        millions = [f"{number / 1e6:.2f}" for number in (size.parameters, size.sublayers)]
        rows.append([name, *millions, f"{flops[name] / 1e9:.1f}", *ddp, *fsdp])
    heads = ["model", "M parameters", "in sublayers", "GFLOP a sample"]
    return _table(rows, [*heads, *(f"{way}, N = {N}" for way in ("DDP", "FSDP2") for N in (2, 8, 64))])


def links(size: Size, flops: float, a: Assumptions, processes: int = 8) -> str:
    """How long the exchange of a step takes, and how much of it is left beside computing."""
    rows = []
    for name, rate in (
        ("loopback, gloo (measured)", a.loopback),
        ("Ethernet, 100 Gbit/s a machine", a.ethernet),
        ("InfiniBand, 400 Gbit/s a machine", a.infiniband),
        ("NVLink, 450 GB/s a GPU", a.nvlink),
    ):
        ddp, fsdp = (sent(size, processes) / rate for sent in (ddp_bytes, fsdp_bytes))
        remaining = [left(size, ddp, b * flops / a.flops) for b in (32, 128, 1024)]
        hidden = ddp * (1 - size.word_table / size.parameters) / BACKWARD * a.flops / flops
        milliseconds = [f"{1e3 * seconds:.2f}" for seconds in (ddp, fsdp, *remaining)]
        rows.append([name, f"{rate / 1e9:.1f}", *milliseconds, f"{hidden:.0f}"])
    computing = [f"{1e3 * b * flops / a.flops:.2f}" for b in (32, 128, 1024)]
    rows.append(["computing, for comparison", "", "", "", *computing, ""])
    heads = ["link", "GB/s", "DDP, ms", "FSDP2, ms", *(f"left at b = {b}, ms" for b in (32, 128, 1024)), "b that hides"]
    return _table(rows, heads)


def data(flops: float, a: Assumptions) -> str:
    """What a GPU reads, and the loader processes that give it."""
    rate, rows = a.flops / flops, []
    for name, size, measured in (
        ("VOLTA's LMDB", a.lmdb_bytes, a.lmdb_rate),
        ("compact store", a.compact_bytes, a.compact_rate),
        ("shards", a.shard_bytes, 0.0),
    ):
        total = f"{size * a.pairs / 1e9:.0f}"
        needed = [f"{wanted * size / 1e9:.1f}" for wanted in (rate, 13000)]
        cores = [f"{wanted / measured:.1f}" if measured else "" for wanted in (rate, 13000)]
        rows.append([name, f"{size:.0f}", total, f"{measured:.0f}" if measured else "not measured", *needed, *cores])
    heads = ["source", "bytes a sample", f"GB of {a.pairs / 1e6:.1f} M", "samples/s a core"]
    rates = [f"{rate:.0f}/s", "13000/s"]
    return _table(rows, [*heads, *(f"GB/s at {r}" for r in rates), *(f"cores at {r}" for r in rates)])


def runs(size: Size, flops: float, a: Assumptions) -> str:
    """What a whole pre-training takes, DDP, layers not compiled, data at hand."""
    rows = []
    for processes, batch in RUNS:
        step, alone = (Step.of(size, flops, N, batch, a) for N in (processes, 1))
        hours = a.pairs * a.epochs / batch * step.seconds / 3600
        parts = (step.computing, step.host, step.exchange, step.exposed, step.seconds)
        row = [f"{processes}", f"{batch}", f"{batch / processes:.0f}", *(f"{1e3 * part:.1f}" for part in parts)]
        rate = batch / step.seconds
        row += [f"{alone.seconds / step.seconds:.1f}", f"{hours:.2f}", f"{hours * processes:.2f}"]
        rows.append([*row, f"{rate:.0f}", f"{rate * a.compact_bytes / 1e9:.1f}"])
    heads = ["GPUs", "global batch", "b", "computing, ms", "host, ms", "exchange, ms", "left, ms", "step, ms"]
    return _table(rows, [*heads, "times one GPU", "hours", "GPU hours", "samples/s", "GB/s read"])


def on_cpus(a: Assumptions) -> str:
    """The same run on this machine's cores."""
    rows = []
    for processes, seconds in ((1, a.cpu_step), (2, a.cpu_step / a.cpu_gain)):
        days = a.pairs * a.epochs / 32 * seconds / 86400
        rows.append([f"{processes}", f"{seconds:.2f}", f"{32 / seconds:.1f}", f"{days:.0f}", f"{days * processes:.0f}"])
    return _table(rows, ["processes, a core each", "step of 32, s", "samples/s", "days", "core days"])


def checkpoints(sizes: dict[str, Size], a: Assumptions) -> str:
    """Bytes of a checkpoint: weights and AdamW's two moments; the time in which nothing else is done."""
    rows = []
    for name, size in sizes.items():
        stored = 3 * FLOAT * size.parameters
        seconds = stored / a.disk
        share = 100 * seconds / (60 * a.minutes)
        rows.append([name, f"{stored / 1e9:.2f}", f"{seconds:.1f}", f"{share:.2f}"])
    return _table(rows, ["model", "GB", f"s at {a.disk / 1e9:.0f} GB/s", f"% of {a.minutes:.0f} minutes"])


def _table(rows: Sequence[Sequence[str]], heads: Sequence[str]) -> str:
    return tabulate(rows, heads, tablefmt="github", disable_numparse=True)
