from itertools import combinations

import pytest
from drawn import LONG, Drawn, middle, score

from volta_switch.study.records import ArmScore
from volta_switch.study.report.chart import cost_scale, overlap, placed
from volta_switch.study.report.cost_picture import CostPoint, cost_figure


def point(arm: str, x: float, own: ArmScore, series: str = "fixed") -> CostPoint:
    return CostPoint(arm, series, x, own)


POINTS = [
    point("ctrl_uniter", 1.1e9, score(79, 80, 81)),
    point("switchbert", 2.0e9, score(80, 81, 83), "switch"),
    point("ctrl_vilbert", 1.6e9, score(74, 75, 77)),
]


def numbers(drawn: Drawn, **wanted: str) -> list[tuple[float, float, float]]:
    found = [each for each in drawn.all("text", fill="#5f6368", **wanted)]
    return [(float(each.text or ""), float(each.get("x", "")), float(each.get("y", ""))) for each in found]


def test_scores_and_costs_lie_where_the_axes_say() -> None:
    drawn = Drawn(cost_figure(POINTS, "FLOPs per pair", "VQA score, %"))
    (low, left, _), *_, (high, right, _) = numbers(drawn, text_anchor="middle")
    (least, bottom, _), *_, (most, top, _) = [(value, y - 5, x) for value, x, y in numbers(drawn, text_anchor="end")]
    for each in POINTS:
        part, found = drawn.arm(each.arm), each.score.estimate
        mark = next(mark for mark in part.root.iter() if mark.get("class") == "mean")
        x, y = middle(mark)
        assert low + (x - left) / (right - left) * (high - low) == pytest.approx(each.x / 1e9, abs=0.005)
        score_at = lambda y: least + (y - bottom) / (top - bottom) * (most - least)  # noqa: E731
        assert score_at(y) == pytest.approx(found.value, abs=0.02)
        bar = next(
            bar for bar in part.all("line") if bar.get("x1") == bar.get("x2") and bar.get("stroke-width") == "1.5"
        )
        ends = [score_at(float(bar.get(end, ""))) for end in ("y1", "y2")]
        assert ends == pytest.approx([found.low, found.high], abs=0.05)
        assert part.texts() == [each.arm]
    assert "FLOPs per pair, billions" in drawn.texts()
    assert "VQA score, %: mean, 95 % interval (3 seeds, these items)" in " ".join(drawn.texts())


def test_series_differ_in_shape_and_stand_in_a_legend() -> None:
    drawn = Drawn(cost_figure(POINTS, "FLOPs per pair", "VQA score, %"))
    assert {"fixed", "switch"} <= set(drawn.texts())
    assert drawn.arm("ctrl_uniter").all("circle") and drawn.arm("ctrl_vilbert").all("circle")
    assert drawn.arm("switchbert").all("polygon") and not drawn.arm("switchbert").all("circle")
    assert any(text.startswith("switchbert: 81.33 at 2 billions, 95 % interval ") for text in drawn.hovers())


def test_the_axis_is_logarithmic_where_costs_differ_fivefold() -> None:
    assert not cost_scale([1.0, 5.0], 0, 100).log
    wide = cost_scale([1.0, 5.1], 0, 100)
    assert wide.log and wide.low < 1 and wide.high > 5.1


def test_one_seed_has_no_interval_and_a_cost_that_is_not_known_no_mark() -> None:
    drawn = Drawn(cost_figure([point("a", 1e9, score(70.0)), point("b", 0, score(71.0))], "FLOPs", "score, %"))
    assert not [each for each in drawn.arm("a").all("line") if each.get("stroke-width") == "1.5"]
    assert "score, %" in drawn.texts() and "b" not in drawn.texts()
    assert "no data" in Drawn(cost_figure([], "FLOPs", "score, %")).texts()


def test_labels_are_apart_inside_and_off_the_marks_where_there_is_room() -> None:
    bounds = (0.0, 0.0, 500.0, 320.0)
    points = [(60.0 + 4 * n, 100.0 + 3 * n, 110.0) for n in range(6)]
    marks = [(x - 8, y - 8, x + 8, y + 8) for x, y, _ in points]
    boxes = placed(points, marks, bounds)
    assert not any(overlap(one, other) for one, other in combinations(boxes, 2))
    assert not any(overlap(box, mark) for box in boxes for mark in marks)
    assert all(box[0] >= 0 and box[1] >= 0 and box[2] <= 500 and box[3] <= 320 for box in boxes)
    assert all(box[2] - box[0] == pytest.approx(110) for box in boxes)


def test_a_lone_label_is_beside_its_point() -> None:
    ((left, top, _, bottom),) = placed([(100.0, 50.0, 80.0)], [(92, 42, 108, 58)], (0, 0, 500, 300))
    assert left == 110 and (top + bottom) / 2 == 50


@pytest.mark.parametrize("arms", [LONG, [f"arm-{n}" for n in range(20)], ["W" * 90, "&<>\"'", "模型" * 30]])
@pytest.mark.parametrize("own", [score(50, 50, 50), score(0, 100), score(3.0)])
@pytest.mark.parametrize("step", [0.0, 1e11])
def test_cost_labels_never_overlap(arms: list[str], own: ArmScore, step: float) -> None:
    points = [point(arm, 1e9 + step * number, own, arm[:2]) for number, arm in enumerate(arms)]
    drawn = Drawn(cost_figure(points, "FLOPs " * 60, "score, %"))
    drawn.readable()
