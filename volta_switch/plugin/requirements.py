"""Which package brings a module that VOLTA imports, and what helps where it cannot be imported."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from importlib import metadata

from volta_switch.errors import UserError
from volta_switch.plugin.stand_ins import STAND_INS

PROJECT = "volta-switch"
EXTRA = "volta"  # pyproject.toml's list of what VOLTA's scripts import
OWN = ("volta", "tools")  # VOLTA's own packages, beside its scripts
# Where module and package differ by more than case, hyphens and underscores.
OTHER_NAMES = {"yaml": "PyYAML", "skimage": "scikit-image", "botocore": "boto3"}  # boto3 pins its own botocore
# Modules whose name is another project's on the index.
NOT_ON_THE_INDEX = {"apex": "build it from github.com/NVIDIA/apex; the index's apex is another project"}


def package_of(module: str) -> str:
    """The index's name of the package that brings a module: of ``msgpack_numpy``, ``msgpack-numpy``."""
    top = module.partition(".")[0]
    return OTHER_NAMES.get(top, top.replace("_", "-"))


def name_in(requirement: str) -> str:
    """The package that a requirement asks for, as the index compares names: of ``PyYAML>=6.0``, ``pyyaml``."""
    found = re.match(r"[\w.-]+", requirement.strip())
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found.group()).lower()


def remedy(error: Exception) -> str:
    """What is missing where an import failed with this error, and what brings it."""
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
    """The module, or package, that an import failed for; "" where it failed for another reason."""
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
    """The packages that ``volta-switch[volta]`` asks for; none where this project is not installed."""
    try:
        stated = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        return frozenset()
    marker = re.compile(rf"""extra\s*==\s*["']{EXTRA}["']""")
    return frozenset(name_in(requirement) for requirement in stated if marker.search(requirement))


def _asking_for(package: str) -> str | None:
    """An installed package that cannot do without another one."""
    for found in metadata.distributions():
        if any("extra ==" not in stated and name_in(stated) == name_in(package) for stated in found.requires or []):
            return found.metadata["Name"]
    return None


@contextlib.contextmanager
def imports_explained(place: str, errors: type[Exception] = Exception) -> Iterator[None]:
    """Inside it, a failed import becomes one line that names what is missing and what helps.

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
