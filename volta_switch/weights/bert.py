"""The text side of a model from a Hugging Face BERT, accounting for every name of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from volta_switch.config import Config
from volta_switch.errors import UserError
from volta_switch.weights.loading import check_shared, fitted, is_of_a_run, normalised, refuse_others, some

_ENDS = ("weight", "bias")
_TYPES = "bert.embeddings.token_type_embeddings.weight"
_EMBEDDINGS = (
    *(f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")),
    *(f"bert.embeddings.LayerNorm.{end}" for end in _ENDS),
)
_HEAD = "cls.predictions."  # predicts masked words
_HEADS = (
    *(f"{_HEAD}transform.{part}.{end}" for part in ("dense", "LayerNorm") for end in _ENDS),
    *(f"{_HEAD}{name}" for name in ("bias", "decoder.weight", "decoder.bias")),
)
# What a BERT has beside these and its layers, and no model here: the pooler is made for the next-sentence head, and
# positions are counted anew in every pass.
_NOWHERE = (
    *(f"bert.pooler.dense.{end}" for end in _ENDS),
    *(f"cls.seq_relationship.{end}" for end in _ENDS),
    *(f"bert.embeddings.{kind}_ids" for kind in ("position", "token_type")),
)
_IN_LAYERS = {  # of BERT's layers, by the kind of sublayer to which they go
    "attn": (*(f"attention.self.{part}" for part in ("query", "key", "value")), "attention.output.dense",
             "attention.output.LayerNorm"),
    "ff": ("intermediate.dense", "output.dense", "output.LayerNorm"),
}  # fmt: skip
_LAYER = re.compile(r"bert\.encoder\.layer\.([0-9]{1,4})\.(.+)\.(weight|bias)")


@dataclass(frozen=True)
class StartFromBert:
    """What a model has from a BERT, and what not."""

    names: tuple[str, ...]  # of the model's, that were set
    left_out: tuple[str, ...]  # of BERT's, that the model has no place for
    fresh: tuple[str, ...]  # of the model's, that a BERT may set and that keep their initial values
    layers: int  # BERT's

    @property
    def described(self) -> str:
        """What was left out and what is fresh, in words: ``; left out: bert.pooler; fresh: cls.predictions``."""
        layers = sorted({layer for name in self.left_out if (layer := _layer_of(name)) is not None})
        parts = [f"{_layers(layers)} of BERT's {self.layers}"] if layers else []
        parts += _modules(name for name in self.left_out if _layer_of(name) is None)
        told = f"; left out: {', '.join(parts)}" if parts else ""
        return told + (f"; fresh: {', '.join(_modules(self.fresh))}" if self.fresh else "")


def load_bert(
    model: nn.Module,
    config: Config,
    state: Mapping[str, Tensor],
    source: str = "state dict",
    allow_deeper: bool = False,
) -> StartFromBert:
    """Initialises the text side from a Hugging Face BERT, accounting for every name of it.

    BERT's layer n goes to the sublayers that ``bert_layer2attn_sublayer`` and ``bert_layer2ff_sublayer`` name; its
    masked language modelling head goes to ``cls.predictions`` where the model has one. Its pooler, its next-sentence
    head and the numbers of positions are left out of every model.

    Args:
        model: any model of this project.
        config: its configuration.
        state: name -> tensor (``read_weights``), in any spelling that ``loading`` knows.
        source: where it came from, for messages.
        allow_deeper: whether BERT may have layers that the configuration sends nowhere.

    Raises:
        UserError: the state holds what is not BERT's own, lacks some of it, has more layers without ``allow_deeper``,
            contradicts itself, or does not fit. The model is as it was.
    """
    given = normalised(state, source)
    own, places = model.state_dict(), bert_places(config)
    _check_names(given, source)
    layers = _check_depth(given, places, source, allow_deeper)
    places = {name: place for name, place in places.items() if place in own or _layer_of(name) is not None}
    if stray := [place for place in places.values() if place not in own]:
        raise UserError(f"bert_layer2attn_sublayer, bert_layer2ff_sublayer: this model has no {some(stray)}")
    has_head = any(name.startswith(_HEAD) for name in given)
    wanted = [name for name in places if has_head or not name.startswith(_HEAD)]
    there = {places[name] for name in given if name in places}  # a bias may stand under its tie's name alone
    if lost := [name for name in wanted if places[name] not in there and ".decoder." not in name]:
        raise UserError(f"{source}: {some(lost)} missing; a whole BERT is needed")
    renamed = _renamed(given, own, places, config, source)
    check_shared(model, renamed, source)
    model.load_state_dict(renamed, strict=False)
    fresh = [name for name in places if name not in wanted and ".decoder." not in name]
    if len(given[_TYPES]) < len(own[_TYPES]):
        fresh.append(f"{_TYPES} from row {len(given[_TYPES])} on")
    left = [name for name in given if name not in places]
    return StartFromBert(tuple(sorted(renamed)), tuple(left), tuple(fresh), layers)


def volta_name(name: str, config: Config) -> str | None:
    """Returns VOLTA's name of a BERT weight (``bert.encoder.layer.0...``); None where no sublayer is for it."""
    found = _LAYER.fullmatch(name)
    if not found:
        return name
    layer, part, end = found.groups()
    kind = next((kind for kind, parts in _IN_LAYERS.items() if part in parts), None)
    sublayer = getattr(config, f"bert_layer2{kind}_sublayer").get(layer) if kind else None
    module, _, last = part.rpartition(".")
    return None if sublayer is None else f"bert.encoder.layer.{sublayer}.{module.replace('.', '_')}.{last}.{end}"


