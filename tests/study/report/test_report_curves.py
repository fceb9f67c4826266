from typing import Any

import pytest
from drawn import LONG, SVG, Drawn, middle, score

from volta_switch.study.records import ArmScore
from volta_switch.study.report.curves import ArmCurves, CurvePanel, SeedCurve, curve_figure, mean_curve, sweep_figure

POINTS = [[[1000, 4.0], [2000, 3.0], [3000, 2.0]], [[1000, 5.0], [2000, 3.5], [3000, 3.0]]]


def panel(arms: dict[str, list[Any]]) -> CurvePanel:
    lines = tuple(
        ArmCurves(arm, tuple(SeedCurve(seed, points) for seed, points in enumerate(seeds)))
        for arm, seeds in arms.items()
    )
    return CurvePanel("main", "Pre-training", "validation loss", lines)


def height(drawn: Drawn) -> tuple[float, float]:
    """Pixels of a unit upwards and the pixel of 0, from the numbers left of the axis."""
    marks = [(float((each.text or "").replace("−", "-").replace(",", "")), float(each.get("y", "")) - 5)
             for each in drawn.all("text", text_anchor="end")]  # fmt: skip
    (low, at), (high, to) = marks[0], marks[-1]
    unit = (to - at) / (high - low)
    return unit, at - low * unit


def places(line: Any) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in line.get("points").split()]


def test_the_mean_and_each_seed_lie_where_the_axis_says() -> None:
    drawn = Drawn(curve_figure(panel({"a": POINTS, "b": POINTS[:1]})))
    unit, zero = height(drawn)
    values = lambda line: [(y - zero) / unit for _, y in places(line)]  # noqa: E731
    (mean,) = drawn.arm("a").all("polyline", class_="mean")
    assert values(mean) == pytest.approx([4.5, 3.25, 2.5], abs=0.01)
    seeds = drawn.arm("a").all("polyline", class_="seed")
    assert [values(line) for line in seeds] == [pytest.approx([y for _, y in points], abs=0.01) for points in POINTS]
    assert not drawn.arm("b").all("polyline", class_="seed")  # its only seed is its mean
    across = [x for x, _ in places(mean)]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.02)


def test_a_mean_is_drawn_only_where_all_seeds_are() -> None:
    assert mean_curve([[(1, 2.0), (2, 4.0)], [(1, 4.0), (3, 8.0)]]) == [(1, 3.0)]
    apart = Drawn(curve_figure(panel({"a": [[[1, 2.0], [2, 3.0]], [[5, 2.0]]]})))
    assert not apart.all("polyline", class_="mean") and apart.all("polyline", class_="seed")
    assert "a" in apart.texts()


def test_values_that_are_not_numbers_are_left_out() -> None:
    broken = [[1000, 4.0], [2000, None], [3000, float("nan")], [4000, float("inf")], [5000, 3.0]]
    drawn = Drawn(curve_figure(panel({"a": [broken]})))
    assert len(places(drawn.all("polyline", class_="mean")[0])) == 2


def test_an_arm_keeps_its_look_in_all_panels() -> None:
    whole = Drawn(curve_figure(panel({"a": POINTS, "b": POINTS}), ["a", "b"]))
    part = Drawn(curve_figure(panel({"b": POINTS}), ["a", "b"]))
    colours = [each.arm("b").all("polyline", class_="mean")[0].get("stroke") for each in (whole, part)]
    assert colours[0] == colours[1] != whole.arm("a").all("polyline", class_="mean")[0].get("stroke")


def test_each_arm_is_a_group_with_its_label_and_hover_text() -> None:
    drawn = Drawn(curve_figure(panel({"a": POINTS, "b": POINTS[:1]})))
    assert [each.get("data-arm") for each in drawn.all("g") if each.get("data-arm")] == ["a", "b"]
    assert drawn.arm("a").texts() == ["a"]
    assert "a, 2,000 samples: 3.25 (mean of 2 seeds)" in drawn.arm("a").hovers()
    assert {"a, seed 0", "a, seed 1"} <= set(drawn.arm("a").hovers())
    assert "b, 2,000 samples: 3 (one seed)" in drawn.arm("b").hovers()
    assert any("each seed (thin)" in text for text in drawn.texts())


