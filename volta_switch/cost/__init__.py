"""The cost of a configuration: operations as executed and as the paper counts them, parameters, memory."""

EPSILON = 0.01  # a weight above which a path counts as active
