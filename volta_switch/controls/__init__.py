"""Positive controls of switching: tasks whose right routes are known, and what must fail when training is spoilt."""

CONTROLS = ("needs-switching", "planted-routes", "gradients")  # each in its module; named here without PyTorch
