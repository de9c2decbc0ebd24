import io

import pytest
from ruamel.yaml import YAML

from charlm.errors import UserError
from charlm.ideas import catalogue
from tests.workspace import PROJECT

FIELDS = {"family": "learning", "title": "t", "source": "s"}


def idea(**fields):
    return {**FIELDS, **fields}


ZOO = ("bigram", "lstm", "recurrent", "kneser_ney")


@pytest.fixture(scope="module")
def few_models():
    """The text of a params.yaml with a few models, which is read fast."""
    content = YAML(typ="safe").load(PROJECT / "params.yaml")
    content["models"] = {name: content["models"][name] for name in ZOO}
    content["runs"] = {name: content["runs"][name] for name in ZOO}
    content |= {"ensembles": {}, "dynamic": {}}
    text = io.StringIO()
    YAML().dump(content, text)
    return text.getvalue()


@pytest.fixture
def write(tmp_path, monkeypatch, few_models):
    """Writes ideas.yaml beside a params.yaml, and loads it."""
    (tmp_path / "params.yaml").write_text(few_models)
    monkeypatch.chdir(tmp_path)

    def load(ladders=None, **ideas):
        file = tmp_path / "ideas.yaml"
        with file.open("w") as output:
            YAML().dump({"ladders": ladders or {}, "ideas": ideas}, output)
        return catalogue.load(file)

    return load


DYNAMIC = {
    "every": 40,
    "learning_rate": 0.001,
    "epsilon": 0.0003,
    "decay": 0.005,
    "statistics": 600,
    "recount": 5000,
    "context_rate": 0.0,
}
START = idea(change={"entry": "bigram", "steps": 10, "validate_every": 5})


def test_an_idea_is_its_base_with_one_change(write):
    found = write(
        start=START,
        rate=idea(base="start", change={"learning_rate": 0.5}),
        other=idea(base="rate", change={"entry": "recurrent", "cell": "gru"}),
    )
    assert found.runs["start"].training.steps == 10
    assert found.runs["rate"].training.learning_rate == 0.5
    assert found.runs["rate"].training.steps == 10
    # Another entry begins anew.
    assert found.runs["other"].architecture["cell"] == "gru"
    assert found.runs["other"].training.learning_rate != 0.5


def test_two_ideas_that_are_the_same_are_trained_once(write):
    found = write(
        start=START,
        rate=idea(base="start", change={"learning_rate": 0.5}),
        again=idea(change={**START["change"], "learning_rate": 0.5}),
        both=idea(base="start", ensemble=["start", "again"]),
    )
    assert found.names == {"start": "start", "rate": "rate", "again": "rate", "both": "both"}
    stages = found.stages(3, "quick")
    assert list(stages["sides"]) == ["start", "rate"]
    assert stages["ensembles"]["both"]["second"] == "rate"
    assert [stages["sides"][name]["keep"] for name in ("start", "rate")] == [True, True]
    assert found.sides(found.needed(("both",))) == {"start", "rate", "both"}


def test_what_is_named_brings_its_bases(write):
    found = write(
        start=START,
        rate=idea(base="start", change={"learning_rate": 0.5}),
        alone=idea(family="counting", change={"entry": "kneser_ney"}),
        more=idea(base="rate", change={"steps": 20}),
        both=idea(base="more", ensemble=["start", "more"]),
    )
    assert found.needed(("rate",)) == ["start", "rate"]
    assert found.needed(("counting",)) == ["alone"]
    assert found.needed(()) == ["start", "rate", "alone", "more", "both"]
    # A base's own base is not needed, but what an ensemble is made of is.
    assert found.needed(("more",)) == ["rate", "more"]
    assert found.needed(("both",)) == ["start", "more", "both"]
    with pytest.raises(UserError, match=r"unknown idea 'rat' \(did you mean 'rate'\?\)"):
        found.needed(("rat",))


def test_what_is_counted_has_no_seeds_and_no_rates(write):
    stages = write(start=START, alone=idea(change={"entry": "kneser_ney"})).stages(5, "quick")
    assert stages["sides"]["alone"]["seeds"] == [1]
    assert stages["sides"]["alone"]["rates"] == []
    assert stages["sides"]["start"]["seeds"] == [1, 2, 3, 4, 5]


