"""Switchers: who decides, per sample, which mode or which input a layer uses (paper section 2.3, eqs. 5-8).

Legend: B batch, T text tokens, R regions, D hidden, L layers, M attention modes, C input candidates,
O options of a switcher (M or C).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import SwitchConfig
from volta_switch.errors import UserError
from volta_switch.model.noise import exponential
from volta_switch.model.rows import PackedLayout, States, join
from volta_switch.weights.loading import FLOOR_SAMPLES

# (which text state, which vision state) of each input candidate: 0 is layer l-1's output, 1 the older input.
INPUT_CANDIDATES = ((0, 0), (1, 0), (0, 1), (1, 1))

EPSILON = 1e-5  # is added to a variance
MOMENTUM = 0.1  # share of a step in running statistics; more of the first ten

Forced = Sequence[str] | Sequence[int] | Sequence[Sequence[str]] | Sequence[Sequence[int]] | Tensor


def add_floor_samples(encoder: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Lets weights of before there were shares of a run anneal by the rate; a hook of ``load_state_dict``."""
    state.setdefault(f"{prefix}{FLOOR_SAMPLES}", torch.zeros_like(getattr(encoder, FLOOR_SAMPLES)))


@dataclass(frozen=True)
class Routes:
    """The weights that were used: ``modes`` (B, L, M) and ``inputs`` (B, L, C), float32; rows sum to 1.

    A block that is switched off, and the first layer's input, carry a one-hot row.
    """

    modes: Tensor
    inputs: Tensor


class Switcher(nn.Module):
    """Alignment degree and option probabilities (paper eqs. 5 and 6).

    Differs from the paper: it gives neither the fusion nor the MLP; here ``concat`` or ``mul``, one hidden layer with
    GELU, and a last layer that starts at zero, so that the options start equally probable.
    """

    def __init__(self, hidden_size: int, switch: SwitchConfig, options: int):
        super().__init__()
        self.alignment, self.initial_scale = switch.alignment, switch.initial_scale
        width = hidden_size * (2 if switch.alignment == "concat" else 1)
        self.norm = BatchStatistics(width) if switch.alignment_norm == "batch" else None
        self.norm_of_sample = switch.alignment_norm == "sample"
        self.hidden = nn.Linear(width, switch.hidden_size)
        self.options = nn.Linear(switch.hidden_size, options)

    def reset(self) -> None:
        """Sets the last layer's weights to zero, for equal probabilities, or draws them (``initial_scale``)."""
        if self.initial_scale:
            nn.init.normal_(self.options.weight, std=self.initial_scale)
        else:
            nn.init.zeros_(self.options.weight)
        nn.init.zeros_(self.options.bias)

    def forward(self, text: Tensor, vision: Tensor) -> Tensor:
        """log pi, (B, O) float32, from the mean states of text and vision (eq. 5), (B, D) each."""
        alignment = torch.cat((text, vision), -1) if self.alignment == "concat" else text * vision
        if self.norm is not None:
            alignment = self.norm(alignment)
        elif self.norm_of_sample:
            alignment = F.layer_norm(alignment, alignment.shape[-1:])
        return self.options(F.gelu(self.hidden(alignment))).float().log_softmax(-1)  # eq. 6


