"""``python -m volta_switch.plugin [--home DIR] SCRIPT ...``, the same as ``volta-switch volta``."""

from volta_switch.plugin.commands import main
from volta_switch.train.arguments import run_command

if __name__ == "__main__":
    run_command(main)
