"""Scripts in processes of their own, several at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1")
SECONDS = 100  # for a process that PyTorch has to be loaded in, on a machine that has never done so


def started(*command: object) -> subprocess.Popen[str]:
    """Python with these arguments, begun."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE.parent)])}
    words = [sys.executable, *map(str, command)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, env=environment, text=True, **pipes)  # type: ignore[call-overload]


def ended(process: subprocess.Popen[str]) -> str:
    """What a process has printed by its end, its last line; fails with its errors where it failed."""
    try:
        out, err = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
    assert process.returncode == 0, f"{process.args}: {process.returncode}\n{out[-2000:]}\n{err[-4000:]}"
    return out.strip().splitlines()[-1]
