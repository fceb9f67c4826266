"""What a study's own data are, wherever they lie: its cells are known by it.

What was found is kept in ``data.json`` of the study's folder, and taken from there on a machine that has the finished
cells and not the data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from volta_switch.data.fingerprints import Fingerprint
from volta_switch.errors import UserError
from volta_switch.files import read_object, write_json

DATA_FILE = "data.json"


class DataIdentities:
    """The fingerprints of what each kind of run of a study reads.

    ``folder``: the study's. ``known``: those that came with merged cells.
    """

    def __init__(self, folder: Path, known: Mapping[str, Any] | None = None) -> None:
        self._path = folder / DATA_FILE
        self.known: dict[str, Any] = {**(read_object(self._path) or {}), **(known or {})}

    def of(self, asked: Any, read: Callable[[], Mapping[str, Fingerprint]]) -> dict[str, str]:
        """File -> fingerprint of what a run reads, or what was kept of it where the data are not here.

        Args:
            asked: what the plan says of the data, as JSON values.
            read: works the fingerprints out; raises UserError where a file is not there.
        """
        name = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()[:16]
        try:
            found = {file: str(each.get("fingerprint", each.get("sha256"))) for file, each in read().items()}
        except UserError:
            return self.known.get(name, {"not here": name})
        self.known[name] = found
        return found

    def keep(self) -> None:
        """Writes down what was found.

        Raises:
            CannotWrite: the folder cannot be written.
        """
        if self.known and read_object(self._path) != self.known:
            write_json(self._path, self.known)
