import copy
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from charlm import check
from charlm.config import architectures, params
from charlm.config.training import Training
from charlm.errors import UserError
from tests.workspace import PROJECT


@pytest.fixture
def content():
    return YAML(typ="safe").load(PROJECT / "params.yaml")


def message(content) -> str:
    with pytest.raises(UserError) as caught:
        params.parse(content, "params.yaml")
    text = str(caught.value)
    assert "\n" not in text
    return text


def set_key(content, key, value):
    *parents, last = key.split(".")
    for parent in parents:
        content = content[parent]
    content[last] = value


def test_the_committed_file_is_good_at_every_scale(content):
    for scale in params.SCALES:
        parsed = params.parse({**content, "scale": scale}, "params.yaml")
        assert parsed.scale == scale


def test_scale_picks_sizes_and_training(content):
    quick = params.parse(content, "p").run("gpt")
    full = params.parse({**content, "scale": "full"}, "p").run("gpt")
    assert (quick.architecture["width"], quick.training.batch) == (128, 12)
    assert (full.architecture["width"], full.training.batch) == (384, 64)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("scale", "quik", "params.yaml: scale: input should be 'smoke', 'quick' or 'full'"),
        ("excerp", 1, "params.yaml: excerp: unknown key 'excerp' (did you mean 'excerpt'?)"),
        ("corpus.pth", "x", "params.yaml: corpus.pth: unknown key 'pth' (did you mean 'path'?)"),
        ("split.train", 0.8, "params.yaml: split: train, validation and test must sum to 1"),
        ("split.test", "x", "params.yaml: split.test: input should be a valid number, not 'x'"),
        ("entropy.orders", [2, 1], "params.yaml: entropy: orders must ascend"),
        ("entropy.orders", [0], "params.yaml: entropy.orders[0]: input should be greater"),
        ("sampling.seed", -1, "params.yaml: sampling.seed: input should be greater"),
        ("sampling.seed", True, "params.yaml: sampling.seed: input should be a valid integer"),
        ("sampling.top_k", 0, "params.yaml: sampling.top_k: input should be greater"),
        ("sampling.top_p", 1.5, "params.yaml: sampling.top_p: input should be less"),
        ("sampling.prompt", "", "params.yaml: sampling.prompt: string should have at least 1"),
        ("models", [], "params.yaml: models: must be a mapping"),
        ("runs", {}, "params.yaml: runs: must have at least one run"),
        ("models.Bad name", {}, "params.yaml: models: 'Bad name' cannot be a name"),
        (
            "models.lstm.model",
            "lstn",
            "params.yaml: models.lstm.model: unknown model 'lstn' (did you mean 'lstm'?)",
        ),
        (
            "models.bigram.training.batch",
            None,
            "params.yaml: models.bigram.smoke: batch must be null with batches: everything",
        ),
        ("models.lstm", 3, "params.yaml: models.lstm: must be a mapping"),
        ("models.lstm.quik", {}, "params.yaml: models.lstm.quik: unknown key 'quik' (did you"),
        ("models.lstm.quick", None, "params.yaml: models.lstm.quick: must be a mapping"),
        (
            "models.lstm.quick.stesp",
            1,
            "params.yaml: models.lstm.quick: unknown key 'stesp' (did you mean 'steps'?)",
        ),
        (
            "models.lstm.quick.block",
            8,
            "params.yaml: models.lstm.quick.block: also stands in models.lstm.training; keep one",
        ),
        (
            "models.gpt.quick.heads",
            3,
            "params.yaml: models.gpt.quick: heads (3) must divide width (128)",
        ),
        (
            "models.gpt.full.heads",
            5,
            "params.yaml: models.gpt.full: heads (5) must divide width (384)",
        ),
        (
            "models.lstm.quick.steps",
            0,
            "params.yaml: models.lstm.quick.steps: input should be greater than or equal to 1",
        ),
        (
            "models.lstm.quick.steps",
            "many",
            "params.yaml: models.lstm.quick.steps: input should be a valid integer, not 'many'",
        ),
        (
            "models.bigram.training.learning_rate",
            float("nan"),
            "params.yaml: models.bigram.training.learning_rate: input should be ",
        ),
        (
            "models.lstm.training.betas",
            [0.9, 1.0],
            "params.yaml: models.lstm.training.betas[1]: input should be less than 1",
        ),
        (
            "models.gpt.quick.warmup",
            2000,
            "params.yaml: models.gpt.quick: warmup (2000) must be below steps (2000)",
        ),
        (
            "models.lstm.training.epochs",
            3,
            "params.yaml: models.lstm.smoke: one of steps and epochs must be null",
        ),
        ("models.rnn.sampling", None, "params.yaml: models.rnn.sampling: must be a mapping"),
        (
            "models.lstm.model",
            "ensemble",
            "params.yaml: models.lstm.model: unknown model 'ensemble' (allowed: add_one, attention",
        ),
        ("training", None, "params.yaml: training: must be a mapping ({} if empty)"),
        (
            "training.stesp",
            3,
            "params.yaml: training.stesp: unknown key 'stesp' (did you mean 'steps'?)",
        ),
        (
            "training.batch",
            0,
            "params.yaml: training.batch: input should be greater than or equal to 1",
        ),
        (
            "models.ngram_lstm.quick.folds",
            1,
            "params.yaml: models.ngram_lstm.quick.folds: input should be greater",
        ),
        (
            "models.kneser_ney.architecture.ordr",
            7,
            "params.yaml: models.kneser_ney.architecture: unknown key 'ordr' (did you mean "
            "'order'?)",
        ),
        (
            "models.kneser_ney.architecture.order",
            0,
            "params.yaml: models.kneser_ney.architecture.order: input should be greater",
        ),
        (
            "models.kneser_ney.quick.steps",
            9,
            "params.yaml: models.kneser_ney.quick: a model that only counts has no steps or epochs",
        ),
        (
            "dynamic.lstm.evry",
            3,
            "params.yaml: dynamic.lstm.evry: unknown key 'evry' (did you mean 'every'?)",
        ),
        (
            "dynamic.kneser_ney",
            {"every": 40, "learning_rate": 0.1, "epsilon": 0.1, "decay": 0.0}
            | {"statistics": 9, "recount": 9, "context_rate": 0.0},
            "params.yaml: dynamic.kneser_ney: unknown run 'kneser_ney' (allowed: perceptron_",
        ),
        (
            "dynamic.lstm.every",
            0,
            "params.yaml: dynamic.lstm.every: input should be greater than or equal to 1",
        ),
        ("ensembles", None, "params.yaml: ensembles: must be a mapping ({} if empty)"),
        (
            "ensembles.mixture.first",
            "lstn",
            "params.yaml: ensembles.mixture.first: unknown run 'lstn' (did you mean 'lstm'?); "
            "without it, leave mixture out too",
        ),
        (
            "ensembles.mixture.second",
            "mixture",
            "params.yaml: ensembles.mixture.second: unknown run 'mixture'",
        ),
        (
            "ensembles.mixture.second",
            "rnn_all",
            "params.yaml: ensembles.mixture.second: unknown run 'rnn_all'",
        ),
        (
            "ensembles.mixture.first",
            "lstm",
            "params.yaml: ensembles.mixture.second: lstm is the first member already",
        ),
        (
            "ensembles.mixture.mixing",
            "sum",
            "params.yaml: ensembles.mixture.mixing: input should be 'linear', 'geometric' or",
        ),
        (
            "ensembles.mixture.model",
            "lstm",
            "params.yaml: ensembles.mixture.model: unknown key 'model' (allowed: first, second, ",
        ),
        (
            "ensembles.lstm",
            {"first": "gpt", "second": "gru", "mixing": "best", "sampling": {}},
            "params.yaml: ensembles.lstm: there is a run of this name; choose another",
        ),
        (
            "models.rnn.sampling.topk",
            5,
            "params.yaml: models.rnn.sampling.topk: unknown key 'topk' (did you mean 'top_k'?)",
        ),
        (
            "models.rnn.sampling.top_k",
            0,
            "params.yaml: models.rnn.sampling.top_k: input should be greater",
        ),
        (
            "sampling.length",
            10**12,
            "params.yaml: sampling.length: input should be less than or equal to 1000000, not 10",
        ),
        (
            "models.gpt.smoke.layers",
            10**9,
            "params.yaml: models.gpt.smoke.layers: must be at most 1,000, not 1000000000",
        ),
        (
            "models.lstm.full.hidden",
            10**7,
            "params.yaml: models.lstm.full.hidden: must be at most 1,048,576, not 10000000",
        ),
        ("sampling.context", "blok", "params.yaml: sampling.context: must be a positive number up"),
        ("sampling.context", 0, "params.yaml: sampling.context: must be a positive number up"),
        (
            "runs.rnn_all.entri",
            "rnn",
            "params.yaml: runs.rnn_all.entri: unknown key 'entri' (did you mean 'entry'?)",
        ),
        (
            "runs.rnn_all.entry",
            "rnm",
            "params.yaml: runs.rnn_all.entry: unknown entry of models 'rnm' (did you mean 'rnn'?)",
        ),
        (
            "runs.rnn_all.model",
            "gru",
            "params.yaml: runs.rnn_all.model: must be rnn, as in models.rnn",
        ),
        (
            "runs.rnn_all.text",
            "some",
            "params.yaml: runs.rnn_all.text: input should be 'train' or 'all', not 'some'",
        ),
        ("runs.bigram_2.seed", -1, "params.yaml: runs.bigram_2.seed: input should be"),
        ("runs.bigram_2", 3, "params.yaml: runs.bigram_2: must be a mapping"),
        (
            "runs.Bad",
            {"entry": "rnn", "model": "rnn", "text": "all", "seed": 1},
            "params.yaml: runs: 'Bad' cannot be a name",
        ),
    ],
)
def test_each_mistake_is_one_line_naming_file_and_key(content, key, value, expected):
    set_key(content, key, value)
    assert message(content).startswith(expected)


