from typing import Any

import pytest
from drawn import LONG, Drawn, middle, score

from volta_switch.study.claims import judge
from volta_switch.study.records import ArmScore, ReportedColumn, ReportedTable, ReportedVerdict, StudyClaim, TableRow
from volta_switch.study.report.intervals import GREY, difference_figure, interval_figure, published_numbers

ARMS = {
    "switchbert": score(71.0, 72.5, 73.0),
    "ctrl_uniter": score(74.0, 75.0, 76.5),
    "neither": score(65.0, 66.0, 64.0),
}


def table(scores: dict[str, ArmScore], chance: float | None = None) -> ReportedTable:
    column = ReportedColumn("VQA", "vqa_score", "VQA score", split="test")
    rows = tuple(TableRow(arm, arm, scores=(own,)) for arm, own in scores.items())
    return ReportedTable("t", columns=(column,), rows=rows, chance=() if chance is None else (chance,))


def axis(drawn: Drawn) -> tuple[float, float]:
    """Pixels of a point of score and the pixel of 0, from the first and the last number below the axis."""
    bottom = max(float(each.get("y2", "")) for each in drawn.all("line", stroke="#dddddd")) + 15
    marks = [(float((each.text or "").replace("−", "-")), float(each.get("x", ""))) for each in drawn.all("text")
             if float(each.get("y", "")) == bottom]  # fmt: skip
    (low, at), (high, to) = marks[0], marks[-1]
    unit = (to - at) / (high - low)
    return unit, at - low * unit


def test_marks_lie_where_the_axis_says() -> None:
    drawn = Drawn(interval_figure(table(ARMS), 0))
    unit, zero = axis(drawn)
    for arm, own in ARMS.items():
        part, found = drawn.arm(arm), own.estimate
        (mean,) = part.all("polygon", class_="mean")
        assert (middle(mean)[0] - zero) / unit == pytest.approx(own.mean, abs=0.01)
        seeds = [(middle(dot)[0] - zero) / unit for dot in part.all("circle", class_="seed")]
        assert seeds == pytest.approx(own.values, abs=0.01)
        bar = part.all("line", stroke="#0072B2")[0]
        ends = [(float(bar.get(end, "")) - zero) / unit for end in ("x1", "x2")]
        assert ends == pytest.approx([found.low, found.high], abs=0.01)


def test_arms_stand_in_the_tables_order_with_their_means() -> None:
    drawn = Drawn(interval_figure(table(ARMS), 0))
    rows = drawn.all("g")
    assert [each.get("data-arm") for each in rows if each.get("data-arm")] == list(ARMS)
    heights = [middle(drawn.arm(arm).all("polygon", class_="mean")[0])[1] for arm in ARMS]
    assert heights == sorted(heights) and len(set(heights)) == 3
    assert [drawn.arm(arm).texts() for arm in ARMS] == [[arm, f"{own.mean:.1f}"] for arm, own in ARMS.items()]


def test_the_interval_says_what_it_is_about() -> None:
    drawn = Drawn(interval_figure(table(ARMS), 0))
    assert "95 % interval (3 seeds, these items)" in drawn.texts()
    low, high = ARMS["switchbert"].estimate.interval
    said = f"switchbert: mean 72.17 over 3 seeds, 95 % interval {low:.2f} to {high:.2f} (these items)"
    assert drawn.hovers().count(said) == 2


def test_the_blind_guess_is_a_dashed_line_where_it_is_near() -> None:
    drawn = Drawn(interval_figure(table(ARMS, chance=60.0), 0))
    unit, zero = axis(drawn)
    through, sign = drawn.all("line", class_="chance")
    assert through.get("x1") == through.get("x2") and through.get("stroke-dasharray")
    assert (float(through.get("x1", "")) - zero) / unit == pytest.approx(60.0, abs=0.01)
    assert float(sign.get("y1", "")) > float(through.get("y2", ""))  # in the legend
    assert "60.0" in drawn.texts()


def test_a_far_blind_guess_leaves_the_scale_to_the_scores() -> None:
    drawn = Drawn(interval_figure(table(ARMS, chance=1.0), 0))
    assert {"off the scale", "1.0"} <= set(drawn.texts())
    unit, _ = axis(drawn)
    assert unit * 5 > 50
    drawn.readable()


