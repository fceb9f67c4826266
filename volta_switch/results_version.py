"""The version of the numbers that this project gives: what a run trained now can be compared with."""

RESULTS_VERSION = 1
"""Raised by hand, by 1, with every change after which the same command gives other numbers: another order of random
draws, another initial weight, a mended loss or metric, another rounding of features.

It is part of the identity of a study's finished runs (``study.run_plan``): after it was raised a study makes its runs
again instead of setting new numbers beside old ones. A commit's name would do so after every change of a comment, and
throw days of runs away; nothing at all would mix them. ``tests/test_golden_runs.py`` trains and evaluates small models
and fails where their numbers are no longer those on record, unless this number was raised with them:
``make golden-runs`` writes the record anew. A change that adds something (a task, a flag that is off) leaves the
numbers, and this, as they are.

Runs of before there was this number are of version 1.
"""
