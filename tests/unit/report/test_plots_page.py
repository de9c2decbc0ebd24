"""The page of `dvc plots`, which lies in the repository."""

from tools import plots_page


def test_it_is_what_the_tool_makes_and_needs_no_network():
    page = plots_page.PAGE.read_text(encoding="utf-8")
    assert page.startswith(plots_page.HEAD)
    assert page.endswith(plots_page.BODY)
    for name, version in plots_page.SCRIPTS.items():
        assert f"<!-- {name} {version}\n" in page
    assert "<script src" not in page
