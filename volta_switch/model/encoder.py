"""The encoder: VOLTA's stack of sublayers, static or switched.

States are packed rows without padding (``rows``); after the last sublayer that attends to a modality, only the rows
that somebody reads go on.

Legend: B batch, n_t and n_v packed rows of text and vision, T tokens and R regions as given, D hidden, L layers
(attention + feed-forward), M modes, C input candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.checkpoint import checkpoint

from volta_switch.config import Config, SwitchConfig
from volta_switch.errors import UserError
from volta_switch.model.layout import Kept, Layout, Streams
from volta_switch.model.noise import Site
from volta_switch.model.sublayers import AttentionSublayer, FeedForwardSublayer
from volta_switch.model.switch import (
    Forced,
    Routes,
    Switcher,
    annealed_temperature,
    forced_weights,
    hard_weights,
    newest_shares,
    soft_weights,
    switch_inputs,
)


@dataclass(frozen=True)
class Encoded:
    """Last states of the rows of ``layout``, and every sublayer's where asked for (the embeddings first)."""

    text: Tensor  # (n_t, D)
    vision: Tensor  # (n_v, D_v)
    layout: Layout
    routes: Routes | None
    history: list[Streams]

    def padded(self) -> tuple[Tensor, Tensor]:
        """The last states as the batch was given, (B, T, D) and (B, R, D_v), zero at padding."""
        return self.layout.text.spread(self.text), self.layout.vision.spread(self.vision)


