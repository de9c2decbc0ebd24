"""The search of a learning rate, and what is not done twice."""

import pytest

from charlm.errors import UserError
from charlm.ideas.side import Measurement, Side
from charlm.training import job
from charlm.training.trainer import Diverged
from tests.workspace import at_scale, encode_text

PLAN = at_scale("smoke").run("bigram").training.model_dump() | {"steps": 4, "validate_every": 2}
TEXT = "To be, or not to be: that is the question.\n" * 40


def side(**changes):
    content = {
        "model": "bigram",
        "architecture": {},
        "training": PLAN,
        "seeds": [1, 2],
        "rates": [1 / 3, 1.0, 3.0],
        "keep": False,
        "targets": None,
    }
    return Side(**content | changes)


@pytest.fixture
def text(tmp_path):
    splits = encode_text(TEXT, tmp_path, train=0.8, validation=0.1)
    symbols = "".join(sorted(set(TEXT)))
    return job.Text(splits, symbols, sorted(tmp_path.glob("*.npy")))


class Search(Measurement):
    """A search whose losses are given: a parabola of the rate's logarithm, or no number."""

    def __init__(self, text, folder, losses, **changes):
        super().__init__("x", side(**changes), text, folder, lambda line: None)
        self.losses, self.asked = losses, []

    def _result(self, seed, rate):
        self.asked.append((seed, round(rate, 2)))
        loss = self.losses(rate)
        if loss is None:
            raise Diverged("the training loss is nan")
        return {"name": f"{seed}-{rate}", "validation": loss}


@pytest.mark.parametrize(
    ("losses", "asked", "best"),
    [
        (lambda rate: abs(rate - 1), [0.33, 1.0, 3.0], "1"),
        (lambda rate: abs(rate - 9), [0.33, 1.0, 3.0, 9.0, 27.0], "9"),
        (lambda rate: -rate, [0.33, 1.0, 3.0, 9.0, 27.0], "27"),
        (lambda rate: rate, [0.33, 1.0, 3.0, 0.11, 0.04], "0.037"),
        (lambda rate: None if rate > 3 else -rate, [0.33, 1.0, 3.0, 9.0], "3"),
        (lambda rate: None if rate > 0.5 else rate, [0.33, 1.0, 3.0, 0.11, 0.04], "0.037"),
    ],
)
def test_the_search_goes_on_where_the_best_rate_is_at_its_edge(losses, asked, best, text, tmp_path):
    search = Search(text, tmp_path / "ideas", losses)
    found = search.results()
    assert [rate for seed, rate in search.asked if seed == 1] == asked
    assert found["best_rate"] == best
    assert [seed for seed, _ in search.asked][-1] == 2
    assert len(found["runs"]) == 2


def test_a_rate_that_diverged_has_no_loss_and_is_an_edge(text, tmp_path):
    found = Search(text, tmp_path / "ideas", lambda rate: None if rate > 3 else -rate).results()
    assert found["rates"] == {"0.333": -1 / 3, "1": -1.0, "3": -3.0, "9": None}
    assert found["best_rate"] == "3"


def test_what_is_no_divergence_ends_the_search(text, tmp_path):
    """A full disk is no reason to prefer another learning rate."""

    def full(rate):
        raise UserError("no space left")

    with pytest.raises(UserError, match="no space left"):
        Search(text, tmp_path / "ideas", full).results()


def test_rates_that_all_diverge_are_one_line(text, tmp_path):
    with pytest.raises(UserError, match="x: no learning rate trained it: lower learning_rate"):
        Search(text, tmp_path / "ideas", lambda rate: None).results()


def test_what_is_finished_is_not_trained_again(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained = []
    fit = job.Job.fit
    monkeypatch.setattr(job.Job, "fit", lambda *a: (trained.append(1), fit(*a))[1])
    lines = []
    first = Measurement("x", side(), text, tmp_path / "ideas", lines.append).results()
    count = len(trained)
    assert count == len(lines) >= 4
    assert Measurement("x", side(), text, tmp_path / "ideas", lines.append).results() == first
    assert len(trained) == count
    # A third seed is all that is added.
    more = Measurement("x", side(seeds=[1, 2, 3]), text, tmp_path / "ideas", lines.append).results()
    assert more["runs"][:2] == first["runs"]
    assert len(trained) == count + 1
    # Another training is another run.
    other = side(training=PLAN | {"steps": 6})
    Measurement("x", other, text, tmp_path / "ideas", lines.append).results()
    assert len(trained) > count + 1


def test_models_are_kept_only_where_they_are_needed(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = Measurement("x", side(keep=True), text, tmp_path / "ideas", lambda line: None).results()
    folder = tmp_path / "ideas/models/x"
    assert sorted(one.name for one in folder.iterdir()) == sorted(r["name"] for r in kept["runs"])
    assert {file.name for file in (folder / kept["runs"][0]["name"]).iterdir()} == {
        "config.json",
        "weights.safetensors",
        "log_probabilities.npy",
    }
    Measurement("y", side(), text, tmp_path / "ideas", lambda line: None).results()
    assert not (tmp_path / "ideas/models/y").exists()
