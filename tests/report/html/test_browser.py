"""Pages in a real browser: they open from disk, ask nobody for anything, and can be sorted and searched."""

import pytest

from tests.report.html.conftest import HOSTILE, document
from tests.support.screenshots import find_browser

KINDS = ("activations", "weights", "constants")
"""What the small network has grids of."""
BROWSER = find_browser()
pytestmark = pytest.mark.fast(0)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser is driven")
    if BROWSER is None:
        pytest.skip("there is no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def opened(browser, made):
    """Opens a page of `made`, and holds that nothing went wrong and nothing was asked for."""
    contexts, told, asked = [], [], []

    def call(name, **settings):
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((made / name).as_uri())
        return page

    yield call
    for context in contexts:
        context.close()
    assert told == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def rows(page, table):
    """The cells of the rows that are shown, in the order in which they are."""
    return page.locator(f"table[aria-label='{table}'] tbody tr:not([hidden])").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    )


def test_a_table_is_sorted_by_a_click_or_a_key_and_numbers_as_numbers(opened, made):
    page = opened("all.html")
    heads = page.locator("table[aria-label='Every grid'] th")
    scale = heads.filter(has_text="scale").locator("button").nth(0)
    scale.click()
    values = [float(row[2].replace(",", "")) for row in rows(page, "Every grid")]
    assert values == sorted(values, reverse=True) and len(set(values)) > 3
    scale.focus()
    page.keyboard.press("Enter")
    assert [float(row[2].replace(",", "")) for row in rows(page, "Every grid")] == sorted(values)
    assert page.locator("table[aria-label='Every grid'] th[aria-sort]").get_attribute("aria-sort") == "ascending"
    heads.nth(0).locator("button").click()
    names = [row[0] for row in rows(page, "Every grid")]
    plan = document(made / "q.json")["plan"]
    assert sorted(names) == sorted(row["tensor"] for kind in KINDS for row in plan[kind])
    assert names[0] < names[-1] and len(names) == len(values)


def test_a_search_leaves_what_holds_every_word(opened):
    page = opened("all.html")
    everything = rows(page, "Every grid")
    box = page.locator("#plan-1-find")
    box.fill("WEIGHT int8")
    found = rows(page, "Every grid")
    assert 0 < len(found) < len(everything) and all("weight" in " ".join(row) for row in found)
    assert page.locator("output[for='plan-1-find']").inner_text() == f"{len(found)} of {len(everything)}"
    box.fill("</script>")
    assert rows(page, "Every grid") and all(HOSTILE[:9] in " ".join(row) for row in rows(page, "Every grid"))
    box.fill("no such word")
    assert rows(page, "Every grid") == []
    box.fill("")
    assert rows(page, "Every grid") == everything


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["q.html", "e.html", "s.html", "all.html"])
def test_a_page_fits_a_phone_and_follows_the_colours_of_the_system(opened, name, scheme):
    page = opened(name, viewport={"width": 400, "height": 800}, color_scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    red = page.evaluate("Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0])")
    assert red > 200 if scheme == "light" else red < 60


@pytest.mark.parametrize("width", [400, 1400])
def test_the_menu_is_whole_and_leads_to_every_part(opened, width):
    page = opened("all.html", viewport={"width": width, "height": 900})
    links = page.locator("nav a")
    assert links.count() == page.locator("main section h2").count() > 5
    menu = page.locator("nav ul")
    assert menu.evaluate("list => list.scrollWidth <= list.clientWidth && list.scrollHeight <= list.clientHeight")
    assert links.evaluate_all("links => Math.max(...links.map(one => one.getBoundingClientRect().right))") <= width
    links.last.click()
    # what is gone to is not under the menu
    title = page.locator("main section h2").last
    below = 0 if width == 400 else page.locator("nav").evaluate("menu => menu.getBoundingClientRect().bottom")
    assert below <= title.evaluate("title => title.getBoundingClientRect().top") <= 900


def test_a_page_is_read_without_scripts(opened, made):
    page = opened("q.html", java_script_enabled=False)
    assert page.locator("h1").inner_text() == "q.onnx"
    assert page.locator(".finder:visible").count() == 0
    plan = document(made / "q.json")["plan"]
    assert page.locator("table[aria-label='Every grid'] tbody tr").count() == sum(len(plan[kind]) for kind in KINDS)


def test_what_is_printed_is_open(opened):
    page = opened("q.html")
    assert page.locator("details:not([open])").count() > 0
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("details:not([open])").count() == 0
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("details:not([open])").count() > 0
