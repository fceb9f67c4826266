"""Where the shipped files are: configurations, task files and studies."""

from __future__ import annotations

import sys
from pathlib import Path

# A checkout has them beside the package; an installed wheel has them under share/.
SHIPPED_FOLDERS = (Path(__file__).resolve().parents[1], Path(sys.prefix) / "share" / "volta_switch")


def here_or_shipped(name: str | Path) -> Path:
    """The file of this name if it is there; else the shipped one, as `studies/demo.yaml` is in any folder.

    Where there is neither, the name as it was given, for the reader to refuse.
    """
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path
    return next((folder / path for folder in SHIPPED_FOLDERS if (folder / path).is_file()), path)