def test_a_long_curve_has_few_markers_but_words_at_every_point() -> None:
    drawn = Drawn(curve_figure(panel({"a": [[[1000 * n, 5.0 / n] for n in range(1, 41)]]})))
    seen = [each for each in drawn.arm("a").all("circle") if each.get("fill-opacity") != "0"]
    assert len(seen) <= 8
    assert len(drawn.arm("a").all("circle")) == 41  # the label's, too


def test_labels_stand_in_the_order_of_their_lines() -> None:
    ends = {"low": 1.0, "high": 9.0, "middle": 5.0}
    drawn = Drawn(curve_figure(panel({arm: [[[1, 4.0], [2, end]]] for arm, end in ends.items()})))
    heights = {arm: float(drawn.arm(arm).all("text")[0].get("y", "")) for arm in ends}
    assert heights["high"] < heights["middle"] < heights["low"]


@pytest.mark.parametrize("arms", [LONG, [f"arm-{n}" for n in range(30)], ["W" * 90, "&<>\"'", "模型" * 30]])
@pytest.mark.parametrize("seeds", [[[[1, 2.0]]], [[[1000, 2.0], [2000, 2.0]]] * 3, [[[10, -4e4], [9e9, 3e5]]]])
def test_line_labels_never_overlap(arms: list[str], seeds: list[Any]) -> None:
    Drawn(curve_figure(panel(dict.fromkeys(arms, seeds)))).readable()


def test_without_points_there_is_no_data() -> None:
    assert "no data" in Drawn(curve_figure(panel({}))).texts()
    assert "no data" in Drawn(curve_figure(panel({"a": [[]]}))).texts()
    assert "no data" in Drawn(sweep_figure({"a": []}, "layers", "score, %")).texts()


SWEEP = {
    "VQA": [(4, score(70, 71, 72)), (0, score(60, 61, 63)), (2, score(75, 76, 77))],
    "refcoco+": [(0, score(50.0))],
}


def test_a_sweep_shows_means_and_intervals_at_their_settings() -> None:
    drawn = Drawn(sweep_figure(SWEEP, "text layers", "score, %"))
    unit, zero = height(drawn)
    means = drawn.arm("VQA").all("circle", class_="mean")
    assert [(middle(mark)[1] - zero) / unit for mark in means] == pytest.approx([184 / 3, 76, 71], abs=0.02)
    across = [middle(mark)[0] for mark in means]
    assert across[1] - across[0] == pytest.approx(across[2] - across[1], abs=0.02)
    bars = [each for each in drawn.arm("VQA").all("line") if each.get("x1") == each.get("x2")]
    found = [own.estimate for _, own in sorted(SWEEP["VQA"], key=lambda point: point[0])]
    ends = [[(float(bar.get(end, "")) - zero) / unit for end in ("y1", "y2")] for bar in bars]
    assert ends == [pytest.approx(list(each.interval), abs=0.02) for each in found]
    numbers = [text for text in drawn.texts() if text.isdigit() and int(text) < 10]
    assert numbers == ["0", "2", "4"]
    assert "score, %: mean, 95 % interval (3 seeds, these items)" in drawn.texts()
    assert len(drawn.arm("refcoco+").all("line")) <= 1  # one seed: no interval, at most a tie to its label


@pytest.mark.parametrize("own", [score(50, 50), score(50.0), score(1, 99)])
@pytest.mark.parametrize("settings", [(0, 1), (0, 1, 2, 3, 4), tuple(range(40)), (0.25, 0.5, 1.0), (7,)])
def test_sweep_labels_never_overlap(own: ArmScore, settings: tuple[float, ...]) -> None:
    series = {name: [(at, own) for at in settings] for name in LONG}
    drawn = Drawn(sweep_figure(series, "the setting " * 30, "score, %"))
    drawn.readable()
    assert len([each for each in drawn.root.iter(SVG + "g") if each.get("data-arm")]) == 12
