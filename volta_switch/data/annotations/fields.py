"""Fields of annotations: a text where a text belongs, an id as text, and errors that name the entry."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from volta_switch.data.image_ids import id_text, shown
from volta_switch.errors import UserError

Entry = TypeVar("Entry")
WRONG = (KeyError, TypeError, ValueError, AttributeError, IndexError)  # what an entry of another form leads to


def text_field(entry: Any, *names: str) -> str:
    """Return a text by the first of its names that the entry has.

    Raises ValueError where it has none of them, TypeError for null, numbers, lists and whatever else is no text.
    """
    name, value = _found(entry, names)
    if not isinstance(value, str):
        raise TypeError(f"{name} is {shown(value)}, expected a text")
    return value


def id_field(entry: Any, *names: str) -> str:
    """Return an id, a text or a whole number, as text; raises as `text_field` does."""
    name, value = _found(entry, names)
    try:
        return id_text(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} is {shown(value)}, expected an id: a text or a whole number") from None


def read_entries(
    path: str | Path, items: Iterable[Any], read: Callable[[Any, int], Entry], expected: str, what: str = "entry"
) -> list[Entry]:
    """Read the entries of a file, each with its place from 0; raises UserError that names the first that is wrong."""
    entries = []
    for number, item in enumerate(items):
        try:
            entries.append(read(item, number))
        except WRONG as error:
            raise UserError(
                f"{path}, {what} {number + 1}: expected {expected} ({reason(error)}); mend or remove it"
            ) from error
    return entries


def refuse_twice(path: str | Path, ids: Iterable[str], what: str) -> None:
    """Raise UserError where an id stands twice: results could not tell the two apart."""
    seen: set[str] = set()
    for name in ids:
        if name in seen:
            raise UserError(f"{path}: {what} {name} stands there twice; expected one entry for each, remove the others")
        seen.add(name)


def reason(error: BaseException) -> str:
    """Say in words what an entry of another form has led to."""
    return f"no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__


def _found(entry: Any, names: tuple[str, ...]) -> tuple[str, Any]:
    if not isinstance(entry, Mapping):
        raise TypeError(f"{shown(entry)} instead of an object with {names[0]}")
    for name in names:
        if name in entry:
            return name, entry[name]
    raise ValueError(f"no {' or '.join(names)} among its {', '.join(map(str, entry)):.200}")
