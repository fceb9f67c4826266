"""The encoder: VOLTA's stack of sublayers, static or switched.

States and masks cross its boundary in VOLTA's shapes, so that the same module can stand in VOLTA.

Legend: B batch, T text tokens, R regions, D hidden, L layers (attention + feed-forward), M modes, C input candidates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from volta_switch.config import Config, SwitchConfig
from volta_switch.errors import UserError
from volta_switch.model.attention import KeyMask
from volta_switch.model.sublayers import AttentionSublayer, FeedForwardSublayer, Streams
from volta_switch.model.switch import (
    Forced,
    Routes,
    Switcher,
    annealed_temperature,
    forced_weights,
    hard_weights,
    soft_weights,
    switch_inputs,
)


@dataclass(frozen=True)
class Encoded:
    """Last states, and every sublayer's where asked for (the embeddings first)."""

    text: Tensor  # (B, T, D)
    vision: Tensor  # (B, R, D_v)
    routes: Routes | None
    all_text: list[Tensor]
    all_vision: list[Tensor]


class Encoder(nn.Module):
    """A static encoder, driven by VOLTA's sublayer lists (``layer.<number>`` under VOLTA's names)."""

    def __init__(self, config: Config):
        super().__init__()
        count = len(config.attention_sublayers) + len(config.ff_sublayers)
        attention = set(config.attention_sublayers)
        self.layer = nn.ModuleList(
            AttentionSublayer(config, number) if number in attention else FeedForwardSublayer(config, number)
            for number in range(count)
        )

    def forward(
        self,
        text: Tensor,
        vision: Tensor,
        text_mask: Tensor,
        vision_mask: Tensor,
        modes: Forced | None = None,
        inputs: Forced | None = None,
        keep_all: bool = False,
    ) -> Encoded:
        """Encodes both modalities.

        Args:
            text: (B, T, D) embeddings.
            vision: (B, R, D_v) embeddings.
            text_mask, vision_mask: (B, 1, 1, T or R), additive as in VOLTA: 0 at real positions, -10000 at padding.
            modes, inputs: routes forced from outside; only for a switched encoder.
            keep_all: also returns the states after every sublayer.
        """
        if modes is not None or inputs is not None:
            raise UserError("modes and inputs can be forced only where the configuration has a switch section")
        real = KeyMask(text_mask[:, 0, 0, :] > -1, vision_mask[:, 0, 0, :] > -1)
        states = Streams(text, vision)
        history = [states]
        for sublayer in self.layer:
            states = sublayer(states, real) if isinstance(sublayer, AttentionSublayer) else sublayer(states)
            if keep_all:
                history.append(states)
        return _encoded(states, None, history)


