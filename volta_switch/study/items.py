"""Test items as a random effect: how right a run was on each item of its test, and which items belong together.

Items are what the metric is the mean of. Those of one image (of one set of images) are one group, for they are not
independent; ``statistics.by_group`` turns them into one result.

| task | metric | item | group |
|---|---|---|---|
| VQA, GQA | score, accuracy | question | image |
| SNLI-VE | accuracy | pair with a gold label | image |
| RefCOCO, RefCOCO+, RefCOCOg | accuracy | expression | image |
| NLVR2 | accuracy, consistency | statement, sentence | set of image pairs (MaRVL: the pair) |
| retrieval | image R@1, text R@1 | caption, image | image |

The task says what its items are (``Task.grader``): from what a run predicted (``<split>_result.json``, of retrieval
``<split>_ranks.json``) and the truth in its annotations. Where items do not give the score they are not used: results
of older runs do not tell ties, which are frequent in half precision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from volta_switch.checksums import is_there
from volta_switch.data.files.json_files import read_json
from volta_switch.errors import UserError
from volta_switch.statistics import by_group
from volta_switch.study.claims import ItemResults
from volta_switch.tasks.graded_items import Items, NoItems, find_grader, read_items
from volta_switch.tasks.task import FinishedTest, Grader


@dataclass(frozen=True)
class Evaluated(FinishedTest):
    """A finished run's test on one split, as a study knows it."""

    @property
    def travelled(self) -> Path:
        """Results by item of a run that was made elsewhere (``travel``), in the place of its predictions."""
        return self.folder / f"{self.split}_items.json"

    @property
    def data(self) -> tuple[Any, ...]:
        """Where the items come from: equal for tests on the same ones."""
        spec = self.spec
        files = (spec.dataroot, spec.train_annotations_jsonpath, spec.val_annotations_jsonpath)
        where = tuple(str(spec.path(name).resolve()) if name else "" for name in files)
        return spec.type, spec.name, self.split, spec.val_split, spec.num_labels, spec.pool_images, where


class ItemReader:
    """Reads the items of a study's tests: every file once, ids and groups kept once for all runs on the same items."""

    def __init__(self) -> None:
        self._graders: dict[tuple[Any, ...], Grader] = {}
        self._items: dict[tuple[Path, str], Items] = {}
        self._first: dict[tuple[Any, ...], Items] = {}

    def items(self, test: Evaluated, metric: str, score: float) -> Items:
        """How right a run was on each item.

        Args:
            test: the run's test.
            metric: of the task's ``headline``.
            score: the metric's value, in percent, as the evaluation wrote it.

        Raises:
            NoItems: the files do not tell, or what they tell is not the score (see ``graded_items.ITEMS_TOLERANCE``).
        """
        key = (test.results, metric)
        if key not in self._items:
            self._items[key] = self._share(test, metric, self._read(test, metric))
        self._items[key].refuse_other_score(score)
        return self._items[key]

    def column(self, arms: Mapping[str, Sequence[tuple[Evaluated, float]]], metric: str) -> dict[str, ItemResults]:
        """The items of several arms' runs by group.

        Args:
            arms: arm -> for each seed its test, and the metric's value.
            metric: of the task's ``headline``.

        Returns:
            Arm -> (S, groups) results, of the same groups in every arm that was tested on the same data.

        Raises:
            NoItems: some run's results cannot be taken apart, or all items are one group.
            UserError: two runs on the same data have different items.
        """
        firsts: dict[tuple[Any, ...], Items] = {}
        found = {}
        for arm, tests in arms.items():
            runs = [self.items(test, metric, score) for test, score in tests]
            for (test, _), items in zip(tests, runs, strict=True):
                _refuse_others(firsts.setdefault(test.data, items), items)
            names = np.unique(runs[0].groups)
            if len(names) < 2:
                raise NoItems(f"all items of {runs[0].source} belong together")
            points = np.stack([items.points for items in runs]).astype(np.float64)  # (S, I)
            found[arm] = ItemResults(names, by_group(points, runs[0].groups))
        return found

    def _read(self, test: Evaluated, metric: str) -> Items:
        if is_there(test.travelled):
            return _items_of_json(test.travelled, metric)
        if test.data not in self._graders:
            self._graders[test.data] = find_grader(test)
        return read_items(test, metric, self._graders[test.data])

    def _share(self, test: Evaluated, metric: str, items: Items) -> Items:
        """The same with the ids and groups of an earlier run where they are equal."""
        first = self._first.setdefault((test.data, metric), items)
        return Items(first.ids, first.groups, items.points, items.source) if _same(first, items) else items


def items_to_json(items: Items) -> dict[str, list[Any]]:
    """A run's results by item, as ``Evaluated.travelled`` keeps them."""
    points = [int(value) if value == int(value) else round(value, 4) for value in items.points.tolist()]
    return {"ids": items.ids.tolist(), "groups": items.groups.tolist(), "points": points}


def _items_of_json(source: Path, metric: str) -> Items:
    said = read_json(source).get(metric) or {"why_not": f"{source} tells nothing of {metric}"}
    if "why_not" in said:
        raise NoItems(said["why_not"])
    return Items(np.array(said["ids"]), np.array(said["groups"]), np.array(said["points"], dtype=np.float32), source)


def _same(left: Items, right: Items) -> bool:
    return left.ids is right.ids or np.array_equal(left.ids, right.ids)


def _refuse_others(first: Items, items: Items) -> None:
    if not _same(first, items):
        apart = np.setxor1d(first.ids, items.ids)
        raise UserError(
            f"{first.source} and {items.source}: not the same test items ({len(first.ids)} and {len(items.ids)}; only "
            f"one has {apart[0]}); evaluate both runs again on the same data"
        )
