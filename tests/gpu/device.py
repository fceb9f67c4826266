"""The device under test, and what a test needs beyond PyTorch, NumPy and pytest."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

REHEARSED = os.environ.get("REHEARSE_ON", "")
DEVICE = torch.device(REHEARSED or "cuda")
PRESENT = bool(REHEARSED) or torch.cuda.is_available()
gpu_proper = pytest.mark.gpu_proper


def needs(*packages: str) -> None:
    """Skips the test, or the whole file that calls this at its top, where a package is missing."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"needs {name}", allow_module_level=True)
