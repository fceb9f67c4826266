"""What a configuration costs: operations as executed and as the paper counts them, parameters, memory."""
