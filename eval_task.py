"""Evaluates one model on one task; VOLTA's flags, see --help."""

from volta_switch.train.arguments import run_command
from volta_switch.train.evaluation import main

if __name__ == "__main__":
    run_command(main)
