"""The rows of a study: what each arm's runs are given; and its tables: which arms are set side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from volta_switch.config import load_config
from volta_switch.study.claims import Claim


@dataclass(frozen=True)
class Arm:
    """One row: a model and everything that its runs are given, the study's shared settings included."""

    name: str
    model: str  # a name in config/, or a path
    overrides: tuple[str, ...] = ()  # of its configuration
    pretraining: Mapping[str, Any] = field(default_factory=dict)  # flags of train_concap.py; empty: none
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # task -> train and test, with flags
    seeds: tuple[int, ...] = (0,)
    world: Mapping[str, Any] | None = None  # WorldSpec's fields
    data: Mapping[str, str] = field(default_factory=dict)  # in place of a world: where the data lie
    own_depth: bool = False  # its plan gives the model's layers, so that a deeper BERT may start it

    def settings(self, tasks: Sequence[str]) -> dict[str, Any]:
        """Every setting by its dotted name, ``model.switch.top_k``, the configuration with all overrides applied."""
        of_tasks = {task: self.tasks[task] for task in tasks}
        return flat(
            {
                "model": load_config(self.model, self.overrides).to_dict(),
                "pretraining": dict(self.pretraining) or None,
                "tasks": of_tasks,
                "seeds": list(self.seeds),
                "world": None if self.world is None else dict(self.world),
                "data": dict(self.data) or None,
            }
        )


@dataclass(frozen=True)
class Table:
    """Some arms side by side on some tasks, which differ in nothing but what the table varies."""

    name: str
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    title: str = ""
    varies: tuple[str, ...] = ("model",)  # settings, or the beginnings of their dotted names
    claims: tuple[Claim, ...] = ()  # judged together, as one family
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # arm -> column -> what the paper prints
    dial: Mapping[str, Any] | None = None  # "label" of what is turned, and "series": name -> arm -> setting, a number
    flops: bool = False  # whether operations of training stand beside the scores
    seeds: int | None = None  # how many of the arms' seeds, from the first; None: all

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """The seeds of an arm that the table takes."""
        return arm.seeds[: self.seeds]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; what is empty stays a value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found
