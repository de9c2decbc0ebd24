"""The comment on a pull request, of two revisions; `python -m tools.pull_request` makes them."""

import json
from pathlib import Path

from ruamel.yaml import YAML

from tests.unit.report.test_compare import BEFORE, NOW
from tests.workspace import PROJECT
from tools import pull_request


def test_the_comment_names_every_change(tmp_path):
    pull_request.write(BEFORE, NOW, tmp_path)
    lines = (tmp_path / "comment.md").read_text().splitlines()
    assert "| `gpt` | 2.5000 | 2.2500 | -0.2500 |" in lines
    assert "| `gru` | - | 3.5000 | - |" in lines
    assert "| `rnn` | 3.0000 | - | - |" in lines
    assert not any("lstm" in line for line in lines)
    assert "| `models.gpt.quick.steps` | 2000 | 4000 |" in lines
    assert lines[-1].endswith("(./curves.png)")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_where_nothing_changes_it_says_so(tmp_path):
    pull_request.write(BEFORE, BEFORE, tmp_path)
    text = (tmp_path / "comment.md").read_text()
    assert text == "### What this changes\n\nNo loss changes at scale smoke.\n"


def test_the_workflows_and_containers_say_what_is_there():
    """They run elsewhere: what they call must exist here."""
    yaml = YAML(typ="safe", pure=True)
    targets = (PROJECT / "Makefile").read_text()
    workflow = yaml.load((PROJECT / ".github/workflows/losses.yml").read_text())
    steps = [step["run"] for step in workflow["jobs"]["losses"]["steps"] if "run" in step]
    assert steps[0] == "make setup"
    (ours,) = [step for step in steps if "-m tools.pull_request" in step]
    assert steps[-1].split()[-1] == f"{ours.split()[-1]}/comment.md"
    container = json.loads((PROJECT / ".devcontainer/devcontainer.json").read_text())
    for line in (container["postCreateCommand"], "make repro", "make test"):
        assert f"\n{line.split()[1]}:" in targets
    dockerfile = (PROJECT / "Dockerfile").read_text()
    assert 'CMD ["make", "repro", "test"]' in dockerfile
    assert "RUN make setup" in dockerfile
    citation = yaml.load((PROJECT / "CITATION.cff").read_text())
    assert citation["version"] in (PROJECT / "pyproject.toml").read_text()
    best = yaml.load((PROJECT / "dvc.yaml").read_text())["artifacts"]["best"]["path"]
    assert Path(best).name in yaml.load((PROJECT / "params.yaml").read_text())["ensembles"]
