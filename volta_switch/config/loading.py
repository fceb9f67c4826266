"""Finding, reading and overriding configurations.

A configuration is found by name (``switchbert``, ``switchbert.json``, ``demo/switchbert``: a file under ``config/``),
by path, in a folder (its ``config.json``), on the hub (``hf://owner/name``), or given as a dict; any field can be
overridden by ``key=value`` with dots for nested fields. A vocabulary beside a ``config.json`` is that model's.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from volta_switch.checksums import is_there, read_recorded
from volta_switch.config.schema import Config, SwitchConfig
from volta_switch.errors import UserError, nearest
from volta_switch.files import SHIPPED_FOLDERS, parse_json, parse_yaml, require_file
from volta_switch.hub import VOCABULARY
from volta_switch.hub_models import is_address, settings_folder
from volta_switch.ranges import SHOWN, Unread, range_of, shown

CONFIG = "config.json"  # of a model's folder
OWN_KEY = "tt_attn_sublayers"  # of this project's and VOLTA's configurations, and of no BERT's
CONFIG_FOLDERS = tuple(folder / "config" for folder in SHIPPED_FOLDERS)

# VOLTA's keys for models that this project does not build, with the only value it accepts.
NOT_BUILT: dict[str, Any] = {
    "qa_task_weight": 0.0,
    "qa_num_answers": 0,
    "fixed_layers": [],
    "fixed_embs": None,
    "m_encoder": None,
    "m_layer": 0,
    "v_layers": [],
    "has_mapping": "linear",
    "has_mapping_bias": False,
    "load_x_model": False,
    "norm_embeddings": False,
    "visualization": False,
}


def load_config(source: str | Path | Mapping[str, Any] | Config, overrides: Iterable[str] = ()) -> Config:
    """Loads a configuration by name, from a path or from a dict, and applies ``key=value`` overrides.

    Raises:
        UserError: unknown name, unreadable file, unknown key (the nearest known one is suggested), a value of the
            wrong type, or sublayer lists that contradict each other.
    """
    if isinstance(source, Config):
        values, origin = source.to_dict(), "config"
    elif isinstance(source, Mapping):
        values, origin = copy.deepcopy(dict(source)), "config"
    else:
        path = find_config(source)
        values, origin = read_json_object(path), str(source if is_address(source) else path)
        if is_address(source) and OWN_KEY not in values:
            raise UserError(f"{source}: {described_foreign(values, str(source))}")
        if path.name == CONFIG and is_there(path.with_name(VOCABULARY)):
            values["bert_model"] = str(source if is_address(source) else path.parent)
    for override in overrides:
        _apply_override(values, override)
    try:
        return _build(Config, values, "")
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None


def find_config(name: str | Path) -> Path:
    """Returns the file of a configuration, given its name or path.

    Raises:
        UserError: there is none; the nearest name is suggested.
    """
    if is_address(name):
        path = settings_folder(str(name)) / CONFIG
        if not path.is_file():
            raise UserError(f"{name}: no model of this project: it has no {CONFIG}")
        return path
    given = Path(name)
    spellings = [given, given.with_name(given.name + ".json")] if given.name else []
    tried = list(spellings)
    if not given.is_absolute():
        tried += [folder / spelling for folder in CONFIG_FOLDERS for spelling in spellings]
    tried.append(given / CONFIG)  # behind the names: a run's folder may have one of them
    for path in tried:
        if os.path.isfile(path):
            return path
    if os.path.lexists(given) and not os.path.isdir(given):
        require_file(given, "configuration", "give a JSON file, or a name")
    known = sorted({str(path.relative_to(folder))[:-5] for folder in CONFIG_FOLDERS for path in folder.rglob("*.json")})
    near = nearest(str(name).removesuffix(".json"), known)
    hint = f"; did you mean {near}?" if near else "."
    raise UserError(f"config {name}: no such file or name{hint} Known names: {', '.join(known)}")


def described_foreign(values: Mapping[str, Any], address: str) -> str:
    """Returns whose model a configuration on the hub is that is none of this project's, and what can be done with it.

    Args:
        values: its ``config.json``.
        address: its address.
    """
    kind = values.get("model_type")
    if kind == "bert":
        return "a BERT, no model of this project; it starts a model's training (--from_pretrained), and nothing else"
    return (
        f"no model of this project ({CONFIG}: model_type = {shown(kind)}); LXMERT's, VisualBERT's, UNITER's and "
        f"ViLBERT's become one by `volta-switch weights import {address} FOLDER`"
    )


def read_json_object(path: Path) -> dict[str, Any]:
    """Returns what a JSON file of settings holds, verified where its checksum is kept.

    Raises:
        UserError: it cannot be read, or holds no JSON object.
    """
    try:
        values = parse_json(read_recorded(path).decode("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a JSON object, could not read it ({error})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    said = f"--set {override if len(override) <= SHOWN else override[:SHOWN] + '...'}"
    if not separator or not key:
        raise UserError(f"{said}: expected key=value, for example switch.top_k=2")
    unread = _unread(key)
    if unread is not None:
        raise UserError(f"{said}: {key} is never read ({unread.why.format(value=text)}); leave it out")
    try:
        value = _with_floats(parse_yaml(text))
    except ValueError as error:
        raise UserError(f"{said}: the value is not valid JSON or YAML ({error})") from None
    *parents, last = key.split(".")
    target = values
    for parent in parents:
        if not isinstance(target.get(parent), dict):
            raise UserError(f"{said}: {parent} is not a section of this configuration")
        target = target[parent]
    target[last] = value


def _unread(key: str) -> Unread | None:
    """Returns the range of a field that nothing reads; None for any other field."""
    found = range_of(Config, key) if key in Config.__dataclass_fields__ else None
    return found if isinstance(found, Unread) else None


def _with_floats(value: Any) -> Any:
    """Returns the value with floats for strings such as 1e-6, which YAML does not take for numbers."""
    if isinstance(value, dict):
        return {key: _with_floats(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_floats(item) for item in value]
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    return value


def _build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    fields = {item.name: item for item in dataclasses.fields(cls)}
    arguments: dict[str, Any] = {}
    for key, value in values.items():
        if key in fields:
            if key == "switch" and value is not None:
                if not isinstance(value, Mapping):
                    raise UserError(f"switch: expected a section of settings, found {shown(value)}")
                value = _build(SwitchConfig, value, "switch.")
            arguments[key] = value
        elif not prefix and key in NOT_BUILT:
            if value != NOT_BUILT[key]:
                raise UserError(f"{key}: only {NOT_BUILT[key]!r} is supported, found {shown(value)}")
        else:
            near = nearest(key, [*fields, *({} if prefix else NOT_BUILT)], cutoff=0.5)
            hint = f"; did you mean {prefix}{near}?" if near else ""
            raise UserError(f"unknown key {prefix}{key}{hint}")
    return cls(**arguments)
