"""Routes of several seeds summed up: which number comes from where, and what its interval is of."""

import math

import pytest

from volta_switch.study.route_reports import RouteReport, quantities, summed_up
from volta_switch.study.table_formats import routes_as_markdown, routes_in_words


def report(share, text, vision, alone, drawn):
    return {
        "architectures": {"different": 7, "entropy": 1.25, "most frequent": [{"share": share}, {"share": 0.01}]},
        "cross-layer": {"text from l-2": text, "vision from l-2": vision},
        "layers": [{"modes": {"SS": share, "J": 1 - share}}, {"modes": {"SS": 0.0, "J": 1.0}}],
        "whole routes": [{"kind": "most frequent", "change": alone}, {"kind": "shuffled", "change": drawn}],
    }


def summed(reports, arm="switchbert"):
    return summed_up(arm, "VQA", {seed: RouteReport.from_dict(found) for seed, found in reports.items()})


TWO = {3: report(0.5, 0.1, 0.4, -0.25, -1.0), 5: report(0.75, 0.3, 0.4, 0.75, -3.0)}


def test_a_report_in_numbers():
    assert quantities(RouteReport.from_dict(TWO[3])) == pytest.approx(
        {
            **{"most frequent": 50, "different": 7, "entropy": 1.25, "text from l-2": 10, "vision from l-2": 40},
            **{"vision less text": 30, "one for all": -0.25, "shuffled": -1.0},
        }
    )


def test_seeds_are_a_random_effect():
    found = summed(TWO)
    assert found.seeds == (3, 5) and found.modes == pytest.approx({"SS": 0.3125, "J": 0.6875})
    less = found.quantities["vision less text"]
    assert less.values == pytest.approx([30, 10]) and less.estimate.value == pytest.approx(20)
    half = 12.7062 * math.sqrt(200) / math.sqrt(2)  # t of one degree of freedom
    assert less.estimate.low == pytest.approx(20 - half, abs=1e-2)


def test_what_a_report_does_not_know_is_left_out():
    """Inputs or modes that are not switched; reports without interventions; a change that is unknown."""
    bare = {key: value for key, value in TWO[3].items() if key not in ("whole routes", "cross-layer")}
    found = summed({0: {**bare, "layers": [{}, {}]}, 1: TWO[5]})
    assert set(found.quantities) == {"most frequent", "different", "entropy"}
    unknown = [{"kind": "shuffled", "change": None}]
    assert "shuffled" not in summed({0: {**bare, "whole routes": unknown}}).quantities


def test_in_words():
    several = summed(TWO)
    one = summed({0: {**TWO[3], "cross-layer": {}}}, "sab-only")
    words = routes_in_words([several, one])
    said = {line[0]: line[1:] for line in words.lines}
    assert words.headings == ["", "switchbert, VQA", "sab-only, VQA"] and said["seeds"] == ["2", "1"]
    assert said["most frequent route, % of samples"] == ["62.5 ± 17.7", "50.0"]
    assert said["vision less text, points"] == ["+20.0 (-107.1 to +147.1)", "–"]
    assert said["modes, mean over layers"] == ["SS 31 %, J 69 %", "SS 25 %, J 75 %"]
    text = "\n".join(routes_as_markdown([several, one]))
    assert "switchbert, VQA" in text and "sab-only" not in text  # one seed is in its own report
    assert routes_as_markdown([one]) == []
