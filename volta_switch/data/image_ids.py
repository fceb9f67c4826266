"""Ids as text, and the spellings under which data sets name one image.

VOLTA's ancestors name COCO's image 9 "9", "COCO_train2014_000000000009", "000000000009" or "9.jpg", and files that
belong together do not always agree. What a file says is taken as it stands; only an id that is not found so is looked
for under its other spellings, and never where these would stand for two images.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

EXAMPLES = 3  # ids that a message shows
_COCO = re.compile(r"coco_\w+_(\d{1,18})", re.ASCII | re.IGNORECASE)
_PICTURE = re.compile(r"(.+)\.(?:jpe?g|png)", re.IGNORECASE)
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)


def id_text(value: Any) -> str:
    """Returns an id as text: a text, bytes, or a whole number of any type. Raises TypeError for what is no id."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    import numpy as np  # here, not above: tasks say which files they read without it

    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return str(value)
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    raise TypeError(f"{shown(value)} is no id; expected a text or a whole number")


def shown(value: Any) -> str:
    """Returns a value of a file as a message may show it: of what can be nested without end only the type."""
    if value is None:
        return "null"
    import numpy as np

    plain = isinstance(value, str | bytes | int | float | np.generic) or (
        isinstance(value, np.ndarray) and value.size < 9
    )
    return f"{value!r:.60}" if plain else f"a {type(value).__name__}"


def id_number(name: str) -> int | str:
    """Returns an id as official result files write it: as a number where it is one."""
    return int(name) if _NUMBER.fullmatch(name) and str(int(name)) == name else name


def id_order(name: str) -> tuple[int, int, str]:
    """Returns what ids are sorted by: numbers by their value, then other texts."""
    return (0, int(name), name) if _NUMBER.fullmatch(name) else (1, 0, name)


def image_key(name: str) -> str:
    """Returns the id under which tasks ask for an image: COCO's number for COCO's file names, else the name itself.

    "COCO_train2014_000000000009" -> "9", as VOLTA's converter of MS COCO does and its annotations have it.
    """
    match = _COCO.fullmatch(_without_suffix(name))
    return str(int(match[1])) if match else name


def plain_id(name: str) -> str:
    """Returns what all spellings of an image's id have in common.

    A folder in front and a picture's suffix are dropped, COCO's file names and numbers with zeros in front become the
    number: "val2014/COCO_val2014_000000000009.jpg", "000000000009" and "9.png" -> "9".
    """
    name = image_key(name.rpartition("/")[2])
    name = _without_suffix(name)
    return str(int(name)) if _NUMBER.fullmatch(name) else name


class ImageIndex:
    """Stored ids by what their spellings have in common."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = dict.fromkeys(names)  # an ordered set
        self._plain: dict[str, list[str]] = {}
        for name in self._names:
            self._plain.setdefault(plain_id(name), []).append(name)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def find(self, name: str) -> list[str]:
        """Returns the stored ids that a name may stand for: itself where it is stored, else all of its spellings."""
        return [name] if name in self._names else self._plain.get(plain_id(name), [])

    def has(self, name: str) -> bool:
        """Whether a name stands for one stored id."""
        return len(self.find(name)) == 1


def examples(names: Iterable[str]) -> str:
    """Returns the first few ids for a message."""
    shown = [repr(name) for _, name in zip(range(EXAMPLES), names, strict=False)]
    return ", ".join(shown) or "nothing"


def _without_suffix(name: str) -> str:
    match = _PICTURE.fullmatch(name)
    return match[1] if match else name
