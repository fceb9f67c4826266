"""Switchers: who decides, per sample, which mode or which input a layer uses (paper section 2.3, eqs. 5-8).

Legend: B batch, T text tokens, R regions, D hidden, L layers, M attention modes, C input candidates,
O options of a switcher (M or C).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from volta_switch.config import SwitchConfig
from volta_switch.errors import UserError
from volta_switch.model.noise import exponential
from volta_switch.model.rows import PackedLayout, States, join

# (which text state, which vision state) of each input candidate: 0 is layer l-1's output, 1 is layer l-2's.
INPUT_CANDIDATES = ((0, 0), (1, 0), (0, 1), (1, 1))

Forced = Sequence[str] | Sequence[int] | Sequence[Sequence[str]] | Sequence[Sequence[int]] | Tensor


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
        self.alignment = switch.alignment
        self.hidden = nn.Linear(hidden_size * (2 if switch.alignment == "concat" else 1), switch.hidden_size)
        self.options = nn.Linear(switch.hidden_size, options)

    def reset(self) -> None:
        """Equal probabilities: zero weights in the last layer."""
        nn.init.zeros_(self.options.weight)
        nn.init.zeros_(self.options.bias)

    def forward(self, text: Tensor, vision: Tensor) -> Tensor:
        """log pi, (B, O) float32, from the mean states of text and vision (eq. 5), (B, D) each."""
        alignment = torch.cat((text, vision), -1) if self.alignment == "concat" else text * vision
        return self.options(F.gelu(self.hidden(alignment))).float().log_softmax(-1)  # eq. 6


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


def annealed_temperature(switch: SwitchConfig, start: Tensor, samples: Tensor) -> Tensor:
    """tau = max(floor, start * exp(-rate * samples)); ``samples`` counts training samples of all ranks.

    Differs from the paper: it does not say what the rate counts (METHOD: samples, so that the floor is reached).
    """
    return (start * torch.exp(-switch.anneal_rate * samples.double()).float()).clamp(min=switch.min_temperature)


def samples_until_floor(switch: SwitchConfig, start: float) -> float:
    """Training samples after which the temperature has reached its floor."""
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
    """How much of the text's and of the vision's input comes from layer l-1, (B, C) to (2, B); the rest from l-2.

    Every candidate pairs one of two text states with one of two vision states, so that a weighted sum of candidates
    (section 2.3.2) needs one coefficient per modality: the total weight of those that take it from layer l-1.
    """
    of_candidates = list(zip(INPUT_CANDIDATES, weights.unbind(1), strict=False))
    sides = [[weight for candidate, weight in of_candidates if candidate[side] == 0] for side in (0, 1)]
    return torch.stack([torch.stack(newest).sum(0) for newest in sides])


def switch_inputs(last: States, before: States, shares: Tensor, *, layout: PackedLayout) -> States:
    """Weighted sum of the input candidates; ``shares`` as in ``newest_shares``, ``before`` is layer l-2's output."""
    newest = join(last)
    per_row = layout.per_row(shares).to(newest.dtype)[:, None]  # (n, 1)
    return (join(before).lerp(newest, per_row),)  # (n, D)
