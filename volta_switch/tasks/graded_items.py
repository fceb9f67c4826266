"""How right a run was on each item of its test, from the files that the test left.

Items are what a metric is the mean of; those of one image are one group, for they are not independent. The task says
what its items are (``Task.grader``). Items that do not give the score are refused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volta_switch.checksums import Changed
from volta_switch.data.files.json_files import read_json
from volta_switch.errors import UserError
from volta_switch.statistics import by_group, critical_value, item_variance
from volta_switch.tasks import task_class
from volta_switch.tasks.task import FinishedTest, Grader

ITEMS_TOLERANCE = 0.01  # points by which the mean of the items may differ from the score, which may be rounded


class NoItems(Exception):
    """Why the results of a test cannot be taken apart into items; one line."""


@dataclass(frozen=True, eq=False)
class Items:
    """A run's results on the items of a test, whose mean is the score."""

    ids: np.ndarray  # (I,) texts, sorted
    groups: np.ndarray  # (I,) the name of each item's group
    points: np.ndarray  # (I,) float32, from 0 to 100
    source: Path  # the file of the results

    def refuse_other_score(self, score: float) -> None:
        """Raises NoItems where the mean of the items is not the score, in percent."""
        mean = float(self.points.mean(dtype=np.float64))
        if not abs(mean - score) <= ITEMS_TOLERANCE:
            raise NoItems(f"{self.source} gives {mean:.3f}, not the score {score:.3f}: ties, or of another test")


def find_grader(test: FinishedTest) -> Grader:
    """Reads the truth of a test's split; NoItems where it is not there, or not known."""
    try:
        return task_class(test.spec).grader(test.spec, test.split)
    except Changed:
        raise
    except UserError as error:
        raise NoItems(str(error)) from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise NoItems(f"{test.spec.name}: the truth of split {test.split} cannot be read ({error!r})") from error


def read_items(test: FinishedTest, metric: str, grader: Grader) -> Items:
    """Reads how right a run was on each item.

    Args:
        test: the run's test.
        metric: of the task's ``headline``.
        grader: of the test's split (``find_grader``).

    Raises:
        NoItems: the files do not tell.
        Changed: one of them is not what was written.
    """
    source = test.results
    try:
        source = task_class(test.spec).graded_file(test, metric)
        rows = sorted(grader(read_json(source), metric))
    except Changed:
        raise
    except UserError as error:  # the run's files are not there
        raise NoItems(str(error)) from error
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise NoItems(f"{source}: not the results of {test.spec.name}'s split {test.split} ({error!r})") from error
    if not rows:
        raise NoItems(f"{source}: no results")
    ids, groups, right = zip(*rows, strict=True)
    if len(set(ids)) < len(ids):
        raise NoItems(f"{source}: an item stands twice")
    points = (100 * np.array(right, dtype=np.float64)).astype(np.float32)
    return Items(np.array(ids), np.array(groups), points, source)


def interval_over_items(items: Items, score: float, confidence: float) -> tuple[float, float, int]:
    """Returns bounds of one run's score on new test items, in percent, and the number of groups of items.

    Student's t over groups of items; nothing is said of other seeds.

    Raises:
        NoItems: the items are another test's, all of one group, or all agree.
    """
    items.refuse_other_score(score)
    results = by_group(items.points.astype(np.float64)[None], items.groups)[0]  # (groups,)
    if len(results) < 2:
        raise NoItems(f"all items of {items.source} belong together")
    variance, score = float(item_variance(results, [])), float(results.mean())
    if not variance > 0:
        raise NoItems(f"all items of {items.source} agree")
    half = critical_value(1 - confidence, (0.0, 1), (variance, len(results) - 1)) * math.sqrt(variance)
    return max(score - half, 0.0), min(score + half, 100.0), len(results)
