"""The page of a report in a real browser: it sorts, fits a phone, asks for nothing."""

import pathlib
import shutil
import time

import pytest
import suites

from vfd_tf.suites.report import build

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)
PHONE, DESK = (390, 844), (1280, 900)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_path(tmp_path_factory):
    """The report of a table that is half finished and of a sweep."""
    root = tmp_path_factory.mktemp("runs")
    unfinished = {"TRADES+KD": "failed", "ALP+KD": "waiting"}
    workdirs = [suites.table(root, 80, groups=("ALP", "TRADES"), unfinished=unfinished)]
    workdirs.append(suites.sweep(root, images=80))
    return build.build([str(path) for path in workdirs], str(root / "report"))


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing")
    if BROWSER is None:
        pytest.skip(f"none of {', '.join(NAMES)} is installed")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"]
        )
        yield launched
        launched.close()


@pytest.fixture
def visit(browser, page_path):
    """A function (size, scheme) -> the open page; afterwards, that nothing went wrong."""
    contexts, said, asked = [], [], []

    def opened(size=DESK, scheme="light"):
        width, height = size
        viewport = {"width": width, "height": height}
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(pathlib.Path(page_path).as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in asked if url.startswith("file:")]) == len(contexts)


def column(page, number):
    """The texts of a column of the first table, its rows as they stand."""
    rows = page.query_selector_all("table.accuracies >> nth=0 >> tbody >> tr")
    return [row.query_selector_all("th, td")[number].inner_text() for row in rows]


def numbers(texts):
    return [float(text.split()[0].rstrip("▲▼")) for text in texts]


def test_a_click_on_a_head_sorts_by_number_then_back(visit):
    page = visit()
    before, names = column(page, 1), column(page, 0)
    head = page.query_selector("table.accuracies thead tr:last-child th:nth-child(2)")
    button = head.query_selector("button")
    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    found = column(page, 1)
    states = [text for text in found if text in ("failed", "waiting")]
    assert found[-len(states) :] == states and len(states) == 2
    values = numbers(found[: -len(states)])
    assert values == sorted(values, reverse=True) and values != numbers(before[:1]) * 9
    button.focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    values = numbers(column(page, 1)[: -len(states)])
    assert values == sorted(values)
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") is None and column(page, 0) == names
    page.click("table.accuracies thead tr:last-child th:first-child button")
    names = column(page, 0)
    assert names == sorted(names, key=str.lower)


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_nothing_is_wider_than_the_screen(visit, size):
    page = visit(size)
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
    assert page.evaluate("document.body.scrollWidth") <= size[0]


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_figures_are_seen(visit, size):
    page = visit(size)
    drawings = page.query_selector_all("figure svg")
    assert len(drawings) == 3 + 4
    for drawing in drawings:
        box = drawing.bounding_box()
        assert box["width"] > 250 and box["height"] > 150


def luminance(page, selector, name):
    """0 for black, 1 for white: a colour of an element as the browser computes it."""
    style = f"element => getComputedStyle(element).{name}"
    rgb = page.eval_on_selector(selector, style).strip("rgba()").split(",")[:3]
    return sum(
        w * float(c) / 255 for w, c in zip((0.2126, 0.7152, 0.0722), rgb, strict=True)
    )


@pytest.mark.parametrize("scheme, dark", [("light", False), ("dark", True)])
def test_both_colour_schemes_can_be_read(visit, scheme, dark):
    page = visit(scheme=scheme)
    back = luminance(page, "body", "backgroundColor")
    assert (back < 0.2) == dark
    texts = ("td span", "figcaption", "tbody th a", ".caption", "td small", "pre code")
    for selector in texts:
        assert abs(luminance(page, selector, "color") - back) > 0.35, selector
    ink = "figure svg g[id*=xtick] use"
    assert abs(luminance(page, ink, "fill") - back) > 0.6


def test_a_row_leads_to_the_command_that_made_it(visit):
    page = visit()
    page.click("tbody th a >> nth=1")
    target = page.query_selector("li:target")
    assert target.query_selector("h3").inner_text().startswith("ALP-0")
    assert (
        target.query_selector("pre").inner_text().startswith("python run.py --method=alp")
    )
    assert target.query_selector("a[href$='flags.txt']")


def test_the_report_of_a_hundred_runs_takes_seconds(tmp_path):
    """4 methods, 2 seeds, both students and the sweeps: 66 runs, and 36 of a sweep."""
    workdirs = [suites.table(tmp_path, 2000, seeds=(0, 1), students=("last", "average"))]
    rows = {f"TRADES{d}": [(80, 45)] * 6 for d in suites.DISTILLATIONS}
    rows["TRADES+more"] = [(80, 45)] * 6
    workdirs.append(suites.sweep(tmp_path, "trades_beta", tuple("123456"), rows, 2000))
    assert len(list(tmp_path.glob("*/run.json"))) == 102
    begin = time.perf_counter()
    build.build([str(path) for path in workdirs], str(tmp_path / "report"))
    seconds = time.perf_counter() - begin
    print(f"{seconds:.1f} s")
    assert seconds < 60  # 4 s of processor time; the machine may be busy