def bert_places(config: Config) -> dict[str, str]:
    """Returns BERT's name of a weight -> a model's, of all that the configuration has a place for."""
    places = {name: name for name in (*_EMBEDDINGS, *_HEADS)} | {f"{_HEAD}decoder.bias": f"{_HEAD}bias"}
    for kind, parts in _IN_LAYERS.items():
        for layer in getattr(config, f"bert_layer2{kind}_sublayer"):
            for name in (f"bert.encoder.layer.{layer}.{part}.{end}" for part in parts for end in _ENDS):
                places[name] = str(volta_name(name, config))
    return places


def _check_names(given: Iterable[str], source: str) -> None:
    """Raises UserError unless all are BERT's own names."""
    wanted = "give a BERT (a folder or hub name), or weights of a run"
    refuse_others(given, source, wanted)
    if is_of_a_run(given):
        raise UserError(f"{source}: these are weights of a run, and no BERT's")
    known = {*_EMBEDDINGS, *_HEADS, *_NOWHERE}
    parts = {part for parts in _IN_LAYERS.values() for part in parts}
    strange = [n for n in given if n not in known and ((found := _LAYER.fullmatch(n)) is None or found[2] not in parts)]
    if strange:
        names = "is no name" if len(strange) == 1 else "are no names"
        raise UserError(f"{source}: {some(strange)} {names} of a BERT's weights, and would be left out; {wanted}")


def _check_depth(given: Iterable[str], places: Mapping[str, str], source: str, allow_deeper: bool) -> int:
    """Returns BERT's number of layers; raises UserError for fewer than the model takes and, unless allowed, more."""
    there = sorted({layer for name in given if (layer := _layer_of(name)) is not None})
    taken = sorted({layer for name in places if (layer := _layer_of(name)) is not None})
    absent = [layer for layer in taken if layer not in there]
    if absent:
        missing = f"without {_layers(absent)}, counted from 0" if there else "it has none"
        raise UserError(
            f"{source}: a BERT with {len(there)} layers, where this model starts from a BERT with {len(taken)} layers "
            f"({missing}); give such a one, or a model with fewer (bert_layer2attn_sublayer)"
        )
    nowhere = sorted({layer for name in given if (layer := _layer_of(name)) is not None and name not in places})
    if nowhere and not allow_deeper:
        raise UserError(
            f"{source}: a BERT with {len(there)} layers, where this model starts from a BERT with {len(taken)} layers "
            f"({_layers(nowhere)}, counted from 0, would be left out); give such a one, or --allow_deeper_bert "
            "if that is meant (a study's plan says so by an arm's layers or text_layers)"
        )
    return len(there)


def _renamed(
    given: Mapping[str, Tensor], own: Mapping[str, Tensor], places: Mapping[str, str], config: Config, source: str
) -> dict[str, Tensor]:
    """Returns what the model takes, under its own names."""
    expected = {name: own[place] for name, place in places.items()}
    types = given[_TYPES]
    fewer = types.dim() == 2 and 0 < len(types) < len(own[_TYPES]) and config.image_embeddings == "vl-bert"
    if fewer:  # VL-BERT has a third type, of regions
        expected[_TYPES] = own[_TYPES][: len(types)]
    taken = {name: tensor for name, tensor in given.items() if name in places}
    taken = fitted(expected, taken, source, "use a BERT and a vocabulary of this size")
    if fewer:
        taken[_TYPES] = torch.cat((taken[_TYPES], own[_TYPES][len(types) :]))
    first: dict[str, str] = {}
    for name, tensor in taken.items():
        before = first.setdefault(places[name], name)
        if not torch.equal(taken[before], tensor):
            raise UserError(f"{source}: {before} and {name} are one weight in this model but hold different values")
    return {place: taken[name] for place, name in first.items()}


def _layer_of(name: str) -> int | None:
    found = _LAYER.fullmatch(name)
    return int(found[1]) if found else None


def _modules(names: Iterable[str]) -> list[str]:
    """Returns the modules that names belong to, two parts each: ``cls.predictions``; of embeddings, the names."""
    parts = (name if name.startswith("bert.embeddings.") else ".".join(name.split(".")[:2]) for name in names)
    return sorted(dict.fromkeys(parts))


def _layers(numbers: list[int]) -> str:
    """Returns ``layer 4``, or ``layers 0, 2-3``."""
    starts = [number for number in numbers if number - 1 not in numbers]
    ends = [number for number in numbers if number + 1 not in numbers]
    ranges = ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
    return f"layer{'s' if len(numbers) > 1 else ''} {ranges}"