def test_a_run_is_its_entry_with_a_text_and_a_seed(content):
    parsed = params.parse(content, "p")
    ours, everything, again = (parsed.run(name) for name in ("mlp", "mlp_all", "bigram_2"))
    assert (ours.text, everything.text) == ("train", "all")
    assert (everything.name, everything.entry) == ("mlp_all", "mlp")
    assert everything.training == ours.training == parsed.models["mlp"].training
    assert again.training == parsed.run("bigram").training
    assert (parsed.run("bigram").seed, again.seed) == (1, 11)


def test_the_ranking_is_of_first_runs_on_train_and_ensembles(content):
    parsed = params.parse(content, "p")
    assert sorted(parsed.ranked) == sorted([*parsed.models, "mixture"])
    assert parsed.repeats("bigram") == ["bigram_2", "bigram_3"]
    assert parsed.repeats("lstm") == parsed.repeats("mixture") == []
    assert parsed.names == [*parsed.runs, *parsed.ensembles]


def test_an_entry_says_only_what_differs(content):
    parsed = params.parse(content, "p")
    assert parsed.run("bigram").training.betas == content["training"]["betas"]
    set_key(content, "training.betas", [0.5, 0.6])
    changed = params.parse(content, "p")
    assert changed.run("bigram").training.betas == [0.5, 0.6]
    assert changed.run("gpt").training == parsed.run("gpt").training


