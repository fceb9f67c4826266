"""``python -m volta_switch.plugin [--home DIR] SCRIPT ...``, the same as ``volta-switch volta``."""

from volta_switch.command import run_command
from volta_switch.plugin.commands import main

if __name__ == "__main__":
    run_command(main)
