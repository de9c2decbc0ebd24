"""What a reader sees: the report and MLflow's pages in headless Chromium."""

import json
import sqlite3
from contextlib import closing

import pytest

from charlm.report.leaderboard import HELD_OUT
from tests.workspace import PROJECT
from tools import screenshots
from tools.screenshots import REPORT


@pytest.fixture
def opened(browser):
    """Open pages of a size and colour scheme; what they ask for and complain about is kept."""
    contexts = []

    def open_page(width=1440, scheme="light"):
        viewport = {"width": width, "height": 900}
        context = browser.new_context(viewport=viewport, color_scheme=scheme)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        said, asked = [], []
        page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        return page, said, asked

    yield open_page
    for context in contexts:
        context.close()


@pytest.fixture
def report(opened):
    if not REPORT.is_file():
        pytest.skip("there is no report: make repro")
    page, _, _ = opened()
    page.goto(REPORT.as_uri())
    return page


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_fits_is_silent_and_asks_nobody(opened, width, scheme):
    if not REPORT.is_file():
        pytest.skip("there is no report: make repro")
    page, said, asked = opened(width, scheme)
    page.goto(REPORT.as_uri())
    page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")
    page.locator("#whose").select_option(index=1)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert said == []
    assert asked == [REPORT.as_uri()]
    # Colours of the text on its ground, far enough apart to be read (WCAG AA).
    for selector in ("p", ".soft", ".met", "pre", "th button"):
        ratio = page.locator(selector).first.evaluate(CONTRAST)
        assert ratio >= 4.5, (selector, ratio)


CONTRAST = """element => {
  const light = text => {
    const [r, g, b] = text.match(/[0-9.]+/g).slice(0, 3).map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = one => getComputedStyle(one).backgroundColor;
  let under = element;
  while (ground(under) === "rgba(0, 0, 0, 0)") under = under.parentElement;
  const [low, high] = [light(getComputedStyle(element).color), light(ground(under))].sort();
  return (high + 0.05) / (low + 0.05);
}"""


def column(page, number):
    cells = page.locator(f"#board tbody tr > :nth-child({number})")
    return cells.evaluate_all("all => all.map(cell => cell.firstChild.textContent.trim())")


def test_the_leaderboard_is_sorted_by_any_column_with_pointer_and_keyboard(report):
    rows = json.loads((PROJECT / "reports/leaderboard.json").read_text())
    names = [row["model"] for row in rows]
    assert column(report, 1) == names
    heads = report.locator("#board th button")
    heads.nth(0).click()
    assert column(report, 1) == sorted(names)
    heads.nth(1).focus()
    report.keyboard.press("Enter")
    assert column(report, 2) == [f"{n:,}" for n in sorted(row["parameters"] for row in rows)]
    report.keyboard.press("Space")
    assert column(report, 2)[0] == f"{max(row['parameters'] for row in rows):,}"
    sorts = [th.get_attribute("aria-sort") for th in report.locator("#board thead th").all()]
    assert sorts[1] == "descending"
    assert sorts.count(None) == len(sorts) - 1
    # "all" characters of context are more than any number of them.
    heads.nth(2).click()
    finite = [row["context_length"] for row in rows if row["context_length"] is not None]
    expected = [str(n) for n in sorted(finite)] + ["all"] * (len(rows) - len(finite))
    assert column(report, 3) == expected
    for place, split in enumerate(HELD_OUT, start=3):
        heads.nth(place).click()
        bits = sorted(row["streaming"][split]["bits_per_char"] for row in rows)
        assert column(report, place + 1) == [f"{value:.4f}" for value in bits]
    # An ensemble has no windows: it comes last.
    heads.nth(6).click()
    bits = sorted(row["windowed"]["holdout"]["bits_per_char"] for row in rows if row["windowed"])
    missing = ["\N{EN DASH}"] * (len(rows) - len(bits))
    assert column(report, 7) == [f"{value:.4f}" for value in bits] + missing


