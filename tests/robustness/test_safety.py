"""What we never do, read from our own code; and what never reaches a reader."""

import ast
from pathlib import Path

import pytest

from charlm import tracking
from charlm.errors import UserError, masked
from tests.workspace import PROJECT

SOURCES = [
    p for folder in ("src", "stages", "benchmarks") for p in (PROJECT / folder).rglob("*.py")
]
FORBIDDEN = {
    "pickle": "reading one runs what it says",
    "cPickle": "as pickle",
    "cloudpickle": "as pickle",
    "dill": "as pickle",
    "joblib": "as pickle",
    "marshal": "as pickle",
    "shelve": "as pickle",
    "yaml": "PyYAML makes objects; ruamel's safe loader does not",
}
CALLS = {
    "torch.load",
    "torch.save",
    "os.system",
    "os.popen",
    "eval",
}


def name_of(node: ast.expr) -> str:
    """Return a dotted name, "" if it is none."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_nothing_is_unpickled_and_no_shell_is_asked(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names]
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & FORBIDDEN.keys()
        elif isinstance(node, ast.Call):
            name = name_of(node.func)
            assert name not in CALLS, f"line {node.lineno}: {name}"
            keywords = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            assert keywords.get("shell") is not True
            assert keywords.get("allow_pickle") is not True
            # The one exec runs a model's own Architecture, from this very package.
            assert name != "exec" or path == PROJECT / "src/charlm/config/architectures.py"


def test_yaml_is_loaded_safely():
    loaders = [
        node
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and name_of(node.func) == "YAML" and node.keywords
    ]
    assert loaders
    assert all(
        word.value.value == "safe"
        for node in loaders
        for word in node.keywords
        if word.arg == "typ"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://me:secret@host/x failed", "https://me:***@host/x failed"),
        ("postgresql+psycopg://me:a:b@host:5432/db", "postgresql+psycopg://me:***@host:5432/db"),
        ("two: http://a:b@c, http://d:e@f", "two: http://a:***@c, http://d:***@f"),
        ("sqlite:///mlflow.db at 12:30 by me@host", "sqlite:///mlflow.db at 12:30 by me@host"),
    ],
)
def test_a_password_in_an_address_is_masked(text, expected):
    assert masked(text) == expected
    assert str(UserError(text)) == expected


def test_no_password_of_a_tracking_server_is_shown(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:1")
    client = tracking.Client("shakespeare", tmp_path)
    assert not client.works
    said = capfd.readouterr()
    assert "MLflow tracking is off" in said.err
    assert "secret" not in said.err + said.out
