"""Where the shipped files are: configurations, task files and studies."""

from __future__ import annotations

import site
import sys
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
# A checkout has them beside the package. A wheel puts them below share/: of the environment, of the user's folder
# (pip install --user), or of the folder that the package is in (--target).
SHIPPED_FOLDERS = (
    _PACKAGE,
    *(Path(prefix) / "share" / "volta_switch" for prefix in (sys.prefix, site.getuserbase(), _PACKAGE)),
)


def here_or_shipped(name: str | Path) -> Path:
    """The file of this name if it is there; else the shipped one, as `studies/demo.yaml` is in any folder.

    Where there is neither, the name as it was given, for the reader to refuse.
    """
    path = Path(name)
    if path.exists() or path.is_absolute():
        return path
    return next((folder / path for folder in SHIPPED_FOLDERS if (folder / path).is_file()), path)
