"""Controlled comparisons: one plan, many runs, one table. (The file makes the folder a package.)"""
