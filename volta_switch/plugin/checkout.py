"""The checkout of VOLTA: where it is, importing from it, the packages that it needs, and its files on a command line.

Another package named volta is refused, and no bytecode is left behind.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from types import ModuleType

from volta_switch.config import find_config
from volta_switch.config.loading import CONFIG
from volta_switch.config.model_folder import WEIGHTS, is_model_folder, weights_in
from volta_switch.errors import UserError
from volta_switch.files import read_yaml, require_file
from volta_switch.hub_models import is_address, pinned
from volta_switch.plugin.replacements import STAND_INS

CHECKOUT = "a checkout of github.com/e-bug/volta (git clone https://github.com/e-bug/volta)"


def find_checkout(home: str | Path | None = None) -> Path:
    """Finds the checkout: ``home``, else ``VOLTA_HOME`` of the environment, else where the package ``volta`` is.

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
    """Imports VOLTA's module ``volta.encoders``; ``home`` goes to the front of ``sys.path``.

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
    """Imports a module of VOLTA's package, by its name in it.

    Raises:
        UserError: it cannot be imported; the message has the reason.
    """
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the checkout stays as it is
    try:
        with imports_explained(f"volta/{name.replace('.', '/')}.py"):
            return importlib.import_module(f"volta.{name}")
    finally:
        sys.dont_write_bytecode = writes


def holds_encoders(package: Path) -> bool:
    """Returns whether a folder is VOLTA's package; the index has another one of that name."""
    return (package / "encoders.py").is_file()


def _add_to_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def _package_folders() -> list[Path]:
    """Returns the folders that the package ``volta`` would be imported from; it is not run."""
    try:
        spec = importlib.util.find_spec("volta")
    except ValueError:  # a module without a spec stands in its place
        return []
    return [Path(folder) for folder in spec.submodule_search_locations or []] if spec else []


PROJECT = "volta-switch"
EXTRA = "volta"  # pyproject.toml's list of what VOLTA's scripts import
OWN = ("volta", "tools")  # VOLTA's own packages, beside its scripts
# Where module and package differ by more than case, hyphens and underscores.
OTHER_NAMES = {"yaml": "PyYAML", "skimage": "scikit-image", "botocore": "boto3"}  # boto3 pins its own botocore
# Modules whose name is another project's on the index.
NOT_ON_THE_INDEX = {"apex": "build it from github.com/NVIDIA/apex; the index's apex is another project"}


def package_of(module: str) -> str:
    """Returns the index's name of the package that brings a module: of ``msgpack_numpy``, ``msgpack-numpy``."""
    top = module.partition(".")[0]
    return OTHER_NAMES.get(top, top.replace("_", "-"))


def name_in(requirement: str) -> str:
    """Returns the package of a requirement, as the index compares names: of ``PyYAML>=6.0``, ``pyyaml``."""
    found = re.match(r"[\w.-]+", requirement.strip())
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def remedy(error: Exception) -> str:
    """Returns what is missing where an import failed with this error, and how to install it."""
    module = _missing_in(error)
    top = module.partition(".")[0]
    if not module or top in sys.stdlib_module_names:
        return "no package is missing; constraints.txt has the versions that were tried"
    package = package_of(module)
    if top in OWN:
        return f"{module} is a part of VOLTA itself, which this checkout lacks or has not built"
    if top in NOT_ON_THE_INDEX:
        return f"{top} is missing: {NOT_ON_THE_INDEX[top]}"
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return _remedy_of_missing(top, package)
    again = f"pip install --force-reinstall -c constraints.txt {package}"
    return f"{package} {version} is installed and cannot be used: {again}"


def _missing_in(error: Exception) -> str:
    """Returns the module or package that an import failed for; "" where it failed for another reason."""
    name = str(getattr(error, "name", None) or "") if isinstance(error, ImportError) else ""
    # A package that checks its own requirements may raise a sentence for a name: "The 'regex!=2019.12.17' distribution"
    found = re.search(r"^[\w.-]+$|(?<=')\w[\w.-]*", name)
    return found.group() if found else ""


def _remedy_of_missing(top: str, package: str) -> str:
    if name_in(package) in _extra():
        return f'the package {package} is missing: pip install "{PROJECT}[{EXTRA}]"'
    asking = _asking_for(package)
    if asking or top in STAND_INS:  # else the package may be called otherwise
        by = f", which {asking} asks for" if asking else ""
        return f"the package {package} is missing{by}: pip install {package}"
    return f"the package of {top} is missing; VOLTA's commit 62f78cd does not import it"


