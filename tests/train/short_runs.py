"""Flags of the short runs that several tests look at (conftest.py)."""

PRETRAINING = ("--train_batch_size", 5, "--num_train_epochs", 5, "--learning_rate", 5e-3, "--seed", 7)
FINETUNING = ("--batch_size", 8, "--num_epoch", 3, "--lr", 5e-3, "--seed", 7)
