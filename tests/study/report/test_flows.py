import re
from collections import Counter
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch
from drawn import LONG, SVG, Drawn
from route_reports import INPUTS, MODES, change, contrast, entry, flow_of, picture_of, report

from routes.planted import model_and_task, plant_constant, scatter
from volta_switch.errors import UserError
from volta_switch.routes.record import record
from volta_switch.routes.report import counted_routes, route_report
from volta_switch.study.report.flows import FULL, flows_section
from volta_switch.study.report.route_counts import PAINTS, CollectedRoutes, percent

MIXED = ["J SS1 CS0"] * 5 + ["J SC0 CS2"] * 3 + ["SS SC2 CS2"] * 2
HOSTILE = "<script>alert('x')</script>&\"\x07"


def nodes(drawn):
    """(layer, mode) -> height of the box."""
    found = [each for each in drawn.all("g") if each.get("class") == "node"]
    boxes = {(int(each.get("data-layer")), each.get("data-mode")): each.find(f"{SVG}rect") for each in found}
    return {key: float(box.get("height")) for key, box in boxes.items()}


def bands(drawn):
    """(layer, mode, next layer's mode) -> height of the band where it arrives."""
    found = {}
    for each in drawn.all("path", class_="band"):
        _, y, lower = re.search(r" ([\d.]+) ([\d.]+) V([\d.]+) ", each.get("d")).groups()
        found[int(each.get("data-layer")), each.get("data-from"), each.get("data-to")] = float(lower) - float(y)
    return found


def arcs(drawn):
    """(layer, side) -> samples of its arc."""
    found = [each for each in drawn.all("g") if each.get("class") == "input"]
    return {(int(each.get("data-layer")), each.get("data-side")): int(each.get("data-count")) for each in found}


def text_of(markup):
    return " ".join("".join(ElementTree.fromstring(markup).itertext()).split())


def test_bands_are_as_wide_as_samples_go_that_way():
    found = bands(Drawn(picture_of(report(MIXED))))
    counts = {(1, "J", "SS"): 5, (1, "J", "SC"): 3, (1, "SS", "SC"): 2, (2, "SS", "CS"): 5, (2, "SC", "CS"): 5}
    assert found.keys() == counts.keys()
    for key, count in counts.items():
        assert found[key] == pytest.approx(FULL * count / 10, abs=0.02), key  # drawn to hundredths


def test_bands_lie_side_by_side_on_the_boxes_they_join():
    found = Drawn(picture_of(report(MIXED))).all("path", class_="band")
    for layer in ("1", "2"):
        for upper, lower in ((r"^M[\d.]+ ([\d.]+) ", r" ([\d.]+) Z$"), (r" ([\d.]+) V", r"V([\d.]+) ")):
            paths = [each.get("d") for each in found if each.get("data-layer") == layer]
            spans = sorted((float(re.search(upper, d)[1]), float(re.search(lower, d)[1])) for d in paths)
            assert spans[-1][1] - spans[0][0] == pytest.approx(FULL, abs=0.05)
            assert all(above[1] == pytest.approx(below[0], abs=0.02) for above, below in pairwise(spans))


def test_the_boxes_of_a_layer_are_all_samples():
    heights = nodes(Drawn(picture_of(report(MIXED))))
    for layer in (1, 2, 3):
        assert sum(height for (at, _), height in heights.items() if at == layer) == pytest.approx(FULL)
    assert heights[1, "SS"] == pytest.approx(FULL * 0.2) and heights[3, "CS"] == pytest.approx(FULL)


def test_arcs_are_inputs_from_two_layers_below():
    assert arcs(Drawn(picture_of(report(MIXED)))) == {(2, "text"): 5, (2, "vision"): 2, (3, "vision"): 5}
    both = report(["J J3", "J J1"], inputs=(*INPUTS, "l-2"))
    assert arcs(Drawn(picture_of(both))) == {(2, "text"): 2, (2, "vision"): 1}


