"""A pre-training step, forward to update: models against one another, in one process, in turn (A B A B ...), medians.

    [VOLTA_HOME=...] python benchmarks/train_step.py --model ctrl_uniter_base --against volta [--memory]
    [VOLTA_HOME=...] python benchmarks/train_step.py --model switchbert --against uniter naive volta

All sides get the same batches, four in turn: captions of 12 +- 4 word pieces in 38 slots, 36 regions and a global one,
at VOLTA's sizes, random weights, dropout as configured. ``volta`` is VOLTA's own model, losses and optimiser, stepped
as its training script does (for Switch-BERT, which it lacks, its UNITER); ``uniter`` this project's UNITER; ``naive``
Switch-BERT with one attention for each mode. bfloat16 is autocast, on both sides unless ``--volta-dtype`` differs. A
step begins with the batch in the host's memory, this project's as its loader gives it: features in float16, and
page-locked where there is a GPU.

Utilisation is the rate of useful work (``volta_switch/cost``; a naive side's is Switch-BERT's, VOLTA's that of the same
model here) over that of matrix products alone on the same device, in the same type and with the same threads, which are
measured at the beginning and at the end of every round: one feed-forward layer's three, at the batch's number of rows.
Every figure is printed when it has been measured, the table at the end. On a GPU the peak is measured beside the times.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from interleaved import (
    Ceiling,
    GpuPeaks,
    Step,
    add_measures,
    add_volta,
    flags,
    giving_back,
    in_turn,
    machine,
    peak,
    peak_apart,
    table,
    utilisation,
)
from torch import Tensor

from volta_switch import BertForVLPreTraining, Config, load_config
from volta_switch.command import run_command
from volta_switch.config import ATTENTION_MODES, find_config
from volta_switch.cost.counts import BatchCounts, some_batch
from volta_switch.cost.executed import count_flops, training_step
from volta_switch.data.batches.collate import Batch
from volta_switch.errors import UserError
from volta_switch.model import sublayers
from volta_switch.model.attention import attend
from volta_switch.train.device import autocast
from volta_switch.train.optimisation import Hyperparameters, build_optimizer, clipped_step
from volta_switch.train.replicas import compile_layers

BATCHES = 4  # different ones, taken in turn
UNITER = "ctrl_uniter_base"
Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Setting:
    """How a side runs: its architecture, where, in which type, and whether its layers are compiled."""

    config: Config
    device: torch.device
    dtype: torch.dtype
    compiled: bool = False


class Maker(Protocol):
    """Makes a side's step."""

    def __call__(self, setting: Setting, batches: Sequence[Tensors]) -> Step:
        """Make it from a setting and the batches in the host's memory."""


def main(argv: Sequence[str]) -> None:
    """Build all sides, step them in turn, print the table."""
    parser = flags(__doc__, batch=32, rounds=5)
    add_measures(parser)
    add_volta(parser, None)
    parser.add_argument("--model", nargs="+", default=[UNITER], help="configurations of this project")
    parser.add_argument("--against", nargs="+", choices=("volta", "uniter", "naive", "none"), default=["none"])
    parser.add_argument("--compile", action="store_true", help="compile this project's encoder layers")
    parser.add_argument("--layers", type=int, default=0, help="fewer layers than configured, single-stream models only")
    parser.add_argument("--until", type=float, default=math.inf, help="seconds since the epoch: then begin no round")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    sides = planned(args, device)
    by_default = giving_back(sides, args)
    batches = [some_batch(args.batch, seed) for seed in range(BATCHES)]
    if args.peak_of:
        setting, make = sides[args.peak_of]
        print(peak(partial(make, setting, batches), device, args.peak_of in by_default))
        return
    print(machine(device), flush=True)
    steps = {name: make(setting, batches) for name, (setting, make) in sides.items()}
    counts = {name: step.count() for name, step in steps.items() if type(step) is OurStep}
    dtypes = {setting.dtype: setting for setting, _ in sides.values()}
    ceilings = {dtype: ceiling_of(setting, batches[0]) for dtype, setting in dtypes.items()}
    warm_up = BATCHES if args.compile or device.type == "cuda" else 1
    peaks = GpuPeaks(device)
    times = in_turn(
        steps,
        device,
        args.rounds,
        at_once=args.steps,
        warm_up=warm_up,
        around=lambda: [ceiling() for ceiling in ceilings.values()],
        by_default=by_default,
        until=args.until,
        peaks=peaks,
    )
    further: dict[str, dict[str, str]] = {"GFLOP": {}, "TFLOP/s": {}, "% of ceiling": {}}
    for name, (setting, _) in sides.items():
        work = [training_step(setting.config, BatchCounts.from_batch(setting.config, batch)) for batch in batches]
        done = in_rounds(work, len(times[name]), args.steps, warm_up)
        further["GFLOP"][name] = f"{sum(done) / len(done) / 1e9:.1f}"
        rates = [flops / seconds for flops, seconds in zip(done, times[name], strict=True)]
        further["TFLOP/s"][name] = f"{statistics.median(rates) / 1e12:.3g}"
        further["% of ceiling"][name] = utilisation(done, times[name], ceilings[setting.dtype])
        if name in counts:
            print(f"{name}, first batch: {work[0] / 1e9:.3f} GFLOP by arithmetic, {counts[name] / 1e9:.3f} counted")
    if peaks.above:
        further["peak GiB"] = {name: f"{(peaks.above[name] + kept(step)) / 2**30:.2f}" for name, step in steps.items()}
    elif args.memory:
        further["peak GiB"] = {name: peak_apart(name) for name in sides}
    for dtype, ceiling in ceilings.items():
        print(f"ceiling in {str(dtype).removeprefix('torch.')}: {ceiling}")
    print(table(times, args.batch, args.model[0], further))


