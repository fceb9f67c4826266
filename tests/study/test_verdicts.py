"""Claims are read, judged as one family, and told so that a reader understands them."""

import json
import math
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from simulated_scores import simulate

from volta_switch import UserError
from volta_switch.statistics import estimate_difference, estimate_mean
from volta_switch.study.claims import ItemResults, judge, read_claims
from volta_switch.study.power import seeds_needed
from volta_switch.study.records import StudyClaim

KEY = ("vqa", "vqa_score")
PLAIN = {"text": "Switching helps", "better": "switch", "worse": "uniter", "task": "vqa", "metric": "vqa_score"}


def claim(at_least=0.0, better="switch", worse="uniter"):
    return StudyClaim("Switching helps", better, worse, *KEY, at_least, "table 3")


def table(**arms):
    return {arm: {KEY: np.array(values, dtype=float)} for arm, values in arms.items()}


def named(points, prefix="image"):
    """Items called by their number."""
    return {KEY: ItemResults(np.array([f"{prefix} {number}" for number in range(points.shape[1])]), points)}


FIVE = table(switch=[70.9, 70.4, 71.0, 70.6, 70.8], uniter=[69.1, 68.3, 69.1, 68.6, 69.0])  # differences 1.8 ... 2.1


def test_an_effect_surely_above_the_margin_is_supported():
    (verdict,) = judge([claim(1.0)], FIVE)
    low, high = verdict.estimate.interval()
    assert verdict.verdict == "supported" and 1 < low < verdict.estimate.value < high
    assert verdict.estimate.value == pytest.approx(1.92)
    assert verdict.p_value == verdict.p_holm < 0.05 and verdict.needed is None
    assert verdict.text == (
        "supported: Switching helps (table 3). vqa vqa_score: switch minus uniter is +1.92 points over 5 pairs of "
        "seeds, 95 % interval +1.76 to +2.08, on these test items, standardised +11.7. "
        "p < 0.0001 (of a true difference of 1). The whole interval lies above 1."
    )


@pytest.mark.parametrize(
    ("arms", "at_least", "told"),
    [
        (("switch", "uniter"), 3.0, "switch is better, but by less"),
        (("uniter", "switch"), 0.0, "switch is better"),
        (("uniter", "switch"), -1.0, "switch is better"),
    ],
)
def test_an_effect_surely_below_the_margin_is_contradicted(arms, at_least, told):
    (verdict,) = judge([claim(at_least, *arms)], FIVE)
    assert verdict.verdict == "contradicted" and verdict.reason.endswith(told)


def test_a_contradicted_margin_may_leave_open_who_is_better():
    (verdict,) = judge([claim(5.0)], table(switch=[70, 71, 69], uniter=[69.5, 70.2, 69.6]))
    assert verdict.verdict == "contradicted" and verdict.reason.endswith("which of the two is better stays open")


def test_an_interval_that_contains_the_margin_is_undecided_and_says_how_many_seeds_it_takes():
    scores = table(switch=[71, 69.5, 70.4], uniter=[69.6, 69.3, 70.1])
    (verdict,) = judge([claim()], scores)
    found = estimate_difference(scores["switch"][KEY], scores["uniter"][KEY])
    assert verdict.verdict == "undecided"
    assert verdict.needed.seeds == seeds_needed(found.value, found.spread) > 3
    assert f"{verdict.needed.seeds} seeds would decide it with 80 % power" in verdict.text
    assert f"(95 % interval of that number: {verdict.needed.fewest} to no upper bound)" in verdict.text


def test_one_seed_decides_nothing_however_large_the_effect():
    (verdict,) = judge([claim()], table(switch=[99], uniter=[1]))
    assert verdict.verdict == "undecided" and "with one seed" in verdict.text
    assert verdict.needed is None and math.isnan(verdict.p_value)
    assert "+98.00 points over 1 pair of seeds. No verdict" in verdict.text


def test_copies_of_one_run_decide_nothing():
    (verdict,) = judge([claim()], table(switch=[70.5] * 3, uniter=[70.0] * 3))
    assert verdict.verdict == "undecided" and "are they distinct runs?" in verdict.text


