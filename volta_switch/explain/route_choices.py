"""The route of one sample, and what each choice is worth for it: the answer's score with the choice forced otherwise.

One decision is measured, not its consequences for later switchers (``routes.Route``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from volta_switch.explain.occlusion import best_answers
from volta_switch.explain.routes import Place, Route, forced_weights
from volta_switch.explain.subject import WHOLE, Subject


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
    own = Route.chosen(subject)
    if own is None:
        return []
    planned = [(place, name) for place in own.places for name in own.names(place[2])]
    forced = [own.changed([each]) for each in planned]
    scores = subject.scores([WHOLE] * (1 + len(planned)), forced_weights([own, *forced]))  # (1 + planned, A)
    values, best = scores[:, subject.answer], best_answers(scores)
    found: dict[Place, list[Option]] = {}
    for number, (place, name) in enumerate(planned, 1):
        options, (row, layer, block) = found.setdefault(place, []), place
        options.append(
            Option(
                name=name,
                probability=float(own.probabilities[block, layer][row, len(options)]),
                chosen=own.option(place) == len(options),
                change=float(values[number] - values[0]),
                becomes=best[number],
            )
        )
    return [Choice(block, layer, row, tuple(options)) for (row, layer, block), options in found.items()]


def route_in_words(choices: Sequence[Choice], row: int = 0) -> str:
    """Returns a row's route, layer by layer: "J SS+text l-2"."""
    layers: dict[int, list[str]] = {}
    for choice in choices:
        if choice.row == row:
            name = next(option.name for option in choice.options if option.chosen)
            layers.setdefault(choice.layer, []).append(name)
    return ", ".join(" ".join(reversed(names)) for _, names in sorted(layers.items()))
