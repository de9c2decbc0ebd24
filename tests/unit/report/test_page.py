import copy
import json
import re

import pytest

from charlm.report import leaderboard, page
from tests.unit.report.examples import ENTROPY, LEAF, RESULTS, ensemble, findings, metrics, result


def html(results=RESULTS, **more):
    found = findings(results, **more)
    return page.page(found, page.tables(found)["leaderboard.json"])


def text_of(page):
    """A page's text, on one line."""
    text = re.sub(r"<(script|style).*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(re.sub(r"<[^>]*>", "", text).split())


def words(results=RESULTS, **more):
    return text_of(html(results, **more))


@pytest.fixture(scope="module")
def plain():
    """The page of RESULTS, drawn once."""
    return html()


def test_the_page_names_its_text(plain):
    assert "<title>charlm: a text, in bits per character</title>" in plain
    assert re.search(r"<h1>[^<]* a text\?</h1>", plain)


def test_the_first_screen_says_who_leads_and_by_how_much():
    shown = words(seconds={"better": 0.45})
    assert (
        "better predicts the validation text at 1.443 bits per character (1.000 nats) "
        "after 0.5 seconds of training, 0.289 bits ahead of middle. "
        "A uniform guess costs 6.022 bits, knowing how often each symbol occurs 5.000."
    ) in shown
    assert "The holdout is the last 10 % of the text" in shown
    alone = words([result("alone", 1.0)])
    assert "(1.000 nats). A uniform guess" in alone


@pytest.mark.parametrize(("nats", "tied"), [(1.0006, True), (1.0008, False)])
def test_what_is_less_than_a_thousandth_apart_is_a_tie(nats, tied):
    results = [result("one", 1.0), result("other", nats), result("third", 2.0)]
    shown = html(results)
    assert ("a tie with other: 0.0009 bits lie between them" in shown) == tied
    assert ("0.001 bits ahead of other" in shown) != tied
    assert shown.count('<tr class="best">') == (2 if tied else 1)


@pytest.mark.parametrize(("spread", "tied"), [(0.2, False), (2.0, True)])
def test_what_is_below_its_uncertainty_is_a_tie(spread, tied):
    """Ahead by 0.144 bits, with an error of the spread / 2 over four pieces of the text."""
    pieces = [1.0, 2.0, 3.0, 4.0]
    more = [p + 0.144 + d * spread / 2 for p, d in zip(pieces, (1, -1, 1, -1), strict=True)]
    first, other = result("one", 1.0, pieces=pieces), result("other", 1.1, pieces=more)
    shown = html([first, other])
    assert ("a tie with other: 0.1443" in shown) == tied
    assert ("0.144 ± 0.058 bits ahead of other" in shown) != tied
    assert shown.count('<tr class="best">') == (2 if tied else 1)


def test_every_model_has_a_bar_however_bad():
    shown = html([result("good", 1.0), result("bad", 25.0)])
    bar = re.search(r'<li class="model beyond"><span>bad</span>.*?--w:([0-9.]+)%', shown, re.S)
    assert bar is not None
    assert bar[1] == "100.0"
    assert "it is worse than a uniform guess" in text_of(shown)
    assert "it is worse than a uniform guess" not in words([result("good", 1.0)])


def test_a_text_of_one_symbol_has_a_page_of_zeros():
    zero = {"bits_per_char": 0.0, "nats_per_char": 0.0}
    entropy = copy.deepcopy(ENTROPY) | {"symbols": 1}
    for row in entropy["texts"]["whole"]["orders"]:
        for estimate in row["estimates"].values():
            estimate |= {"bits_per_char": 0.0, "conditional_bits_per_char": 0.0}
    for row in entropy["held_out"]:
        row |= dict.fromkeys(leaderboard.HELD_OUT, zero)
    entropy["compressors"][0] |= {"holdout": zero, "validation": zero}
    contents = metrics(0.0)
    for protocol in leaderboard.PROTOCOLS:
        contents[protocol] = dict.fromkeys(leaderboard.HELD_OUT, LEAF | zero)
    shown = words([result("a", 0.0, metrics=contents)], entropy=entropy, published=None)
    assert "A uniform guess costs 0.000 bits" in shown
    assert "-0.0" not in shown


def test_every_protocol_has_a_column_of_its_own():
    contents = metrics(1.0)
    for place, protocol in enumerate(leaderboard.PROTOCOLS):
        contents[protocol]["holdout"] = LEAF | {"bits_per_char": 2.25 + place}
    board = html([result("a", 1.0, metrics=contents)])
    board = board[board.index('id="board"') : board.index("</table>")]
    heads = re.findall(r'<th scope="col".*?<button type="button">(.*?)</button>', board)
    assert heads[5:8] == [
        "holdout,<br>streaming",
        "holdout, windowed<br>(own block)",
        "holdout, windowed<br>(256)",
    ]
    cells = re.findall(r"<td>([0-9.]+) <span", board)
    assert cells[2:] == ["2.2500", "3.2500", "4.2500"]


def test_several_seeds_are_shown_with_their_spread():
    seeds = result("better", 1.0, repeats=[metrics(1.1), metrics(1.2)])
    shown = html([seeds, result("worse", 2.0)])
    assert "<small>1.5870 ± 0.1443</small>" in shown
    assert shown.count("3 seeds") == 1


def test_recorded_times_say_where_they_come_from(plain):
    assert "seconds recorded on a machine, 2026-11-23" in words(seconds={"better": 130.0})
    assert "no seconds were recorded with these configurations and this text" in text_of(plain)


def test_the_page_is_self_contained_and_the_same_every_time(plain):
    assert plain == html()
    assert "<svg" in plain
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", plain)
    assert "url(http" not in plain


def test_ids_of_the_pictures_do_not_collide(plain):
    ids = re.findall(r' id="([^"]+)"', plain)
    repeated = {name for name in ids if ids.count(name) > 1}
    assert not repeated


def test_every_command_names_a_run_of_its_kind():
    dynamic = dict.fromkeys(leaderboard.HELD_OUT, LEAF)
    results = [
        result("pair", 0.8, ensemble=ensemble("a", "b"), dynamic=dynamic),
        result("counting", 0.9, by_steps=False),
        result("a", 1.0, dynamic=dynamic),
    ]
    commands = re.findall(r"<code>((?:dvc|charlm|make) .*?)</code>", html(results))
    assert sorted(commands) == [
        "charlm sample --model pair --stream",
        "charlm summary",
        "dvc repro dynamic@pair dynamic@a",
        "dvc repro entropy",
        "dvc repro evaluate@counting",
        "dvc repro train@a",
        "make play",
        "make repro",
    ]


def test_the_entropy_ladder_says_where_counting_is_best(plain):
    assert (
        "lowest at 1 character of context, with 3.000 bits; longer contexts do not help."
        in text_of(plain)
    )
    shown = words(entropy=ENTROPY | {"held_out": ENTROPY["held_out"][:2]})
    assert "with 3.000 bits; that is the longest context tried." in shown
    assert "at n = 3, 25 % of the n-grams occur once" in shown
    assert "falls towards zero" not in shown
    orders = [row | {"once_share": 0.8} for row in ENTROPY["texts"]["whole"]["orders"]]
    shown = words(entropy=ENTROPY | {"texts": {"whole": {"orders": orders}}})
    assert "(at n = 3, 80 %). Then the counts overfit the text, and the line falls" in shown


def test_a_large_text_has_a_ladder_without_held_out_losses():
    shown = html(entropy={**ENTROPY, "held_out": [], "compressors": []})
    assert "Grassberger, of the text itself" in shown
    assert "too large for held-out losses" in shown
    assert "Kneser-Ney smoothing" not in shown


def test_a_model_that_counts_is_ranked_and_has_no_curve_and_no_layers():
    shown = html([*RESULTS, result("counting", 1.1, by_steps=False)])
    assert "<h3>counting</h3>" in shown
    assert "Layers of better" in shown
    assert "Layers of counting" not in shown
    alone = html([result("counting", 1.1, by_steps=False)])
    assert "<h2>Learning</h2>" not in alone
    assert "Where training starts" not in alone


def test_models_that_start_above_a_uniform_guess_are_named(plain):
    results = [*RESULTS, result("sure", 1.5, initial=25.0)]
    assert "More than 0.5 nats above it: sure." in words(results)
    assert "nats above it" not in text_of(plain)


def test_an_ensemble_says_what_its_members_give():
    shown = words([*RESULTS, result("both", 0.9, ensemble=ensemble("better", "worse"))])
    assert "What both is made of" in shown
    assert "linear mixing has 1.3600 nats per character and geometric mixing 1.3540" in shown
    assert "57.0 %" in shown
    assert "What better is made of" not in shown


def test_dynamic_losses_stand_beside_compressors_and_nowhere_else(plain):
    dynamic = {part: {**LEAF, "nats_per_char": 1.2345} for part in leaderboard.HELD_OUT}
    mixing = dynamic | {"context_rate": 0.03}
    shown = html(
        [*RESULTS, result("learner", 0.9, dynamic=dynamic), result("b", 0.95, dynamic=mixing)]
    )
    assert "b, with context mixing" in shown
    assert "learner, with" not in shown
    table = shown[shown.index("<h2>Dynamic evaluation") : shown.index("<h2>Learning</h2>")]
    assert table.count("1.2345") == 6
    assert "1.6636" in table
    assert "1.2345" not in shown.replace(table, "")
    assert "paq, recorded" in table
    assert "Dynamic evaluation" not in plain
    # Of another text nothing is published.
    shown = html([*RESULTS, result("learner", 0.9, dynamic=dynamic)], published=None)
    assert "<h2>Dynamic evaluation" in shown
    assert "recorded" not in shown[shown.index("<h2>Dynamic") : shown.index("<h2>Learning</h2>")]


def test_published_figures_show_verdicts_and_never_pretend(plain):
    assert "1 of 2 reproduced" in plain
    assert '<td class="met">reproduced</td>' in plain
    assert "+0.0013" in plain
    assert "<td>not run at the published training</td>" in plain
    assert "1.7500 nats (seen in training)" in plain
    assert "&lt;b&gt;wide&lt;/b&gt;" in plain
    assert "Cover and King 1978: 1.34" in plain
    assert "Of 27 letters." in plain


def test_a_text_without_published_figures_has_a_whole_page():
    found = findings(published=None)
    tables = page.tables(found)
    assert tables["published.json"] == {}
    shown = page.page(found, tables["leaderboard.json"])
    for text in ("Published figures", "reproduced", "literature", "Cover and King", "27 letters"):
        assert text not in shown
    assert "<h2>Samples</h2>" in shown


def test_the_tables_are_what_dvc_shows_and_plots():
    tables = page.tables(findings())
    bits = tables["validation_bits_per_char.json"]
    assert list(bits) == ["better", "middle", "worse"]
    assert bits["worse"] == pytest.approx(2.8854, abs=1e-4)
    assert [row["model"] for row in tables["leaderboard.json"]] == list(bits)
    assert len(tables["curves.json"]) == 9
    assert tables["ladder.json"]
    assert tables["published.json"]["documents"] == {"B": "LMNet"}


def test_a_sample_stays_text():
    shown = html([*RESULTS, result("evil", 3.0, sample="<script>alert(1)</script>")])
    assert "<script>alert" not in shown
    assert "&lt;script&gt;" in shown


def test_an_excerpt_shows_what_each_character_cost_and_stays_text(plain):
    # 9 bits are as strong as 8; the text of a corpus is no markup, here and in what scripts read.
    assert '<span style="--a:0.65">o</span>' in plain
    assert '<span style="--a:0.16">&lt;</span>' in plain
    assert "<b>" not in plain[plain.index('id="excerpt"') :][:600]
    content = re.search(r'id="expected">(.*?)</script>', plain, re.DOTALL).group(1)
    assert "<" not in content
    excerpts = json.loads(content)
    assert list(excerpts) == ["better", "middle", "worse"]
    assert excerpts["better"]["text"] == "Go <b>\n"
    # Of what was kept while it was trained, the part that is shown.
    assert excerpts["better"]["steps"] == [0, 10, 20]
    assert excerpts["better"]["learning"][1] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_an_excerpt_beyond_what_was_kept_has_no_slider():
    long = {"text": "a" * 9, "first": 1, "bits": [1.0] * 9}
    assert page.learning(result("a", 1.0, excerpt=long)) == {}
    assert page.learning(result("a", 1.0, learning={"steps": [], "bits": []})) == {}


def test_a_zoo_of_any_size_has_a_page():
    assert "model19" in html([result(f"model{n}", 1 + n / 10) for n in range(20)])
    assert "alone" in html([result("alone", 1.0)])
