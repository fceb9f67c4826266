"""Evaluates one model on one task; VOLTA's flags, see --help."""

from volta_switch.train.entry_points import run_entry_point

if __name__ == "__main__":
    run_entry_point("eval_task")
