"""Make .dvc/plots/page.html anew: the page of `dvc plots`, with Vega's scripts inside.

    python -m tools.plots_page

DVC's own page fetches them from a network that is not always there. It needs npm.
"""

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path

from charlm.cli import script

PAGE = Path(__file__).parent.parent / ".dvc/plots/page.html"
SCRIPTS = {"vega": "5.33.0", "vega-lite": "5.23.0", "vega-embed": "6.29.0"}

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh_tag}
<title>charlm: plots</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
         color: #1d1d1f; background: #fff; }
  .vega-embed { display: block; margin: 0 0 3rem; overflow-x: auto; }
</style>
"""
BODY = """</head>
<body>
<h1>Plots</h1>
<p>Lower is better. Two revisions side by side: <code>dvc plots diff HEAD workspace</code>, or any
two commits or experiments. More is in <code>reports/report.html</code>.</p>
{plot_divs}
</body>
</html>
"""


@script(__doc__)
def main() -> None:
    """Write the page."""
    page = HEAD
    with tempfile.TemporaryDirectory() as folder:
        for name, version in SCRIPTS.items():
            packed = subprocess.run(
                ["npm", "pack", "--json", f"{name}@{version}"],
                cwd=folder,
                capture_output=True,
                text=True,
                check=True,
            )
            with tarfile.open(Path(folder) / json.loads(packed.stdout)[0]["filename"]) as archive:
                script = read(archive, f"package/build/{name}.min.js")
                licence = read(archive, "package/LICENSE")
            page += f"<!-- {name} {version}\n{licence}-->\n<script>{script}</script>\n"
    PAGE.write_text(page + BODY, encoding="utf-8")


def read(archive: tarfile.TarFile, member: str) -> str:
    """Return a file of an archive as text."""
    file = archive.extractfile(member)
    assert file is not None
    return file.read().decode()


if __name__ == "__main__":
    main()
