"""Where VOLTA is, and importing from it: another package named volta is refused, and no bytecode is left behind."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from volta_switch.errors import UserError
from volta_switch.plugin.requirements import imports_explained

CHECKOUT = "a checkout of github.com/e-bug/volta (git clone https://github.com/e-bug/volta)"


def find_checkout(home: str | Path | None = None) -> Path:
    """The checkout: ``home``, else ``VOLTA_HOME`` of the environment, else where the package ``volta`` is found.

    Raises:
        UserError: there is none.
    """
    folder = home or os.environ.get("VOLTA_HOME")
    if not folder:
        found = [place.parent for place in _package_folders() if holds_encoders(place)]
        if found:
            return found[0]
        raise UserError(f"VOLTA cannot be found: give --home DIR or set VOLTA_HOME to {CHECKOUT}")
    path = Path(folder).expanduser().resolve()
    if not holds_encoders(path / "volta"):
        given = "--home" if home else "VOLTA_HOME"
        raise UserError(f"{given} {path}: holds no volta/encoders.py; expected {CHECKOUT}")
    return path


def import_encoders(home: str | Path | None) -> ModuleType:
    """The module ``volta.encoders`` of VOLTA; ``home`` goes to the front of ``sys.path``.

    Raises:
        UserError: no VOLTA can be imported, or another package of that name is found first.
    """
    if home or (os.environ.get("VOLTA_HOME") and not any(map(holds_encoders, _package_folders()))):
        _add_to_path(find_checkout(home))
    found = _package_folders()
    if not found:
        raise UserError(f"VOLTA cannot be imported: set VOLTA_HOME to {CHECKOUT}")
    elsewhere = home and Path(home, "volta").expanduser().resolve() not in [place.resolve() for place in found]
    if elsewhere or not any(map(holds_encoders, found)):
        raise UserError(
            f"{found[0]}: another package named volta is found here first; set VOLTA_HOME to {CHECKOUT} and uninstall "
            "the other"
        )
    encoders = import_volta("encoders")
    lost = [name for name in ("BertModel", "BertForVLPreTraining", "BertForVLTasks") if not hasattr(encoders, name)]
    if lost:
        raise UserError(f"{found[0]}: volta.encoders has no {lost[0]}; expected {CHECKOUT}")
    return encoders


def import_volta(name: str) -> ModuleType:
    """A module of VOLTA's package, by its name in it.

    Raises:
        UserError: it cannot be imported; the reason is told.
    """
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the checkout stays as it is
    try:
        with imports_explained(f"volta/{name.replace('.', '/')}.py"):
            return importlib.import_module(f"volta.{name}")
    finally:
        sys.dont_write_bytecode = writes


def holds_encoders(package: Path) -> bool:
    """Whether a folder is VOLTA's package; the index has another one of that name."""
    return (package / "encoders.py").is_file()


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def _package_folders() -> list[Path]:
    """Where the package ``volta`` would be imported from; it is not run."""
    try:
        spec = importlib.util.find_spec("volta")
    except ValueError:  # a module without a spec stands in its place
        return []
    return [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []
