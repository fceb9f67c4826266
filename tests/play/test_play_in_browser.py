"""The page in a real browser; skipped as the report's is (tests/study/report/test_page_in_browser.py)."""

import threading
from contextlib import contextmanager

import pytest

from small_detectors import patterned, small_detector
from volta_switch.detector.selection import Selection
from volta_switch.play.server import Application, make_server
from volta_switch.predict.picture_detector import SelectingDetector

pytest.importorskip("selenium.webdriver", reason="no selenium; pip install -e '.[test]'")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from study.report.test_page_in_browser import VISIBLE, browser, width  # noqa: F401

pytestmark = pytest.mark.more
TOKEN = "a-token-of-the-tests"
HEADS = ["TASK10", "TASK1", "TASK12", "TASK8"]


@contextmanager
def served(session, folder):
    """The address of a page that a server of its own serves."""
    server = make_server(Application(session, folder, "a model", TOKEN), 0)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/{TOKEN}/"
    finally:
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def detector(world):
    return SelectingDetector(small_detector(stage_width=world.overrides["v_feature_size"] // 8), Selection())


@pytest.fixture(scope="module", params=HEADS)
def each(request, page_of, tmp_path_factory):
    """A page of each kind of head: its session and address."""
    page = page_of(request.param)
    with served(page.session, tmp_path_factory.mktemp("dropped")) as address:
        yield page.session, address, request.param


@pytest.fixture(scope="module")
def expressions(page_of, detector, tmp_path_factory):
    """A page that points at what an expression names, and takes pictures: its session and address."""
    page = page_of("TASK10", detector=detector)
    with served(page.session, tmp_path_factory.mktemp("dropped")) as address:
        yield page.session, address


def opened(driver, address, wide=1400):
    driver.get_log("browser")  # what was before
    width(driver, wide)
    driver.get(address)
    return driver


def wait(driver, what, seconds=30):
    return WebDriverWait(driver, seconds).until(what)


def first(driver, selector):
    return driver.find_element(By.CSS_SELECTOR, selector)


def every(driver, selector):
    return driver.find_elements(By.CSS_SELECTOR, selector)


def answered(driver):
    return wait(
        driver, lambda d: d.execute_script("return document.querySelector('#answer .bars') && state.routes.length > 0")
    )


def asked(driver, text):
    """Types a text, asks, and waits for the answer."""
    before = driver.execute_script("return state.asked")
    field = first(driver, "#text")
    field.clear()
    field.send_keys(text)
    first(driver, "#send").click()
    return wait(driver, lambda d: d.execute_script("return state.asked") > before and first(d, "#send").is_enabled())


@pytest.mark.parametrize("wide", [390, 1400])
def test_it_answers_the_first_example_at_once_and_nothing_is_cut_off(browser, each, wide):  # noqa: F811
    session, address, key = each
    page = opened(browser, address, wide)
    answered(page)
    offer = session.album.offers[0]
    expected = session.ask({"pictures": list(offer.pictures), "texts": list(offer.texts)})["own"]
    shown = first(page, "#answer").text
    assert (expected["ranking"][0]["text"] if "ranking" in expected else expected.get("answer", "%")) in shown
    assert len(every(page, "#stage figure")) == (2 if key == "TASK12" else 1)
    assert page.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    small = page.execute_script(
        VISIBLE + "return [...document.querySelectorAll('button, textarea, select')].filter(seen)"
        ".filter((e) => e.getBoundingClientRect().height < 24).length"
    )
    assert not small and not [entry for entry in page.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_choice_is_forced_by_a_click_and_released(browser, expressions):  # noqa: F811
    session, address = expressions
    page = opened(browser, address)
    answered(page)
    offer = session.album.offers[0]
    asking = {"pictures": list(offer.pictures), "texts": list(offer.texts)}
    own, route = session.ask(asking)["own"], session.ask(asking)["routes"][0]
    before = first(page, "#answer").text
    place = route[0]
    other = next(option["name"] for option in place["options"] if not option["chosen"])
    forced = [{"row": place["row"], "layer": place["layer"], "block": place["block"], "option": other}]
    expected = session.ask({**asking, "forced": forced})["forced"]
    button = first(page, f'[data-choice="{place["row"]} {place["layer"]} {place["block"]} {other}"]')
    button.send_keys(Keys.ENTER)  # as a keyboard does
    wait(page, lambda d: "with the forced choices" in first(d, "#answer").text)
    shown = first(page, "#answer").text
    assert "By itself the model answers" in shown and f"{100 * own['probability']:.1f} %" in shown
    assert f"{100 * expected['probability']:.1f} %" in shown
    pressed = first(page, f'[data-choice="{place["row"]} {place["layer"]} {place["block"]} {other}"]')
    assert pressed.get_attribute("aria-pressed") == "true" and "forced" in pressed.get_attribute("class")
    assert page.switch_to.active_element.get_attribute("data-choice") == pressed.get_attribute("data-choice")
    first(page, "#release").click()
    wait(page, lambda d: first(d, "#answer").text == before)
    assert not every(page, "#grid .forced") and not first(page, "#release").is_displayed()


def test_another_picture_and_another_text_are_asked(browser, expressions):  # noqa: F811
    session, address = expressions
    page = opened(browser, address)
    answered(page)
    every(page, "#offers button")[2].click()
    offer = session.album.offers[2]
    wait(page, lambda d: first(d, "#text").get_attribute("value") == offer.texts[0])
    wait(page, lambda d: d.execute_script("return state.pictures.join()") == ",".join(offer.pictures))
    asked(page, "the small thing")
    expected = session.ask({"pictures": list(offer.pictures), "texts": ["the small thing"]})["own"]
    wait(page, lambda d: f"{100 * expected['probability']:.1f} %" in first(d, "#answer").text)
    best = first(page, ".region.answer")
    assert best.get_attribute("data-number") == str(expected["region"])
    asked(page, " ")
    wait(page, lambda d: first(d, "#problem").is_displayed() and "type a text" in first(d, "#problem").text)


def test_a_picture_is_dropped_and_a_bad_one_is_refused(browser, expressions, tmp_path):  # noqa: F811
    _, address = expressions
    page = opened(browser, address)
    answered(page)
    offers = len(every(page, "#offers button"))
    patterned(160, 120).save(tmp_path / "own.png")
    first(page, "#file").send_keys(str(tmp_path / "own.png"))
    wait(page, lambda d: len(every(d, "#offers button")) == offers + 1)
    wait(page, lambda d: first(d, "#stage svg").get_dom_attribute("viewBox") == "0 0 160 120")
    wait(page, lambda d: "thing" in first(d, "#answer").text)  # the detector's own names
    (tmp_path / "bad.png").write_bytes(b"no picture at all")
    first(page, "#file").send_keys(str(tmp_path / "bad.png"))
    wait(page, lambda d: "not a picture" in first(d, "#problem").text)
    assert len(every(page, "#offers button")) == offers + 1 and str(tmp_path) not in first(page, "#problem").text


def test_two_tabs_do_not_disturb_each_other(browser, expressions):  # noqa: F811
    session, address = expressions
    page = opened(browser, address)
    answered(page)
    one = page.current_window_handle
    page.switch_to.new_window("tab")
    try:
        page.get(address)
        answered(page)
        every(page, "#offers button")[1].click()
        offer = session.album.offers[1]
        wait(page, lambda d: first(d, "#text").get_attribute("value") == offer.texts[0])
        answered(page)
    finally:
        page.close()
        page.switch_to.window(one)
    assert first(page, "#text").get_attribute("value") == session.album.offers[0].texts[0]
    assert page.execute_script("return state.pictures.join()") == ",".join(session.album.offers[0].pictures)


def test_a_wrong_token_is_refused(browser, expressions):  # noqa: F811
    _, address = expressions
    browser.get(address.replace(TOKEN, "wrong"))
    assert "not the page" in browser.page_source and "Ask the model" not in browser.page_source


def test_a_server_that_is_gone_is_told(browser, page_of, tmp_path_factory):  # noqa: F811
    with served(page_of("TASK10").session, tmp_path_factory.mktemp("dropped")) as address:
        page = opened(browser, address)
        answered(page)
    asked(page, "the red thing")
    wait(page, lambda d: "is it still running" in first(d, "#problem").text)
