"""What ``volta-switch`` calls the four entry points, whose scripts have VOLTA's names."""

COMMANDS = {
    "train_concap": "pretrain",
    "train_task": "finetune",
    "eval_task": "evaluate",
    "eval_retrieval": "retrieve",
}
