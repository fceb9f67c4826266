"""Commands run by a shell, which sends their streams where a test says."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


def in_shell(command, streams):
    """A finished command whose streams the shell sent where ``streams`` says."""
    line = ["bash", "-c", f'"$@" {streams}', "bash", *map(str, command)]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=120, env=BUFFERED)