def planned(args: Any, device: torch.device) -> dict[str, tuple[Setting, Maker]]:
    """Every side's name, setting and maker, in the order in which they are stepped.

    Raises:
        UserError: naive modes of models without modes.
    """
    dtype, volta_dtype = (getattr(torch, name) for name in (args.dtype, args.volta_dtype or args.dtype))
    sides: dict[str, tuple[Setting, Maker]] = {}
    for name in [*args.model, *([UNITER] if "uniter" in args.against else [])]:
        sides[name] = Setting(load_config(shortened(name, args.layers)), device, dtype, args.compile), OurStep
    for name in args.model:
        setting = sides[name][0]
        if "naive" in args.against and setting.config.switch is not None:
            sides[f"{name}, naive"] = setting, NaiveStep
        if "volta" in args.against:
            counterpart = name if setting.config.switch is None else UNITER
            config = load_config(shortened(counterpart, args.layers))
            sides[f"VOLTA {counterpart}"] = Setting(config, device, volta_dtype), VoltaStep
    if "naive" in args.against and not any(make is NaiveStep for _, make in sides.values()):
        raise UserError(f"--against naive: {' '.join(args.model)}: no modes; choose a model with a switch section")
    return sides


def in_rounds(work: Sequence[float], rounds: int, at_once: int, warm_up: int) -> list[float]:
    """FLOPs of a step of each round, the mean over those timed together, from those of each batch."""
    taken = [work[number % len(work)] for number in range(warm_up, warm_up + rounds * at_once)]
    return [sum(taken[at : at + at_once]) / at_once for at in range(0, len(taken), at_once)]


def kept(step: Any) -> int:
    """Bytes that a side keeps between two steps: its weights and what its optimiser knows of them."""
    tensors = [*step.model.parameters(), *(t for state in step.optimizer.state.values() for t in state.values())]
    return sum(tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor))


def ceiling_of(setting: Setting, batch: Tensors) -> Ceiling:
    """Matrix products at a batch's number of real rows."""
    rows = int(batch["attention_mask"].sum() + batch["image_attention_mask"].sum())
    config = setting.config
    return Ceiling(rows, config.hidden_size, config.intermediate_size, setting.device, setting.dtype)


class OurStep:
    """A step of this project: batch to the device, forward, backward, clipping at 5, AdamW.

    Its layers are compiled at the first step, where that is asked for, so that ``count`` before it sees every product.
    """

    def __init__(self, setting: Setting, batches: Sequence[Tensors]):
        torch.manual_seed(0)
        self.setting = setting
        self.batches = [as_loaded(batch, setting.device) for batch in batches]
        self.model = BertForVLPreTraining(setting.config).to(setting.device).train()
        self.optimizer = build_optimizer(self.model, Hyperparameters(epochs=1, batch_size=1, learning_rate=1e-4))
        self._to_compile = setting.compiled

    def count(self) -> int:
        """What PyTorch's counter sees of a forward and backward pass on the first batch, FLOPs."""
        found = count_flops(lambda: self._descend(self.batches[0]))
        self.optimizer.zero_grad(set_to_none=True)
        return found

    def __call__(self, number: int) -> None:
        """Take a step on the batch of this number."""
        self.take(self.batches[number % len(self.batches)])

    def take(self, batch: Batch) -> None:
        """Take a step on a batch in the host's memory."""
        if self._to_compile:
            compile_layers(self.model)
            self._to_compile = False
        self._descend(batch)
        clipped_step(self.optimizer, 5.0)
        self.optimizer.zero_grad(set_to_none=True)

    def _descend(self, batch: Batch) -> None:
        device = self.setting.device
        inputs = batch.to(device).inputs
        with autocast(device, self.setting.dtype):
            loss = self.model(**inputs).loss
        assert loss is not None
        loss.backward()


