"""Training and evaluation: what the four entry points do."""
