"""The encoder: VOLTA's stack of sublayers, static or switched.

States are packed rows without padding (``rows``); after the last sublayer that attends to a modality, only the rows
that are read are computed.

Legend: B batch, n_t and n_v packed rows of text and vision, T tokens and R regions as given, D hidden, L layers
(attention + feed-forward), M modes, C input candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from volta_switch.config import Config, SwitchConfig
from volta_switch.errors import UserError
from volta_switch.model.noise import Site, fold_in
from volta_switch.model.rows import PackedLayout, States, join
from volta_switch.model.sublayers import AttentionSublayer, FeedForwardSublayer
from volta_switch.model.switch import (
    Forced,
    Routes,
    Switcher,
    add_floor_samples,
    annealed_temperature,
    forced_weights,
    hard_weights,
    newest_shares,
    soft_weights,
    switch_inputs,
)
from volta_switch.weights.loading import FLOOR_SAMPLES

S = TypeVar("S")  # the states of a forward pass in some form


@dataclass(frozen=True)
class EncoderOutput:
    """Last states of the rows of ``layout``, and every sublayer's where asked for (the embeddings first)."""

    states: States  # text (n_t, D) and vision (n_v, D_v)
    layout: PackedLayout
    routes: Routes | None
    history: list[States]

    def padded(self) -> tuple[Tensor, Tensor]:
        """Returns the last states as the batch was given, (B, T, D) and (B, R, D_v), zero at padding."""
        return self.layout.text.unpack(self.states[0]), self.layout.vision.unpack(self.states[1])


@dataclass(frozen=True)
class OutputPositions:
    """The positions whose last states are read, (B, T) and (B, R) as given; the others' are not computed."""

    text: Tensor
    vision: Tensor


class Encoder(nn.Module):
    """A static encoder, driven by VOLTA's sublayer lists (``layer.<number>`` under VOLTA's names).

    With ``checkpointing``, the backward pass computes each layer again from what came into it, and nothing within a
    layer is kept until then. Noise is drawn as it was.
    """

    def __init__(self, config: Config):
        super().__init__()
        count = len(config.attention_sublayers) + len(config.ff_sublayers)
        attention = set(config.attention_sublayers)
        self.layer = nn.ModuleList(
            AttentionSublayer(config, number) if number in attention else FeedForwardSublayer(config, number)
            for number in range(count)
        )
        # After these sublayers nothing attends to a row of text, or of vision.
        self.last_text = max((*config.tt_attn_sublayers, *config.vt_attn_sublayers), default=-1)
        self.last_vision = max((*config.tv_attn_sublayers, *config.vv_attn_sublayers), default=-1)
        starts = [number for number in range(count) if number == 0 or number in attention]
        # Of each layer, an attention sublayer and what follows up to the next, the sublayers' numbers.
        self._layers = [range(*ends) for ends in zip(starts, [*starts[1:], count], strict=True)]
        self.checkpointing = False

    def forward(
        self,
        states: States,
        layout: PackedLayout,
        read: OutputPositions | None = None,
        *,
        modes: Forced | None = None,
        inputs: Forced | None = None,
        keep_all: bool = False,
    ) -> EncoderOutput:
        """Encodes both modalities.

        Args:
            states, layout: the packed embeddings, and where their rows lie.
            read: the positions whose last states are needed; all by default.
            modes, inputs: routes forced from outside; only for a switched encoder.
            keep_all: also returns the states after every sublayer, of all rows; not with ``read``.
        """
        if modes is not None or inputs is not None:
            raise UserError("modes and inputs can be forced only where the configuration has a switch section")
        layouts, history = self._layouts(layout, read), [states]
        for index in range(len(self._layers)):
            layer = partial(self._layer, index, layouts)
            again = self.checkpointing and torch.is_grad_enabled()
            after = checkpoint(layer, states, use_reentrant=False) if again else layer(states)
            states = after[-1]
            history += after if keep_all else []
        return EncoderOutput(layouts[-1].split(states), layouts[-1], None, history)

    def _layouts(self, layout: PackedLayout, read: OutputPositions | None) -> list[PackedLayout]:
        """Returns where the rows lie that enter each layer and leave the last: all until nothing attends to them."""
        layouts = [layout]
        for numbers in self._layers:
            text = read.text if read is not None and numbers[0] == self.last_text else None
            vision = read.vision if read is not None and numbers[0] == self.last_vision else None
            layouts.append(layouts[-1].prune(text, vision))
        return layouts

    def _layer(
        self,
        index: int,
        layouts: list[PackedLayout],
        states: States,
        *,
        weights: Tensor | None = None,
        modes: tuple[str, ...] = (),
    ) -> list[States]:
        """Returns the states after each sublayer of a layer; ``weights`` and ``modes`` as in ``AttentionSublayer``."""
        before, kept = layouts[index : index + 2]
        after = [states]
        for number in self._layers[index]:
            sublayer = self.layer[number]
            if isinstance(sublayer, AttentionSublayer):
                after.append(sublayer(after[-1], before, kept, weights=weights, modes=modes))
            else:
                after.append(sublayer(after[-1], kept))
        return after[1:]


