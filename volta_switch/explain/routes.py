"""The route of one text about its images: what the switchers chose, and the same with choices forced otherwise.

A forced choice changes one layer of one row. All other layers keep what they chose: one decision is measured, not its
consequences for later switchers (as in ``routes.measurements``).

Legend: L layers, M modes, C input candidates, O options of a switcher; rows of a batch, NLVR2's images.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from volta_switch.errors import UserError
from volta_switch.explain.subject import WHOLE, Subject
from volta_switch.model.bert import switch_encoder
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import Routes, noted_scores
from volta_switch.routes.measurements import changes
from volta_switch.routes.record import INPUT_NAMES, one_hot_routes

Place = tuple[int, int, str]  # row, layer from 0, "modes" or "inputs"


@dataclass(frozen=True, eq=False)
class Route:
    """Which option each switcher takes.

    Attributes:
        encoder: the model's.
        modes: (rows, L) numbers of modes.
        inputs: (rows, L) numbers of input candidates; 0 in the first layer.
        probabilities: (rows, O) that the model's own switchers give, by block and layer.
    """

    encoder: SwitchEncoder
    modes: np.ndarray
    inputs: np.ndarray
    probabilities: dict[tuple[str, int], np.ndarray]

    @classmethod
    def chosen(cls, subject: Subject) -> Route | None:
        """Returns what the model chooses itself; None of an architecture without switchers."""
        encoder = switch_encoder(subject.model)
        if encoder is None:
            return None
        taken: list[Routes] = []
        handle = encoder.register_forward_hook(lambda _, __, out: taken.append(out.routes))
        try:
            with noted_scores(encoder) as said, torch.inference_mode():
                subject.model.scorer(subject.task)(subject.inputs([WHOLE]))
        finally:
            handle.remove()
        modes, inputs = (weights.argmax(2).cpu().numpy() for weights in (taken[0].modes, taken[0].inputs))
        return cls(encoder, modes, inputs, {place: log.float().exp().cpu().numpy() for place, log in said.items()})

    @property
    def places(self) -> list[Place]:
        """Every switcher that has a choice, row by row and layer by layer; an input is chosen before its mode."""
        forced = {(each.layer, each.block) for each in changes(self.encoder)}
        order = sorted(forced, key=lambda place: (place[0], place[1] == "modes"))
        return [(row, *place) for row in range(len(self.modes)) for place in order]

    def names(self, block: str) -> Sequence[str]:
        """Returns what a switcher's options are called: "J" of a mode, "text l-2" of an input."""
        switch = self.encoder.switch
        return switch.modes if block == "modes" else INPUT_NAMES[: switch.input_candidates]

    def option(self, place: Place) -> int:
        """Returns the number of the option that is taken."""
        row, layer, block = place
        return int((self.modes if block == "modes" else self.inputs)[row, layer])

    def changed(self, choices: Iterable[tuple[Place, str]]) -> Route:
        """Returns the route with other options taken, by their names.

        Raises:
            UserError: there is no such switcher, or it has no such option.
        """
        known, numbers = set(self.places), {"modes": self.modes.copy(), "inputs": self.inputs.copy()}
        for place, name in choices:
            row, layer, block = place
            if place not in known or name not in self.names(block):
                raise UserError(f"no such choice: {name!r:.30} for {block!r:.30} of layer {layer + 1}, row {row + 1}")
            numbers[block][row, layer] = list(self.names(block)).index(name)
        return replace(self, modes=numbers["modes"], inputs=numbers["inputs"])

    @property
    def weights(self) -> dict[str, Tensor]:
        """The route as the model's keyword arguments, (rows, L, M) and (rows, L, C); none of blocks that are off."""
        return forced_weights([self])


def forced_weights(routes: Sequence[Route]) -> dict[str, Tensor]:
    """Returns the routes of one model, behind each other, as its keyword arguments (``Route.weights``)."""
    switch = routes[0].encoder.switch
    modes, inputs = (np.concatenate([getattr(each, name) for each in routes]) for name in ("modes", "inputs"))
    found = one_hot_routes(modes, inputs, len(switch.modes), switch.input_candidates)
    told = {"modes": found.modes} if switch.attention else {}
    return {**told, **({"inputs": found.inputs} if switch.input else {})}
