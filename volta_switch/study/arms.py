"""The rows of a study and its tables: what each arm's runs are given, and which arms are set side by side.

At the end: architectures of other depths, as overrides of a shipped configuration's sublayer lists.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from volta_switch.config import Config, load_config
from volta_switch.errors import UserError
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

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """Returns the seeds of an arm that the table takes."""
        return self.seeds if isinstance(self.seeds, tuple) else arm.seeds[: self.seeds]


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


# --- Depths ---------------------------------------------------------------------------------------------------------


def with_layers(config: Config, layers: int) -> tuple[str, ...]:
    """Returns the overrides of a single-stream encoder, static or switched, with so many layers.

    The paper compares 6 and 12. BERT's first layers initialise the model.

    Raises:
        UserError: an architecture of another kind, or no layer.
    """
    count = len(config.attention_sublayers) + len(config.ff_sublayers)
    joint = [tuple(getattr(config, f"{pair}_attn_sublayers")) for pair in ("tt", "tv", "vt", "vv")]
    if layers < 1 or any(lists != tuple(range(0, count, 2)) for lists in joint):
        raise UserError(f"layers: expected 1 or more, of a single-stream model, found {layers}")
    attention, feed_forward = list(range(0, 2 * layers, 2)), list(range(1, 2 * layers, 2))
    both = list(range(2 * layers))
    lists: dict[str, list[int]] = {f"{pair}_attn_sublayers": attention for pair in ("tt", "tv", "vt", "vv")}
    lists |= {"t_ff_sublayers": feed_forward, "v_ff_sublayers": feed_forward}
    lists |= {key: both for key in ("shared_sublayers", "single_ln_sublayers") if getattr(config, key)}
    return _overrides(lists, _from_bert(attention, feed_forward))


def with_text_layers(config: Config, layers: int) -> tuple[str, ...]:
    """Returns the overrides of a ViLBERT with so many text layers before the first co-attention (paper figure 1a).

    The rest stays. The text's layers are initialised by BERT's in their order, as many as BERT has. Differs from the
    paper: it does not say what becomes of the layers behind the first co-attention.

    Raises:
        UserError: an architecture that does not begin with layers of text alone, or fewer than none.
    """
    crossing = config.tv_attn_sublayers
    before = min(crossing, default=0)  # sublayers of text alone
    alone = [n for n in config.tt_attn_sublayers if n < before] == list(range(0, before, 2))
    seen = min((*config.vv_attn_sublayers, *config.vt_attn_sublayers, *config.v_ff_sublayers), default=0) < before
    if layers < 0 or not crossing or not alone or seen or {*crossing} & {*config.tt_attn_sublayers}:
        raise UserError(f"text_layers: expected 0 or more, of a model that begins like ViLBERT, found {layers}")
    shift = 2 * layers - before
    names = [f"{pair}_attn_sublayers" for pair in ("tt", "tv", "vt", "vv")]
    names += ["t_ff_sublayers", "v_ff_sublayers", "shared_sublayers", "single_ln_sublayers"]
    lists = {name: [n + shift for n in getattr(config, name) if n >= before] for name in names}
    lists["tt_attn_sublayers"] = [*range(0, 2 * layers, 2), *lists["tt_attn_sublayers"]]
    lists["t_ff_sublayers"] = [*range(1, 2 * layers, 2), *lists["t_ff_sublayers"]]
    attention = lists["tt_attn_sublayers"]
    own = [next(n for n in lists["t_ff_sublayers"] if n > sublayer) for sublayer in attention]
    return _overrides(lists, _from_bert(attention, own))


def _from_bert(attention: list[int], feed_forward: list[int], most: int = 12) -> dict[str, dict[str, int]]:
    """Returns which sublayers BERT's layers initialise."""
    return {
        "bert_layer2attn_sublayer": {str(n): sublayer for n, sublayer in enumerate(attention[:most])},
        "bert_layer2ff_sublayer": {str(n): sublayer for n, sublayer in enumerate(feed_forward[:most])},
    }


def _overrides(*fields: Mapping[str, object]) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value)}" for some in fields for key, value in some.items())
