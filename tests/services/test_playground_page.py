"""The page of `charlm play` as its reader meets it, in a real browser."""

import math
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import charlm
from charlm.playground import command
from tests.workspace import encode_text
from tests.zoo import IN_JAVASCRIPT, SYMBOLS, project

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
TEXT = ("ROMEO:\nto be, or not\nto be\n\n" + SYMBOLS) * 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A project with every model of the zoo, small and fresh, and its page."""
    torch.manual_seed(0)
    folder = project(tmp_path_factory.mktemp("playground"), *IN_JAVASCRIPT)
    (folder / "data/encoded").mkdir(parents=True)
    encode_text(TEXT, folder / "data/encoded", 0.2, 0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert CliRunner().invoke(command.main).exit_code == 0
    return folder


@pytest.fixture(params=[(390, "dark"), (1440, "light")])
def page(request, folder):
    """The page from a file, on a telephone and on a desk; a complaint of its console fails it."""
    width, scheme = request.param
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = browser.new_page(viewport={"width": width, "height": 844}, color_scheme=scheme)
        complaints = []
        found.on("console", lambda message: complaints.append(message.text))
        found.on("pageerror", lambda error: complaints.append(str(error)))
        found.goto((folder / "reports/playground.html").as_uri())
        found.locator("body[data-ready=yes]").wait_for()
        yield found
        assert found.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
        browser.close()
        assert complaints == []


def choose(page, *names):
    for name in IN_JAVASCRIPT:
        page.get_by_label(name, exact=True).set_checked(name in names, force=True)


def test_every_model_has_the_bits_that_it_has_in_python(page, folder):
    text = TEXT[:1000]
    script = """([name, text]) =>
    {
        const reader = new Reader(name);
        for (const symbol of text) reader.add(ids.get(symbol));
        return reader.steps.map(step => step.bits);
    }"""
    for name in IN_JAVASCRIPT:
        found, model = page.evaluate(script, [name, text]), charlm.load(folder / "models" / name)
        assert np.mean(found) == pytest.approx(model.bits(text).per_character, abs=0.01), name


def test_typing_shows_bits_and_what_may_come(page, folder):
    choose(page, "lstm", "gpt")
    page.get_by_label("Text", exact=True).fill("to be§")
    cards = page.locator("article")
    cards.nth(1).locator("pre span").nth(4).wait_for()
    assert page.get_by_text("left out, no model knows: §").is_visible()
    assert cards.count() == 2
    model = charlm.load(folder / "models/lstm")
    card = cards.filter(has=page.locator("h3", has_text="lstm"))
    assert card.locator("header span").text_content() == (
        f"{model.bits('to be').per_character:.3f} bits per character"
    )
    assert card.locator(".next div").count() == 8
    card.locator("pre").focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    assert card.locator(".note").text_content().startswith("o: ")


def test_attention_and_matches_are_lines(page):
    choose(page, "gpt", "ngram_lstm")
    page.get_by_label("Text", exact=True).fill("not to be, not to be")
    for name in ("gpt", "ngram_lstm"):
        card = page.locator(f"article[data-model={name}]")
        card.locator("pre span").nth(19).click()
        assert card.locator(".lines path").count() >= 1
    assert "counts" in card.locator(".note").text_content()
    assert "copied: the 8 or more characters before it stood there too" in (
        card.locator(".note").text_content()
    )


def test_a_model_writes_and_a_seed_fixes_it(page):
    choose(page, "lstm")
    page.get_by_label("Characters").fill("30")
    page.get_by_label("Text", exact=True).fill("to be")
    written = page.locator("article pre span")
    texts = []
    for _ in range(2):
        page.get_by_role("button", name="Write on").click()
        written.nth(34).wait_for()
        texts.append(page.locator("article pre").text_content())
        page.get_by_label("Text", exact=True).fill("to b")
        page.get_by_label("Text", exact=True).fill("to be")
        page.wait_for_function("document.querySelectorAll('article pre span').length === 5")
    assert texts[0] == texts[1]
    assert texts[0].startswith("to be")


def test_cells_are_found_and_colour_the_text(page):
    choose(page, "lstm")
    page.get_by_label("Text", exact=True).fill("ROMEO:\nto be")
    page.get_by_role("button", name="Find cells").click()
    options = page.get_by_label("Colour by").locator("option")
    page.wait_for_function("document.querySelectorAll('article option').length > 3")
    assert any("place in the line" in text for text in options.all_text_contents())
    assert page.locator("article pre span").first.get_attribute("style")


def test_a_game_is_played_by_keyboard(page):
    page.get_by_label("Your guess").focus()
    for _ in range(3):
        right = page.evaluate("[...data.unseen][game.at]")
        wrong = next(symbol for symbol in "obetrn" if symbol != right)
        page.keyboard.insert_text(wrong)
        assert page.locator("#tried").text_content() == f"not: {wrong}"
        if right == "\n":
            page.keyboard.press("Enter")
        else:
            page.keyboard.insert_text(right)
    page.get_by_role("button", name="Show it").click()
    assert page.locator("#played").text_content() == "4 characters played"
    you = page.locator("#scores tbody tr").first
    assert you.text_content().startswith("you")
    assert " to " in you.text_content()
    # Three times the second guess at stakes of a half, 2 bits each, and once any symbol.
    expected = (3 * 2 + math.log2(page.evaluate("symbols.length"))) / 4
    betting = page.locator("#scores tbody tr").nth(1)
    assert betting.text_content() == f"you, bettingat most {expected:.2f}"
    assert page.locator("#scores tbody tr").count() >= 3


def test_a_text_that_is_typed_anew_has_nothing_of_the_old_one(page):
    choose(page, "gpt")
    page.get_by_label("Text", exact=True).fill("not to be")
    card = page.locator("article")
    card.locator("pre span").nth(8).click()
    assert card.locator(".lines path").count() >= 1
    page.get_by_label("Text", exact=True).fill("be")
    page.wait_for_function("document.querySelectorAll('article pre span').length === 2")
    assert card.locator(".lines path").count() == 0
    assert card.locator(".note").text_content() == ""


def test_cells_are_told_from_other_states_and_places_are_of_symbols(page):
    """Of an ensemble, some members have cells; a symbol may be two units of UTF-16."""
    assert page.evaluate("cellsOf([{ h: [1] }, { ids: [], cache: null }]).length") == 0
    assert page.evaluate("cellsOf([{ h: [1] }, { h: [2] }]).length") == 2
    script = 'FEATURES["place in the line"]([..."\\u{1F600}a\\ncd"])'
    assert page.evaluate(script) == [1, 2, 3, 1, 2]


def test_a_game_ends_with_the_text(page):
    page.evaluate("game.at = [...data.unseen].length - 1; showGame()")
    show = page.get_by_role("button", name="Show it")
    show.click()
    show.click()
    assert page.locator("#played").text_content() == "1 characters played; the text has ended"
