"""Pictures of routes in a real browser; skipped as ``test_page_in_browser`` is."""

import pytest
from route_reports import entry, report

from volta_switch.study.report.flows import flows_section
from volta_switch.study.report.page import HERE

pytest.importorskip("selenium.webdriver", reason="no selenium; pip install -e '.[test]'")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from test_page_in_browser import browser  # noqa: F401

pytestmark = pytest.mark.more
MIXED = ["J SS1 CS0"] * 5 + ["J SC0 CS2"] * 3 + ["SS SC2 CS2"] * 2


@pytest.fixture
def page(browser, tmp_path):  # noqa: F811
    """Three tasks' routes on a page of their own."""
    tasks = [entry(report(routes, name=name)) for name, routes in (("a", MIXED), ("b", ["J SS1 CS0"]), ("c", MIXED))]
    style, script = ((HERE / f"flows.{kind}").read_text() for kind in ("css", "js"))
    body = f"<style>{style}</style>{flows_section(tasks)}<script>{script}</script>"
    (tmp_path / "flows.html").write_text(f"<!doctype html><meta charset=utf-8><title>flows</title>{body}")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get((tmp_path / "flows.html").as_uri())
    return browser


def first(page, selector):
    return page.find_element(By.CSS_SELECTOR, f"#flow-0 {selector}")


def lit(page):
    """The bands and boxes that stand out: (kind, layer, its mode, or the mode that it leads to)."""
    return {
        (
            mark.get_attribute("class").split()[0],
            mark.get_attribute("data-layer"),
            mark.get_attribute("data-mode") or mark.get_attribute("data-to"),
        )
        for mark in page.find_elements(By.CSS_SELECTOR, "#flow-0 .on")
    }


def test_arrow_keys_go_from_box_to_box_and_say_the_numbers(page):
    svg = first(page, ".flow-scroll svg")
    stops = svg.find_elements(By.CSS_SELECTOR, "[tabindex='0']")
    assert len(stops) == 1 and svg.get_attribute("role") == "group"  # one stop of the tab key for each picture
    page.execute_script("arguments[0].focus()", stops[0])
    said = first(page, ".flow-said")
    assert said.get_attribute("aria-live") == "polite" and said.text.startswith("Layer 1, SS")
    assert lit(page) == {("node", "1", "SS"), ("band", "1", "SC")}
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert said.text.startswith("Layer 1, J") and "80 %, 8 of 10 samples" in said.text
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert said.text.startswith("Layer 2")
    page.switch_to.active_element.send_keys(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_UP)
    assert said.text == "Layer 2 takes text from the embeddings: 50 %, 5 of 10 samples."
    page.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    assert said.text.endswith("They come from J 5. They go to CS 5.")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not lit(page)


def test_the_pointer_lights_a_band_with_its_boxes(page):
    band = first(page, ".band[data-layer='2'][data-from='SC']")
    ActionChains(page).move_to_element(band).perform()
    assert lit(page) == {("band", "2", "CS"), ("node", "2", "SC"), ("node", "3", "CS")}
    assert first(page, ".flow-said").text == "Layer 2 SC to layer 3 CS: 50 %, 5 of 10 samples."
    ActionChains(page).move_to_element(first(page, "figcaption")).perform()
    assert not lit(page)


def test_two_tasks_are_set_beside_each_other_with_their_difference(page):
    def shown(selector):
        return [each.is_displayed() for each in page.find_elements(By.CSS_SELECTOR, selector)]

    assert shown(".flow") == [True] * 3 and shown(".flow-pair") == [False] * 3
    one, other = (Select(each) for each in page.find_elements(By.CSS_SELECTOR, ".flow-controls select"))
    one.select_by_visible_text("c")
    other.select_by_visible_text("b")
    assert shown(".flow") == [False, True, True] and shown(".flow-pair") == [False, False, True]
    assert "b less c" in page.find_element(By.CSS_SELECTOR, ".flow-pair[data-pair='1 2']").text
    one.select_by_visible_text("all")
    other.select_by_visible_text("all")
    assert shown(".flow") == [True] * 3