def test_a_model_that_counts_has_no_steps(content):
    run = params.parse(content, "p").run("kneser_ney")
    assert (run.training.steps, run.training.epochs) == (None, None)
    assert run.training.steps_on(1000) == 0
    assert run.architecture == {"order": 7, "discounts": 3, "continuation": True}


def test_unknown_names_are_refused_with_what_is_there(content):
    parsed = params.parse(content, "p")
    with pytest.raises(UserError, match=r"unknown run 'lstn' \(did you mean 'lstm'\?\)"):
        parsed.run("lstn")
    with pytest.raises(UserError, match=r"unknown run 'mixture'"):
        parsed.run("mixture")
    with pytest.raises(UserError, match=r"unknown ensemble 'x' \(allowed: mixture\)"):
        parsed.ensemble("x")
    assert parsed.named("mixture").members == ("ngram_lstm", "lstm")


def test_documents_have_their_own_sampling(content):
    """Temperature 0.5 (A), the block read again from token 0 (B), token 0 (D), top-k 5 (E)."""
    parsed = params.parse(content, "p")
    shake = parsed.run("shake_lstm").sampling
    assert (shake.temperature, shake.length) == (0.5, 500)
    assert shake.prompt == "To be or not to be that is the question"
    lmnet = parsed.run("lmnet_all").sampling
    assert (lmnet.prompt, lmnet.context, lmnet.length, lmnet.top_k) == (None, "block", 1000, None)
    bigram = parsed.run("bigram").sampling
    assert (bigram.prompt, bigram.length, bigram.temperature) == (None, 1000, 1.0)
    for name, prompt in (("rnn", "H"), ("lstm_scratch", "M")):
        drawn = parsed.run(name).sampling
        assert (drawn.prompt, drawn.top_k, drawn.length, drawn.context) == (prompt, 5, 500, None)
    assert parsed.run("lstm").sampling == parsed.sampling


def test_a_missing_key_says_where_it_belongs(content):
    del content["models"]["lstm"]["quick"]["hidden"]
    assert message(content) == (
        "params.yaml: models.lstm.quick: 'hidden' is missing "
        "(it belongs there or in models.lstm.architecture)"
    )
    del content["models"]["bigram"]["quick"]["steps"]
    content["models"].pop("lstm")
    assert message(content) == (
        "params.yaml: models.bigram.quick: 'steps' is missing (a number, or epochs)"
    )
    del content["training"]
    assert message(content) == "params.yaml: training: missing"