def test_a_published_number_is_hollow_and_named() -> None:
    drawn = Drawn(interval_figure(table({"a": score(70, 71, 72, published="68.8 ± .4"), "b": score(70, 71, 73)}), 0))
    unit, zero = axis(drawn)
    assert "published" in drawn.texts()
    (mark,) = drawn.arm("a").all("polygon", fill="#ffffff")
    assert (middle(mark)[0] - zero) / unit == pytest.approx(68.8, abs=0.01)
    assert not drawn.arm("b").all("polygon", fill="#ffffff")
    assert "published" not in Drawn(interval_figure(table(ARMS), 0)).texts()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (None, {}),
        (68.8, {"published": 68.8}),
        ("68.8 ± .4", {"published": 68.8}),
        ({"paper": 71.9, "VOLTA": "72.0"}, {"paper": 71.9, "VOLTA": 72.0}),
        ("not given", {}),
    ],
)
def test_published_numbers_are_read_as_studies_write_them(given: object, read: dict[str, float]) -> None:
    assert published_numbers(ArmScore(published=given)) == read


def test_one_seed_is_a_dot_without_an_interval() -> None:
    drawn = Drawn(interval_figure(table({"a": score(70.0), "b": score(72.0)}), 0))
    assert "one seed: no interval" in drawn.texts()
    assert len(drawn.all("circle", class_="seed")) == 2
    assert not drawn.all("polygon") and not drawn.all("line", stroke="#0072B2")
    assert not any("interval (" in text for text in drawn.texts())


def test_seeds_that_agree_have_a_mean_and_a_note() -> None:
    drawn = Drawn(interval_figure(table({"a": score(50, 50, 50)}), 0))
    assert "all seeds agree exactly: no interval (a)" in drawn.texts()
    unit, zero = axis(drawn)
    (mean,) = drawn.all("polygon", class_="mean")
    assert (middle(mean)[0] - zero) / unit == pytest.approx(50, abs=0.01)


def test_an_interval_wider_than_possible_scores_ends_in_an_arrow() -> None:
    drawn = Drawn(interval_figure(table({"a": score(90.0, 98.0), "b": score(91.0, 91.5)}), 0))
    assert score(90.0, 98.0).estimate.high > 100
    (arrow,) = (each for each in drawn.arm("a").all("polygon") if each.get("class") != "mean")
    unit, zero = axis(drawn)
    assert zero + 100 * unit - 9 < middle(arrow)[0] < zero + 100 * unit


@pytest.mark.parametrize("arms", [LONG, ["W" * 90, "&<>\"'", "模型" * 30, "a\x00b"], ["a"]])
@pytest.mark.parametrize("own", [score(50, 50, 50, published=50), score(1.0), score(0, 100)])
def test_column_labels_never_overlap(arms: list[str], own: ArmScore) -> None:
    Drawn(interval_figure(table(dict.fromkeys(arms, own), chance=50.0), 0)).readable()


def test_without_rows_there_is_no_data() -> None:
    assert "no data" in Drawn(interval_figure(ReportedTable("t"), 0)).texts()
    assert "no data" in Drawn(difference_figure([])).texts()


def verdicts(scores: dict[str, ArmScore], *claims: tuple[Any, ...], **settings: float) -> list[ReportedVerdict]:
    found = {arm: {("VQA", "vqa_score"): own.values} for arm, own in scores.items()}
    judged = judge([StudyClaim(*claim[:3], "VQA", "vqa_score", *claim[3:]) for claim in claims], found, **settings)
    return [verdict.reported() for verdict in judged]


CLAIMS = [
    ("UNITER beats neither", "ctrl_uniter", "neither"),
    ("Switch-BERT beats UNITER", "switchbert", "ctrl_uniter", 2.0),
    ("UNITER beats Switch-BERT", "ctrl_uniter", "switchbert", 2.9),
]


