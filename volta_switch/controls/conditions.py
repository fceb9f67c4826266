"""Under which conditions the controls train switchers, the thresholds of what they measure, and the training itself.

Legend: N samples.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, nn

from volta_switch.config import Config, load_config
from volta_switch.controls import CONTROLS
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import Switcher
from volta_switch.train.optimisation import Hyperparameters, build_optimizer, build_schedule, clipped_step


@dataclass(frozen=True)
class Budget:
    """How long a control trains, and how."""

    steps: int
    batch: int = 64  # samples of a step
    learning_rate: float = 1.5e-3  # the peak: the demo's
    warmup: float = 0.1  # of the run
    clip: float = 1.0  # the gradient's norm

    @property
    def samples(self) -> int:
        """Samples of the whole run."""
        return self.steps * self.batch


@dataclass(frozen=True)
class Condition:
    """How switchers are trained: as they should be, or with one thing changed for the worse.

    Attributes:
        name, about: what the tables call it, and what it does.
        share: the temperature reaches its floor at this share of the run; 0: with the first step.
        start: the temperature at the start.
        floor: the temperature at the end.
        noise: whether soft weights have Gumbel noise.
        detached: whether the switchers' gradient is cut off.
        fails: the controls that must fail under it; of others nothing is required.
    """

    name: str
    about: str
    share: float = 1.0
    start: float = 5.0
    floor: float = 0.2
    noise: bool = True
    detached: bool = False
    fails: tuple[str, ...] = ()

    def config(self, config: Config, budget: Budget) -> Config:
        """Returns a configuration whose temperature follows this schedule in a run of this length.

        A static one is returned as it is.
        """
        if config.switch is None:
            return config
        switch = dataclasses.replace(
            config.switch,
            temperature=self.start,
            min_temperature=self.floor,
            anneal_share=max(self.share, budget.batch / budget.samples),
        )
        return dataclasses.replace(config, switch=switch)


def start_annealing(encoder: SwitchEncoder, budget: Budget) -> None:
    """Starts the schedule that an encoder's configuration says, for a run of this length."""
    assert encoder.switch.anneal_share is not None
    encoder.anneal_within(encoder.switch.anneal_share, budget.samples)


NEEDS, PLANTED, GRADIENTS = CONTROLS
RIGHT = Condition("as it should be", "noise, all gradients, the floor at the end of the run")
# What the first study ran under: the demo's rate, for pre-training on 36,000 samples and fine-tuning on 16,000
# (referring expressions), so that the floor came after 3,353 and 1,676 of them.
FIRST_STUDY_RATE = 0.00096
SABOTAGES = (
    Condition("detached", "the switchers get no gradient", detached=True, fails=CONTROLS),
    Condition(
        "floor at step 1", "the temperature is at its floor from the second step on", share=0.0, fails=(PLANTED,)
    ),
    Condition("floor at 12 %", "the floor at 12 % of the run", share=0.12, fails=(PLANTED,)),
    Condition("noise off", "soft weights without Gumbel noise", noise=False),
    Condition(
        "first study, pre-training",
        "the demo's schedule in the first study, from 5.0 to 0.2 at 9 % of the run",
        share=math.log(5.0 / 0.2) / FIRST_STUDY_RATE / 36_000,
        fails=(PLANTED,),
    ),
    Condition(
        "first study, fine-tuning",
        "the demo's schedule in the first study, from 1.0 to 0.2 at 10 % of the run",
        share=math.log(1.0 / 0.2) / FIRST_STUDY_RATE / 16_000,
        start=1.0,
    ),
)


@dataclass(frozen=True)
class Threshold:
    """What a measured value must be, on every seed.

    Attributes:
        measure: its name in what a control returns.
        bound: the last value that passes.
        at_least: whether larger values pass, else smaller ones.
        origin: how the bound was set.
    """

    measure: str
    bound: float
    at_least: bool
    origin: str

    def holds(self, value: float) -> bool:
        """Returns whether a value passes; a number that is none does not."""
        return value >= self.bound if self.at_least else value <= self.bound

    def worst(self, values: Sequence[float]) -> float:
        """Returns the value nearest to failing, or farthest beyond."""
        return min(values) if self.at_least else max(values)

    @property
    def shown(self) -> str:
        """Returns the bound as a table says it."""
        return f"{'at least' if self.at_least else 'at most'} {self.bound:g}"