def test_joint_counts_are_kept_where_shares_alone_could_not_tell():
    same, crossed = (bands(Drawn(picture_of(report(routes)))) for routes in (["J J0", "SS SS0"], ["J SS0", "SS J0"]))
    assert same.keys() == {(1, "J", "J"), (1, "SS", "SS")} and crossed.keys() == {(1, "J", "SS"), (1, "SS", "J")}


@pytest.mark.parametrize(
    ("routes", "modes", "inputs"),
    [
        (MIXED, MODES, INPUTS),
        (["SS", "J"], MODES, INPUTS),  # one layer
        (["J J0 J1"], ("J",), INPUTS),  # one mode
        (["J J1 J2", "J J0 J0"], (), INPUTS),  # modes are not switched
        (["J SS CS", "J J J"], MODES, ()),  # inputs are not switched
        ([f"{mode}{f' {mode}1 {mode}2' * 5} J0" for mode in MODES], MODES, INPUTS),  # twelve layers
        (["SS SS0"] * 996 + ["SC SC1", "CS CS2", "J J0", "J SC0"], MODES, INPUTS),
    ],
)
def test_every_picture_is_readable_and_says_all_numbers(routes, modes, inputs):
    found = report(routes, modes, inputs)
    drawn, flow = Drawn(picture_of(found)), flow_of(found)
    drawn.readable()
    said = " ".join(drawn.texts())
    for layer, counts in enumerate(flow.nodes):
        assert sum(counts.values()) == len(routes)
        for mode, count in counts.items():
            assert f"{mode} {percent(count / len(routes))}" in said, (layer, mode)
    for layer, skips in enumerate(flow.skips):
        assert all(percent(count / len(routes)) in said for count in skips if count), layer
    assert ("Inputs are not switched" in said) == (not inputs)
    assert len(drawn.hovers()) > len(flow.nodes)


def test_one_route_for_all_is_one_full_path():
    drawn = Drawn(picture_of(report(["SC J2 J1"] * 8)))
    assert set(nodes(drawn).values()) == set(bands(drawn).values()) == {FULL}
    assert arcs(drawn) == {(2, "vision"): 8, (3, "text"): 8}
    assert "1 route for all" in text_of(flows_section([entry(report(["SC J2 J1"] * 8))]))


@pytest.mark.parametrize("changes", [{}, {"switch.input": False}, {"switch.attention": False}], ids=str)
def test_planted_routes_are_drawn_as_planted(world, changes):
    model, task, encoder = model_and_task(world, "refer", **changes)
    scatter(encoder, seed=1)
    if encoder.switch.attention:  # the first layer stays scattered, so that samples differ
        for switcher, option in zip(encoder.attention_switch[1:], (2, 0, 3), strict=True):
            plant_constant(switcher, option)
    if encoder.switch.input:
        for switcher, option in zip(encoder.input_switch, (1, 2, 0), strict=True):
            plant_constant(switcher, option)
    kept = record(task, model, encoder, task.loader("val", 7, training=False), torch.device("cpu"))
    switch = {"modes": MODES if encoder.switch.attention else [], "inputs": INPUTS if encoder.switch.input else []}
    made = report(counted_routes(encoder, kept), **switch)
    drawn, n = Drawn(picture_of(made)), made["samples"]
    recorded = route_report(encoder, kept)["layers"]
    if encoder.switch.attention:
        assert {key for key in nodes(drawn) if key[0] > 1} == {(2, "CS"), (3, "SS"), (4, "J")}
        assert sum(layer == 1 for layer, _ in nodes(drawn)) > 1
        for layer, line in enumerate(recorded, 1):
            for mode, share in line["modes"].items():
                assert nodes(drawn).get((layer, mode), 0) == pytest.approx(FULL * share, abs=0.02)
    else:
        assert set(nodes(drawn)) == {(layer, "J") for layer in range(1, 5)}
    assert arcs(drawn) == ({(2, "text"): n, (3, "vision"): n} if encoder.switch.input else {})


