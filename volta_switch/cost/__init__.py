"""The cost of a configuration: operations as executed and as the paper counts them, parameters, memory."""
