"""``explain``'s page in a real browser; skipped as the report's is (tests/study/report/test_page_in_browser.py)."""

import base64
import json

import pytest

from asked_tasks import questions
from volta_switch.explain import explain, page_of
from volta_switch.explain.pictures import shown_image
from volta_switch.predict import load_model

pytest.importorskip("selenium.webdriver", reason="no selenium; pip install -e '.[test]'")
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select

from study.report.test_page_in_browser import CONTRAST, VISIBLE, browser, width  # noqa: F401

pytestmark = pytest.mark.more
HEADS = ["TASK10", "TASK1", "TASK12", "TASK8"]  # of the pages that are looked at: with boxes, answers, pairs, a score


@pytest.fixture(scope="session")
def pages(asked, tmp_path_factory):
    """Addresses of pages by the task's key."""
    folder, found = tmp_path_factory.mktemp("pages"), {}
    for key in HEADS:
        of = asked(key)
        line, store = questions(of.task, "test")[2], of.task.store("test")
        images = tuple(store[image] for image in line.get("images", [line.get("image")]))
        explanation = explain(load_model(of.folder), line.get("text") or line["texts"][0], images)
        page = page_of(explanation, [shown_image(each, of.features) for each in images], "model & <b>bold</b>")
        (folder / f"{key}.html").write_text(page, encoding="utf-8")
        found[key] = (folder / f"{key}.html").as_uri()
    return found


@pytest.fixture
def page(browser, pages):  # noqa: F811
    """The page of a referring expression, freshly opened, as wide as a desktop's window."""
    return opened(browser, pages["TASK10"])


def opened(driver, address):
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    driver.get(address)
    return driver


def values(page):
    found = json.loads(page.execute_script("return document.getElementById('values').textContent"))
    return {measure["name"]: measure for measure in found["measures"]}


def words(page):
    return page.find_elements(By.CSS_SELECTOR, ".word")


def region(page, number):
    return page.find_element(By.CSS_SELECTOR, f'.region[data-region="{number}"]')


SHADES = (
    "const alpha = (c) => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m[3] : 1; };"
    "return [[...document.querySelectorAll('.word')].map((e) => alpha(getComputedStyle(e).backgroundColor)),"
    "[...document.querySelectorAll('.region')].sort((a, b) => a.dataset.region - b.dataset.region)"
    ".map((e) => alpha(getComputedStyle(e.querySelector('.box')).fill))]"
)


def shares(values):
    """Each value's share of the largest, as shades show it."""
    plain = [abs(value) if value is not None else 0 for value in values]
    return [value / max(plain) if max(plain) else 0 for value in plain]


@pytest.mark.parametrize("key", HEADS)
def test_it_opens_without_the_network_and_without_errors(browser, pages, key):  # noqa: F811
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what was before
    browser.get(pages[key])
    assert not browser.get_log("browser")
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert requests and all(f'"url":"{pages[key]}' in each or '"url":"data:' in each for each in requests)
    assert browser.execute_script("return document.querySelectorAll('b').length") == 0
    drawn = browser.execute_script("return [...document.querySelectorAll('svg image')].map((e) => e.getBBox().width)")
    assert drawn == [480] * (2 if key == "TASK12" else 1)


@pytest.mark.parametrize("pixels", [390, 768, 1400])
@pytest.mark.parametrize("key", HEADS)
def test_nothing_is_cut_off(browser, pages, key, pixels):  # noqa: F811
    page = opened(browser, pages[key])
    width(page, pixels)
    assert page.execute_script("return innerWidth") == pixels  # a phone zooms out where something is wider
    assert page.execute_script("return document.documentElement.scrollWidth") <= pixels
    off = page.execute_script(
        VISIBLE + "return [...document.querySelectorAll('main td, main th, main p, main svg, .word, select')]"
        ".filter((e) => seen(e) && !e.closest('thead')).filter((e) => { const b = e.getBoundingClientRect();"
        "return b.left < -1 || b.right > innerWidth + 1; }).map((e) => e.textContent)"
    )
    assert not off
    size = page.execute_script("return document.querySelector('.labels text').getBoundingClientRect().height")
    assert size > 11


def test_shades_are_the_values_of_the_chosen_measure(page):
    known, choice = values(page), Select(page.find_element(By.ID, "measure"))
    assert [option.get_attribute("value") for option in choice.options] == list(known)
    idle = page.find_element(By.CSS_SELECTOR, ".said")
    for name in ("attention", "2.1", "gradient", "occlusion"):
        choice.select_by_value(name)
        of_words, of_regions = page.execute_script(SHADES)
        assert idle.text == known[name]["about"] and "a click keeps it" in idle.text
        if name in ("attention", "2.1"):
            assert of_words == pytest.approx([0.45 * each for each in shares(known[name]["words"])], abs=0.01)
            assert of_regions == pytest.approx([0.16 * each for each in shares(known[name]["regions"])], abs=0.01)
        else:  # of one scale
            both = shares([*known[name]["words"], *known[name]["regions"]])
            count = len(of_words)
            assert of_words == pytest.approx([0.45 * each for each in both[:count]], abs=0.01)
            assert of_regions == pytest.approx([0.16 * each for each in both[count:]], abs=0.01)
    shown = [each.find_element(By.CLASS_NAME, "value").text for each in words(page)]
    signs = {value[0] for value in shown if value != "0.00"}
    assert signs <= {"+", "−"} and len(shown) == len(known["occlusion"]["words"])


