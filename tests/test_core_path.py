"""What a reader of the core path has to read stays short: see ``benchmarks/core_path.py``, which prints the figures."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def measure(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from core_path import measure

    before = sys.getprofile()
    yield measure
    assert sys.getprofile() is before


def test_the_way_from_a_batch_to_its_loss_is_short(measure):
    found = measure("ctrl_uniter_base")
    print(f"\n{len(found.functions)} functions, {found.lines} lines, {len(found.classes)} classes before the attention")
    assert len(found.functions) <= 60 and found.lines <= 650 and len(found.classes) <= 8
    assert {code.co_qualname for code in found.functions} >= {"Pretraining.forward", "Batch.to", "_Attend.forward"}


@pytest.mark.parametrize(
    "name", ["ctrl_uniter_base", "ctrl_vilbert_base", "ctrl_lxmert", "ctrl_visualbert_base", "switchbert"]
)
def test_no_function_of_it_takes_more_than_three_arguments_by_position(measure, name):
    assert measure(name).positional == []
