"""An entry point under torchrun of which one process kills itself at one step, the first time that it is started.

python dying.py ENTRY RANK STEP FLAGS...
"""

import os
import signal
import sys

from volta_switch.command import run_command
from volta_switch.train import finetuning, pretraining
from volta_switch.train.loop import Trainer

entry, rank, step, *flags = sys.argv[1:]
update = Trainer._update


def dying(trainer):
    first_time = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0"
    if first_time and os.environ["RANK"] == rank and trainer.progress.step == int(step):
        os.kill(os.getpid(), signal.SIGKILL)
    return update(trainer)


Trainer._update = dying
run_command({"train_concap": pretraining.main, "train_task": finetuning.main}[entry], flags)