class BatchStatistics(nn.Module):
    """Normalises vectors by the running mean and variance of each of their W features over the batches of training.

    Not given by the paper. Differs from batch normalisation: a step is normalised by the statistics of the steps before
    it, in training as in evaluation, and no gradient passes through them. So a sample's route depends on no other
    sample of its batch, however that is divided among processes and parts. There is no affine map: the switcher's
    hidden layer follows. Before the first step vectors pass as they are.

    A step's statistics are taken at once. Where a step has several parts or processes, ``deferred`` has them wait for
    ``collect`` and ``update``.
    """

    mean: Tensor
    variance: Tensor
    steps: Tensor

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("variance", torch.ones(width))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))
        self.deferred = False
        self.waiting: list[Tensor] = []  # of each pass, (1 + 2 W) float64: samples, sums, sums of squares

    def forward(self, vectors: Tensor) -> Tensor:
        """Returns the vectors (B, W) normalised, in the statistics' precision."""
        vectors = vectors.to(self.mean.dtype)
        out = (vectors - self.mean) * (self.variance + EPSILON).rsqrt()
        if self.training:
            seen = vectors.detach().double()
            count = torch.full((1,), len(seen), dtype=torch.float64, device=seen.device)
            self.waiting.append(torch.cat((count, seen.sum(0), seen.square().sum(0))))
            if not self.deferred:
                self.update(self.collect())
        return out

    def collect(self) -> Tensor:
        """Returns the sums of the passes since the last call, (1 + 2 W) float64."""
        if self.waiting:
            total = torch.stack(self.waiting).sum(0)
        else:
            total = torch.zeros(1 + 2 * len(self.mean), dtype=torch.float64, device=self.mean.device)
        self.waiting.clear()
        return total

    @torch.no_grad()
    def update(self, sums: Tensor) -> None:
        """Moves the statistics towards a step's; sums that are not finite, and those of no sample, change nothing.

        ``sums``: as ``collect`` returns them, added up over all processes.
        """
        count, total, squares = sums[:1], *sums[1:].chunk(2)
        mean = total / count
        variance = (squares / count - mean.square()).clamp(min=0.0)
        sound = torch.isfinite(mean).all() & torch.isfinite(variance).all()  # 0 / 0 is none
        share = (1 / (self.steps + 1).double()).clamp(min=MOMENTUM) * sound
        for kept, new in ((self.mean, mean), (self.variance, variance)):
            kept.copy_(kept.double().lerp(torch.where(sound, new, kept.double()), share))
        self.steps += sound.long()


def switchers_of(encoder: nn.Module) -> Iterator[tuple[str, int, Switcher]]:
    """Yields the block, ``modes`` or ``inputs``, the layer, from 0, and the switcher of everything that decides."""
    for index, switcher in enumerate(getattr(encoder, "attention_switch", ())):
        yield "modes", index, switcher
    for index, switcher in enumerate(getattr(encoder, "input_switch", ()), 1):  # the first layer has no choice
        yield "inputs", index, switcher


@contextmanager
def noted_scores(encoder: nn.Module) -> Iterator[dict[tuple[str, int], Tensor]]:
    """Notes what the switchers say in forward passes within the block: block and layer -> log pi (B, O), the last."""
    found: dict[tuple[str, int], Tensor] = {}
    handles = []
    for block, index, switcher in switchers_of(encoder):

        def note(_: Any, __: Any, said: Tensor, place: tuple[str, int] = (block, index)) -> None:
            found[place] = said

        handles.append(switcher.register_forward_hook(note))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def batch_statistics(model: nn.Module) -> list[BatchStatistics]:
    """Returns the running statistics of a model's switchers; none where these do not normalise by them."""
    return [module for module in model.modules() if isinstance(module, BatchStatistics)]


def hard_weights(log_probabilities: Tensor) -> Tensor:
    """One-hot at the most probable option, (B, O): inference (eq. 8, "hard selection")."""
    return F.one_hot(log_probabilities.argmax(-1), log_probabilities.shape[-1]).float()


def soft_weights(
    log_probabilities: Tensor, temperature: Tensor, active: int, *, noise: bool, keys: Tensor | None = None
) -> Tensor:
    """Gumbel-softmax weights (eq. 7) of the ``active`` most probable options, renormalised (section 3.4.5).

    With one active option its renormalised weight is the constant 1, so the gradient passes straight through: forward
    1, backward that of the soft weight (differs from the paper: it does not say how top-1 trains).

    Args:
        log_probabilities: (B, O) log pi.
        temperature: tau, a scalar tensor.
        active: K.
        noise: adds Gumbel noise (training); False gives the noiseless soft routes.
        keys: (B,) the noise follows from these; None: it is drawn from PyTorch's generator.

    Returns:
        (B, O), rows sum to 1.
    """
    logits = log_probabilities
    if noise:
        logits = logits - exponential(logits, keys).clamp(min=1e-30).log()  # g = -log(-log u)
    weights = (logits / temperature).softmax(-1)
    if active >= weights.shape[-1]:
        return weights
    chosen = torch.zeros_like(weights).scatter(-1, weights.topk(active, -1).indices, 1.0)
    if active == 1:
        return chosen + chosen * (weights - weights.detach())
    kept = weights * chosen
    return kept / kept.sum(-1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)