@dataclass(frozen=True)
class Read:
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
        # From these sublayers on, nothing attends to a row of text, or of vision.
        self.last_text = max((*config.tt_attn_sublayers, *config.vt_attn_sublayers), default=-1)
        self.last_vision = max((*config.tv_attn_sublayers, *config.vv_attn_sublayers), default=-1)
        starts = [number for number in range(count) if number == 0 or number in attention]
        # Of each layer, an attention sublayer and what follows up to the next, the sublayers' numbers.
        self._layers = [range(*ends) for ends in zip(starts, [*starts[1:], count], strict=True)]
        self.checkpointing = False

    def forward(
        self,
        states: Streams,
        layout: Layout,
        read: Read | None = None,
        modes: Forced | None = None,
        inputs: Forced | None = None,
        keep_all: bool = False,
    ) -> Encoded:
        """Encodes both modalities.

        Args:
            states: the embeddings, packed.
            layout: where their rows lie.
            read: the positions whose last states are needed; all by default.
            modes, inputs: routes forced from outside; only for a switched encoder.
            keep_all: also returns the states after every sublayer, of all rows; not with ``read``.
        """
        if modes is not None or inputs is not None:
            raise UserError("modes and inputs can be forced only where the configuration has a switch section")
        history = [states]
        for numbers in self._layers:
            kept = self._kept(numbers[0], layout, read)
            after = self._maybe_again(partial(self._layer, numbers, layout, kept), states)
            states, layout = after[-1], kept.layout
            history += after if keep_all else []
        return Encoded(states.text, states.vision, layout, None, history)

    def _layer(
        self,
        numbers: range,
        layout: Layout,
        kept: Kept,
        states: Streams,
        weights: Tensor | None = None,
        modes: tuple[str, ...] = (),
    ) -> list[Streams]:
        """The states after each sublayer of a layer; arguments as those of ``AttentionSublayer``."""
        after = [states]
        for number in numbers:
            sublayer = self.layer[number]
            if isinstance(sublayer, AttentionSublayer):
                after.append(sublayer(after[-1], layout, kept, weights, modes))
            else:
                after.append(sublayer(after[-1], kept.layout))
        return after[1:]

    def _maybe_again(self, layer: Callable[..., list[Streams]], *states: Streams) -> list[Streams]:
        """``layer(*states)``, to be computed again in the backward pass where ``checkpointing`` asks for that."""
        if not (self.checkpointing and torch.is_grad_enabled()):
            return layer(*states)
        # Only tensors go in: the states make other forms of themselves on demand, and must do so again.
        tensors, spec = tree_flatten(states)
        return checkpoint(lambda *given: layer(*tree_unflatten(given, spec)), *tensors, use_reentrant=False)

    def _kept(self, number: int, layout: Layout, read: Read | None) -> Kept:
        """The rows that go on from an attention sublayer: all, until nothing attends to a modality any more."""
        text = vision = None
        of_text, of_vision = layout.text, layout.vision
        if read is not None and number == self.last_text:
            of_text, text = layout.text.select(read.text)
        if read is not None and number == self.last_vision:
            of_vision, vision = layout.vision.select(read.vision)
        if text is None and vision is None:
            return Kept(layout, None, None)
        noise = None if layout.noise is None else layout.noise.select(text, vision)
        return Kept(Layout(of_text, of_vision, noise), text, vision)


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
        states: Streams,
        layout: Layout,
        read: Read | None = None,
        modes: Forced | None = None,
        inputs: Forced | None = None,
        keep_all: bool = False,
    ) -> Encoded:
        """As ``Encoder.forward``; forced routes as in ``forced_weights``, the first layer's input being ignored."""
        B, L, device = layout.text.B, self.depth, states.text.device
        M, C = len(self.switch.modes), self.switch.input_candidates
        forced_modes = None if modes is None else forced_weights(modes, self.switch.modes, B, L, device, "modes")
        names = [str(candidate) for candidate in range(C)]
        forced_inputs = None if inputs is None else forced_weights(inputs, names, B, L, device, "inputs")
        decides = (self.switch.attention and modes is None) or (self.switch.input and inputs is None)
        before = last = states  # outputs of layers l-2 and l-1
        mean_before: Tensor | None = None  # of their rows, (2, B, D)
        history = [last]
        used_modes, used_inputs = [], []  # (B, M) and (B, C) per layer
        for index in range(L):
            mean = mean_last = layout.means(last.joined) if decides else None
            from_inputs = self._inputs(index, mean_last, forced_inputs, layout) if index > 0 else None
            shares = None if from_inputs is None else newest_shares(from_inputs)  # (2, B)
            if shares is not None and mean_before is not None and mean_last is not None:
                # The mean of the sum is the sum of the means.
                mean = mean_before.lerp(mean_last, shares[..., None].to(mean_last.dtype))
            weights = self._modes(index, mean, forced_modes, layout)
            kept = self._kept(2 * index, layout, read)
            layer = partial(self._switched_layer, index, layout, kept, shares, weights)
            after = self._maybe_again(layer, last, before)
            before, last, layout = last, after[-1], kept.layout
            mean_before = mean_last
            history += after if keep_all else []
            used_modes.append(_one_hot(B, M, self._joint, device) if weights is None else weights)
            used_inputs.append(_one_hot(B, C, 0, device) if from_inputs is None else from_inputs)
        routes = Routes(torch.stack(used_modes, 1), torch.stack(used_inputs, 1))
        return Encoded(last.text, last.vision, layout, routes, history)

    def _switched_layer(
        self,
        index: int,
        layout: Layout,
        kept: Kept,
        shares: Tensor | None,
        weights: Tensor | None,
        last: Streams,
        before: Streams,
    ) -> list[Streams]:
        """As ``_layer``, of the input that the shares (2, B) say; None: the layer below."""
        states = last if shares is None else switch_inputs(last, before, shares, layout)
        return self._layer(self._layers[index], layout, kept, states, weights, self.switch.modes)

    def _modes(self, index: int, means: Tensor | None, forced: Tensor | None, layout: Layout) -> Tensor | None:
        """(B, M) weights of a layer's modes; None where the layer is simply joint."""
        if forced is not None:
            return forced[:, index]
        if not self.switch.attention or means is None:
            return None
        keys = layout.sample_keys(Site.MODE, index)
        return self.weigh(self.attention_switch[index](*means), self.switch.active_modes, keys)

    def _inputs(self, index: int, means: Tensor | None, forced: Tensor | None, layout: Layout) -> Tensor | None:
        """(B, C) weights of a layer's input candidates; None where the input is the layer below."""
        if forced is not None:
            return forced[:, index]
        if not self.switch.input or means is None:
            return None
        # The alignment degree is taken from (l-1, l-1); differs from the paper: it does not say.
        keys = layout.sample_keys(Site.INPUT, index)
        return self.weigh(self.input_switch[index - 1](*means), self.switch.input_candidates, keys)

    def weigh(self, log_probabilities: Tensor, active: int, keys: Tensor | None = None) -> Tensor:
        """(B, O) weights of a switcher's options, ``active`` of them, as ``routing`` says; ``keys`` (B,): of noise."""
        if self.routing == "hard" or (self.routing == "auto" and not self.training):
            return hard_weights(log_probabilities)
        noise = self.routing == "auto"
        return soft_weights(log_probabilities, self.temperature, active, noise, keys)


def _one_hot(B: int, options: int, index: int, device: torch.device) -> Tensor:
    weights = torch.zeros(B, options, device=device)
    weights[:, index] = 1
    return weights


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
