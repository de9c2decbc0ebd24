"""Searching hyperparameters; DVC's part is a stand-in here, `make sweep` uses the real queue."""

import math
import re
import sqlite3
import subprocess
import sys
import warnings
from functools import partial

import optuna
import pytest
import sqlalchemy
from click.testing import CliRunner
from ruamel.yaml import YAML

from charlm.errors import UserError
from charlm.search import (
    Space,
    Study,
    by_queue,
    check,
    main,
    override,
    read_space,
    read_spaces,
    search,
)
from tests.workspace import PROJECT

RATE = "models.bigram.training.learning_rate"


@pytest.fixture
def content():
    return YAML(typ="safe").load(PROJECT / "params.yaml")


def test_spaces_are_ranges_or_choices():
    assert read_space("a.b=1e-4..1e-1") == Space("a.b", (), 1e-4, 1e-1)
    assert read_space("a=8..64") == Space("a", (), 8, 64)
    assert read_space("a=sgd,adam") == Space("a", ("sgd", "adam"))
    assert read_space("a=16,32") == Space("a", (16, 32))


@pytest.mark.parametrize("text", ["a", "a=", "a=1", "=1,2", "a=1..", "a=2..1", "a=x..y", "a=1,"])
def test_what_is_no_space_is_one_line(text):
    with pytest.raises(UserError, match=r"LOW"):
        read_space(text)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ("models.bigram.training.lerning_rate=1..2", "has no key models.bigram.training.lerning"),
        ("models.bigramm.training.batch=1,2", "has no key models.bigramm"),
        (f"{RATE}=-1..2", rf"with {RATE}=-1: {RATE}: input should be greater than 0"),
        ("models.bigram.training.optimizer=sgd,sdg", "optimizer: input should be 'sgd', 'adam'"),
    ],
)
def test_values_that_params_yaml_refuses_are_refused_before_anything_runs(content, space, expected):
    with pytest.raises(UserError, match=expected):
        check(read_space(space), content)


def test_a_good_space_passes(content):
    spaces = (f"{RATE}=1e-4..1e-1", "runs.bigram.seed=1,2", "models.bigram.training.clip=1.0,2.0")
    for space in spaces:
        check(read_space(space), content)


def test_numbers_are_whole_only_where_no_others_are_allowed(content):
    """As one writes them, 0..1 and 1..5 are integers."""
    decay = check(read_space("models.bigram.training.weight_decay=0..1"), content)
    assert (decay.low, decay.high) == (0.0, 1.0)
    assert isinstance(decay.low, float)
    batch = check(read_space("models.bigram.training.batch=16..64"), content)
    assert isinstance(batch.low, int)


