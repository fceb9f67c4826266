"""Modules in place of packages that VOLTA imports and that the four scripts do not need."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from volta_switch.errors import UserError

# Packages that are stood in for where they are not installed -> their modules -> what VOLTA takes of each.
STAND_INS: dict[str, dict[str, tuple[str, ...]]] = {
    "datasets": {"datasets": ("load_dataset",)},
    "matplotlib": {
        "matplotlib.collections": ("PatchCollection",),
        "matplotlib.patches": ("Polygon", "Rectangle"),
        "matplotlib.pyplot": ("figure", "gca", "show"),
    },
    "skimage": {"skimage.io": ("imread",)},
}
MASKS = ("encode", "decode", "iou", "merge", "area", "toBbox", "frPyObjects")  # of tools/refer's C extension


def installed(name: str) -> bool:
    """Whether a module can be imported; a mere folder of that name, such as ``datasets/``, is none."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None


def version(distribution: str) -> tuple[int, ...]:
    """The first numbers of an installed distribution's version; () where it is not installed."""
    try:
        return tuple(int(part) for part in re.findall(r"\d+", metadata.version(distribution))[:3])
    except metadata.PackageNotFoundError:
        return ()


def stand_in(name: str, reason: str, *functions: str) -> ModuleType:
    """A module whose functions refuse to be called, saying what they would need."""
    module = ModuleType(name, f"Stands in for {name}, which is not installed.")
    module.__path__ = []  # a package, so that its parts can be imported
    module.__spec__ = ModuleSpec(name, None, is_package=True)  # for whoever asks whether it is installed
    for function in functions:
        setattr(module, function, _refusing(f"{name}.{function}: {reason}"))
    return module


def stand_ins(package: str, reason: str) -> dict[str, ModuleType]:
    """The modules of a package of ``STAND_INS``, by name; none where the package is installed.

    Args:
        package: a key of ``STAND_INS``.
        reason: why the functions cannot be called, and what they would need.
    """
    if installed(package):
        return {}
    modules = {package: stand_in(package, reason)}
    for name, functions in STAND_INS[package].items():
        modules[name] = stand_in(name, reason, *functions)
        parent, _, part = name.rpartition(".")
        if parent:
            setattr(modules[parent], part, modules[name])  # as an import leaves it
    return modules


def package(name: str, folder: Path) -> ModuleType:
    """A package over a folder of the checkout that has no ``__init__.py``."""
    module = ModuleType(name)
    module.__path__ = [str(folder)]
    return module


def apex_parallel() -> ModuleType:
    """``apex.parallel``, whose ``DistributedDataParallel`` is PyTorch's own."""
    module = ModuleType("apex.parallel")

    def distributed(model: nn.Module, **_apex_options: Any) -> nn.Module:
        # apex waits for the gradients that there are; PyTorch must be told that some parameters have none.
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    module.DistributedDataParallel = distributed  # type: ignore[attr-defined]
    return module


def to_cpu(tensor_or_module: Any, *_device: Any, **_options: Any) -> Any:
    """``.cuda()`` on a machine without CUDA."""
    return tensor_or_module


def _refusing(message: str) -> Callable[..., Any]:
    def refuse(*_args: Any, **_options: Any) -> Any:
        raise UserError(message)

    return refuse