def test_holms_family_can_take_a_verdict_away():
    scores = table(
        switch=[70.6, 71.8, 70.1, 71.2, 70.5], uniter=[70.0, 70.4, 69.8, 70.2, 70.1], third=[70, 71, 71, 69, 71]
    )
    alone = judge([claim()], scores)[0]
    assert alone.verdict == "supported" and alone.family == 1
    rest = [claim(0.0, "third", "uniter"), claim(0.0, "third", "switch")]
    judged = judge([claim(), *rest], scores)
    assert [verdict.verdict for verdict in judged] == ["undecided"] * 3
    assert judged[0].p_value == alone.p_value and judged[0].p_holm == pytest.approx(3 * alone.p_value)
    assert judged[0].level == pytest.approx(0.05 / 3)
    assert "at Holm's level (98.33 %)" in judged[0].text and "after Holm over 3 tests" in judged[0].text
    assert judged[0].needed.seeds == seeds_needed(judged[0].estimate.value, judged[0].estimate.spread, alpha=0.05 / 3)


def test_undecided_claims_say_where_a_difference_worth_finding_is_excluded():
    close = table(switch=[70.6, 69.9, 70.3, 70.1, 70.0], uniter=[70.1, 70.2, 70.0, 70.4, 70.2])
    (verdict,) = judge([claim()], close, minimum_effect=0.7)
    low, high = verdict.estimate.interval()
    assert verdict.verdict == "undecided" and -0.7 < low < 0 < high < 0.7 and verdict.excludes_minimum_effect
    beyond = max(-low, high)
    assert verdict.excluded_beyond == pytest.approx(beyond) == verdict.reported().excluded_beyond
    told = (
        f"The interval contains 0. Excluded are differences beyond {beyond:.2f} points either way (95 %), which leaves"
    )
    assert f"{told} no effect of interest (0.7 or more). At the" in verdict.text
    (smaller,), (unknown,) = judge([claim()], close, minimum_effect=0.3), judge([claim()], close)
    assert not smaller.excludes_minimum_effect and not unknown.excludes_minimum_effect
    assert f"{told} effects of interest (0.3 or more). At the" in smaller.text
    assert f"{told.removesuffix(', which leaves')}. At the" in unknown.text
    # The level is that of the family, whatever Holm's step of the claim is: here the other claim leaves it 95 %.
    between = (max(-low, high) + max(-(wide := verdict.estimate.interval(0.975))[0], wide[1])) / 2
    scores = close | table(much=[9, 9.1, 9.2, 9, 9], less=[1, 1, 1, 1, 1.1])
    of_two = judge([claim(), claim(0.0, "much", "less")], scores, minimum_effect=between)[0]
    assert of_two.level == pytest.approx(0.05) and not of_two.excludes_minimum_effect
    assert judge([claim()], close, minimum_effect=between)[0].excludes_minimum_effect
    (alone,) = judge([claim()], table(switch=[70], uniter=[70]), minimum_effect=100)
    assert not alone.excludes_minimum_effect  # one seed knows no spread
    assert "xcluded" not in alone.text and alone.reported().excluded_beyond is None


def test_a_claim_that_cannot_be_tested_keeps_its_place_in_the_family():
    scores = FIVE | table(copy=[50.0] * 5, other=[49.0] * 5)
    judged = judge([claim(1.0), claim(0.0, "copy", "other")], scores)
    assert [verdict.verdict for verdict in judged] == ["supported", "undecided"]
    assert judged[0].p_holm == pytest.approx(2 * judged[0].p_value) and judged[1].p_holm == 1


def items_of(rng, effect, spread):
    """Results of 3 seeds on 400 items of two arms, which differ by a seed's and an item's own effect."""
    base = rng.normal(size=(3, 400)) + rng.normal(size=400)
    own = rng.normal(size=400)
    return base + effect + 0.05 * rng.normal(size=(3, 1)) + spread * (own - own.mean()), base


def test_with_items_the_verdict_is_about_new_items():
    better, worse = items_of(np.random.default_rng(0), 0.6, 10.0)
    scores = table(switch=better.mean(1), uniter=worse.mean(1))
    items = {"switch": named(better), "uniter": named(worse)}
    (these,), (new,) = judge([claim()], scores), judge([claim()], scores, items)
    assert these.verdict == "supported" and "on these test items" in these.text
    assert new.verdict == "undecided" and "400 test items taken as a sample" in new.text
    assert new.needed.seeds is None and "more test items would help where seeds cannot" in new.text
    (partial,) = judge([claim()], scores, {"switch": named(better)})
    assert partial == these


def test_items_are_compared_between_arms_that_were_tested_on_the_same_ones_only():
    better, base = items_of(np.random.default_rng(0), 1.0, 0.1)
    scores = table(switch=better.mean(1), uniter=base.mean(1), other=base.mean(1) - 1)
    items = {"switch": named(better), "uniter": named(base), "other": named(base - 1, "another image")}
    judged = judge([claim(), claim(0.0, "switch", "other")], scores, items)
    assert [verdict.estimate.population for verdict in judged] == ["new items", "these items"]
    assert judged[0].estimate == judge([claim()], scores, items)[0].estimate


