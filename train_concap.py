"""Pre-trains one model on Conceptual Captions; VOLTA's flags, see --help."""

from volta_switch.train.arguments import run_command
from volta_switch.train.pretraining import main

if __name__ == "__main__":
    run_command(main)
