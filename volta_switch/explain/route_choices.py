"""The route of one sample, and what each choice is worth for it: the answer's score with the choice forced otherwise.

One layer's mode or input is forced, and all other layers keep what they chose: one decision is measured, not its
consequences for later switchers (as in ``routes.measurements``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from volta_switch.explain.occlusion import best_answers
from volta_switch.explain.subject import WHOLE, Subject
from volta_switch.model.bert import switch_encoder
from volta_switch.model.encoder import SwitchEncoder
from volta_switch.model.switch import Routes, noted_scores
from volta_switch.routes.measurements import Change, changes
from volta_switch.routes.record import INPUT_NAMES, one_hot_routes


@dataclass(frozen=True)
class Option:
    """One option of a switcher for one sample.

    Attributes:
        name: of a mode ("J") or an input ("text l-2").
        probability: that the switcher gives it.
        chosen: whether it is taken.
        change: the answer's score with it minus the score as it is, log-odds.
        becomes: the best answer with it.
    """

    name: str
    probability: float
    chosen: bool
    change: float
    becomes: int


@dataclass(frozen=True)
class Choice:
    """A switcher's options; ``block``: "modes" or "inputs"; ``layer`` from 0; ``row``: of the batch, NLVR2's image."""

    block: str
    layer: int
    row: int
    options: tuple[Option, ...]


def route_choices(subject: Subject) -> list[Choice]:
    """Returns every switcher's options, row by row and layer by layer; [] of an architecture without switchers."""
    encoder = switch_encoder(subject.model)
    if encoder is None:
        return []
    routes, log_probabilities = _chosen(subject, encoder)
    rows = subject.rows
    modes, inputs = (weights.argmax(2).cpu().numpy() for weights in (routes.modes, routes.inputs))  # (rows, L)
    planned = [(row, change) for row in range(rows) for change in changes(encoder) if change.kind == "force"]
    forced = [_with_change(modes, inputs, row, change) for row, change in planned]
    asked = np.concatenate([modes, *(each[0] for each in forced)]), np.concatenate([inputs, *(e[1] for e in forced)])
    scores = subject.scores([WHOLE] * (1 + len(planned)), _weights(encoder, *asked))  # (1 + planned, A)
    values, best = scores[:, subject.answer], best_answers(scores)
    found: dict[tuple[int, int, str], list[Option]] = {}
    for number, (row, change) in enumerate(planned, 1):
        said = log_probabilities[change.block, change.layer][row]
        taken = (modes if change.block == "modes" else inputs)[row, change.layer]
        found.setdefault((row, change.layer, change.block), []).append(
            Option(
                name=encoder.switch.modes[change.option] if change.block == "modes" else INPUT_NAMES[change.option],
                probability=float(said[change.option].exp()),
                chosen=bool(taken == change.option),
                change=float(values[number] - values[0]),
                becomes=best[number],
            )
        )
    order = sorted(found, key=lambda key: (key[0], key[1], key[2] == "modes"))  # an input is chosen before its mode
    return [Choice(block, layer, row, tuple(found[row, layer, block])) for row, layer, block in order]


def _chosen(subject: Subject, encoder: SwitchEncoder) -> tuple[Routes, dict[tuple[str, int], Tensor]]:
    """Returns the routes that the model takes, and log pi (rows, O) of each block and layer."""
    routes: list[Routes] = []
    handle = encoder.register_forward_hook(lambda _, __, out: routes.append(out.routes))
    try:
        with noted_scores(encoder) as said, torch.inference_mode():
            subject.model.scorer(subject.task)(subject.inputs([WHOLE]))
    finally:
        handle.remove()
    return routes[0], {place: scores.float().cpu() for place, scores in said.items()}


def _with_change(modes: np.ndarray, inputs: np.ndarray, row: int, change: Change) -> tuple[np.ndarray, np.ndarray]:
    """Returns the options' numbers (rows, L) of both blocks with one changed in one row."""
    routes = {"modes": modes.copy(), "inputs": inputs.copy()}
    routes[change.block][row, change.layer] = change.option
    return routes["modes"], routes["inputs"]


def _weights(encoder: SwitchEncoder, modes: np.ndarray, inputs: np.ndarray) -> dict[str, Tensor]:
    """Returns routes as the model's keyword arguments; blocks that are switched off get none."""
    switch = encoder.switch
    routes = one_hot_routes(modes, inputs, len(switch.modes), switch.input_candidates)
    told = {"modes": routes.modes} if switch.attention else {}
    return {**told, **({"inputs": routes.inputs} if switch.input else {})}


def route_in_words(choices: Sequence[Choice], row: int = 0) -> str:
    """Returns a row's route, layer by layer: "J SS+text l-2"."""
    layers: dict[int, list[str]] = {}
    for choice in choices:
        if choice.row == row:
            name = next(option.name for option in choice.options if option.chosen)
            layers.setdefault(choice.layer, []).append(name)
    return ", ".join(" ".join(reversed(names)) for _, names in sorted(layers.items()))
