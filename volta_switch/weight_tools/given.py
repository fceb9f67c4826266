"""What another program's checkpoint holds: weights by names without prefixes, and the settings beside them.

A file is read in two parts. The *trunk* is everything below the prefix of the word embeddings (``uniter.``,
``lxmert.``, ``bert.bert.``), which differs between programs. The rest are heads of predictions.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from volta_switch.config.loading import CONFIG
from volta_switch.data.files.json_files import read_json, read_object
from volta_switch.errors import UserError
from volta_switch.files import first_there, require_file
from volta_switch.hub_models import is_address, weights_of
from volta_switch.weights.files import INDEX
from volta_switch.weights.loading import check_finite, other_kind, some

WORDS = "embeddings.word_embeddings.weight"
DECODER = "cls.predictions.decoder"


@dataclass(frozen=True)
class GivenWeights:
    """A file's weights, names without prefixes, and what its program wrote beside them."""

    trunk: Mapping[str, Tensor]
    heads: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    """Of the ``config.json`` beside the file; empty without one."""
    chosen: Mapping[str, int] = field(default_factory=dict)
    """Numbers of attention heads that ``--set`` gives."""
    source: str = "state dict"
    """For messages: the file, and whose it is."""

    def width(self, name: str, side: int = 0) -> int:
        """Returns a side of a weight of the trunk.

        Raises:
            UserError: there is no such weight, or it has no such side.
        """
        tensor = self.trunk.get(name)
        if tensor is None:
            raise UserError(f"{self.source}: {name} is missing; without it the model's sizes are not known")
        if tensor.dim() <= side:
            raise UserError(f"{self.source}: {name} has shape {list(tensor.shape)}; expected {side + 1} sides or more")
        return int(tensor.shape[side])

    def count(self, layers: str) -> int:
        """Returns the number of layers ``layers.0``, ``layers.1``, ... of the trunk.

        Raises:
            UserError: one between them is missing.
        """
        start = f"{layers}."
        numbers = {int(part) for name in self.trunk if name.startswith(start) and (part := _number(name, start))}
        if lost := [number for number in range(len(numbers)) if number not in numbers]:
            raise UserError(f"{self.source}: {start}{lost[0]} is missing, where {start}{max(numbers)} is there")
        return len(numbers)

    def head(self, *names: str) -> str:
        """Returns the first of these prediction heads that the file has something of, "" without one."""
        return next((name for name in names if any(own.startswith(f"{name}.") for own in self.heads)), "")

    def expect(self, **values: Any) -> None:
        """Compares what stands beside the weights with what they are, or with what alone can be imported.

        Raises:
            UserError: a setting is there and is another one.
        """
        for key, value in values.items():
            if key in self.settings and self.settings[key] != value:
                raise UserError(
                    f"{self.source}: {CONFIG} beside it says {key} = {self.settings[key]!r}, expected {value!r}: it is "
                    "another model's, or one that cannot be imported"
                )

    def setting(self, key: str, *allowed: str) -> str | None:
        """Returns one of the settings that may be any of these; None where it is not there.

        Raises:
            UserError: it is there and is none of them.
        """
        if key not in self.settings:
            return None
        if self.settings[key] not in allowed:
            raise UserError(
                f"{self.source}: {CONFIG} beside it says {key} = {self.settings[key]!r}, expected "
                f"{' or '.join(allowed)}"
            )
        return str(self.settings[key])

    def attention_heads(self, key: str, width: int, each: int) -> int:
        """Returns their number: as ``--set`` or the settings say, else of ``each`` neurons, as those published have.

        Raises:
            UserError: what is said is no number that divides the width, or nothing is said and the width is no multiple
                of ``each``.
        """
        told = {**self.settings, **self.chosen}
        if key not in told and width % each == 0:
            return width // each
        if key not in told:
            raise UserError(
                f"{self.source}: {key} is not known, and weights do not tell it (a width of {width} is no multiple of "
                f"{each}); put its {CONFIG} beside the file, or give --set num_attention_heads=N "
                "(v_num_attention_heads=N)"
            )
        found = told[key]
        if type(found) is not int or not 0 < found <= width or width % found:
            raise UserError(
                f"{self.source}: {key} = {found!r}; expected a whole number that divides the width, {width}"
            )
        return found