def test_a_word_shows_its_regions_and_a_region_its_words(page):
    known = values(page)
    ActionChains(page).move_to_element(words(page)[1]).perform()
    _, of_regions = page.execute_script(SHADES)
    assert of_regions == pytest.approx([0.16 * each for each in shares(known["occlusion"]["to_regions"][1])], abs=0.01)
    said = page.find_element(By.CLASS_NAME, "said")
    assert f"“{words(page)[1].text.split()[0]}”" in said.text
    Select(page.find_element(By.ID, "measure")).select_by_value("attention")
    ActionChains(page).move_to_element(region(page, 3)).perform()
    of_words, of_regions = page.execute_script(SHADES)
    assert of_words == pytest.approx([0.45 * each for each in shares(known["attention"]["to_words"][3])], abs=0.01)
    assert sum(each > 0 for each in of_regions) <= 1
    assert "region 3" in said.text and "attends to “" in said.text
    ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h1")).perform()
    _, of_regions = page.execute_script(SHADES)
    assert of_regions == pytest.approx([0.16 * each for each in shares(known["attention"]["regions"])], abs=0.01)


def test_a_click_holds_what_is_shown(page):
    known = values(page)
    words(page)[0].click()
    ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h1")).perform()
    _, of_regions = page.execute_script(SHADES)
    assert of_regions == pytest.approx([0.16 * each for each in shares(known["occlusion"]["to_regions"][0])], abs=0.01)
    assert words(page)[0].get_attribute("aria-pressed") == "true"
    words(page)[0].click()
    assert words(page)[0].get_attribute("aria-pressed") == "false"


def test_words_and_regions_are_reached_and_chosen_by_keys(page):
    focus = "return [document.activeElement.dataset.word ?? null, document.activeElement.dataset.region ?? null]"
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.switch_to.active_element.text == "Skip to the content"
    for _ in range(2):
        page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.execute_script(focus) == ["0", None]
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert page.execute_script(focus) == ["1", None]
    assert page.find_elements(By.CSS_SELECTOR, ".word.here")[0].get_attribute("data-word") == "1"
    page.switch_to.active_element.send_keys(Keys.TAB)
    assert page.execute_script(focus) == [None, "0"]
    page.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
    last = page.execute_script(focus)[1]
    assert int(last) == len(page.find_elements(By.CSS_SELECTOR, ".region")) - 1
    page.switch_to.active_element.send_keys(Keys.ENTER)
    assert region(page, last).get_attribute("aria-pressed") == "true"
    outlined = page.execute_script("return getComputedStyle(document.activeElement.querySelector('.box')).stroke")
    assert outlined == "rgb(26, 115, 232)"
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert region(page, last).get_attribute("aria-pressed") == "false"
    assert page.find_element(By.CLASS_NAME, "said").text.startswith("Blue speaks for the answer")


@pytest.mark.parametrize("key", HEADS)
def test_all_text_has_contrast(browser, pages, key):  # noqa: F811
    page = opened(browser, pages[key])
    count, poor = page.execute_script(CONTRAST)
    assert count > 60 and not poor


def test_it_is_read_without_scripts(page):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert not page.find_element(By.CSS_SELECTOR, ".controls").is_displayed()
        assert page.find_element(By.CSS_SELECTOR, ".word .value").text[0] in "+−0"
        assert page.find_element(By.CSS_SELECTOR, "#regions + table tbody th").is_displayed()
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_it_prints_whole(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    width(page, 688)  # A4 between the page's margins
    cut = page.execute_script(
        "return [...document.querySelectorAll('main table, main svg, main td, main p')].filter((e) => {"
        "const b = e.getBoundingClientRect(); return b.width && (b.right > innerWidth + 1 || b.left < -1); })"
        ".map((e) => e.textContent.slice(0, 80))"
    )
    assert not cut and page.execute_script("return document.documentElement.scrollWidth") <= 688
    assert not page.find_element(By.CSS_SELECTOR, ".controls").is_displayed()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = base64.b64decode(page.print_page())
    assert printed.startswith(b"%PDF-") and printed.count(b"/Type /Page\n") >= 2


def test_no_id_is_given_twice(page):
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids)) > 5