class SwitchEncoder(Encoder):
    """Switch-BERT's encoder (paper section 2.4.2): SAB in every layer, SIB between consecutive layers.

    ``routing`` decides how an unforced switcher is read: ``"auto"`` (soft with Gumbel noise in training, hard in
    evaluation), ``"soft"`` (weights without noise) or ``"hard"``.
    """

    switch_samples: Tensor
    switch_start_temperature: Tensor

    def __init__(self, config: Config):
        super().__init__(config)
        if config.switch is None:
            raise UserError("a switched encoder needs a configuration with a switch section")
        self.switch: SwitchConfig = config.switch
        self.depth = len(config.attention_sublayers)
        self.routing = "auto"
        self._joint = config.switch.modes.index("J") if "J" in config.switch.modes else 0
        D, switch = config.hidden_size, config.switch
        if switch.attention:
            self.attention_switch = nn.ModuleList(Switcher(D, switch, len(switch.modes)) for _ in range(self.depth))
        if switch.input:  # the first layer has nothing to choose from
            self.input_switch = nn.ModuleList(
                Switcher(D, switch, switch.input_candidates) for _ in range(self.depth - 1)
            )
        self.register_buffer("switch_samples", torch.zeros((), dtype=torch.long))
        self.register_buffer("switch_start_temperature", torch.tensor(float(switch.temperature)))

    @property
    def temperature(self) -> Tensor:
        """The Gumbel-softmax temperature at the present number of samples, a scalar tensor."""
        return annealed_temperature(self.switch, self.switch_start_temperature, self.switch_samples)

    def start_annealing(self, temperature: float, samples: int = 0) -> None:
        """Sets the schedule's start temperature and the number of samples seen so far (by all ranks)."""
        self.switch_start_temperature.fill_(temperature)
        self.switch_samples.fill_(samples)

    def forward(
        self,
        text: Tensor,
        vision: Tensor,
        text_mask: Tensor,
        vision_mask: Tensor,
        modes: Forced | None = None,
        inputs: Forced | None = None,
        keep_all: bool = False,
    ) -> Encoded:
        """As ``Encoder.forward``; forced routes as in ``forced_weights``, the first layer's input being ignored."""
        B, L, device = text.shape[0], self.depth, text.device
        real = KeyMask(text_mask[:, 0, 0, :] > -1, vision_mask[:, 0, 0, :] > -1)
        M, C = len(self.switch.modes), self.switch.input_candidates
        forced_modes = None if modes is None else forced_weights(modes, self.switch.modes, B, L, device, "modes")
        names = [str(candidate) for candidate in range(C)]
        forced_inputs = None if inputs is None else forced_weights(inputs, names, B, L, device, "inputs")
        before = last = Streams(text, vision)  # outputs of layers l-2 and l-1
        history = [last]
        used_modes, used_inputs = [], []  # (B, M) and (B, C) per layer
        for index in range(L):
            states, from_inputs = last, None
            if index > 0:
                from_inputs = self._inputs(index, last, real, forced_inputs)
                states = last if from_inputs is None else switch_inputs(last, before, from_inputs)
            weights = self._modes(index, states, real, forced_modes)
            attended = cast(AttentionSublayer, self.layer[2 * index])(states, real, weights, self.switch.modes)
            before, last = last, self.layer[2 * index + 1](attended)
            history += [attended, last] if keep_all else []
            used_modes.append(_one_hot(B, M, self._joint, device) if weights is None else weights)
            used_inputs.append(_one_hot(B, C, 0, device) if from_inputs is None else from_inputs)
        routes = Routes(torch.stack(used_modes, 1), torch.stack(used_inputs, 1))
        return _encoded(last, routes, history)

    def _modes(self, index: int, states: Streams, real: KeyMask, forced: Tensor | None) -> Tensor | None:
        """(B, M) weights of a layer's modes; None where the layer is simply joint."""
        if forced is not None:
            return forced[:, index]
        if not self.switch.attention:
            return None
        return self._weigh(self.attention_switch[index](states, real), self.switch.active_modes)

    def _inputs(self, index: int, last: Streams, real: KeyMask, forced: Tensor | None) -> Tensor | None:
        """(B, C) weights of a layer's input candidates; None where the input is the layer below."""
        if forced is not None:
            return forced[:, index]
        if not self.switch.input:
            return None
        # The alignment degree is taken from (l-1, l-1); differs from the paper: it does not say.
        return self._weigh(self.input_switch[index - 1](last, real), self.switch.input_candidates)

    def _weigh(self, log_probabilities: Tensor, active: int) -> Tensor:
        if self.routing == "hard" or (self.routing == "auto" and not self.training):
            return hard_weights(log_probabilities)
        noise = self.routing == "auto"
        return soft_weights(log_probabilities, self.temperature, active, noise)


def _one_hot(B: int, options: int, index: int, device: torch.device) -> Tensor:
    weights = torch.zeros(B, options, device=device)
    weights[:, index] = 1
    return weights


def build_encoder(config: Config) -> Encoder:
    """The encoder that a configuration describes."""
    return Encoder(config) if config.switch is None else SwitchEncoder(config)


def _encoded(states: Streams, routes: Routes | None, history: list[Streams]) -> Encoded:
    every = history if len(history) > 1 else []
    return Encoded(states.text, states.vision, routes, [s.text for s in every], [s.vision for s in every])
