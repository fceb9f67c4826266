"""How many seeds a study needs, from the spread that its first seeds show."""

import numpy as np
import pytest

from volta_switch.study.power import excluded_effect, seeds_needed
from volta_switch.study.records import ReportedTable
from volta_switch.study.sizing import sizing, sizing_text

ARMS = {"text": "", "better": "a0", "worse": "a1"}


def table_of(values, metrics=("accuracy",), claimed=("accuracy",), planned=None):
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
    seeds = list(range(len(values[0][0])))
    planned = list(range(planned or len(seeds)))
    table = {"name": "t", "rows": rows, "columns": columns, "verdicts": verdicts, "seeds": seeds}
    return {**table, "planned_seeds": planned}


def sizing_of(tables, effect):
    """``tables`` as their JSON has them."""
    return sizing([ReportedTable.from_dict(table) for table in tables], effect)


def test_the_number_of_seeds_is_by_the_spread_of_the_claims_own_differences():
    # Differences 10, 9 and 11, of variance 1; the third arm, whose scores are all over the place, is no part of it
    values = np.array([[[90.0, 91.0, 92.0], [80.0, 82.0, 81.0], [10.0, 50.0, 90.0]]])
    [line] = sizing_of([table_of(values)], effect=2.0)
    assert line.spread == pytest.approx(1.0) and line.difference == "a0 minus a1" and line.seen == 3
    assert line.seeds == seeds_needed(2.0, line.spread) and line.seeds_bound > line.seeds
    # 2 degrees of freedom, of whose chi-square a fifth lies below 0.44629 (any table of quantiles)
    assert line.bound == pytest.approx(line.spread * np.sqrt(2 / 0.44629), rel=1e-4)


def test_seeds_that_move_both_arms_alike_cost_nothing():
    shared = np.random.default_rng(0).normal(0, 5, 5)
    own = np.random.default_rng(1).normal(80, 0.5, (2, 5))
    [paired] = sizing_of([table_of((own + shared)[None])], 2.0)
    [without] = sizing_of([table_of(own[None])], 2.0)
    assert paired.seeds == without.seeds and paired.spread == pytest.approx(without.spread)


def test_more_claims_and_smaller_effects_ask_for_more_seeds():
    rng = np.random.default_rng(0)
    values = rng.normal(80, 2, (1, 4, 5))
    [one] = sizing_of([table_of(values)], 2.0)
    three = sizing_of([table_of(values, claimed=("accuracy",) * 3)], 2.0)
    [smaller] = sizing_of([table_of(values)], 1.0)
    assert one.seeds == seeds_needed(2.0, one.spread) and smaller.seeds == seeds_needed(1.0, one.spread)
    for each in three:  # Holm's hardest step of three
        assert each.seeds == seeds_needed(2.0, one.spread, alpha=0.05 / 3) > one.seeds
        assert each.excluded == pytest.approx(excluded_effect(one.spread, 5, alpha=0.05 / 3))
        assert each.excluded > one.excluded
    assert one.excluded == smaller.excluded


def test_a_difference_of_differences_has_its_own_spread():
    values = np.random.default_rng(0).normal(80, 2, (1, 4, 5))
    made = table_of(values, claimed=("accuracy", "accuracy"))
    made["verdicts"][1]["claim"]["than"] = ["a2", "a3"]
    two, four = sizing_of([made], 2.0)
    a0, a1, a2, a3 = values[0]
    assert two.spread == pytest.approx((a0 - a1).std(ddof=1))
    assert four.spread == pytest.approx((a0 - a1 - (a2 - a3)).std(ddof=1))
    assert four.difference == "(a0 minus a1) minus (a2 minus a3)"


def test_test_items_ask_for_more_seeds_and_where_they_vary_too_much_no_number_is_enough():
    values = np.random.default_rng(0).normal(80, 2, (1, 4, 5))
    [these] = sizing_of([table_of(values)], 2.0)
    for variance, enough in ((0.2, True), (4.0, False)):
        made = table_of(values)
        made["verdicts"][0]["estimate"] |= {"items": 200, "standard_error": np.sqrt(1.0 + variance)}
        [new] = sizing_of([made], 2.0)
        assert new.items == pytest.approx(np.sqrt(variance)) and these.items == 0
        assert new.excluded > these.excluded
        if enough:
            assert new.seeds == seeds_needed(2.0, new.spread, item_variance=variance) > these.seeds
        else:
            assert new.seeds is None and "over 10000" in sizing_text([new], 2.0)


def test_what_is_excluded_is_so_by_the_planned_seeds_and_not_by_the_pilots():
    values = np.random.default_rng(0).normal(80, 2, (1, 2, 3))
    [three], [twelve] = (sizing_of([table_of(values, planned=planned)], 2.0) for planned in (3, 12))
    assert (three.planned, twelve.planned) == (3, 12) and twelve.excluded < three.excluded
    assert twelve.excluded == pytest.approx(excluded_effect(twelve.spread, 12))
    assert twelve.excluded_bound == pytest.approx(excluded_effect(twelve.bound, 12))
    [given] = sizing([ReportedTable.from_dict(table_of(values))], 2.0, planned={"t": 12})
    assert given == twelve
    assert f"± {twelve.excluded:.2f} " in sizing_text([twelve], 2.0)


def test_seeds_that_all_agree_tell_nothing():
    lines = sizing_of([table_of(np.full((1, 2, 3), 100.0))], 2.0)
    assert lines[0].seeds is None and lines[0].excluded is None
    assert [cell.strip() for cell in sizing_text(lines, 2.0).splitlines()[-1].split("|")[9:14]] == [
        "all agree", "all agree", "3", "–", "–",
    ]  # fmt: skip


def test_columns_without_a_claim_and_tables_of_one_seed_are_left_out():
    values = np.array([[[80.0, 82.0], [80.0, 81.0]], [[1.0, 2.0], [2.0, 2.0]]])
    lines = sizing_of([table_of(values, ("accuracy", "loss")), table_of(values[:, :, :1], ("accuracy", "loss"))], 2.0)
    assert [line.column for line in lines] == ["refcoco+ accuracy"]
    assert "| t       | refcoco+ accuracy |" in sizing_text(lines, 2.0)
    assert "no table has claims, and two seeds" in sizing_text([], 2.0)


@pytest.mark.parametrize(("seeds", "claims", "items"), [(3, 1, 0.0), (14, 4, 0.0), (8, 1, 0.3)])
def test_what_can_be_excluded_is_excluded_as_often_as_promised(seeds, claims, items):
    # 20,000 simulated studies without a difference; the simulation's standard error is 0.3 points
    rng = np.random.default_rng(1)
    from scipy.stats import t as student

    excluded = excluded_effect(1.5, seeds, alpha=0.05 / claims, item_variance=items)
    differences = rng.normal(0, 1.5, (20_000, seeds))
    mean = differences.mean(1) + rng.normal(0, np.sqrt(items), 20_000)
    of_seeds = differences.var(1, ddof=1) / seeds
    level = 0.025 / claims
    known = student.ppf(1 - level, np.array([seeds - 1, 1e9]))
    critical = (of_seeds * known[0] + items * known[1]) / (of_seeds + items)
    half = critical * np.sqrt(of_seeds + items)
    assert 0.785 < (np.abs(mean) + half < excluded).mean() < 0.815


@pytest.mark.parametrize(("seeds", "spread"), [(1, 1.0), (5, 0.0)])
def test_one_seed_or_no_spread_excludes_nothing(seeds, spread):
    with pytest.raises(ValueError, match="needs two seeds and a spread above 0"):
        excluded_effect(spread, seeds)
