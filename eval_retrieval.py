"""Evaluates image-text retrieval over all pairs; VOLTA's flags, see --help."""

from volta_switch.train.arguments import run_command
from volta_switch.train.evaluation import main_retrieval

if __name__ == "__main__":
    run_command(main_retrieval)
