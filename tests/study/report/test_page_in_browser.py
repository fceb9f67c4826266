"""``report.html`` in a real browser: Debian's Chromium, headless. Skipped, with the reason, where there is none."""

import base64
import shutil

import pytest

from volta_switch.study.report.page import write_report

webdriver = pytest.importorskip("selenium.webdriver", reason="no selenium; pip install -e '.[test]'")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = pytest.mark.more
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
    "--window-size=1200,900", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)  # fmt: skip
VISIBLE = "const seen = (e) => e.checkVisibility({visibilityProperty: true, contentVisibilityAuto: false});"
OPENED = "document.querySelectorAll('details').forEach((d) => d.open = true);"


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if not CHROMIUM or not DRIVER:
        pytest.skip("no chromium and chromedriver; apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, Service(DRIVER))
    driver.set_page_load_timeout(120)
    yield driver
    driver.quit()


@pytest.fixture(scope="session")
def address(written):
    return write_report(written.plan, written.tables).as_uri()


@pytest.fixture
def page(browser, address):
    """Freshly opened, as wide as a desktop's window."""
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.get(address)
    return browser


def width(page, pixels):
    size = {"width": pixels, "height": 800, "deviceScaleFactor": 1, "mobile": pixels < 500}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def test_it_opens_without_the_network_and_without_errors(browser, address):
    for kind in ("browser", "performance"):
        browser.get_log(kind)  # what was before
    browser.get(address)
    errors = [entry["message"] for entry in browser.get_log("browser")]
    assert not errors
    requests = [entry["message"] for entry in browser.get_log("performance") if "requestWillBeSent" in entry["message"]]
    assert len(requests) >= 1
    assert all(f'"url":"{address}' in request or '"url":"data:' in request for request in requests)
    assert "small & <b>bold</b>" in browser.title


def test_texts_of_a_study_stay_texts(page):
    assert page.execute_script("return document.scripts.length") == 1
    assert page.execute_script("return document.querySelectorAll('img, main b b').length") == 0
    claims = page.find_element(By.CSS_SELECTOR, ".verdicts").text
    assert '<script>alert("run")</script>' in claims


@pytest.mark.parametrize("pixels", [390, 768, 1200, 1400])
def test_nothing_is_wider_than_the_window(page, pixels):
    width(page, pixels)
    page.execute_script(OPENED)
    assert page.execute_script("return innerWidth") == pixels  # a phone zooms out where something is wider
    assert page.execute_script("return document.documentElement.scrollWidth") <= pixels


# Of every table: cells off the window that no scrolling container of the table brings in; and names of rows.
TABLES = (
    VISIBLE
    + """
const width = innerWidth, off = [], names = [];
for (const table of document.querySelectorAll("main table")) {
  const scrolls = table.closest(".wide, .route-table"), inside = scrolls && scrolls.scrollWidth > scrolls.clientWidth;
  for (const cell of table.querySelectorAll("th, td")) {
    if (cell.closest("thead") && table.tBodies[0] && getComputedStyle(table.tHead).position === "absolute") continue;
    if (!seen(cell)) { if (cell.textContent.trim()) off.push(cell.textContent); continue; }
    const box = cell.getBoundingClientRect();
    if (box.left < -1 || (box.right > width + 1 && !inside)) off.push(cell.textContent.trim());
  }
  for (const name of table.querySelectorAll("tbody th")) {
    const box = name.getBoundingClientRect();
    names.push([name.textContent.trim(), box.left >= 0 && box.right <= width + 1 && box.width > 20]);
  }
}
return [off, names];
"""
)
# Of every picture of scores, curves and costs: texts and marks that its frame cuts, or that lie off the window.
PICTURES = """
const off = [];
let texts = 0;
for (const svg of document.querySelectorAll("main figure .wide > svg")) {
  const frame = svg.getBoundingClientRect(), pane = svg.parentNode.getBoundingClientRect();
  for (const mark of svg.querySelectorAll("text, .mean")) {
    const box = mark.getBoundingClientRect();
    texts += mark.tagName === "text";
    const right = Math.min(frame.right, pane.right, innerWidth);
    if (box.left < frame.left - 1 || box.right > right + 1) off.push(mark.textContent);
  }
}
return [texts, off];
"""


@pytest.mark.parametrize("pixels", [390, 1400])
def test_every_cell_of_a_table_can_be_reached_and_every_arm_is_seen(page, pixels):
    width(page, pixels)
    page.execute_script(OPENED)
    off, names = page.execute_script(TABLES)
    assert not off
    assert {"ctrl_uniter", "switchbert", "top-1"} <= {name for name, _ in names}
    assert not [name for name, whole in names if not whole]


def test_on_a_phone_a_cell_says_its_column(page):
    width(page, 390)
    page.execute_script(OPENED)
    unnamed = page.execute_script(
        VISIBLE
        + "return [...document.querySelectorAll('table.stacked tbody td, table.stacked tfoot td')].filter((e) =>"
        "seen(e)"
        "&& getComputedStyle(e, '::before').content.length < 3).map((e) => e.textContent)"
    )
    tables = page.execute_script("return [...document.querySelectorAll('main table:not(.stacked)')].length")
    assert not unnamed and tables == 0
    assert not page.execute_script(
        "return [...document.querySelectorAll('.wide:has(table), .route-table')].filter((e) =>"
        "e.scrollWidth > e.clientWidth + 1).map((e) => e.getAttribute('aria-label'))"
    )


@pytest.mark.parametrize("pixels", [390, 1400])
def test_pictures_are_whole_and_their_words_large_enough(page, pixels):
    width(page, pixels)
    page.execute_script(OPENED)
    texts, off = page.execute_script(PICTURES)
    assert texts > 100 and not off
    sizes = page.execute_script(
        "return [...document.querySelectorAll('main figure .wide > svg')].map((e) =>"
        "14 * e.getBoundingClientRect().width / e.viewBox.baseVal.width)"
    )
    assert min(sizes) > 11  # pixels, of the words of size 14


def test_a_row_of_a_wide_table_keeps_its_name_in_sight(page):
    width(page, 700)
    page.execute_script(OPENED)
    moved = page.execute_script(
        "return [...document.querySelectorAll('.wide:has(table)')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
        ".map((e) => { e.scrollLeft = 10000; const name = e.querySelector('tbody th').getBoundingClientRect();"
        "return [e.scrollLeft > 0, name.left - e.getBoundingClientRect().left]; })"
    )
    assert moved and all(scrolled and abs(left) < 2 for scrolled, left in moved)


def test_what_scrolls_sideways_can_be_reached_by_keyboard(page):
    width(page, 390)
    page.execute_script(OPENED)
    unreached = page.execute_script(
        "return [...document.querySelectorAll('main *')].filter((e) => e.scrollWidth > e.clientWidth + 1 &&"
        "['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0).map((e) => e.className)"
    )
    assert not unreached


def test_the_tab_key_reaches_everything_in_order_and_shows_where_it_is(page):
    page.execute_script(OPENED)
    stops = "a[href], button, summary, input, select, [tabindex='0']"
    wanted = page.execute_script(
        VISIBLE + f'const all = [...document.querySelectorAll("{stops}")].filter(seen);'
        "all.forEach((e, n) => e.dataset.order = n); return all.length"
    )
    assert wanted > 40
    place = (
        "const e = document.activeElement, s = getComputedStyle(e);"
        "return [Number(e.dataset.order ?? -1), e.tagName, s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2"
        "|| e.closest('svg') !== null]"
    )
    reached = []
    for _ in range(wanted + 10):
        page.switch_to.active_element.send_keys(Keys.TAB)
        order, tag, outlined = page.execute_script(place)
        if tag == "BODY":
            break
        assert outlined, (order, tag)
        reached.append(order)
    assert reached == list(range(wanted))


def test_the_skip_link_comes_first_and_leads_to_the_content(page):
    page.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    link = page.switch_to.active_element
    assert link.text == "Skip to the content" and link.rect["x"] >= 0
    link.send_keys(Keys.ENTER)
    assert page.switch_to.active_element.get_attribute("id") == "main"


def test_a_heading_sorts_its_table_by_click_and_by_key(page):
    table = page.find_element(By.CSS_SELECTOR, "section.table table.sortable")
    arms = lambda: [each.text for each in table.find_elements(By.CSS_SELECTOR, "tbody th")]  # noqa: E731
    headings = table.find_elements(By.CSS_SELECTOR, "thead th")
    assert arms() == ["ctrl_uniter", "switchbert"] and headings[2].get_attribute("aria-sort") is None
    headings[2].find_element(By.TAG_NAME, "button").click()
    assert arms() == ["switchbert", "ctrl_uniter"] and headings[2].get_attribute("aria-sort") == "descending"
    headings[2].find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert arms() == ["ctrl_uniter", "switchbert"] and headings[2].get_attribute("aria-sort") == "ascending"
    headings[0].find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert arms() == ["ctrl_uniter", "switchbert"] and headings[0].get_attribute("aria-sort") == "ascending"
    assert headings[2].get_attribute("aria-sort") is None
    assert table.find_element(By.CSS_SELECTOR, "tfoot th").text == "best blind guess"


def test_arms_can_be_chosen_in_the_curves(page):
    group = page.find_element(By.CSS_SELECTOR, "#curves ~ .group")
    lines = [each for each in group.find_elements(By.CSS_SELECTOR, "svg [data-arm]")]
    assert {each.get_attribute("data-arm") for each in lines} == {"ctrl_uniter", "switchbert"}
    assert all(each.is_displayed() for each in lines)
    box = group.find_elements(By.CSS_SELECTOR, ".choose input")[0]
    box.click()
    assert {each.get_attribute("data-arm") for each in lines if each.is_displayed()} == {"switchbert"}
    box.click()
    assert all(each.is_displayed() for each in lines)


def test_it_is_read_without_scripts(page):
    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.refresh()
        assert not page.find_elements(By.CSS_SELECTOR, "th button")
        assert page.find_element(By.CSS_SELECTOR, ".verdict").text == "✓ supported"
        assert page.find_element(By.CSS_SELECTOR, "section.table tbody th").text == "ctrl_uniter"
        assert page.find_element(By.CSS_SELECTOR, "#curves ~ .group svg").is_displayed()
        assert not any(each.is_displayed() for each in page.find_elements(By.CSS_SELECTOR, ".choose, .flow-controls"))
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_it_prints_whole(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    width(page, 680)  # A4 between its margins
    folded = page.execute_script(
        VISIBLE + "return [...document.querySelectorAll('details > :not(.choose)')].filter((e) => !seen(e))"
        ".map((e) => e.outerHTML)"
    )
    assert not folded
    hidden = page.execute_script(
        VISIBLE + "return [...document.querySelectorAll('main .verdict, main td, main figure, main pre')]"
        ".filter((e) => !seen(e)).length"
    )
    assert hidden == 0
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    printed = base64.b64decode(page.print_page())
    assert printed.startswith(b"%PDF-") and printed.count(b"/Type /Page\n") > 4
    opened = page.execute_script("return document.querySelectorAll('details[open]').length")
    assert opened < page.execute_script("return document.querySelectorAll('details').length")  # folded again


def test_print_cuts_nothing_and_repeats_headings(page):
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    width(page, 688)  # A4 between the page's margins
    cut = page.execute_script(
        "return [...document.querySelectorAll('main table, main svg, main pre, main li, main p')].filter((e) => {"
        "const b = e.getBoundingClientRect(); return b.width && (b.right > innerWidth + 1 || b.left < -1); })"
        ".map((e) => e.outerHTML.slice(0, 200))"
    )
    assert not cut and page.execute_script("return document.documentElement.scrollWidth") <= 688
    styles = page.execute_script(
        "const of = (selector, name) => [...document.querySelectorAll(selector)].map((e) => getComputedStyle(e)[name]);"
        "return [of('main thead', 'display'), of('main tr', 'breakInside'), of('main figure', 'breakInside'),"
        "of('main .tint', 'printColorAdjust'), of('.wide, .route-table', 'overflowX')]"
    )
    wanted = ({"table-header-group"}, {"avoid"}, {"avoid"}, {"exact"}, {"visible"})
    assert tuple(map(set, styles)) == wanted
    broken = page.execute_script(
        "const lines = (e) => { const r = document.createRange(); r.selectNodeContents(e);"
        "return new Set([...r.getClientRects()].map((b) => Math.round(b.top))).size; };"
        "return [...document.querySelectorAll('.wide tbody th')].filter((e) => !/[ -]/.test(e.textContent))"
        ".filter((e) => !e.querySelector('code') && lines(e) > 1).map((e) => e.textContent)"
    )
    assert not broken  # an arm's name is not divided


def test_the_page_begins_with_what_the_data_are(page):
    first = page.execute_script("return document.querySelector('h1').nextElementSibling.textContent")
    assert first.startswith("The data are synthetic")


def test_no_id_is_given_twice(page):
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids)) > 10


