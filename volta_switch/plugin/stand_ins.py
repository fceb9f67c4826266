"""Modules in place of packages that VOLTA imports and that the four scripts do not need."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from volta_switch.errors import UserError


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
    for function in functions:
        setattr(module, function, _refusing(f"{name}.{function}: {reason}"))
    return module


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