_TASK = "by the task: of six classes, a half and what coincides is 0.58; right routes reach 1"
_ROUTES = "the worst of seeds 0 to 9, less 20 %; tested on other seeds"
_ROUNDING = "float64: measured errors are below a tenth of it"
THRESHOLDS = {
    NEEDS: (
        Threshold("joint", 0.65, False, _TASK),
        Threshold("forced", 0.99, True, _TASK),
        Threshold("Switch-BERT", 0.95, True, _TASK),
        Threshold("MI", 0.9, True, "by the task: the trigger is worth 1 bit"),
    ),
    PLANTED: (
        Threshold("SAB MI/H", 0.30, True, _ROUTES),
        Threshold("SIB MI/H", 0.48, True, _ROUTES),
        Threshold("error", 0.23, False, _ROUTES),
    ),
    GRADIENTS: (
        Threshold("switchers r", 0.99999, True, _ROUNDING),
        Threshold("switchers error", 1e-3, False, _ROUNDING),
        Threshold("others r", 0.99999, True, _ROUNDING),
        Threshold("others error", 1e-3, False, _ROUNDING),
    ),
}


def model_config(layers: int, *, vocab_size: int, width: int, switched: bool = True, **fields: Any) -> Config:
    """Returns the configuration of a small model, Switch-BERT or with joint attention alone.

    Args:
        layers: attention and feed-forward each.
        vocab_size: words.
        width: D, of text and vision.
        switched: whether it is Switch-BERT, with the shipped defaults.
        fields: others of the configuration.
    """
    attention, forward = list(range(0, 2 * layers, 2)), list(range(1, 2 * layers, 2))
    values: dict[str, Any] = {
        "vocab_size": vocab_size,
        "v_feature_size": 16,
        "image_embeddings": "uniter",
        "fusion_method": "none",
        **{f"{pair}_attn_sublayers": attention for pair in ("tt", "tv", "vt", "vv")},
        "t_ff_sublayers": forward,
        "v_ff_sublayers": forward,
        "shared_sublayers": sorted([*attention, *forward]),
        "num_attention_heads": 4,
        "intermediate_size": 2 * width,
        **dict.fromkeys(("hidden_size", "pooler_size"), width),
        **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0),
        **fields,
    }
    of_one_stream = ["hidden_size", "pooler_size", "num_attention_heads", "intermediate_size"]
    of_one_stream += ["hidden_dropout_prob", "attention_probs_dropout_prob"]
    values |= {f"v_{name}": values[name] for name in of_one_stream}
    if switched:
        values["switch"] = {"hidden_size": round(0.591 * width)}
    return load_config(values)


def train(
    model: nn.Module,
    encoder: nn.Module,
    loss_of: Callable[[int], Tensor],
    budget: Budget,
    condition: Condition,
) -> None:
    """Trains the parameters that require a gradient.

    Args:
        model: as a whole; its training mode is switched on.
        encoder: the model's encoder, static or switched.
        loss_of: number of a step to the loss of its batch.
        budget: the length, and the optimiser's settings.
        condition: noise and gradient of the switchers; its temperature is the encoder's configuration's.
    """
    hyper = Hyperparameters(
        epochs=1,
        batch_size=budget.batch,
        learning_rate=budget.learning_rate,
        warmup_proportion=budget.warmup,
        clip_grad_norm=budget.clip,
    )
    optimizer = build_optimizer(model, hyper)
    schedule = build_schedule(optimizer, hyper, budget.steps)
    model.train()
    handles = cut_gradients(model) if condition.detached else []
    if isinstance(encoder, SwitchEncoder):
        start_annealing(encoder, budget)
        encoder.routing = "auto" if condition.noise else "soft"
    for step in range(budget.steps):
        if isinstance(encoder, SwitchEncoder):
            encoder.switch_samples.fill_(step * budget.batch)
        optimizer.zero_grad()
        loss = loss_of(step)
        if loss.requires_grad:  # else the switchers are all that is trained, and are cut off
            loss.backward()
            clipped_step(optimizer, budget.clip)
            schedule.step()
    for handle in handles:
        handle.remove()
    model.eval()
    if isinstance(encoder, SwitchEncoder):
        encoder.routing = "auto"


def cut_gradients(model: nn.Module) -> list[Any]:
    """Cuts the gradient behind every switcher of a model; returns the hooks, to be removed."""
    switchers = [module for module in model.modules() if isinstance(module, Switcher)]
    return [switcher.register_forward_hook(lambda _module, _given, decided: decided.detach()) for switcher in switchers]


def entropy(choices: np.ndarray) -> float:
    """Returns the entropy of choices (N,) of any integers, in bits."""
    shares = np.unique(choices, return_counts=True)[1] / len(choices)
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def mutual_information(one: np.ndarray, other: np.ndarray) -> float:
    """Returns how much one choice (N,) says of the other (N,), in bits, from their counts alone."""
    pairs = np.unique(np.stack((one, other), 1), axis=0, return_inverse=True)[1].ravel()
    return max(0.0, entropy(one) + entropy(other) - entropy(pairs))