class NaiveStep(OurStep):
    """The same with one attention for each mode."""

    def __call__(self, number: int) -> None:
        """Take a step on the batch of this number."""
        merged, sublayers.attend_mixed = sublayers.attend_mixed, attend_each  # type: ignore[assignment]
        try:
            super().__call__(number)
        finally:
            sublayers.attend_mixed = merged


def as_loaded(batch: Tensors, device: torch.device) -> Batch:
    """The batch as this project's loader gives it: float16 features, class scores of the masked boxes alone."""
    short = {"image_feat": batch["image_feat"].half(), "image_cls": batch["image_cls"][batch["image_label"] == 1]}
    loaded = Batch({**batch, **short}, None, [str(sample) for sample in range(len(batch["input_ids"]))])
    return loaded.pin_memory() if device.type == "cuda" else loaded


class VoltaStep:
    """A step as VOLTA's train_concap.py does it: its model, its losses, one parameter group for each parameter."""

    NAMES = (
        *("input_ids", "image_feat", "image_loc", "token_type_ids", "attention_mask", "image_attention_mask"),
        *("masked_lm_labels", "image_label", "image_cls"),
    )

    def __init__(self, setting: Setting, batches: Sequence[Tensors]):
        from pytorch_transformers.optimization import AdamW

        from volta_switch.plugin.checkout import find_checkout, import_encoders, import_volta

        encoders = import_encoders(find_checkout())
        config = import_volta("config").BertConfig.from_dict(setting.config.to_dict())
        torch.manual_seed(0)
        self.setting = setting
        self.model = encoders.BertForVLPreTraining(config).to(setting.device).train()
        groups = [
            {"params": [parameter], "lr": 1e-4, "weight_decay": 0.0 if "bias" in key or "LayerNorm" in key else 0.01}
            for key, parameter in self.model.named_parameters()
        ]
        self.optimizer = AdamW(groups, lr=1e-4, eps=1e-6, betas=(0.9, 0.999))
        self.batches = batches

    def __call__(self, number: int) -> None:
        """Take a step on the batch of this number."""
        device, given = self.setting.device, self.batches[number % len(self.batches)]
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in given.items()}
        with autocast(device, self.setting.dtype):
            inputs = (batch[name] for name in self.NAMES)
            losses = self.model(*inputs, next_sentence_label=batch["next_sentence_label"])
            loss = losses[0] + losses[1] + losses[2]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 5.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def attend_each(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    real: tuple[Tensor, Tensor],
    weights: Tensor,
    modes: tuple[str, ...],
    dropout: float = 0.0,
    text_queries: int,
    noise_keys: None = None,
) -> Tensor:
    """Attend in every mode by itself and mix the outputs, as the paper describes it."""
    T, both = real[0].shape[1], torch.cat(real, 1)
    mixed: Tensor | float = 0.0
    for index, mode in enumerate(modes):
        tt, tv, vt, vv = ATTENTION_MODES[mode].pairs
        parts = []
        for rows, to_text, to_vision in (
            (query[:, :, :text_queries], tt, tv),
            (query[:, :, text_queries:], vt, vv),
        ):
            at = slice(0 if to_text else T, None if to_vision else T)
            parts.append(attend(rows, key[:, :, at], value[:, :, at], real=both[:, at], dropout=dropout))
        mixed = mixed + weights[:, index, None, None, None] * torch.cat(parts, 2)
    assert isinstance(mixed, Tensor)
    return mixed.to(value.dtype)


def shortened(name: str, layers: int) -> dict[str, Any]:
    """Read a configuration as a dictionary, with fewer layers where that is asked for."""
    values = load_config(find_config(name)).to_dict()
    if not layers:
        return values
    for key in ("tt", "tv", "vt", "vv"):
        values[f"{key}_attn_sublayers"] = list(range(0, 2 * layers, 2))
    for key in ("t", "v"):
        values[f"{key}_ff_sublayers"] = list(range(1, 2 * layers, 2))
    values["shared_sublayers"] = values["single_ln_sublayers"] = list(range(2 * layers))
    for kind, first in (("attn", 0), ("ff", 1)):
        values[f"bert_layer2{kind}_sublayer"] = {str(layer): 2 * layer + first for layer in range(layers)}
    return values


if __name__ == "__main__":
    run_command(main)
