import re
from xml.etree import ElementTree

import pytest
from drawn import Drawn
from route_reports import change, contrast, flow_of, report

from volta_switch.study.report import route_tables

ROUTES = ["J SS1"] * 6 + ["SS SS0"] * 4


def cells(markup):
    """Rows of a markup's tables, each a list of cells in words."""
    root = ElementTree.fromstring(f"<div>{markup}</div>")
    return [[" ".join(part for part in cell.itertext()) for cell in row] for row in root.iter("tr")]


def made(**more):
    return flow_of(report(ROUTES, **more))


def test_what_samples_lose_without_routes_of_their_own_is_told():
    whole = [{"kind": "most frequent", "samples": 10, "rerouted": 4, "change": 0.04}]
    whole.append({"kind": "shuffled", "samples": 10, "rerouted": 6, "change": None})
    changes = [change("force", "modes", 1, "J", -0.2)]
    said = route_tables.interventions(made(**{"interventions": changes, "whole routes": whole}))
    assert "all samples on the most frequent route: 0.0, 4 of 10 samples go another way" in said
    assert "each on the route of a sample drawn at random: unknown, 6 of 10" in said


def test_a_choice_stands_with_its_worth_and_its_frequency():
    changes = [
        change("force", "modes", 1, "J", -3.24),
        change("force", "modes", 1, "SS", 0.0),
        change("force", "inputs", 2, "text l-2", 1.5),
        change("forbid", "modes", 1, "SC", 0.0, rerouted=0),
        change("forbid", "modes", 2, "SS", None),
    ]
    force = cells(route_tables.interventions(made(interventions=changes)))[:3]
    forbid = cells(route_tables.interventions(made(interventions=changes)))[3:]
    assert force[0] == ["Layer", "J", "SS", "text l−2"]
    assert force[1] == ["1", "▼ −3.2 chosen 60 %", "0.0 chosen 40 %", ""]
    assert force[2] == ["2", "", "", "▲ +1.5 chosen 60 %"]
    assert forbid[1:] == [["1", "same chosen 0 %", ""], ["2", "", "unknown chosen 100 %"]]


def test_tints_are_readable_and_small_changes_pale():
    changes = [change("force", "modes", 1, mode, value) for mode, value in (("J", -40), ("SS", 40), ("SC", 0.01))]
    colours = re.findall(r"background:(#\w+)", route_tables.interventions(made(interventions=changes)))
    assert colours == ["#d87a3c", "#68a4d6"]  # what rounds to nothing has none
    assert all(contrast(colour, "#222222") >= 4.5 for colour in colours)
    small = route_tables.interventions(made(interventions=[change("force", "modes", 1, "J", -0.2)]))
    assert contrast(re.findall(r"background:(#\w+)", small)[0], "#ffffff") < 1.1


def test_frequent_routes_have_bars_of_their_shares():
    markup = route_tables.architectures(made())
    root = ElementTree.fromstring(f"<div>{markup}</div>")
    shares = [each for each in root.iter("span") if each.get("class") == "share"]
    widths = [float(next(each.iter("{http://www.w3.org/2000/svg}rect")).get("width")) for each in shares]
    assert widths == [pytest.approx(72), pytest.approx(48)]
    assert ["".join(each.itertext()).strip() for each in shares] == ["60 % (6)", "40 % (4)"]


def test_rarer_routes_are_summed_up():
    routes = [f"{mode} J{number}" for mode in ("SS", "SC", "J") for number in range(3)] * 2
    assert "The 3 rarer ones together: 33 %" in route_tables.architectures(flow_of(report(routes)))


def test_dependence_shows_what_chance_does_not():
    known = {
        "question type": {
            "entropy": 2.0,
            "architecture": {"bits": 0.94, "p": 0.004975},
            "modes": [{"layer": 1, "bits": 0.1, "p": 0.2}, {"layer": 2, "bits": 0.9, "p": 0.005}],
        },
        "regions": {"entropy": 1.5, "architecture": {"bits": 0.0, "p": 1.0}},
    }
    rows = cells(route_tables.dependence(made(**{"mutual information": known})))
    assert rows[1] == ["question type", "0.94 of 2.00", "0.005", "modes of layer 2: 0.90 bits"]
    assert rows[2] == ["regions", "0.00 of 1.50", "1.000", "none"]


def test_entropy_over_training_is_drawn_where_there_are_two_times():
    def at(samples, entropy):
        layers = [{"modes entropy": entropy / 2}, {"modes entropy": entropy / 4, "inputs entropy": 0.1}]
        return {"training samples": samples, "layers": layers, "architectures": {"different": 1, "entropy": entropy}}

    assert route_tables.over_training(made(**{"over training": [at(10, 1.0)]})) == ""
    markup = route_tables.over_training(made(**{"over training": [at(3000, 1.0), at(1000, 3.0)]}))
    drawn = Drawn(markup[: markup.index("</svg>") + 6])
    drawn.readable()
    assert "whole route after 1000 samples: 3.00 bits" in drawn.hovers()
    assert "a layer's mode, mean after 3000 samples: 0.38 bits" in drawn.hovers()
    points = [tuple(map(float, pair.split(","))) for pair in drawn.all("polyline")[0].get("points").split()]
    assert points[0][0] < points[1][0] and points[0][1] < points[1][1]  # in time's order; more is higher


def test_attention_is_a_mean_over_heads():
    lines = [{"layer": 1, "text to vision": [0.2, 0.4], "text to text": [0.8, 0.6]}]
    assert cells(route_tables.attention(made(attention=lines)))[1] == ["1", "30 % (20 % to 40 %)", "none"]


def test_nothing_is_shown_of_what_a_report_lacks():
    flow = made()
    parts = (route_tables.interventions, route_tables.dependence, route_tables.over_training, route_tables.attention)
    assert [part(flow) for part in parts] == [""] * 4


def test_intervals_of_drawn_images_stand_beside_their_numbers():
    routes = ["SS J0"] * 6 + ["J SS1"] * 4
    forced = {**change("force", "modes", 1, "SS", -1.5), "intervals": {"change": [-2.5, -0.5]}}
    one = {"kind": "most frequent", "samples": 10, "rerouted": 4, "change": -1.0, "intervals": {"change": [-2, 0.04]}}
    intervals = {
        "layers": [{"layer": 1, "modes": {"SS": [0.41, 0.79], "J": None}}, {"layer": 2, "inputs": {"l-1": [0, 0.3]}}],
        "architectures": {"entropy": [0.25, 0.75], "most frequent": [{"route": "SS J0", "share": [0.4, 0.8]}]},
    }
    flow = flow_of(report(routes, intervals=intervals, interventions=[forced], **{"whole routes": [one]}))
    text = "".join(ElementTree.fromstring(f"<div>{route_tables.architectures(flow)}</div>").itertext())
    assert "entropy 0.50 bits (0.25 to 0.75)." in text and "60 % (6) (40 to 80 %)" in text and "40 % (4)" in text
    table = route_tables.shares_table(flow)
    assert "60 % (41 to 79 %)" in table and "of all samples that were drawn, with 95 % intervals" in table
    found = route_tables.interventions(flow)
    assert "<span>−2.5 to −0.5</span>" in found and '<span class="within">−1.0 (−2.0 to 0.0), 4 of 10' in found
    assert "intervals" not in route_tables.shares_table(flow_of(report(routes)))
