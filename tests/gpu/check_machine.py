"""Says in one line what PyTorch finds on a GPU machine, or, status 2, what is missing.

    python tests/gpu/check_machine.py [package ...]

What is named is needed beside PyTorch, NumPy and the GPU. ``REHEARSE_ON`` names a device that stands for one.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
from collections.abc import Sequence


def main(packages: Sequence[str]) -> str:
    """The machine, in words.

    Raises:
        SystemExit: a package is missing, or the GPU.
    """
    for package in ("numpy", "torch", *packages):
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise SystemExit(_refused(f"{sys.executable} cannot import {package} ({error}); set PYTHON=...")) from None
    import torch

    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    if rehearsed := os.environ.get("REHEARSE_ON", ""):
        return f"a rehearsal on {rehearsed}: {versions}"
    if not torch.cuda.is_available():
        raise SystemExit(_refused(f"no CUDA device: {versions} sees none; run this on a machine with a GPU"))
    free, total = torch.cuda.mem_get_info()
    memory = f"{free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    return f"{torch.cuda.get_device_name()}, {memory}: {versions}, CUDA {torch.version.cuda}"


def _refused(reason: str) -> int:
    print(f"error: {reason}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    print(main(sys.argv[1:]), flush=True)