def test_a_choice_may_be_a_list_or_null(content):
    betas = read_space("models.bigram.training.betas=[0.9,0.99],[0.9,0.95]")
    assert check(betas, content).choices == ([0.9, 0.99], [0.9, 0.95])
    clip = check(read_space("models.bigram.training.clip=null,1.0"), content)
    assert override(clip.key, clip.choices[0]) == "++models.bigram.training.clip=null"
    study = Study(by_parzen, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert betas.propose(study.ask(3)) in betas.choices


def test_a_key_is_given_once():
    with pytest.raises(UserError, match="a is given twice: keep one"):
        read_spaces(["a=1,2", "b=1,2", "a=3,4"])


def valley(proposed):
    """The loss is lowest at a rate of 0.01 and batch 32; one batch size fails."""
    return [
        (
            f"{values['rate']}-{values['batch']}",
            None
            if values["batch"] == 64
            else math.log10(values["rate"] / 0.01) ** 2 + (values["batch"] != 32),
        )
        for values in proposed
    ]


SPACES = [Space("rate", (), 1e-5, 1.0), Space("batch", (16, 32, 64))]


def by_parzen(number):
    return optuna.samplers.TPESampler(seed=number)


def run(seed, trials=40):
    return search(Study(by_parzen, seed), SPACES, trials, 4, valley)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_search_finds_the_valley_and_puts_failures_last():
    rows = run(1)
    assert len(rows) == 40
    loss, name, values = rows[0]
    assert loss < 0.1
    assert values["batch"] == 32
    assert name == f"{values['rate']}-32"
    failed = [row[0] is None for row in rows]
    assert failed == sorted(failed)
    assert any(failed)


def test_the_same_seed_proposes_the_same():
    assert run(3, 10) == run(3, 10)
    assert run(3, 10) != run(4, 10)


STALE_SOON = """
import charlm.search
charlm.search.BEAT_S, charlm.search.STALE_S = 0.2, 1
"""
CLONE = """
import sys, time
from charlm.search import search
from tests.unit.test_search import SPACES, Study, by_parzen, valley

def slowly(proposed):
    print("asked", flush=True)
    time.sleep(0.15)
    return valley(proposed)

for row in search(Study(by_parzen, 1, sys.argv[1]), SPACES, 24, 2, slowly):
    print(row)
"""


def test_clones_share_a_study_and_a_killed_one_costs_nothing(tmp_path):
    database = f"sqlite:///{tmp_path / 'study.db'}"
    Study(by_parzen, 1, database)  # makes the tables
    command = [sys.executable, "-c", STALE_SOON + CLONE, database]
    start = partial(subprocess.Popen, command, stdout=subprocess.PIPE, text=True, cwd=PROJECT)
    clones = [start() for _ in range(2)]
    # Killed in the middle of its third batch.
    for _ in range(3):
        assert clones[0].stdout.readline() == "asked\n"
    clones[0].kill()
    clones[0].communicate()
    lines = clones[1].communicate(timeout=120)[0].splitlines()
    rows = [line for line in lines if line != "asked"]
    # None lost, none doubled, and no proposal twice because both began with one seed.
    assert len(rows) == len(set(rows)) == 24
    assert len(lines) - len(rows) > 9


def test_a_study_of_another_search_is_refused(tmp_path):
    database = f"sqlite:///{tmp_path / 'study.db'}"
    for _ in range(2):
        Study(by_parzen, 1, database, "rates", "lstm: a=1..2")
    with pytest.raises(UserError, match=r"rates is of another search \(lstm: a=1..2\)"):
        Study(by_parzen, 1, database, "rates", "gpt: a=1..2")
    Study(by_parzen, 1, database, "other", "gpt: a=1..2")


def test_a_database_of_mlflows_is_refused(tmp_path):
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        connection.execute("CREATE TABLE experiment_tags (key TEXT)")
    connection.close()
    with pytest.raises(UserError, match="it is MLflow's: make another database"):
        Study(by_parzen, 1, f"sqlite:///{tmp_path / 'runs.db'}")


def test_clones_may_make_the_tables_at_once(tmp_path, monkeypatch):
    calls = []

    class Racing(optuna.storages.RDBStorage):
        def __init__(self, *arguments, **settings):
            calls.append(arguments)
            if len(calls) < 3:
                raise sqlalchemy.exc.ProgrammingError("", {}, Exception("type already exists"))
            super().__init__(*arguments, **settings)

    monkeypatch.setattr(optuna.storages, "RDBStorage", Racing)
    monkeypatch.setattr("charlm.search.time.sleep", lambda seconds: None)
    assert Study(by_parzen, 1, f"sqlite:///{tmp_path / 'study.db'}").rows() == []
    assert len(calls) == 3


def test_any_seed_will_do():
    assert run(2**40, 2)


def test_a_database_that_cannot_be_used_is_one_line():
    with pytest.raises(UserError, match=r"^--database: .*nowhere"):
        Study(by_parzen, 1, "nowhere://x")


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_database_that_is_lost_on_the_way_is_one_line(tmp_path, monkeypatch):
    def lost(*arguments):
        raise sqlalchemy.exc.OperationalError("SELECT", {}, Exception("server closed"))

    monkeypatch.chdir(PROJECT)
    monkeypatch.setattr("charlm.search.by_queue", lost)
    words = ["--model", "bigram", f"{RATE}=1e-3..1e-1", "--database"]
    done = CliRunner().invoke(main, [*words, f"sqlite:///{tmp_path / 'study.db'}"])
    assert done.exit_code == 1
    assert re.fullmatch(r"Error: --database: lost \(.*server closed.*\n", done.output)


@pytest.fixture
def dvc(monkeypatch):
    """DVC's queue: what `dvc queue status` prints next, and the rows of `dvc exp show`."""
    said = []
    monkeypatch.setattr("charlm.search.time.sleep", lambda seconds: None)
    monkeypatch.setattr("charlm.search.git_head", lambda: "abc")
    monkeypatch.setattr("charlm.search.queue", lambda values: values["name"])
    monkeypatch.setattr(
        "charlm.search.dvc_output",
        lambda *words: said.pop(0) if words == ("queue", "status") else "",
    )
    return said


def status(*states, workers="1 active, 0 idle"):
    rows = [f"1f2e3d4   trial-{n}   09:48 PM   {state}" for n, state in enumerate(states)]
    return "\n".join(["Task Name Created Status", *rows, "", f"Worker status: {workers}"])


def test_a_failed_experiment_has_no_loss_though_dvc_shows_its_baselines(dvc, monkeypatch):
    asked = []

    def rows(revs):
        asked.append(revs)
        return [{"Experiment": f"trial-{n}", "State": None, "lstm": 3.0} for n in range(2)]

    monkeypatch.setattr("dvc.api.exp_show", rows)
    dvc += [status("Running", "Queued"), status("Success", "Running"), status("Success", "Failed")]
    found = by_queue([{"name": "trial-0"}, {"name": "trial-1"}], "lstm", 1)
    assert found == [("trial-0", 3.0), ("trial-1", None)]
    # Of the commit that they began from, whatever was committed meanwhile.
    assert asked == ["abc"]


def test_a_queue_without_workers_is_one_line(dvc):
    dvc += [status("Running")] * 3 + [status("Queued", workers="0 active, 0 idle")] * 100
    with pytest.raises(UserError, match=r"no workers any more: `dvc queue start` runs trial-0"):
        by_queue([{"name": "trial-0"}], "lstm", 1)


@pytest.mark.parametrize("name", ["bigram_2", "lstm_", "mlp_all"])
def test_only_a_model_of_the_ranking_has_a_loss(name, monkeypatch):
    monkeypatch.chdir(PROJECT)
    done = CliRunner().invoke(main, ["--model", name, f"{RATE}=1e-3..1e-1"])
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: --model: unknown ranked model '{name}' (")