def test_a_misspelled_key_is_named_rather_than_the_missing_one(content):
    content["sampling"]["temprature"] = content["sampling"].pop("temperature")
    expected = "params.yaml: sampling.temprature: unknown key 'temprature' (did you mean 'temper"
    assert message(content).startswith(expected)


def test_every_key_is_needed(content):
    """There is no default outside params.yaml: without any one key the file is refused."""

    def paths(mapping, prefix=()):
        for key, value in mapping.items():
            yield (*prefix, key)
            if isinstance(value, dict):
                yield from paths(value, (*prefix, key))

    # One entry of each kind, so that each check is short.
    keep = ("lstm", "ngram_lstm")
    for section in ("models", "runs"):
        content[section] = {name: content[section][name] for name in keep}
    checked = 0
    for path in paths(content):
        section = path[0]
        entry = section in ("models", "runs", "ensembles", "dynamic") and len(path) == 2
        # What an entry leaves out stands in `training` or `sampling`.
        default = section in ("models", "ensembles") and "sampling" in path[:-1]
        default |= section == "models" and path[-1] in Training.model_fields
        if entry or default:
            continue
        broken = copy.deepcopy(content)
        mapping = broken
        for key in path[:-1]:
            mapping = mapping[key]
        del mapping[path[-1]]
        assert "missing" in message(broken), path
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scale: [", "line 1"),
        ("a: 1\na: 2\n", "not valid YAML"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        ("!!python/object:os.system x", "not valid YAML"),
    ],
)
def test_broken_yaml_is_one_line(tmp_path, text, expected):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as caught:
        params.load(path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_not_utf8_is_one_line(tmp_path):
    with pytest.raises(UserError, match="run this in the project's folder"):
        params.load(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff")
    with pytest.raises(UserError, match="not UTF-8"):
        params.load(tmp_path / "params.yaml")


def test_sizes_and_training_share_no_key():
    """A scale section holds both, so that a shared name would mean two things."""
    for name in architectures.names():
        assert not set(architectures.sizes(name).model_fields) & set(Training.model_fields)


def test_the_sizes_read_without_torch_are_the_files_own():
    for name in architectures.names():
        module = __import__(f"charlm.models.{name}", fromlist=["Architecture"])
        sizes = architectures.sizes(name)
        assert sizes.model_json_schema() == module.Architecture.model_json_schema()
        assert sizes.by_steps == module.Architecture.by_steps


def test_the_check_imports_neither_torch_nor_mlflow():
    code = (
        "import sys; from charlm.config import params; params.load();"
        "sys.exit(bool({'torch', 'mlflow', 'numpy'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT).returncode == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"To be, or not to be. " * 20, r"the \w+ split has [\d,]+ characters, but \w+ needs at"),
        (b"na\xefve", "own.txt is not UTF-8: byte 0xef at offset 2"),
        (b"", "own.txt is empty"),
        (None, "corpus.path: no such file"),
        (b"To be, or not to be. " * 1000, None),
    ],
)
def test_an_own_text_is_checked_before_anything_is_trained(content, tmp_path, text, expected):
    own = tmp_path / "own.txt"
    if text is not None:
        own.write_bytes(text)
    content["corpus"]["path"] = str(own)
    with (tmp_path / "params.yaml").open("w") as file:
        YAML(typ="safe", pure=True).dump(content, file)
    result = CliRunner().invoke(check.main, [str(tmp_path / "params.yaml")])
    if expected is None:
        assert (result.exit_code, result.output) == (0, "")
    else:
        assert result.exit_code == 1
        assert re.search(expected, result.output)
        assert result.output.count("\n") == 1


@pytest.mark.parametrize(
    "name",
    [
        "Größe.txt",
        "with blanks.txt",
        "[1].txt",
        "#1.txt",
        "a,b.txt",
        "a=b.txt",
        "it's.txt",
        "{x}.txt",
        "100 %.txt",
        "論語.txt",
        "https://example.org/x?a=b&c=d",
    ],
)
def test_any_name_of_a_text_can_be_given_to_dvc_in_quotes(name, tmp_path):
    """As docs/experiments.md says: -S 'corpus.path="NAME"'."""
    from dvc.utils.hydra import apply_overrides

    file = tmp_path / "params.yaml"
    file.write_text("corpus: {path: data/none, sources: []}\n")
    apply_overrides(file, [f'corpus.path="{name}"', f'corpus.sources=["{name}"]'])
    content = params.content(file.read_text(), "params.yaml")
    assert content == {"corpus": {"path": name, "sources": [name]}}
