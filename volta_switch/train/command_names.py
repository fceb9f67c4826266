"""What ``volta-switch`` calls the entry points of VOLTA's names; alone, below all that read it."""

COMMANDS = {
    "train_concap": "pretrain",
    "train_task": "finetune",
    "eval_task": "evaluate",
    "eval_retrieval": "retrieve",
}
