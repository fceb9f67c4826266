"""What passes between a study's modules: frozen dataclasses, each with one way from JSON and one way to it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, Self, Union, cast, get_args, get_origin, get_type_hints


def in_json(key: str = "", *, optional: bool = False) -> dict[str, str | bool]:
    """Returns the metadata of a ``Record``'s field whose JSON differs from it.

    Args:
        key: the key in JSON; empty: the field's name.
        optional: whether the field is left out of the JSON where it has its default.
    """
    return {"key": key, "optional": optional}


class Record:
    """Base of frozen dataclasses that are read from JSON and written to it by their fields."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as JSON values, keys in the order of the fields."""
        found = {}
        for each in fields(cast(Any, self)):
            value = getattr(self, each.name)
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if not (each.metadata.get("optional") and value == default):
                found[each.metadata.get("key") or each.name] = as_json(value)
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Reads a record; keys that it does not have are ignored.

        Raises:
            TypeError: a key without a default is missing.
        """
        found = {}
        for name, (key, kind) in _fields(cast(Any, cls)).items():
            if key in values:
                found[name] = _read(kind, values[key])
        return cls(**found)


def as_json(value: Any) -> Any:
    """Returns a value as JSON has it: records and mappings as objects, tuples as lists."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return value


@cache
def _fields(cls: type[Any]) -> dict[str, tuple[str, Any]]:
    """Returns each field's key in JSON, and its type."""
    kinds = get_type_hints(cls)
    return {each.name: (each.metadata.get("key") or each.name, kinds[each.name]) for each in fields(cls)}


def _read(kind: Any, value: Any) -> Any:
    """Returns a JSON value as its field's type has it; values of open types (flags, settings) as they are."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        others = [part for part in parts if part is not types.NoneType]
        return value if value is None or len(others) > 1 else _read(others[0], value)
    if isinstance(kind, type) and issubclass(kind, Record):
        return kind.from_dict(value)
    if origin is tuple:
        return tuple(_read(parts[0], item) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {key: _read(parts[1], item) for key, item in value.items()}
    return value
