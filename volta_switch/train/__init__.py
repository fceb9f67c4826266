"""Pre-training, fine-tuning and evaluation, on one or several processes; Python asks for this file."""