def test_the_slider_shows_how_a_model_came_to_know_the_text(report):
    excerpts = json.loads(report.locator("#expected").text_content())
    watched = [name for name, found in excerpts.items() if "steps" in found]
    assert {"lstm", "gpt"} <= set(watched)
    report.select_option("#whose", "lstm")
    slider, found = report.locator("#steps"), excerpts["lstm"]
    assert slider.input_value() == str(len(found["steps"]) - 1)
    report.locator("#excerpt > span").nth(5).hover()
    assert ", which expected " in report.locator("#said").text_content()
    slider.focus()
    report.keyboard.press("Home")
    assert report.locator("#step").text_content() == "0 steps"
    said = report.locator("#said").text_content()
    assert f"{found['learning'][0][5]:.1f} bits for lstm after 0 steps" in said
    untrained = report.locator("#excerpt > span").first.get_attribute("style")
    report.keyboard.press("End")
    assert ", which expected " in report.locator("#said").text_content()
    assert report.locator("#excerpt > span").first.get_attribute("style") != untrained
    report.select_option("#whose", "mixture")
    assert not slider.is_visible()


def test_the_surprisal_view_switches_and_answers_to_the_keyboard(report):
    excerpts = json.loads(report.locator("#expected").text_content())
    options = report.locator("#whose option").evaluate_all("all => all.map(one => one.value)")
    assert set(options) == set(excerpts)
    first, second = options[:2]
    text = excerpts[first]["text"]
    shown = [("↵" if symbol == "\n" else "space" if symbol == " " else symbol) for symbol in text]
    box, said = report.locator("#excerpt"), report.locator("#said")

    def says(place, name):
        found = excerpts[name]
        expected = f"{shown[place]}: {found['bits'][place]:.2f} bits for {name}, which expected "
        assert said.text_content().startswith(expected)
        assert said.text_content().count(" %") == len(found["guesses"][place])
        (here,) = report.locator("#excerpt .here").all()
        assert here.evaluate("span => [...span.parentElement.children].indexOf(span)") == place

    def colours():
        return box.locator("> span").evaluate_all(
            "all => all.map(s => s.style.getPropertyValue('--a'))"
        )

    box.focus()
    for key, place in (
        ("ArrowRight", 0),
        ("ArrowRight", 1),
        ("ArrowLeft", 0),
        ("ArrowLeft", 0),
        ("End", len(shown) - 1),
        ("ArrowRight", len(shown) - 1),
        ("Home", 0),
    ):
        report.keyboard.press(key)
        says(place, first)
    box.locator("> span").nth(9).hover()
    says(9, first)
    before = colours()
    report.locator("#whose").focus()
    report.keyboard.press("ArrowDown")
    assert report.locator("#whose").input_value() == second
    says(9, second)
    assert colours() != before
    strength = [f"{min(bits / 8, 1) * 0.65:.2f}" for bits in excerpts[second]["bits"]]
    off = [
        (a, b) for a, b in zip(colours(), strength, strict=True) if abs(float(a) - float(b)) > 0.011
    ]
    assert off == []


def test_mlflow_finds_sorts_and_opens_a_run_with_its_curve_and_sample(opened, pages):
    ranked = screenshots.runs_by_loss()
    if not ranked:
        pytest.skip("MLflow has no runs: make repro, or charlm track")
    best, _ = ranked[0]
    with closing(sqlite3.connect(PROJECT / "mlflow.db")) as database:
        # The ideas have an experiment of their own.
        counted = (
            "SELECT count(*) FROM runs JOIN experiments USING (experiment_id) "
            "WHERE runs.lifecycle_stage = 'active' AND experiments.name = 'tinyshakespeare'"
        )
        (count,) = database.execute(counted).fetchone()
        counted = "SELECT count(*) FROM metrics WHERE run_uuid = ? AND key = ?"
        (points,) = database.execute(counted, (best, screenshots.LOSS)).fetchone()
    page, _, asked = opened()
    assert screenshots.open_runs(page, pages) == count
    link = screenshots.sort_by_loss(page, best)
    losses = dict(ranked)

    def shown():
        rows = page.locator(".ag-row a[href*='/runs/']").evaluate_all(
            "all => all.map(a => [+a.closest('.ag-row').getAttribute('row-index'), a.href])"
        )
        runs = [href.split("/runs/")[1][:32] for _, href in sorted(rows)]
        return [losses[run] for run in runs if run in losses]

    # The table moves one row after the other.
    for _ in range(100):
        if shown() == sorted(shown()):
            break
        page.wait_for_timeout(100)
    assert shown() == sorted(shown())
    assert len(shown()) >= min(10, len(ranked))
    link.click()
    assert screenshots.open_curve(page).count() == points
    sample = PROJECT / "mlartifacts" / best / "artifacts/results/sample.txt"
    assert screenshots.open_sample(page).strip() == sample.read_text(encoding="utf-8").strip()
    # The pages need nothing from outside.
    assert {url.split("/")[2] for url in asked if url.startswith("http")} == {pages.split("/")[2]}