def test_the_command_of_an_experiment_names_each_key_where_it_stands(write):
    found = write(
        start=idea(change={"entry": "lstm", "pair_rows": 64, "steps": 10, "clip": None}),
        more=idea(base="start", change={"batches": "windows", "betas": [0.5, 0.9]}),
    )
    assert found.override("more") == (
        "dvc exp run -S models.lstm.architecture.pair_rows=64 -S models.lstm.quick.steps=10 "
        "-S models.lstm.training.clip=null -S models.lstm.training.batches=windows "
        "-S ++models.lstm.quick.betas=[0.5,0.9] evaluate@lstm"
    )


@pytest.mark.parametrize(
    ("ideas", "message"),
    [
        (
            {"a": idea(base="b", change={"steps": 3}), "b": START},
            "ideas.yaml: ideas.a: 'b' is no idea above it",
        ),
        (
            {"a": idea(change={"steps": 3})},
            "ideas.yaml: ideas.a: without base, change needs entry (of models in params.yaml)",
        ),
        (
            {"a": idea(change={"entry": "lstn"})},
            "unknown entry of models 'lstn' (did you mean 'lstm'?)",
        ),
        (
            {"a": idea(change={"entry": "bigram", "stesp": 3})},
            "ideas.yaml: ideas.a: models.bigram.quick: unknown key 'stesp' (did you mean 'steps'?)",
        ),
        (
            {"a": idea(change={"entry": "bigram", "steps": 0})},
            "ideas.yaml: ideas.a: models.bigram.quick.steps: input should be greater than or "
            "equal to 1, not 0",
        ),
        (
            {"a": idea()},
            "ideas.yaml: ideas.a: needs exactly one of change, ensemble and dynamic",
        ),
        (
            {"a": {**START, "titel": "x"}},
            "ideas.yaml: ideas.a.titel: unknown key 'titel' (did you mean 'title'?)",
        ),
        ({"a": {**START, "family": "magic"}}, "ideas.yaml: ideas.a.family: "),
        (
            {
                "a": START,
                "b": idea(base="a", ensemble=["a", "a"]),
                "c": idea(base="b", ensemble=["a", "b"]),
            },
            "ideas.yaml: ideas.c: 'b' is no idea that is trained by itself",
        ),
        (
            {
                "a": idea(change={"entry": "kneser_ney"}),
                "b": idea(base="a", dynamic=DYNAMIC),
            },
            "ideas.yaml: ideas.b: base must be an idea that is trained by steps",
        ),
        ({"A b": START}, "ideas.yaml: ideas: 'A b' cannot be a name"),
    ],
)
def test_a_mistake_is_one_line(write, ideas, message):
    with pytest.raises(UserError) as caught:
        write(**ideas)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_are_written_as_yaml_has_them():
    """1.0 is no truth, and 0.0 no falsehood."""
    values = [1.0, 0.0, 1, True, False, None, [0.5, 0.9], "gelu"]
    assert list(map(catalogue.as_yaml, values)) == [
        "1.0",
        "0.0",
        "1",
        "true",
        "false",
        "null",
        "[0.5,0.9]",
        "gelu",
    ]


def test_seeds_of_one_side_share_models(write):
    found = write(
        start=START,
        rate=idea(base="start", change={"learning_rate": 0.5}),
        seeds=idea(base="start", ensemble=["start", "start"]),
        kinds=idea(base="seeds", ensemble=["start", "rate"]),
    )
    assert found.shares("seeds", "start")
    assert found.shares("kinds", "seeds")
    assert not found.shares("kinds", "start")


def test_a_ladder_goes_down_step_by_step(write):
    steps = {"start": START, "next": idea(base="start", change={"learning_rate": 0.5})}
    write({"learning": ["start", "next"]}, **steps)
    with pytest.raises(
        UserError, match=r"ladders\.learning: next must be an idea whose base is null"
    ):
        write({"learning": ["next", "start"]}, **steps)


def test_the_projects_own_ideas_are_right(monkeypatch):
    monkeypatch.chdir(PROJECT)
    found = catalogue.load()
    compared = [one for one in found.content.ideas.values() if one.base]
    assert len(compared) >= 40
    assert {"counting", "attention", "recurrence"} <= set(found.content.ladders)
    # A change of one idea is one thing: sizes that keep the number of parameters go with it.
    assert all(len(one.change or {}) <= 4 or "entry" in (one.change or {}) for one in compared)