def test_differences_and_both_intervals_lie_where_the_axis_says() -> None:
    found = verdicts(ARMS, *CLAIMS)
    drawn = Drawn(difference_figure(found))
    unit, zero = axis(drawn)
    rows = [each for each in drawn.all("g") if each.get("data-verdict")]
    assert [each.get("data-verdict") for each in rows] == [verdict.verdict for verdict in found]
    for row, verdict in zip(rows, found, strict=True):
        part = Drawn.__new__(Drawn)
        part.root = row
        (alone,) = part.all("line", stroke_width="6")
        holm = next(
            each
            for each in part.all("line", stroke_width="1.5")
            if not each.get("class") and each.get("y1") == each.get("y2")
        )
        for bar, ends in ((alone, verdict.estimate.interval),
                          (holm, verdict.level_interval)):  # fmt: skip
            assert [(float(bar.get(side, "")) - zero) / unit for side in ("x1", "x2")] == pytest.approx(ends, abs=0.02)
        mark = next(each for each in row.iter() if each.get("class") == "mean")
        assert (middle(mark)[0] - zero) / unit == pytest.approx(verdict.estimate.value, abs=0.02)
        assert verdict.verdict in part.texts()
    margin = drawn.all("line", class_="margin")[0]
    assert (float(margin.get("x1", "")) - zero) / unit == pytest.approx(2.0, abs=0.02)
    drawn.readable()


def test_what_is_less_than_worth_finding_lies_behind_every_difference() -> None:
    found = verdicts(ARMS, *CLAIMS, minimum_effect=7.5)
    drawn = Drawn(difference_figure(found))
    unit, zero = axis(drawn)
    bands = drawn.all("rect", class_="too-small")
    assert len(bands) == len(found) + 1  # and one that explains them
    for band in bands[:-1]:
        left, width = (float(band.get(side, "")) for side in ("x", "width"))
        assert [(end - zero) / unit for end in (left, left + width)] == pytest.approx([-7.5, 7.5], abs=0.02)
    assert "less than is worth finding (± 7.5)" in drawn.texts()
    drawn.readable()
    assert not Drawn(difference_figure(verdicts(ARMS, *CLAIMS))).all("rect", class_="too-small")


def test_verdicts_differ_in_their_marks_and_metrics_have_their_names() -> None:
    found = verdicts(ARMS, *CLAIMS)
    assert {verdict.verdict for verdict in found} == {"supported", "contradicted", "undecided"}
    drawn = Drawn(difference_figure(found))
    assert "ctrl_uniter − neither, VQA score" in drawn.texts()
    marks = {(each.tag, each.get("fill")) for each in drawn.root.iter() if each.get("class") == "mean"}
    assert len(marks) == 3


def test_a_claim_without_an_interval_says_so() -> None:
    drawn = Drawn(difference_figure(verdicts({"a": score(50.0), "b": score(51.0)}, ("text", "a", "b"))))
    assert "no line: no interval (one seed, or all agree)" in drawn.texts()
    assert not drawn.all("line", stroke_width="6")


def test_huge_holm_intervals_leave_room_for_the_others() -> None:
    pairs = {"a": score(70.0, 72.0), "b": score(71.0, 70.0), "c": score(70.1, 70.3)}
    drawn = Drawn(difference_figure(verdicts(pairs, *(("text", "a", "b"),) * 6, ("text", "c", "b"))))
    unit, _ = axis(drawn)
    widest = max(v.estimate.high - v.estimate.low for v in verdicts(pairs, ("text", "a", "b"), ("text", "c", "b")))
    assert unit * widest > 0.3 * drawn.width
    assert drawn.all("polygon", fill=GREY)  # arrow heads, of differences that are not told apart from none


@pytest.mark.parametrize("text", ["word " * 100, "W" * 200, "<b>&", "short"])
def test_claim_labels_never_overlap(text: str) -> None:
    scores = {LONG[0]: ARMS["switchbert"], LONG[1]: ARMS["ctrl_uniter"], "a": score(1, 1, 1)}
    claims = [(text, LONG[0], LONG[1], 1.0), (text, LONG[1], LONG[0]), (text, "a", LONG[0], -0.5)] * 2
    drawn = Drawn(difference_figure(verdicts(scores, *claims)))
    drawn.readable()
    assert len([each for each in drawn.all("g") if each.get("data-verdict")]) == 6
