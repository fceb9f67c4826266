"""Writing JSON as the annotations of a world have it: UTF-8, keys in their order."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_json(path: Path, content: Any) -> None:
    """Write one value, its folder created where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def write_json_lines(path: Path, lines: Iterable[Any]) -> None:
    """Write one value a line, the folder created where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