def test_a_difference_of_leads_is_about_new_items_where_all_four_arms_were_tested_on_the_same_ones():
    rng = np.random.default_rng(0)
    pairs = [*items_of(rng, 1.0, 5.0), *items_of(rng, 0.4, 5.0)]
    arms = dict(zip(("switch", "uniter", "flat-switch", "flat-uniter"), pairs, strict=True))
    scores = table(**{arm: points.mean(1) for arm, points in arms.items()})
    leads = replace(claim(), than=("flat-switch", "flat-uniter"))
    (these,), (new,) = judge([leads], scores), judge([leads], scores, {arm: named(p) for arm, p in arms.items()})
    assert new.estimate == estimate_mean(pairs[0] - pairs[1] - (pairs[2] - pairs[3])) and new.estimate.items == 400
    assert these.estimate.items == 0 and these.estimate.value == pytest.approx(new.estimate.value)
    assert these.verdict == "supported" and new.verdict == "undecided"
    # Items of their own in the second pair: nothing can be said of new ones, the same for both pairs.
    prefixes = dict.fromkeys(arms, "image") | dict.fromkeys(leads.than, "another image")
    (apart,) = judge([leads], scores, {arm: named(points, prefixes[arm]) for arm, points in arms.items()})
    assert apart == these


def test_verdicts_are_plain_json():
    scores = FIVE | table(one=[70] * 5, copy=[70] * 5)
    for verdict in judge([claim(1.0), claim(1.9), claim(0.0, "one", "copy")], scores):
        written = json.loads(json.dumps(verdict.reported().to_dict(), allow_nan=False))
        assert written["text"] == verdict.text and written["claim"]["better"] == verdict.claim.better
        assert (written["seeds_needed"] is None) == (verdict.needed is None)
        if verdict.estimate.problem:
            assert written["p_value"] is written["level_low"] is written["estimate"]["low"] is None
        else:
            assert written["level_low"] <= written["estimate"]["low"] <= written["estimate"]["value"]


def test_unpaired_arms_may_differ_in_seeds():
    scores = table(switch=[70.9, 70.4, 71.0, 70.6], uniter=[69.1, 68.3, 69.1])
    (verdict,) = judge([claim()], scores, paired=False)
    assert verdict.verdict == "supported" and "over 3 seeds" in verdict.text
    with pytest.raises(UserError, match="switch has 4 seeds and uniter 3; to compare them in pairs"):
        judge([claim()], scores)


# Leads of 11, 10.8, 11.1 and 10.9 points over the deep world's seeds, and of 1, 1, 1.1 and 1 over the flat one's.
FOUR = table(
    deep=[71.0, 72.0, 70.0, 71.5], deep_fixed=[60.0, 61.2, 58.9, 60.6],
    flat=[80.0, 79.0, 81.0, 80.0], flat_fixed=[79.0, 78.0, 79.9, 79.0],
)  # fmt: skip
LARGER = StudyClaim("The deeper, the more it helps", "deep", "deep_fixed", *KEY, than=("flat", "flat_fixed"))


def test_a_lead_may_be_compared_with_another():
    (verdict,) = judge([LARGER], FOUR)
    assert verdict.verdict == "supported" and verdict.estimate.value == pytest.approx(10.95 - 1.025)
    assert "(deep minus deep_fixed) minus (flat minus flat_fixed) is +9.93 points over 4 seeds" in verdict.text
    assert verdict.estimate.interval() == pytest.approx(estimate_mean(np.array([10, 9.8, 10, 9.9])).interval())
    (other,) = judge([replace(LARGER, better="flat", worse="flat_fixed", than=("deep", "deep_fixed"))], FOUR)
    assert other.verdict == "contradicted" and other.reason.endswith("the second lead is larger")
    (margin,) = judge([replace(LARGER, at_least=20.0)], FOUR)
    assert margin.verdict == "contradicted" and margin.reason.endswith("the first lead is not so much larger")


def test_leads_over_other_numbers_of_seeds_are_not_compared():
    fewer = {**FOUR, **table(flat_fixed=[79.0, 78.0])}
    with pytest.raises(UserError, match="deep has 4 seeds and flat_fixed 2"):
        judge([LARGER], fewer, paired=False)


def test_no_claims_no_verdicts():
    assert judge([], FIVE) == []


