"""``report.html`` as text: whole, escaped, and honest about what is not finished."""

import base64
import hashlib
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from study.report.conftest import HOSTILE
from volta_switch.study.records import ArmScore, ReportedColumn, ReportedEstimate, ReportedTable, StudyResults, TableRow
from volta_switch.study.report.collect import collect
from volta_switch.study.report.page import (
    best_rows,
    cost_against,
    draw,
    duration,
    points,
    published,
    render,
    shown,
    sweep_lines,
    write_report,
)
from volta_switch.study.report.runs import ArmCost, RunCost, RunSummary
from volta_switch.study.report.scope import _commits, _days
from volta_switch.study.table_formats import amount


class Parsed(HTMLParser):
    """Elements with their attributes, headings with their texts, and all text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))

    def handle_data(self, data):
        self.text += data
        if self.headings and re.fullmatch("h[1-6]", self._inside):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    def named(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def path(written):
    return write_report(written.plan, written.tables)


@pytest.fixture(scope="module")
def text(path):
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(text):
    return Parsed(text)


def test_texts_of_a_study_inject_no_markup(parsed, text):
    assert len(parsed.named("script")) == 1 and "<script>alert" not in text
    handlers = [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert not handlers and not parsed.named("img")
    assert parsed.text.count('<script>alert("run")</script><img src=x onerror=alert(1)> & "it"') > 5


def test_texts_of_a_study_inject_no_markup_into_stand_alone_pictures(path):
    pictures = sorted((path.parent / "figures").glob("*.svg"))
    kinds = {picture.name.split("-")[0] for picture in pictures}
    assert kinds == {"intervals", "differences", "dial", "curves", "cost", "routes"}
    for picture in pictures:
        tree = ElementTree.parse(picture)  # well-formed
        assert not [node for node in tree.iter() if node.tag.endswith(("script", "img"))], picture


def test_only_the_page_s_own_script_is_allowed(parsed, text):
    policy = next(meta["content"] for meta in parsed.named("meta") if "http-equiv" in meta)
    script = re.search(r"<script>(.*?)</script>\n</body>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")


def test_nothing_is_fetched(parsed):
    links = [
        value for _, attributes in parsed.tags for key, value in attributes.items() if key in ("src", "href", "srcset")
    ]
    assert links and all(link.startswith(("#", "data:")) for link in links)


def test_links_lead_to_places_on_the_page(parsed):
    places = [attributes["id"] for _, attributes in parsed.tags if "id" in attributes]
    assert len(places) == len(set(places))
    targets = {link["href"][1:] for link in parsed.named("a")}
    assert targets <= set(places) and {"main", "table-1", "table-2", "verdicts", "confounds-2"} <= targets


def test_switchers_over_training_have_a_table_where_any_were_watched(written, text):
    assert "0.500 → 0.500 → 0.867" in text and "12 → 12 → 3" in text and "1.50 → 1.50 → 0.41" in text
    assert text.count('<td class="number" data-label="one route for all">1 of 3</td>') == 2
    found = collect(written.plan, written.tables)
    assert "While they train" not in render(replace(found, switchers=()), draw(found))


def test_headings_go_down_one_level_at_a_time(parsed):
    levels = [level for level, _ in parsed.headings]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_the_order_of_the_page(parsed):
    assert [text.strip() for level, text in parsed.headings if level == 2] == [
        "Contents", "Verdicts", "Tables", "Learning curves", "Routes", "Cost against score", "The confound check",
        "Environment and commands",
    ]  # fmt: skip


def test_it_begins_with_the_verdicts_in_one_sentence(parsed):
    said = " ".join(parsed.text.split())
    assert "3 arms on referring expressions (synthetic), 3 seeds each: of 4 claims" in said
    assert "1 is supported, 1 is contradicted, 2 are undecided." in said
    assert "Unfinished: 19 of 22 runs are done." in said
    assert re.search(
        r"excluded are differences beyond [\d.]+ points either way, which leaves no effect of interest \(30", said
    )
    assert "✓ supported" in said and "✗ contradicted" in said and "? undecided" in said


def test_the_first_words_say_what_the_data_are_and_what_follows(parsed):
    first = parsed.text[parsed.text.index("Report of a controlled study") :]
    said = " ".join(first.split())[: 2000 + len(HOSTILE)]
    assert said.index("The data are synthetic: scenes") < said.index("What can be concluded:") < said.index("3 arms on")
    assert "seed 0). Each task has up to 20 training images and up to 10 test images." in said
    assert re.search(r"The models have 0\.\d\d to 0\.\d\d million parameters; each arm has 3 seeds\.", said)
    assert "No score here is one of the real data sets" in said
    assert "runs, commit of the codenot recorded" in said  # what wrote these runs wrote no commit
    assert re.search(r"table, made\d{4}-\d\d-\d\d \d\d:\d\d UTC", said)


def test_commits_and_days_of_runs_are_told_where_they_wrote_them_down():
    def run(name, commit, ended):
        environment = {"commit": commit} if commit else {"threads": 1}
        return RunSummary(name, "a", 0, True, True, 1.0, (), environment, ended)

    assert _commits([run("a", "1a2b", 0.0), run("b", "1a2b", 0.0)]) == "1a2b"
    assert _commits([run("a", "1a2b", 0.0), run("b", "", 0.0)]) == "1a2b (1 runs), not recorded (1 runs)"
    assert _days([86400.0, 0.0]) == "1970-01-01 to 1970-01-02" and _days([]) == "not recorded"


def test_no_name_of_a_real_data_set_stands_where_scores_of_a_synthetic_world_are_read(parsed):
    said = " ".join(parsed.text.split())
    scores = said[: said.index("Environment and commands", said.index("The confound check") + 500)]
    assert "refcoco+" not in re.sub(r"[\w-]+/seed\d/refcoco\+( routes)?|tasks\.\w+", "", scores)


def test_changes_name_one_base_score(parsed):
    said = " ".join(parsed.text.split())
    assert "Changes of accuracy from the base score, 75.0, in points" in said
    assert "Changes with whole routes, from the same base score" in said and said.count("Base scores: ") == 1


def test_what_is_not_told_apart_from_nothing_is_grey(text):
    claims = re.findall(r'<li><span class="verdict.*?</li>', text[: text.index('id="tables"')], re.DOTALL)
    grey = {"undecided" in claim for claim in claims if 'class="within"' in claim}
    assert len(claims) == 4 and grey == {True}
    assert re.search(r'<td class="number within"[^>]*>-2.50 \(-8.85 to \+3.85\)', text)


def test_routes_of_several_seeds_are_summed_up(parsed):
    said = " ".join(parsed.text.split())
    assert "seeds2" in said and "another sample's route, change in points-2.50 (-8.85 to +3.85)" in said
    assert "most frequent route for all, change in points-0.50" in said


def test_a_table_shows_operations_of_training_if_it_is_asked_for_them(parsed):
    said = " ".join(parsed.text.split())
    assert said.count("referring expressions (synthetic), path FLOPs, millions") == 1
    assert said.count("executed, and of all active paths") == 1
    assert said.count("1.051.50") == 3  # both rows, and the cost of the arm that has two seeds: their means


def test_what_is_not_finished_says_so(parsed):
    said = " ".join(parsed.text.split())
    assert "Unfinished: 1 of 12 runs is missing. The numbers are of 2 seeds that all arms have finished" in said
    assert "top-1 on referring expressions (synthetic)" in said  # its routes
    assert "referring expressions (synthetic): 1 of 6 runs not finished. Whichtop-1/seed2" in said
    assert "refcoco+, seeds 0, 1, 2 2 finished, 1 begun, 0 not begun" in said
    assert "pretraining, seeds 0, 1, 2 finished in 2 min each, the mean" in said


def test_a_study_that_has_hardly_begun_makes_a_page(unfinished):
    path = write_report(unfinished.plan, unfinished.tables)
    said = " ".join(Parsed(path.read_text(encoding="utf-8")).text.split())
    assert "4 are not tested yet" in said and "… not tested" in said
    assert "Unfinished: 3 of 12 runs are missing. There are no numbers yet. Left out: " in said
    assert "unfinished, no scores to set against cost" in said
    values = collect(unfinished.plan, StudyResults())
    assert "There are no numbers yet" in render(values, draw(values))


def test_the_table_has_mean_deviation_interval_and_published_number(text):
    row = re.search(r'<tr><th scope="row">ctrl_uniter</th>.*?</tr>', text, re.DOTALL)[0]
    assert "61.0 ± 1.0" in row and "58.5 to 63.5" in row  # t of 2 degrees of freedom: 4.303 / sqrt(3)
    assert 'class="score best">76.1 ± 1.1' in text and "Bold: the interval lies above" in text
    assert text.count("published &lt;script&gt;") == 1


def test_an_earlier_page_and_its_pictures_are_replaced(written, path):
    stale = path.parent / "figures" / "intervals-of-an-earlier-study.svg"
    stale.write_text("<svg/>")
    before = path.read_text(encoding="utf-8")
    assert write_report(written.plan, written.tables) == path
    assert not stale.exists() and path.read_text(encoding="utf-8") == before
    assert not list(path.parent.glob(".report*"))


@pytest.mark.parametrize(
    ("spans", "best"),
    [
        ([(1, 2), (3, 4)], ["b"]),
        ([(1, 3), (3, 4)], []),
        ([(5, 6), (3, 4)], ["a"]),
        ([(None, None), (3, 4)], []),
        ([(1, 2)], []),
    ],
)
def test_a_score_is_bold_only_where_its_interval_lies_above_all_others(spans, best):
    rows = tuple(
        TableRow(arm, scores=(ArmScore(estimate=ReportedEstimate(low=low, high=high)),))
        for arm, (low, high) in zip("ab", spans, strict=False)
    )
    assert best_rows(ReportedTable("t", rows=rows), 0) == best


def test_scores_stand_against_both_costs_of_training_on_their_task():
    costs = {"a": ArmCost(1, (RunCost("pre-training", 5.0, 5.0), RunCost("t", 100.0, 160.0))), "b": ArmCost(1)}
    rows = tuple(TableRow(arm, f"demo/{arm}", scores=(ArmScore(1.0),)) for arm in "ab")
    table = ReportedTable("t", rows=rows, columns=(ReportedColumn("t", "m", "h"),))
    shown, label, _, _ = cost_against(costs, table, 0)
    assert label == "training FLOPs of a pair"
    assert [point.ends for point in shown] == [(100.0, 160.0), (0.0,)]  # of b nothing is known, and it is left out


def test_a_table_s_arms_may_be_one_setting_turned(written):
    table = next(table for table in written.tables.tables if table.name == "top-k")
    series, _, label = sweep_lines(table, 0)
    [points] = series.values()
    assert sorted((x, score.values) for x, score in points) == [(1, (75.5, 76.0)), (4, (75.0, 77.2))]
    assert label == "referring expressions (synthetic), accuracy, %"


def test_numbers_are_written_for_readers():
    assert [duration(each) for each in (None, 45.4, 720, 12000)] == ["–", "45 s", "12 min", "3.3 h"]
    assert [amount(each) for each in (None, 7, 437487, 1.25e6, 25.33e9, 2e12)] == [
        "–", "7", "437 k", "1.25 M", "25.3 G", "2.00 T"
    ]  # fmt: skip
    assert points(-1.234) == "−1.23" and points(2) == "+2.00"
    assert [shown(each) for each in (None, True, 4, ["SS", "J"])] == ["none", "yes", "4", "SS, J"]
    assert published(68.8) == "published 68.8" and published({"paper": 1, "VOLTA": "2 ± .1"}) == "paper 1, VOLTA 2 ± .1"
