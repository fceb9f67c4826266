"""Pre-trains one model on Conceptual Captions; VOLTA's flags, see --help."""

from volta_switch.train.entry_points import run_entry_point

if __name__ == "__main__":
    run_entry_point("train_concap")