CONTRAST = (
    OPENED
    + VISIBLE
    + r"""
const channels = (colour) => {
  const found = colour.match(/[\d.]+/g).map(Number);
  return found.length > 3 ? found : [...found, 1];
};
const over = (top, below) => below.map((b, n) => n < 3 ? top[n] * top[3] + b * (1 - top[3]) : 1);
const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
const luminance = (c) => c.slice(0, 3).map((v) => linear(v / 255))
  .reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
const ratio = (a, b) => {
  const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (high + 0.05) / (low + 0.05);
};
const chain = (e) => e ? [...chain(e.parentElement), e] : [];
const opacity = (e) => chain(e).reduce((product, each) => product * getComputedStyle(each).opacity, 1);
const ground = (e) => chain(e).reduce((colour, each) => over(channels(getComputedStyle(each).backgroundColor), colour),
  [255, 255, 255, 1]);
// In a picture: the filled shapes drawn before the text whose boxes hold its middle.
const paper = (text) => {
  const box = text.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
  let colour = ground(text.ownerSVGElement);
  if (getComputedStyle(text).stroke !== "none") return colour; // text with an edge of its own
  for (const shape of text.ownerSVGElement.querySelectorAll("rect, circle, polygon, path")) {
    if (!(shape.compareDocumentPosition(text) & Node.DOCUMENT_POSITION_FOLLOWING)) break;
    const style = getComputedStyle(shape), b = shape.getBoundingClientRect();
    if (style.fill === "none" || x < b.left || x > b.right || y < b.top || y > b.bottom) continue;
    const fill = channels(style.fill);
    fill[3] *= style.fillOpacity * opacity(shape);
    colour = over(fill, colour);
  }
  return colour;
};
const poor = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
let count = 0;
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  const e = node.parentElement;
  if (!node.data.trim() || !seen(e) || e.closest("title, desc, script, style, option")) continue;
  const drawn = e.namespaceURI.endsWith("svg"), style = getComputedStyle(e);
  const below = drawn ? paper(e.closest("text")) : ground(e);
  const ink = channels(drawn ? style.fill : style.color);
  ink[3] *= opacity(e) * (drawn ? style.fillOpacity : 1);
  count += 1;
  const found = ratio(over(ink, below), below);
  if (found < 4.5) poor.push([node.data.trim().slice(0, 40), Math.round(found * 100) / 100, style.fill, below.join()]);
}
return [count, poor];
"""
)


def test_all_text_has_contrast(page):
    count, poor = page.execute_script(CONTRAST)
    assert count > 300 and not poor


def test_faint_text_would_be_found(page):
    page.execute_script("document.querySelector('.kind').style.color = '#999'")
    page.execute_script("document.querySelector('svg text').setAttribute('fill', '#aaa')")
    _, poor = page.execute_script(CONTRAST)
    assert len(poor) == 2