def test_names_are_escaped_wherever_they_come_from():
    hostile = report(["J J0"] * 3, name=HOSTILE, split=HOSTILE, metric=HOSTILE)
    hostile["per sample"] |= {"texts": [HOSTILE] * 3, "images": [HOSTILE] * 3, "question type": [HOSTILE] * 3}
    hostile["mutual information"] = {HOSTILE: {"entropy": 1, "architecture": {"bits": 0.1, "p": 0.5}}}
    hostile["interventions"] = [change("force", HOSTILE, 1, HOSTILE, -1)]
    hostile["switch"]["modes"] = [*MODES, HOSTILE]
    other = report(["<i>x</i> J0"] * 3, name=LONG[0])
    markup = flows_section([entry(hostile, arm=HOSTILE), entry(other, arm="b")])
    assert not {"script", "i"} & {each.tag for each in ElementTree.fromstring(markup).iter()}
    assert "\x07" not in markup
    assert "alert('x')" in text_of(markup)


@pytest.mark.parametrize(
    ("routes", "said"),
    [(["J JX"], "'JX'"), (["J J3"], "'J3'"), (["J J0", "J"], "different length"), ([], "no sample"), ([""], "length")],
)
def test_routes_that_are_not_written_so_are_refused(routes, said):
    with pytest.raises(UserError, match=said):
        flow_of(report(routes))


def test_tasks_stand_beside_each_other_with_their_differences():
    first, second = report(MIXED, name="refcoco+"), report(["J SS1 CS0"] * 5, name="VQA")
    markup = flows_section([entry(first), entry(second)])
    root = ElementTree.fromstring(markup)
    figures = [each for each in root.iter("figure")]
    heights = [each.find(f".//{SVG}svg").get("width") for each in figures]
    assert len(figures) == 2 and len(set(heights)) == 1
    (pair,) = (each for each in root.iter("div") if each.get("data-pair"))
    rows = [["".join(cell.itertext()) for cell in row] for row in pair.iter("tr")]
    assert rows[0] == ["Layer", "SS", "SC", "CS", "J", "both l−1", "text l−2", "vision l−2"]
    assert rows[1] == ["1", "▲ +20.0", "0.0", "0.0", "▼ −20.0", "", "", ""]
    assert rows[2] == ["2", "▼ −50.0", "▲ +50.0", "0.0", "0.0", "▲ +30.0", "▼ −50.0", "▲ +20.0"]
    assert rows[3][:5] == ["3", "0.0", "0.0", "0.0", "0.0"]


def test_models_of_one_task_are_told_apart_and_other_depths_not_compared():
    markup = flows_section([entry(report(MIXED), arm="deep"), entry(report(["J J0"]), arm="half")])
    assert "deep: refcoco+" in markup and "half: refcoco+" in markup and "data-pair" not in markup


def test_what_is_not_made_yet_is_said():
    waiting = CollectedRoutes("switchbert", "VQA")
    assert "switchbert on VQA" in text_of(flows_section([waiting]))
    assert "asks for no routes" in text_of(flows_section([]))
    static = {"task": "TASK1", "name": "VQA", "split": "val", "attention": []}  # no switch, so no routes
    assert "<svg" not in flows_section([entry(static)])


def test_words_on_modes_can_be_read_and_modes_differ_in_grey():
    assert all(contrast(fill, ink) >= 4.5 for fill, ink in PAINTS.values())
    greys = sorted(contrast("#000000", fill) for fill, _ in PAINTS.values())
    assert all(after > 1.2 * before for before, after in pairwise(greys))


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (0, "0 %"),
        (1, "100 %"),
        (0.5, "50 %"),
        (0.004, "0.4 %"),
        (1e-5, "<0.1 %"),
        (0.996, "99.6 %"),
        (0.9999, ">99.9 %"),
    ],
)
def test_shares_never_round_to_none_or_all(share, said):
    assert percent(share) == said


def test_counts_agree_with_a_count_by_hand():
    flow = flow_of(report(MIXED))
    assert flow.taken == [{}, {"l-1": 3, "text l-2": 5, "vision l-2": 2}, {"l-1": 5, "text l-2": 0, "vision l-2": 5}]
    assert Counter(dict(flow.bands[0])).total() == flow.samples
