"""The report page in a browser: what scripts add, what shows without them, on phones, in print.

Needs playwright and a Chromium, in `CONTEXTBENCH_CHROMIUM` or on the path.
"""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from contextbench.report.page import render_page
from tests.report import pages

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = os.environ.get("CONTEXTBENCH_CHROMIUM") or next(
    filter(None, map(shutil.which, NAMES)), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is installed"),
]

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
DESKTOP, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
EVIL = "<img src=x onerror=alert(1)>"
SCORES, COSTS = "#comparison-1-table table", "#comparison-1-costs"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page of two comparisons; one head of the second has a name that is HTML."""
    second = pages.collection(("fcn", "ppm"), (0,), names={"ppm": EVIL})
    path: Path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render_page([(pages.collection(), pages.examples()), (second, None)]))
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=BROWSER, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Any]:
    """Opens the page; whatever it asks of the network, says on the console or throws, fails."""
    contexts, complaints = [], []

    def answer(route: Any) -> None:
        if route.request.url == address or route.request.url.startswith("data:"):
            route.continue_()
        else:
            complaints.append(route.request.url)
            route.abort()

    def opened(**options: Any) -> Any:
        context = browser.new_context(**{"viewport": DESKTOP, **options})
        contexts.append(context)
        context.route("**/*", answer)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: complaints.append(dialog.message))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def column(page: Any, table: str, number: int) -> list[str]:
    """Raw values of a column, from the top; the first column is 1."""
    cells = page.locator(f"{table} tbody tr > :nth-child({number})")
    values: list[str] = cells.evaluate_all("cells => cells.map(cell => cell.dataset.value ?? '')")
    return values


def numbers(values: list[str]) -> list[float]:
    return [float(value) for value in values if value]


def visible_heads(page: Any, selector: str) -> list[str]:
    """Distinct heads of elements that are shown."""
    found = page.locator(selector).locator("visible=true")
    heads: list[str] = found.evaluate_all("all => all.map(one => one.dataset.head)")
    return sorted(set(heads))


def test_headers_sort_by_number_in_both_directions_and_by_keyboard(visit: Any) -> None:
    page = visit()
    header = page.locator(f"{SCORES} thead th", has_text="params").first
    index = header.evaluate("cell => cell.cellIndex") + 1
    header.locator("button").click()
    values = numbers(column(page, SCORES, index))
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == 6
    assert header.get_attribute("aria-sort") == "descending"
    header.locator("button").press("Enter")
    assert numbers(column(page, SCORES, index)) == sorted(values)
    assert header.get_attribute("aria-sort") == "ascending"
    assert page.locator(f"{SCORES} th[aria-sort]").count() == 1


def test_names_sort_as_text_and_every_column_can_be_chosen(visit: Any) -> None:
    page = visit()
    headers = page.locator(f"{SCORES} thead th")
    headers.first.locator("button").click()
    assert column(page, SCORES, 1) == sorted(column(page, SCORES, 1))
    assert headers.count() == page.locator(f"{SCORES} thead th button").count() > 15
    names = column(page, SCORES, 1)
    headers.last.locator("button").click()
    assert sorted(column(page, SCORES, 1)) == sorted(names)  # rows are moved, none is lost


def test_missing_values_are_last_in_both_directions(browser: Any, tmp_path: Path) -> None:
    """A head whose runs failed has no score, and so no difference to the best."""
    path = tmp_path / "report.html"
    whole = pages.failed(pages.collection(), "ppm")
    path.write_text(render_page([(whole, pages.examples())]))
    with browser.new_context(viewport=DESKTOP) as context:
        page = context.new_page()
        page.goto(path.as_uri())
        header = page.locator(f"{SCORES} thead th", has_text="difference")
        index = header.evaluate("cell => cell.cellIndex") + 1
        for _ in range(2):
            header.locator("button").click()
            values = column(page, SCORES, index)
            assert values.count("") == 1
            assert values[-1] == ""


def test_filters_hide_heads_everywhere_and_only_in_their_comparison(visit: Any) -> None:
    page = visit()
    form = page.locator("#comparison-1 form.filters")
    other = visible_heads(page, "#comparison-2 [data-head]")
    index = form.locator("input[data-name=ocr]").get_attribute("value")
    form.locator("input[data-name=ocr]").uncheck()
    shown = visible_heads(page, "#comparison-1 [data-head]")
    assert index not in shown
    assert len(shown) == 5
    for part in ("ranking", "table", "costs", "classes", "losses", "examples", "attention"):
        assert visible_heads(page, f"#comparison-1-{part} [data-head]") == shown
    assert form.locator("output").inner_text() == "5 of 6 heads shown"
    assert visible_heads(page, "#comparison-2 [data-head]") == other

    form.locator("input[type=search]").fill("CN")  # neither case nor place matter
    rows = page.locator(f"{SCORES} tbody tr > th").locator("visible=true")
    assert sorted(rows.all_inner_texts()) == ["encnet", "fcn", "ocnet"]
    form.locator("button[type=reset]").click()
    playwright.expect(page.locator("#comparison-1 .off")).to_have_count(0)


def test_the_front_follows_the_heads_that_are_shown(visit: Any) -> None:
    drawn = front(visit(java_script_enabled=False))
    page = visit()
    assert front(page) == drawn
    cheapest = page.locator(f"{COSTS} .plot.wide:not([hidden]) .point").evaluate_all(
        "all => all.sort((a, b) => a.dataset.x - b.dataset.x)[0].dataset.head"
    )
    box = page.locator(f"#comparison-1 form.filters input[value='{cheapest}']")
    box.uncheck()
    left = front(page)
    assert min(left)[0] > min(drawn)[0]
    assert max(left) == max(drawn)
    box.check()
    assert front(page) == drawn


def test_the_front_stays_dotted_where_the_split_cannot_tell(visit: Any) -> None:
    page = visit()
    path = f"{COSTS} .plot.wide:not([hidden]) [data-front=dotted]"
    points = page.locator(f"{COSTS} .plot.wide:not([hidden]) .point")
    before = front(page)
    points.evaluate_all("all => all.forEach(one => { one.dataset.alike = '0 1 2 3 4 5'; })")
    box = page.locator("#comparison-1 form.filters input[type=checkbox]").first
    box.uncheck()
    box.check()
    steps = page.locator(path).first.get_attribute("d").count("M")
    assert steps == len({at for at, _ in before}) - 2  # all but the last, to the right edge
    assert front(page) == before


def front(page: Any) -> list[tuple[float, float]]:
    """Corners of all steps of the first front."""
    parts = page.locator(f"{COSTS} .plot.wide:not([hidden])").first.locator("[data-front]")
    paths = parts.evaluate_all("all => all.map(one => one.getAttribute('d'))")
    numbers = re.findall(r"([\d.]+),([\d.]+)", " ".join(paths))
    return sorted({(float(x), float(y)) for x, y in numbers})


def test_the_choice_of_a_cost_and_a_scale_changes_the_plot(visit: Any) -> None:
    page = visit()
    plot = page.locator(f"{COSTS} .plot").locator("visible=true")
    assert plot.count() == 1
    before = plot.get_attribute("aria-label")
    page.locator(f"{COSTS} select").select_option("parameters")
    assert plot.count() == 1
    label = plot.get_attribute("aria-label")
    assert "Parameters (M)" in label
    assert label != before
    assert "linear" in label
    page.locator(f"{COSTS} input[value=log]").check()
    assert plot.count() == 1
    assert "log axis" in plot.get_attribute("aria-label")
    xs = plot.locator(".point").evaluate_all("all => all.map(one => one.dataset.x)")
    assert len(set(xs)) == 6


def test_hover_and_keyboard_focus_show_the_values_of_a_point(visit: Any) -> None:
    """OCR has 1.6 million parameters; its mIoU is that of the table."""
    page = visit()
    page.locator(f"{COSTS} select").select_option("parameters")
    point = page.locator(f"{COSTS} .point[aria-label^='ocr']").locator("visible=true")
    cell = page.locator(f"{SCORES} tbody tr", has_text="ocr").locator("td").first
    miou = f"{100 * float(cell.get_attribute('data-value')):.1f}"
    tip = page.locator("#tip")
    assert not tip.is_visible()
    point.locator(".marker").hover()
    shown = tip.inner_text()
    assert shown.startswith("ocr\n")
    assert f"mIoU {miou} % (" in shown
    assert "Parameters: 1.60 M" in shown
    page.mouse.move(0, 0)
    assert not tip.is_visible()
    point.focus()
    assert tip.inner_text() == shown
    assert point.get_attribute("aria-describedby") == "tip"
    page.keyboard.press("Escape")
    assert not tip.is_visible()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.matches('.point, .curve, a, select, button')")


def test_names_that_are_html_stay_text_in_tooltips(visit: Any) -> None:
    page = visit()
    page.locator("#comparison-2 .strip").first.focus()
    page.locator("#comparison-2 .strip").nth(1).focus()
    names = [
        page.locator("#comparison-2 .strip").nth(i).get_attribute("aria-label") for i in (0, 1)
    ]
    assert any(name.startswith(EVIL) for name in names)
    assert page.locator("#tip *").count() == 0
    assert page.locator("#comparison-2 .name", has_text=EVIL).count() > 3


def test_classes_show_differences_and_sort_by_them(visit: Any) -> None:
    page = visit()
    section = page.locator("#comparison-1-classes")
    cell = section.locator("tbody td:not(.plain)").first
    assert re.fullmatch(r"\d+\.\d", cell.inner_text().strip())
    section.locator("input[value=difference]").check()
    assert re.fullmatch(r"[+−]\d+\.\d|0\.0", cell.inner_text().strip())
    section.locator("thead th[data-head]").first.locator("button").click()
    shown = section.locator("tbody td[data-difference]:nth-child(3)")
    values = shown.evaluate_all("cells => cells.map(cell => Number(cell.dataset.difference))")
    assert values == sorted(values, reverse=True)


def test_examples_are_chosen_by_buttons(visit: Any) -> None:
    page = visit()
    for part, count in (("examples", 2), ("attention", 2)):
        section = page.locator(f"#comparison-1-{part}")
        buttons = section.locator(".thumbnails button")
        assert buttons.count() == count
        first = section.locator("article").locator("visible=true")
        assert first.count() == 1
        name = first.get_attribute("aria-label")
        buttons.nth(1).press("Enter")
        assert first.count() == 1
        assert first.get_attribute("aria-label") != name
        assert buttons.nth(1).get_attribute("aria-pressed") == "true"
        assert buttons.nth(0).get_attribute("aria-pressed") == "false"
    section = page.locator("#comparison-1-examples")
    assert section.locator(".error").locator("visible=true").count() == 0
    section.locator("input[value=errors]").check()
    assert section.locator(".error").locator("visible=true").count() == 6
    assert section.locator(".prediction").locator("visible=true").count() == 0


def test_a_phone_has_no_horizontal_scroll_and_readable_plots(visit: Any) -> None:
    page = visit(viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    outside = page.evaluate(
        "[...document.querySelectorAll('main *')]"
        ".filter(one => !one.closest('.scroll, pre, .hidden'))"
        ".filter(one => one.getBoundingClientRect().right > innerWidth + 1)"
        ".map(one => one.outerHTML)"
    )
    assert outside == []
    label = page.locator(f"{COSTS} .plot .label").locator("visible=true").first
    assert label.bounding_box()["height"] >= 11  # pixels
    wide = page.locator("#comparison-1-table .scroll")
    assert wide.evaluate("box => box.scrollWidth > box.clientWidth")


CONTRAST = """
  (() => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
    const drawing = canvas.getContext("2d", { willReadFrequently: true });
    const luminance = (colour) => {
      drawing.fillStyle = colour;
      drawing.fillRect(0, 0, 1, 1);
      const linear = [...drawing.getImageData(0, 0, 1, 1).data].slice(0, 3).map((byte) => {
        const value = byte / 255;
        return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    };
    const behind = (element) => {
      const colour = getComputedStyle(element).backgroundColor;
      const clear = colour === "rgba(0, 0, 0, 0)" && element.parentElement;
      return clear ? behind(element.parentElement) : colour;
    };
    return (element) => {
      const [one, other] = [getComputedStyle(element).color, behind(element)].map(luminance);
      return (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    };
  })()
"""
"""Contrast of an element's text with what is behind it, as WCAG 2.2 defines it."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast_is_enough_in_both_schemes(visit: Any, scheme: str) -> None:
    page = visit(color_scheme=scheme)
    page.locator("#comparison-1-classes input[value=difference]").check()
    worst = page.evaluate(
        "selector => { const contrast = " + CONTRAST + ";"
        " return [...document.querySelectorAll(selector)].filter(one => one.checkVisibility())"
        ".map(one => [contrast(one), one.outerHTML.slice(0, 80)])"
        ".sort((one, other) => one[0] - other[0])[0]; }",
        "p, a, td, th, small, li, summary, button, label, figcaption, h1, h2, h3, h4, code",
    )
    assert worst[0] >= 4.5, worst


def test_the_colours_follow_the_system_and_the_button(visit: Any) -> None:
    page = visit(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.locator("#theme").click()
    light = page.evaluate(paper)
    assert light != dark
    assert visit(color_scheme="light").evaluate(paper) == light
    page.emulate_media(color_scheme="light")
    page.locator("#theme").click()
    assert page.evaluate(paper) == dark


def test_print_shows_everything_and_no_controls(visit: Any) -> None:
    page = visit(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    controls = page.locator("form, .thumbnails, nav, #theme, .skip")
    assert controls.locator("visible=true").count() == 0
    articles = page.locator("article")
    assert articles.locator("visible=true").count() == articles.count() == 4
    assert page.locator(".error").locator("visible=true").count() == 12
    assert page.locator("#comparison-1 .reading li").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= DESKTOP["width"]


def test_without_scripts_tables_plots_and_examples_are_there(visit: Any) -> None:
    page = visit(java_script_enabled=False)
    assert page.locator(f"{SCORES} tbody tr").locator("visible=true").count() == 6
    assert page.locator(f"{COSTS} .plot").locator("visible=true").count() == 1
    assert page.locator(f"{COSTS} .point title").first.text_content()
    assert page.locator("article").locator("visible=true").count() == 4
    # Nothing that would not work.
    assert page.locator("button, select, input").locator("visible=true").count() == 0


def test_motion_is_reduced_where_that_is_wanted(visit: Any) -> None:
    behaviour = "getComputedStyle(document.documentElement).scrollBehavior"
    assert visit(reduced_motion="reduce").evaluate(behaviour) == "auto"
    assert visit(reduced_motion="no-preference").evaluate(behaviour) == "smooth"
