"""Positive controls of switching: tasks whose right routes are known, and sabotages of training that they must see."""

CONTROLS = ("needs-switching", "planted-routes", "gradients")  # each in its module; named here without PyTorch