class SwitchEncoder(Encoder):
    """Switch-BERT's encoder (paper section 2.4.2): SAB in every layer, SIB between consecutive layers.

    ``routing`` decides how an unforced switcher is read: ``"auto"`` (soft with Gumbel noise in training, hard in
    evaluation), ``"soft"`` (weights without noise) or ``"hard"``.
    """

    switch_samples: Tensor
    switch_start_temperature: Tensor
    switch_floor_samples: Tensor

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
        if switch.input:
            self.input_switch = nn.ModuleList(
                Switcher(D, switch, switch.input_candidates) for _ in range(self.depth - 1)
            )
        self.register_buffer("switch_samples", torch.zeros((), dtype=torch.long))
        self.register_buffer("switch_start_temperature", torch.tensor(float(switch.temperature)))
        self.register_buffer(FLOOR_SAMPLES, torch.zeros((), dtype=torch.long))  # 0: by the configuration's rate
        self.register_load_state_dict_pre_hook(add_floor_samples)

    @property
    def temperature(self) -> Tensor:
        """The Gumbel-softmax temperature at the present number of samples, a scalar tensor."""
        start, samples = self.switch_start_temperature, self.switch_samples
        return annealed_temperature(self.switch, start, samples, floor_samples=self.switch_floor_samples)

    def start_annealing(self, temperature: float, samples: int = 0) -> None:
        """Sets the schedule's start temperature and the number of samples seen so far (by all ranks)."""
        self.switch_start_temperature.fill_(temperature)
        self.switch_samples.fill_(samples)
        self.switch_floor_samples.zero_()

    def anneal_within(self, share: float, samples: int) -> None:
        """Lets the temperature reach its floor at a share of a run of so many samples; not given by the paper."""
        self.switch_floor_samples.fill_(max(round(share * samples), 1))

    def forward(
        self,
        states: States,
        layout: PackedLayout,
        read: OutputPositions | None = None,
        *,
        modes: Forced | None = None,
        inputs: Forced | None = None,
        keep_all: bool = False,
    ) -> EncoderOutput:
        """As ``Encoder.forward``; forced routes as in ``forced_weights``, the first layer's input being ignored."""
        B, device = layout.text.B, states[0].device
        candidates = [str(candidate) for candidate in range(self.switch.input_candidates)]
        forced_modes = forced_inputs = None
        if modes is not None:
            forced_modes = forced_weights(modes, self.switch.modes, shape=(B, self.depth), device=device, what="modes")
        if inputs is not None:
            forced_inputs = forced_weights(inputs, candidates, shape=(B, self.depth), device=device, what="inputs")
        layouts = self._layouts(layout, read)
        joined: States = (join(states),)
        history = [joined]

        def run_layer(
            index: int, last: States, before: States, *, shares: Tensor | None, weights: Tensor | None
        ) -> tuple[States, States]:
            layer = partial(self._switched_layer, index=index, layouts=layouts, shares=shares, weights=weights)
            again = self.checkpointing and torch.is_grad_enabled()
            given, *after = checkpoint(layer, last, before, use_reentrant=False) if again else layer(last, before)
            history.extend(after if keep_all else [])
            return after[-1], given

        def means_of(index: int, states: States) -> Tensor:
            return layouts[index].means(states)

        keys = layout.sample_keys
        last, routes = self.run_layers(
            joined, run_layer, means_of, B=B, keys=keys, modes=forced_modes, inputs=forced_inputs
        )
        return EncoderOutput(layouts[-1].split(last), layouts[-1], routes, history)

    def run_layers(
        self,
        states: S,
        run_layer: Callable[..., tuple[S, S]],
        means_of: Callable[[int, S], Tensor],
        *,
        B: int,
        keys: Tensor | None = None,
        modes: Tensor | None = None,
        inputs: Tensor | None = None,
    ) -> tuple[S, Routes]:
        """Decides each layer's route and runs it, on states of any form.

        Args:
            states: the embeddings.
            run_layer: (number of the layer, states of layer l-1, the older ones, ``shares=`` (2, B) as in
                ``newest_shares``, None: the layer below, ``weights=`` (B, M) of the modes, None: joint) to new states,
                and the layer's own input.
            means_of: (number of the layer, states of layer l-1) to the mean state of every sample's text and of its
                vision, (2, B, D).
            B: how many samples.
            keys: (B,) of keyed noise.
            modes, inputs: (B, L, M) and (B, L, C), forced.

        Returns:
            The last states and the weights that were used.
        """
        decides = (self.switch.attention and modes is None) or (self.switch.input and inputs is None)
        before = last = states  # the older input and the output of layer l-1
        means_before: Tensor | None = None  # of their rows, (2, B, D)
        used_modes, used_inputs = [], []  # (B, M) and (B, C) per layer
        for index in range(self.depth):
            means = means_last = means_of(index, last) if decides else None  # of the layer's input, and of ``last``
            candidates = shares = None
            if index > 0:  # the first layer has nothing to choose from
                candidates = self._candidates(index, means_last, keys) if inputs is None else inputs[:, index]
            if candidates is not None:
                shares = newest_shares(candidates)  # (2, B)
                if means_before is not None and means_last is not None:  # the mean of the sum is the sum of the means
                    means = means_before.lerp(means_last, shares[..., None].to(means_last.dtype))
            weights = self._mode_weights(index, means, keys) if modes is None else modes[:, index]
            after, given = run_layer(index, last, before, shares=shares, weights=weights)
            output = self.switch.older_input == "output"  # else the residual connection of layer l-1
            before, means_before, last = (last, means_last, after) if output else (given, means, after)
            used_modes.append(self._one_hot(B, len(self.switch.modes), self._joint) if weights is None else weights)
            below = self.switch.input_candidates, 0  # the layer below, of so many candidates
            used_inputs.append(self._one_hot(B, *below) if candidates is None else candidates)
        return last, Routes(torch.stack(used_modes, 1), torch.stack(used_inputs, 1))

    def _candidates(self, index: int, means: Tensor | None, keys: Tensor | None) -> Tensor | None:
        """Returns the weights of a layer's input candidates, (B, C); None: the layer below."""
        if not self.switch.input or means is None:
            return None
        # The alignment degree is taken from (l-1, l-1); differs from the paper: it does not say.
        decided = self.input_switch[index - 1](*means)
        return self.weigh(decided, self.switch.input_candidates, fold_in(keys, Site.INPUT, index))

    def _mode_weights(self, index: int, means: Tensor | None, keys: Tensor | None) -> Tensor | None:
        """Returns the weights of a layer's attention modes, (B, M); None: joint."""
        if not self.switch.attention or means is None:
            return None
        decided = self.attention_switch[index](*means)
        return self.weigh(decided, self.switch.active_modes, fold_in(keys, Site.MODE, index))

    def _switched_layer(
        self,
        last: States,
        before: States,
        *,
        index: int,
        layouts: list[PackedLayout],
        shares: Tensor | None,
        weights: Tensor | None,
    ) -> list[States]:
        """As ``_layer``, of the input that the shares (2, B) say, None: the layer below; this input stands first."""
        states = last if shares is None else switch_inputs(last, before, shares, layout=layouts[index])
        return [states, *self._layer(index, layouts, states, weights=weights, modes=self.switch.modes)]

    def _one_hot(self, B: int, options: int, index: int) -> Tensor:
        weights = torch.zeros(B, options, device=self.switch_samples.device)
        weights[:, index] = 1
        return weights

    def weigh(self, log_probabilities: Tensor, active: int, keys: Tensor | None = None) -> Tensor:
        """(B, O) weights of a switcher's options, ``active`` of them, as ``routing`` says; ``keys`` (B,): of noise."""
        if self.routing == "hard" or (self.routing == "auto" and not self.training):
            return hard_weights(log_probabilities)
        noise = self.routing == "auto"
        return soft_weights(log_probabilities, self.temperature, active, noise=noise, keys=keys)


def build_encoder(config: Config) -> Encoder:
    """The encoder that a configuration describes."""
    return Encoder(config) if config.switch is None else SwitchEncoder(config)


def encoder_of(model: nn.Module) -> Encoder:
    """A model's encoder."""
    return next(module for module in model.modules() if isinstance(module, Encoder))


@contextmanager
def routed(switch: SwitchEncoder, routing: str) -> Iterator[None]:
    """Reads the switchers softly or hard within the block."""
    before, switch.routing = switch.routing, routing
    try:
        yield
    finally:
        switch.routing = before
