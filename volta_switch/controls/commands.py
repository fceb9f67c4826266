"""``volta-switch controls``: runs the positive controls and their sabotages, and tells whether each did what it must.

One cell is a control, a condition and a seed. Cells are independent of one another and of how many run at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from volta_switch.controls import CONTROLS
from volta_switch.ranges import COUNT_OR_NONE, PATH, whole

if TYPE_CHECKING:
    from volta_switch.controls.conditions import Condition

NEEDS, PLANTED, GRADIENTS = CONTROLS
# Thresholds of planted routes were set with seeds 0 to 9, so that others test them.
FIRST_SEED = {NEEDS: 0, PLANTED: 10, GRADIENTS: 0}
SEEDS = {NEEDS: 5, PLANTED: 5, GRADIENTS: 2}
SABOTAGE_SEEDS = {NEEDS: 3, PLANTED: 3, GRADIENTS: 1}  # at most
SHORT_SABOTAGES = {NEEDS: ("detached",), PLANTED: ("floor at 12 %",), GRADIENTS: ("detached",)}


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    control: str
    condition: Condition
    seed: int

    def run(self) -> dict[str, float]:
        """Returns what its control measures: names and values."""
        from volta_switch.controls import gradients, needs_switching, planted_routes
        from volta_switch.controls.conditions import RIGHT

        if self.control == NEEDS:  # the arms without switchers are as they are under any condition
            arms = needs_switching.ARMS if self.condition == RIGHT else ("Switch-BERT",)
            return needs_switching.measure(self.seed, self.condition, arms)
        return {PLANTED: planted_routes, GRADIENTS: gradients}[self.control].measure(self.seed, self.condition)


@dataclass(frozen=True)
class Outcome:
    """What a control did under a condition: values by seed."""

    control: str
    condition: Condition
    values: dict[int, dict[str, float]]

    def failed(self, seed: int) -> bool:
        """Returns whether a seed misses a threshold."""
        from volta_switch.controls.conditions import THRESHOLDS

        found = self.values[seed]
        return not all(each.holds(found[each.measure]) for each in THRESHOLDS[self.control] if each.measure in found)

    @property
    def failing(self) -> list[int]:
        """Returns the seeds that miss a threshold."""
        return [seed for seed in self.values if self.failed(seed)]

    @property
    def problem(self) -> str:
        """Returns what is wrong with it; "" where it is as it must be."""
        from volta_switch.controls.conditions import RIGHT

        if self.condition == RIGHT and self.failing:
            return f"{self.control} misses a threshold on seeds {', '.join(map(str, self.failing))}"
        if self.control in self.condition.fails and not self.failing:
            return f"{self.control} does not see the sabotage {self.condition.name!r}: no seed misses a threshold"
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON types."""
        return {
            "control": self.control,
            "condition": self.condition.name,
            "must fail": self.control in self.condition.fails,
            "failing seeds": self.failing,
            "values": {str(seed): found for seed, found in self.values.items()},
        }


def add_controls_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the command's flags."""
    parser.add_argument("--short", action="store_true", help="one seed and one sabotage for each control, as in CI")
    parser.add_argument("--only", choices=CONTROLS, default=None, metavar="NAME", help=f"one of {', '.join(CONTROLS)}")
    seeds = f"of each control (default: {', '.join(f'{name} {count}' for name, count in SEEDS.items())})"
    parser.add_argument("--seeds", type=COUNT_OR_NONE, default=0, metavar="N", help=seeds)
    parser.add_argument("--out", type=PATH, default="runs/controls", help="folder of results (default: %(default)s)")
    parser.add_argument("--jobs", type=whole(1, 1024), default=1, help="cells at once, one thread each (default: 1)")


def run_controls(args: argparse.Namespace) -> None:
    """Runs what is asked for, prints the tables, and writes ``controls.json`` and ``controls.svg``.

    Raises:
        SystemExit: 1, a threshold is missed, or a sabotage that must be seen is not.
    """
    from volta_switch.controls.report import controls_figure, record, tables
    from volta_switch.files import replacing, write_json

    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    outcomes = collected(run_cells(list(planned(args.only, args.short, args.seeds)), args.jobs))
    print(tables(outcomes))
    write_json(out / "controls.json", record(outcomes, args.short))
    written = [out / "controls.json"]
    if drawn := controls_figure(outcomes):
        written.append(out / "controls.svg")
        with replacing(written[-1]) as temporary:
            temporary.write_text(drawn, encoding="utf-8")
    print(", ".join(map(str, written)))
    problems = [outcome.problem for outcome in outcomes if outcome.problem]
    for problem in problems:
        print(f"failed: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)


def planned(only: str | None = None, short: bool = False, seeds: int = 0) -> Iterator[Cell]:
    """Yields the cells, the right condition of every control first.

    Args:
        only: this control alone.
        short: one seed, and the sabotages of ``SHORT_SABOTAGES``.
        seeds: of each control; 0: as many as are its default.
    """
    from volta_switch.controls.conditions import RIGHT, SABOTAGES

    for condition in (RIGHT, *SABOTAGES):
        for control in CONTROLS if only is None else (only,):
            if short and condition != RIGHT and condition.name not in SHORT_SABOTAGES[control]:
                continue
            count = seeds or (1 if short else SEEDS[control])
            count = count if condition == RIGHT else min(count, SABOTAGE_SEEDS[control])
            for seed in range(FIRST_SEED[control], FIRST_SEED[control] + count):
                yield Cell(control, condition, seed)


def run_cells(cells: list[Cell], jobs: int) -> Iterator[tuple[Cell, dict[str, float]]]:
    """Runs cells, so many at once, and yields each with what it measured, in their order."""
    if jobs == 1:
        with one_thread():
            yield from _noted(((cell, cell.run()) for cell in cells), len(cells))
        return
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(jobs, get_context("spawn"), _one_thread_for_good) as pool:
        yield from _noted(zip(cells, pool.map(Cell.run, cells), strict=True), len(cells))


def _noted(found: Iterable[tuple[Cell, dict[str, float]]], count: int) -> Iterator[tuple[Cell, dict[str, float]]]:
    for number, (cell, values) in enumerate(found, 1):
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        print(f"[{number}/{count}] {cell.control}, {cell.condition.name}, seed {cell.seed}: {numbers}", file=sys.stderr)
        yield cell, values


def collected(found: Iterable[tuple[Cell, dict[str, float]]]) -> list[Outcome]:
    """Puts the seeds of each control and condition together."""
    outcomes: dict[tuple[str, str], Outcome] = {}
    for cell, values in found:
        key = cell.control, cell.condition.name
        outcomes.setdefault(key, Outcome(cell.control, cell.condition, {})).values[cell.seed] = values
    return list(outcomes.values())


@contextmanager
def one_thread() -> Iterator[None]:
    """Computes with one thread within the block: models as small as these are slower with more, and differ."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _one_thread_for_good() -> None:
    import torch

    torch.set_num_threads(1)
