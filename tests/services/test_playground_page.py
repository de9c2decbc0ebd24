"""The playground as its user meets it, in a real browser."""

import shutil

import pytest
import torch

from tests.playing import project, serving

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PROMPT = "to be,\n"


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    torch.manual_seed(0)
    with serving(project(tmp_path_factory.mktemp("playground"), "bigram", "gpt", "lstm")) as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def page(browser, address):
    """The page at the width of a telephone; what its console complains of fails the test."""
    found = browser.new_page(viewport={"width": 390, "height": 844})
    complaints = []
    found.on("console", lambda message: complaints.append(message.text))
    found.on("pageerror", lambda error: complaints.append(str(error)))
    found.goto(address)
    found.get_by_label("gpt").wait_for(state="attached")
    found.get_by_label("Prompt").fill(PROMPT)
    for name in ("bigram", "lstm"):
        found.get_by_label(name).set_checked(True, force=True)
    found.get_by_label("gpt").set_checked(False, force=True)
    yield found
    found.close()
    # The browser itself notes each answer of 422.
    assert [text for text in complaints if "status of 422" not in text] == []


def overflow(page) -> int:
    """Return how many pixels the page is wider than its window."""
    return page.evaluate("() => document.documentElement.scrollWidth - innerWidth")


def test_two_models_write_side_by_side_in_colour(page):
    page.get_by_label("Length").fill("150")
    page.get_by_label("Prompt").press("Control+Enter")
    first = page.locator("article").filter(has_text="bigram").locator("pre > span")
    first.nth(20).wait_for()
    early = first.count()
    page.get_by_text("300 characters written.").wait_for()
    for name in ("bigram", "lstm"):
        spans = page.locator("article").filter(has_text=name).locator("pre > span")
        assert spans.count() == len(PROMPT) + 150
        assert "".join(spans.all_text_contents()).replace("↵", "").startswith(PROMPT)
        assert page.locator("article").filter(has_text=name).locator(".read").count() == 7
        colours = spans.evaluate_all("all => all.map(of => getComputedStyle(of).backgroundColor)")
        assert len(set(colours)) > 5
        assert all(colour.startswith("rgba(217, 72, 15") for colour in colours)
    assert early < first.count()
    first.nth(9).hover()
    assert "bits" in page.locator("#tip").inner_text()
    page.locator("pre").first.press("End")
    assert "here" in first.last.get_attribute("class")
    for width in (390, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        assert overflow(page) <= 0


def test_mistakes_are_said_in_the_page(page):
    page.get_by_label("Prompt").fill("to <b>bé</b>")
    page.get_by_label("Prompt").press("Control+Enter")
    page.get_by_role("alert").nth(1).wait_for()
    assert page.get_by_role("alert").nth(0).inner_text().startswith("prompt: symbol '<' (U+003C)")
    assert overflow(page) <= 0
    page.get_by_label("Prompt").fill(PROMPT)
    page.get_by_label("Temperature").fill("-1")
    page.get_by_label("Temperature").press("Enter")
    page.get_by_text("temperature: input should be greater than or equal to 0, not '-1'").nth(
        1
    ).wait_for()


def test_stop_and_escape_end_a_text(page):
    page.get_by_label("Length").fill("10000")
    for stop in (
        lambda: page.get_by_role("button", name="Stop").click(),
        lambda: page.keyboard.press("Escape"),
    ):
        page.get_by_role("button", name="Write").click()
        page.locator("pre > span").nth(20).wait_for()
        stop()
        page.get_by_text("Stopped:").wait_for()
        assert page.locator("pre > span").count() < 20_000
        assert page.get_by_role("button", name="Stop").is_disabled()


def test_another_seed_gives_another_text(page):
    page.get_by_label("Length").fill("40")
    page.get_by_role("button", name="Write").click()
    page.get_by_text("80 characters written.").wait_for()
    before, seed = page.locator("pre").first.inner_text(), page.get_by_label("Seed").input_value()
    page.get_by_role("button", name="Another seed").click()
    page.get_by_text("80 characters written.").wait_for()
    assert page.get_by_label("Seed").input_value() != seed
    assert page.locator("pre").first.inner_text() != before
