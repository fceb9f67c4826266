"""Reading JSON and JSON-lines annotations, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from volta_switch.checksums import read_recorded, require_file, verify
from volta_switch.errors import UserError
from volta_switch.files import parse_json

_CURE = "check the data root of the task"


def read_json(path: str | Path, unique: bool = False) -> Any:
    """Returns the file's content.

    Args:
        path: the file.
        unique: a key that stands twice in one object is refused; else the last one counts.

    Raises:
        UserError: it is missing, no JSON, or not what was written there.
    """
    text = _read(path)
    try:
        return parse_json(text) if unique else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}); copy or write the file again") from error


def read_object(path: str | Path) -> dict[str, Any]:
    """Returns the values by their names in a file that holds one JSON object. Raises UserError where it does not."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON {type(found).__name__}, expected an object; copy or write the file again")
    return found


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields the lines of a text that are not blank, with their numbers from 1.

    Raises:
        UserError: it cannot be read, is not UTF-8, or not what was written there.
    """
    verify(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check its permissions") from None


def read_json_lines(path: str | Path) -> list[Any]:
    """Returns the value of each line that is not blank.

    Raises:
        UserError: the file is missing, or a line is no JSON.
    """
    require_file(Path(path), "file", _CURE)
    import jsonlines  # here, not above: JSON is read without it

    verify(Path(path))
    try:
        with jsonlines.open(path) as reader:
            return list(reader.iter(skip_empty=True))
    except jsonlines.InvalidLineError as error:
        raise UserError(f"{path}, line {error.lineno}: not JSON ({error}); copy or write the file again") from error
    except RecursionError as error:
        raise UserError(f"{path}: not JSON ({error}); copy or write the file again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _read(path: str | Path) -> str:
    require_file(Path(path), "file", _CURE)
    try:
        return read_recorded(Path(path)).decode("utf-8-sig")  # Windows puts a byte order mark in front
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: str | Path, error: OSError | UnicodeDecodeError) -> UserError:
    if isinstance(error, OSError):
        return UserError(f"{path}: cannot be read ({error.strerror}); {_CURE}")
    return UserError(f"{path}: not UTF-8 text ({error.reason}); copy or write the file again")
