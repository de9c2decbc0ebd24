"""Pictures of the report and of MLflow's pages: `python -m tools.screenshots FOLDER`."""

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import click

from charlm.cli import script
from tests.services.servers import chromium, mlflow_pages
from tests.workspace import PROJECT

REPORT = PROJECT / "reports/report.html"
LOSS = "validation_nats"


def open_runs(page: Any, url: str) -> int:
    """Go from MLflow's first page to all runs of the experiment; return how many it says."""
    page.goto(url)
    # It opens on what it has for language model agents.
    page.get_by_text("Model training", exact=True).first.click()
    page.get_by_role("link", name="tinyshakespeare", exact=True).first.click()
    page.locator(".ag-cell a").first.wait_for()
    page.get_by_role("button", name="Close").click()
    return int(page.get_by_text("matching runs").text_content().split()[0])


def runs_by_loss() -> list[tuple[str, float]]:
    """Return id and last loss of the runs that have one, lowest first, as the database has them."""
    query = (
        "SELECT run_uuid, m.value FROM runs JOIN latest_metrics m USING (run_uuid) "
        "WHERE lifecycle_stage = 'active' AND m.key = ? ORDER BY m.value"
    )
    with closing(sqlite3.connect(PROJECT / "mlflow.db")) as database:
        return database.execute(query, (LOSS,)).fetchall()


def sort_by_loss(page: Any, best: str) -> Any:
    """Choose the loss in the menu, lowest first; return the link to the run that must be on top."""
    page.get_by_test_id("sort-select-dropdown").click()
    page.get_by_placeholder("Search", exact=True).fill(LOSS)
    page.get_by_test_id(f"sort-select-{LOSS}").click()
    page.get_by_test_id("sort-select-dropdown").click()
    page.get_by_test_id("sort-select-asc").click()
    link = page.locator(f".ag-row[row-index='0'] a[href*='/runs/{best}']")
    link.wait_for()
    return link


def open_curve(page: Any) -> Any:
    """Show the loss curve of the run that is open; return its points."""
    page.get_by_role("tab", name="Model metrics").click()
    page.locator(".js-plotly-plot").first.wait_for()
    page.get_by_placeholder("Search metric charts").fill(f"^{LOSS}$")
    page.locator(".js-line").first.wait_for()
    return page.locator(".scatterlayer .point")


def open_sample(page: Any) -> str:
    """Show the text that the run's model drew, and return it."""
    page.get_by_role("tab", name="Artifacts").click()
    page.get_by_text("results", exact=True).click()
    page.get_by_text("sample.txt").first.click()
    shown = page.locator("code.language-txt")
    shown.wait_for()
    text: str = shown.text_content()
    return text


@script(__doc__)
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Write the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, tempfile.TemporaryDirectory() as scratch:
        if browser is None:
            sys.exit("Error: Chromium is not installed: Debian's package is chromium")
        for width in (390, 1440):
            for scheme in ("light", "dark"):
                viewport = {"width": width, "height": 900}
                page = browser.new_page(viewport=viewport, color_scheme=scheme)
                page.goto(REPORT.as_uri())
                page.screenshot(path=folder / f"report-{width}-{scheme}.png", full_page=True)
        with mlflow_pages(Path(scratch) / "mlflow.db") as url:
            page = browser.new_page(viewport={"width": 1440, "height": 900})
            page.set_default_timeout(60_000)
            open_runs(page, url)
            link = sort_by_loss(page, runs_by_loss()[0][0])
            page.screenshot(path=folder / "mlflow-runs.png")
            link.click()
            open_curve(page)
            page.screenshot(path=folder / "mlflow-curve.png")
            open_sample(page)
            page.screenshot(path=folder / "mlflow-sample.png")
    print(f"pictures of the report and of MLflow's pages are in {folder}")


if __name__ == "__main__":
    main()
