"""How many seeds a study needs, from the spread that its first seeds show."""

import numpy as np
import pytest

from volta_switch.study.power import seeds_needed, sizing, sizing_text
from volta_switch.study.records import ReportedTable

ARMS = {"text": "", "better": "a0", "worse": "a1"}


def table_of(values, metrics=("accuracy",), claimed=("accuracy",)):
    """``values``: (columns, arms, seeds)."""
    rows = [
        {"arm": f"a{n}", "scores": [{"values": list(column[n])} for column in values]} for n in range(len(values[0]))
    ]
    columns = [{"task": "refcoco+", "metric": metric, "heading": f"refcoco+ {metric}"} for metric in metrics]
    estimate = {"items": 0, "standard_error": 1.0, "spread": 2.0, "seeds": 4}
    verdicts = [
        {"claim": {**ARMS, "task": "refcoco+", "metric": metric, "than": None}, "estimate": dict(estimate)}
        for metric in claimed
    ]
    return {"name": "t", "rows": rows, "columns": columns, "verdicts": verdicts}


def sizing_of(tables, effect):
    """``tables`` as their JSON has them."""
    return sizing([ReportedTable.from_dict(table) for table in tables], effect)


def test_the_number_of_seeds_is_that_of_the_pooled_spread():
    values = np.array([[[80.0, 82.0, 84.0], [90.0, 91.0, 92.0]]])  # variances 4 and 1
    [line] = sizing_of([table_of(values)], effect=2.0)
    assert line.spread == pytest.approx(np.sqrt(2 * 2.5))
    assert line.seeds == seeds_needed(2.0, line.spread) and line.seeds_bound > line.seeds
    # 4 degrees of freedom, of whose chi-square a fifth lies below 1.6488 (any table of quantiles)
    assert line.bound == pytest.approx(line.spread * np.sqrt(4 / 1.6488), rel=1e-4)


def test_more_claims_and_smaller_effects_ask_for_more_seeds():
    rng = np.random.default_rng(0)
    values = rng.normal(80, 2, (1, 4, 5))
    [one] = sizing_of([table_of(values)], 2.0)
    [three] = sizing_of([table_of(values, claimed=("accuracy",) * 3)], 2.0)
    [smaller] = sizing_of([table_of(values)], 1.0)
    assert one.seeds < three.seeds and one.seeds < smaller.seeds


def test_a_difference_of_differences_has_a_line_of_its_own():
    made = table_of(np.random.default_rng(0).normal(80, 2, (1, 4, 5)), claimed=("accuracy", "accuracy"))
    made["verdicts"][1]["claim"]["than"] = ["a0", "a1"]
    two, four = sizing_of([made], 2.0)
    assert (two.arms, four.arms) == (2, 4) and four.spread == pytest.approx(np.sqrt(2) * two.spread)


def test_test_items_ask_for_more_seeds_and_where_they_vary_too_much_no_number_is_enough():
    values = np.random.default_rng(0).normal(80, 2, (1, 4, 5))
    [these] = sizing_of([table_of(values)], 2.0)
    for variance, enough in ((0.2, True), (4.0, False)):
        made = table_of(values)
        made["verdicts"][0]["estimate"] |= {"items": 200, "standard_error": np.sqrt(1.0 + variance)}
        [new] = sizing_of([made], 2.0)
        assert new.items == pytest.approx(np.sqrt(variance)) and these.items == 0
        if enough:
            assert new.seeds == seeds_needed(2.0, new.spread, item_variance=variance) > these.seeds
        else:
            assert new.seeds is None and "over 10000" in sizing_text([new], 2.0)


def test_seeds_that_all_agree_tell_nothing():
    lines = sizing_of([table_of(np.full((1, 2, 3), 100.0))], 2.0)
    assert lines[0].seeds is None and "| all agree | all agree" in sizing_text(lines, 2.0)


def test_columns_without_a_claim_and_tables_of_one_seed_are_left_out():
    values = np.array([[[80.0, 82.0]], [[1.0, 2.0]]])
    lines = sizing_of([table_of(values, ("accuracy", "loss")), table_of(values[:, :, :1], ("accuracy", "loss"))], 2.0)
    assert [line.column for line in lines] == ["refcoco+ accuracy"]
    assert "| t       | refcoco+ accuracy |" in sizing_text(lines, 2.0)
    assert "no table has claims and two seeds" in sizing_text([], 2.0)


def test_the_planned_number_of_seeds_finds_the_effect_as_often_as_promised():
    # 2,000 simulated studies at the number that the true spread asks for; the simulation's standard error is 1 point
    rng = np.random.default_rng(1)
    spread, effect = 1.5 * np.sqrt(2), 2.0
    seeds = seeds_needed(effect, spread)
    differences = rng.normal(effect, 1.5, (2000, seeds)) - rng.normal(0, 1.5, (2000, seeds))
    t = differences.mean(1) / (differences.std(1, ddof=1) / np.sqrt(seeds))
    from scipy.stats import t as student

    found = (t > student.ppf(0.975, seeds - 1)).mean()
    assert 0.77 < found < 0.86
