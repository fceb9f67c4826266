"""Controlled comparisons: one plan, many runs, one table."""