@pytest.mark.parametrize("seeds", [3, 5])
def test_wrong_verdicts_are_rare_in_a_family_of_true_and_false_claims(seeds):
    # Three arms against the last. The first is 1 point better and claimed to be so by exactly that: each verdict of
    # supported or contradicted is wrong. So it is for the two equal arms.
    studies = simulate("gaussian", seeds, 0.0, arms=4, gap=0.1, items=100, studies=300, key=2)
    margins = (studies.new_items - studies.new_items[-1])[:-1]
    assert margins == pytest.approx([1, 0, 0])
    claims = [claim(margin, str(arm), "3") for arm, margin in enumerate(margins)]
    wrong = 0
    for study in studies.results.mean(3):
        judged = judge(claims, table(**{str(arm): row for arm, row in enumerate(study)}))
        wrong += any(verdict.verdict != "undecided" for verdict in judged)
    assert wrong / 300 <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


# Reading.


def test_claims_are_read_from_plain_values():
    values = [PLAIN | {"at_least": 1, "source": "table 3"}, PLAIN | {"metric": ["ir_r1", "tr_r1"], "task": "flickr"}]
    first, image, text = read_claims(values, "study.yaml")
    assert first == claim(1)
    assert [(one.task, one.metric, one.at_least, one.source) for one in (image, text)] == [
        ("flickr", "ir_r1", 0, ""),
        ("flickr", "tr_r1", 0, ""),
    ]
    with pytest.raises(FrozenInstanceError):
        first.at_least = 2.0


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"text": "x"}, "s.yaml: expected a list of claims, found"),
        (["x"], "s.yaml: claim 1: expected text, better, worse, task, metric, at_least, source, than, found 'x'"),
        ([PLAIN, PLAIN | {"atleast": 1}], "s.yaml: claim 2: unknown key atleast; a claim has text, better"),
        ([PLAIN | {"worse": ""}], "s.yaml: claim 1: worse is missing"),
        ([{key: PLAIN[key] for key in PLAIN if key != "metric"}], "s.yaml: claim 1: metric is missing"),
        ([PLAIN | {"at_least": "1"}], "s.yaml: claim 1: at_least: expected a number of points, found '1'"),
        ([PLAIN | {"at_least": True}], "s.yaml: claim 1: at_least: expected a number of points, found True"),
        ([PLAIN | {"at_least": math.nan}], "s.yaml: claim 1: at_least: expected a number of points, found nan"),
        ([PLAIN | {"task": 10}], "s.yaml: claim 1: task: expected text, found 10"),
        ([PLAIN | {"metric": ["ir_r1", 1]}], "s.yaml: claim 1: metric: expected text, found 1"),
        ([PLAIN | {"than": "other"}], "s.yaml: claim 1: than: expected a list of two arms, found 'other'"),
        ([PLAIN | {"than": ["one"]}], "s.yaml: claim 1: than: expected a list of two arms, found ['one']"),
        ([PLAIN | {"worse": "switch"}], "s.yaml: claim 1: better and worse are both switch"),
    ],
)
def test_what_is_no_claim_is_refused_in_one_line(values, told):
    with pytest.raises(UserError) as error:
        read_claims(values, "s.yaml")
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("scores", "items", "told"),
    [
        (table(switch=[1, 2]), {}, "a claim names the arm uniter, which has no scores; there are switch"),
        ({}, {}, "a claim names the arm switch, which has no scores; there are none"),
        (
            {"switch": {KEY: np.ones(2)}, "uniter": {("vqa", "accuracy"): np.ones(2)}},
            {},
            "a claim is about vqa vqa_score, of which uniter has no scores; there are vqa accuracy",
        ),
        (
            table(switch=[1, math.nan], uniter=[1, 2]),
            {},
            "vqa vqa_score: expected one finite score for each seed of sw",
        ),
        (
            table(switch=[1, 2], uniter=[1, 2]),
            dict.fromkeys(("switch", "uniter"), named(np.ones((3, 5)))),
            "vqa vqa_score: switch's items have shape (3, 5); expected (2, 5), (seeds, names)",
        ),
        (
            table(switch=[60, 70], uniter=[50, 60]),
            {"switch": named(np.array([[0.6] * 4, [0.7] * 4])), "uniter": named(np.array([[0.5] * 4, [0.6] * 4]))},
            "vqa vqa_score: the mean of switch's items is not its score; give both in the same unit",
        ),
    ],
)
def test_scores_that_do_not_fit_are_refused_in_one_line(scores, items, told):
    with pytest.raises(UserError) as error:
        judge([claim()], scores, items)
    assert str(error.value).startswith(told)