def _extra() -> frozenset[str]:
    """Returns the packages that ``volta-switch[volta]`` asks for; none where this project is not installed."""
    try:
        stated = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return frozenset()
    marker = re.compile(rf"""extra\s*==\s*["']{EXTRA}["']""")
    return frozenset(name_in(requirement) for requirement in stated if marker.search(requirement))


def _asking_for(package: str) -> str | None:
    """Returns an installed package that requires the given one; None if there is none."""
    for found in metadata.distributions():
        if any("extra ==" not in stated and name_in(stated) == name_in(package) for stated in found.requires or []):
            return found.metadata["Name"]
    return None


@contextlib.contextmanager
def imports_explained(place: str, errors: type[Exception] = Exception) -> Iterator[None]:
    """Turns a failed import inside the block into one line that says what is missing and what helps.

    Args:
        place: the file whose imports these are.
        errors: what is taken for a failed import; while a module is imported, whatever that raises.

    Raises:
        UserError: in place of the error.
    """
    try:
        yield
    except UserError:
        raise
    except errors as error:
        raise UserError(f"{place}: VOLTA cannot be imported ({error}); {remedy(error)}") from error


def find_files(home: Path, argv: Sequence[str]) -> list[str]:
    """Returns the command line with paths of files that are in the checkout, or shipped here, filled in.

    Args:
        home: the checkout.
        argv: the script's own flags.

    Raises:
        UserError: the configuration or the task file is nowhere, the task is not in its file, or a model's folder has
            no weights that VOLTA reads.
    """
    flags: dict[str, Callable[[Path, str], str]] = {
        "--config_file": _config, "--config": _config, "--tasks_config_file": _task_file, "--from_pretrained": _weights
    }  # fmt: skip
    argv = [_pinned(argument) for argument in argv]
    argv = [*argv, *_config_of_folder(argv)]
    found = list(argv)
    for index, argument in enumerate(argv):
        flag, equals, value = argument.partition("=")
        if flag in flags and equals:
            found[index] = f"{flag}={flags[flag](home, value)}"
        elif flag in flags and index + 1 < len(argv):
            found[index + 1] = flags[flag](home, argv[index + 1])
    _check_task(found)
    return found


def _pinned(argument: str) -> str:
    """Returns an argument in which an address on the hub names a commit, so that all that is read is of one."""
    flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    return f"{flag}{equals}{pinned(value)}" if is_address(value) else argument


def _config(home: Path, name: str) -> str:
    given = _in_checkout(home, name)
    return given if Path(given).is_file() else str(find_config(name))


def _config_of_folder(argv: Sequence[str]) -> list[str]:
    """Returns the flag that names a model's folder as configuration, where weights are its and none is named."""
    words = [part for argument in argv for part in argument.split("=", 1)]
    folder = dict(pairwise(words)).get("--from_pretrained", "")
    named = {"--config_file", "--config"} & set(words)
    if not folder or named or not is_model_folder(folder):
        return []
    return ["--config_file", folder if is_address(folder) else str(Path(folder, CONFIG))]


def _weights(home: Path, source: str) -> str:
    if not source or not is_model_folder(source):
        return source
    found = weights_in(source).with_name(WEIGHTS[-1])
    require_file(found, "weight file", "VOLTA reads no other of a model's folder; give a file that torch.save has made")
    return str(found)


def _task_file(home: Path, name: str) -> str:
    found = _in_checkout(home, name)
    if not Path(found).is_file():
        raise UserError(f"--tasks_config_file {name}: no such file, here or in {home}; expected config_tasks/NAME.yml")
    return found


def _in_checkout(home: Path, name: str) -> str:
    inside = home / name
    return str(inside) if not Path(name).is_file() and inside.is_file() else name


def _check_task(argv: Sequence[str]) -> None:
    given = {flag: value for flag, value in pairwise(argv) if flag in ("--task", "--tasks_config_file")}
    if len(given) < 2:
        return
    path, task = Path(given["--tasks_config_file"]), given["--task"].strip()
    known = read_yaml(path, "file")
    if isinstance(known, dict) and f"TASK{task}" not in known:
        numbers = ", ".join(str(key).removeprefix("TASK") for key in known)
        raise UserError(f"--task {task}: not in {path}, which has the tasks {numbers}")