def annealed_temperature(
    switch: SwitchConfig, start: Tensor, samples: Tensor, *, floor_samples: Tensor | None = None
) -> Tensor:
    """tau = max(floor, start * exp(-rate * samples)); ``samples`` counts training samples of all ranks.

    Differs from the paper: it does not say what the rate counts (here samples, so that the floor is reached).
    ``floor_samples``: those at which the floor is reached; None or 0: as the configuration's rate says.
    """
    rate: Any = switch.anneal_rate
    if floor_samples is not None:
        within = (start.double() / switch.min_temperature).log().clamp(min=0.0) / floor_samples.clamp(min=1)
        rate = torch.where(floor_samples > 0, within, rate)
    return (start * torch.exp(-rate * samples.double()).float()).clamp(min=switch.min_temperature)


def samples_until_floor(switch: SwitchConfig, start: float) -> float:
    """Training samples after which the temperature has reached its floor by the configuration's rate."""
    if start <= switch.min_temperature:
        return 0.0
    return math.log(start / switch.min_temperature) / switch.anneal_rate if switch.anneal_rate else math.inf


def forced_weights(
    forced: Forced, options: Sequence[str], *, shape: tuple[int, int], device: torch.device, what: str
) -> Tensor:
    """Routes given from outside, as weights (B, L, O).

    Args:
        forced: one entry per layer, or (B, L) entries: an option's name or its index; or weights (B, L, O).
        options: the O names.
        shape: (B, L).
        device: of the weights.
        what: "modes" or "inputs", for the message.

    Raises:
        UserError: an unknown option or another number of layers or samples.
    """
    B, L = shape
    if isinstance(forced, Tensor) and forced.dim() == 3:
        weights = forced.to(device, torch.float32)
    else:
        entries: list[Any] = forced.tolist() if isinstance(forced, Tensor) else list(forced)
        per_sample = bool(entries) and isinstance(entries[0], list | tuple)
        rows: list[list[Any]] = [list(row) for row in entries] if per_sample else [entries] * B
        names = list(options)
        try:
            indices = [[names.index(entry) if isinstance(entry, str) else int(entry) for entry in row] for row in rows]
        except ValueError as error:
            raise UserError(f"{what}: expected options out of {', '.join(names)} ({error})") from None
        flat = [index for row in indices for index in row]
        if any(len(row) != L for row in indices) or any(not 0 <= index < len(names) for index in flat):
            raise UserError(f"{what}: expected {L} entries out of {', '.join(names)}, found {entries}")
        weights = F.one_hot(torch.tensor(indices, device=device), len(names)).float()
    if weights.shape != (B, L, len(options)):
        raise UserError(f"{what}: expected shape {(B, L, len(options))}, found {tuple(weights.shape)}")
    return weights


def newest_shares(weights: Tensor) -> Tensor:
    """How much of the text's and of the vision's input comes from layer l-1, (B, C) to (2, B); the rest is older.

    Every candidate pairs one of two text states with one of two vision states, so that a weighted sum of candidates
    (section 2.3.2) needs one coefficient per modality: the total weight of those that take it from layer l-1.
    """
    of_candidates = list(zip(INPUT_CANDIDATES, weights.unbind(1), strict=False))
    sides = [[weight for candidate, weight in of_candidates if candidate[side] == 0] for side in (0, 1)]
    return torch.stack([torch.stack(newest).sum(0) for newest in sides])


def switch_inputs(last: States, before: States, shares: Tensor, *, layout: PackedLayout) -> States:
    """Weighted sum of the input candidates; ``shares`` as in ``newest_shares``, ``before`` is the older input."""
    newest = join(last)
    per_row = layout.per_row(shares).to(newest.dtype)[:, None]  # (n, 1)
    return (join(before).lerp(newest, per_row),)  # (n, D)