def read_settings(path: Path) -> dict[str, Any]:
    """Returns what a program wrote of its model beside its weights; {} where there is no file.

    Raises:
        UserError: the file is no JSON object, or no regular file.
    """
    beside = path.with_name(CONFIG)
    if not os.path.lexists(beside):
        return {}
    require_file(beside, "configuration", "mend it, or move it away: then what weights do not tell is asked for")
    return read_object(beside)


def read_answers(path: Path, source: str) -> list[str]:
    """Returns the answers of a head in its order: a JSON list, or the one list of a model's ``labels.json``.

    Raises:
        UserError: the file holds something else; ``source`` is named.
    """
    require_file(path, "list of answers", "give a JSON list of the head's answers, in its order")
    found = read_json(path)
    if isinstance(found, dict) and len(found) == 1:
        (found,) = found.values()
    if not isinstance(found, list) or not all(isinstance(answer, str) for answer in found):
        raise UserError(f"{source}: expected a JSON list of answers, the first for the head's first row")
    return found


def weights_file(source: str | Path, found: Sequence[str]) -> Path:
    """Returns the file of weights that is given, or that a folder or an address holds, or a checkpoint's list of files.

    Args:
        source: a file, a folder, or an address, of which the settings are fetched, too.
        found: names of files, the first of which counts; then the lists of files that are called after them.

    Raises:
        UserError: the folder holds none of them, or the hub does not give it.
    """
    if is_address(source):
        return weights_of(str(source))
    path = Path(source)
    if not path.is_dir():
        return path
    if there := first_there(path, [*found, *(f"{name}{INDEX}" for name in found)]):
        return there
    raise UserError(f"{path}: holds neither {' nor '.join(found)}; give the file of weights")


def as_floats(state: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """Returns weights as float32, and whole numbers as they are.

    Raises:
        UserError: a tensor is of a kind that ``loading.fitted`` refuses, or a single number; or not finite.
    """
    found = {}
    for name, tensor in state.items():
        floats = tensor.is_floating_point()
        if kind := other_kind(tensor, floats) or ("" if tensor.dim() else "a single number"):
            raise UserError(f"{source}: {some([name])} is {kind}; expected a dense tensor of weights")
        found[name] = tensor.float() if floats else tensor
    check_finite(found, source, "; give other weights")
    return found


def divided(
    state: Mapping[str, Tensor], settings: Mapping[str, Any], chosen: Mapping[str, int], source: str
) -> GivenWeights:
    """Divides a file's weights into trunk and heads, by the place of its word embeddings.

    Raises:
        UserError: there are none, or several, or two heads have one name without their prefixes.
    """
    found = [name for name in state if name.endswith(WORDS)]
    if len(found) != 1:
        raise UserError(f"{source}: expected one table of words ({WORDS}), found {some(found) or 'none'}")
    prefix = found[0].removesuffix(WORDS)
    outer = prefix.removesuffix(".").rpartition(".")[0]  # of "bert.bert.", below which heads lie, too
    trunk = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    heads: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not name.startswith(prefix):
            own = name.removeprefix(f"{outer}.") if outer else name
            if own in heads:
                raise UserError(f"{source}: {own} and {outer}.{own} are two names of one weight; keep one of them")
            heads[own] = tensor
    return GivenWeights(trunk, _tied(heads, trunk[WORDS], source), settings, chosen, source)


def _tied(heads: dict[str, Tensor], words: Tensor, source: str) -> dict[str, Tensor]:
    """Returns heads with the words' decoder and its bias under one name each: files may leave ties out."""
    bias, twin = f"{DECODER.removesuffix('decoder')}bias", f"{DECODER}.bias"
    if twin in heads:
        other = heads.pop(twin)
        if not torch.equal(heads.setdefault(bias, other), other):
            raise UserError(f"{source}: {bias} and {twin} are one weight in this layout but hold different values")
    if any(name.startswith("cls.predictions.") for name in heads):
        heads.setdefault(f"{DECODER}.weight", words)
    return heads


def _number(name: str, start: str) -> str:
    """Returns the number behind a beginning, "" without one."""
    part = name.removeprefix(start).partition(".")[0]
    return part if part.isascii() and part.isdecimal() and len(part) < 5 else ""
