"""The rows of a study and its tables: what each arm's runs are given, and which arms are set side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from volta_switch.config import load_config
from volta_switch.study.records import Flags, Settings, StudyClaim, Sweep


@dataclass(frozen=True)
class TaskFlags:
    """What a study's file says of one task: flags of its training, and of its test."""

    written: Mapping[str, Flags | None] = field(default_factory=dict)
    """``train`` and ``test`` as the file has them: a section may be missing or empty, and identities tell that."""

    @property
    def train(self) -> Flags:
        """Flags of ``train_task.py``."""
        return self.written.get("train") or {}

    @property
    def test(self) -> Flags:
        """Flags of the evaluation, ``split`` among them."""
        return self.written.get("test") or {}

    @property
    def training_alone(self) -> TaskFlags:
        """The same without the test's."""
        return TaskFlags({"train": self.written.get("train")})


@dataclass(frozen=True)
class Arm:
    """One row: a model and everything that its runs are given, the study's shared settings included."""

    name: str
    model: str
    """A name in ``config/``, or a path."""
    overrides: tuple[str, ...] = ()
    """Of its configuration."""
    pretraining: Flags = field(default_factory=dict)
    """Flags of ``train_concap.py``; empty: no pre-training."""
    tasks: Mapping[str, TaskFlags] = field(default_factory=dict)
    """By the names that the study's file calls them."""
    seeds: tuple[int, ...] = (0,)
    world: Flags | None = None
    """Fields of ``WorldSpec``."""
    data: Mapping[str, str] = field(default_factory=dict)
    """In place of a world: where the data lie."""
    own_depth: bool = False
    """Its plan gives the model's layers, so that a deeper BERT may start it."""

    def settings(self, tasks: Sequence[str]) -> Settings:
        """Returns every setting by its dotted name, ``model.switch.top_k``, all overrides applied."""
        return flat(
            {
                "model": load_config(self.model, self.overrides).to_dict(),
                "pretraining": dict(self.pretraining) or None,
                "tasks": {task: self.tasks[task].written for task in tasks},
                "seeds": list(self.seeds),
                "world": None if self.world is None else dict(self.world),
                "data": dict(self.data) or None,
            }
        )


@dataclass(frozen=True)
class PlannedTable:
    """Some arms side by side on some tasks, which differ in nothing but what the table varies."""

    name: str
    arms: tuple[str, ...]
    tasks: tuple[str, ...]
    title: str = ""
    varies: tuple[str, ...] = ("model",)
    """Settings, or the beginnings of their dotted names."""
    claims: tuple[StudyClaim, ...] = ()
    """Judged together, as one family."""
    published: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Arm -> column -> what the paper prints."""
    sweep: Sweep | None = None
    """Where the arms are one setting at several values."""
    flops: bool = False
    """Whether operations of training stand beside the scores."""
    pretraining: bool = False
    """Whether pre-training's last validation does."""
    seeds: int | tuple[int, ...] | None = None
    """How many of the arms' seeds, from the first, or which; None: all."""
    pilot: int | tuple[int, ...] | None = None
    """The same of those by whose spread its claims' seeds are planned (``sizing``); None: its own."""

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """Returns the seeds of an arm that the table takes."""
        return chosen_seeds(self.seeds, arm.seeds)


def chosen_seeds(chosen: int | tuple[int, ...] | None, seeds: tuple[int, ...]) -> tuple[int, ...]:
    """Returns which of an arm's seeds are meant: so many from the first, these, or (None) all."""
    return chosen if isinstance(chosen, tuple) else seeds[:chosen]


def flat(values: Settings, prefix: str = "") -> dict[str, object]:
    """Returns ``{"a": {"b": 1}}`` as ``{"a.b": 1}``; what is empty stays a value."""
    found: dict[str, object] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{name}.")
        else:
            found[name] = list(value) if isinstance(value, tuple) else value
    return found
