"""Changing attributes of modules and classes that are not ours, and taking every change back."""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from typing import Any

_ABSENT = object()


class Patches:
    """Changes in the order in which they were made; ``undo`` takes them back in the opposite one."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def __bool__(self) -> bool:
        return bool(self._undo)

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Sets an attribute; an inherited one is only covered, not lost."""
        before = vars(owner).get(name, _ABSENT)
        setattr(owner, name, value)
        if before is _ABSENT:
            self._undo.append(lambda: delattr(owner, name))
        else:
            self._undo.append(lambda: setattr(owner, name, before))

    def set_item(self, mapping: MutableMapping[str, Any], key: str, value: Any) -> None:
        """Sets an entry, of ``sys.modules`` or ``os.environ``."""
        before = mapping.get(key, _ABSENT)
        mapping[key] = value
        if before is _ABSENT:
            self._undo.append(lambda: mapping.pop(key, None))
        else:
            self._undo.append(lambda: mapping.__setitem__(key, before))

    def wrap(self, owner: Any, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorates what a function or method of ``owner`` becomes; it is given the original first.

        Of a method the arguments follow with ``self``. ``owner`` keeps it under the same name.
        """
        original = getattr(owner, name)

        def decorate(wrapper: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(original, updated=())
            def wrapped(*args: Any, **options: Any) -> Any:
                return wrapper(original, *args, **options)

            self.set(owner, name, wrapped)
            return wrapper

        return decorate

    def undo(self) -> None:
        """Takes all changes back."""
        while self._undo:
            self._undo.pop()()
