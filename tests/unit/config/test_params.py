import copy
import re
import subprocess
import sys

import pytest
from click.testing import CliRunner
from ruamel.yaml import YAML

from charlm import check, models
from charlm.config import params
from charlm.config.training import Training
from charlm.errors import UserError
from tests.workspace import PROJECT


@pytest.fixture
def content():
    return YAML(typ="safe", pure=True).load(PROJECT / "params.yaml")


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
        assert {entry.scale for entry in parsed.models.values()} == {scale}


def test_scale_picks_the_budget(content):
    quick = params.parse(content, "p").model("gpt")
    full = params.parse({**content, "scale": "full"}, "p").model("gpt")
    assert (quick.architecture["width"], quick.training.batch) == (128, 12)
    assert (full.architecture["width"], full.training.batch) == (384, 64)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("scale", "quik", "params.yaml: scale: input should be 'smoke', 'quick' or 'full'"),
        ("sead", 1, "params.yaml: sead: unknown key 'sead' (did you mean 'seeds'?)"),
        ("corpus.pth", "x", "params.yaml: corpus.pth: unknown key 'pth' (did you mean 'path'?)"),
        ("split.train", 0.8, "params.yaml: split: train, validation and test must sum to 1"),
        ("split.test", "x", "params.yaml: split.test: input should be a valid number, not 'x'"),
        ("entropy.orders", [2, 1], "params.yaml: entropy: orders must ascend"),
        ("entropy.orders", [0], "params.yaml: entropy.orders[0]: input should be greater"),
        ("seeds.training", -1, "params.yaml: seeds.training: input should be greater"),
        ("seeds.training", True, "params.yaml: seeds.training: input should be a valid integer"),
        ("sampling.top_k", 0, "params.yaml: sampling.top_k: input should be greater"),
        ("sampling.top_p", 1.5, "params.yaml: sampling.top_p: input should be less"),
        ("sampling.prompt", "", "params.yaml: sampling.prompt: string should have at least 1"),
        ("models", [], "params.yaml: models: must be a mapping"),
        ("models", {}, "params.yaml: models: must be a mapping with at least one entry"),
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
            "params.yaml: models.lstm.smoke: one of steps and epochs must be a number",
        ),
        ("models.rnn.sampling", None, "params.yaml: models.rnn.sampling: must be a mapping"),
        (
            "models.lstm.model",
            "kneser_ney",
            "params.yaml: models.lstm.model: unknown model 'kneser_ney' (allowed: attention",
        ),
        ("counted", None, "params.yaml: counted: must be a mapping ({} if empty)"),
        ("counted.kneser_ney", 3, "params.yaml: counted.kneser_ney: must be a mapping"),
        (
            "residuals.residual_lstm.model",
            "lstm",
            "params.yaml: residuals.residual_lstm.model: unknown model 'lstm' (allowed: residual_",
        ),
        (
            "residuals.residual_lstm.quick.folds",
            1,
            "params.yaml: residuals.residual_lstm.quick.folds: input should be greater",
        ),
        (
            "residuals.residual_lstm.quick.hiden",
            3,
            "params.yaml: residuals.residual_lstm.quick: unknown key 'hiden' (did you mean 'hid",
        ),
        ("residuals", None, "params.yaml: residuals: must be a mapping ({} if empty)"),
        (
            "counted.kneser_ney.model",
            "lstm",
            "params.yaml: counted.kneser_ney.model: unknown model 'lstm' (allowed: kneser_ney)",
        ),
        (
            "counted.kneser_ney.architecture.ordr",
            7,
            "params.yaml: counted.kneser_ney.architecture.ordr: unknown key 'ordr' (did you mean "
            "'order'?)",
        ),
        (
            "counted.kneser_ney.architecture.order",
            0,
            "params.yaml: counted.kneser_ney.architecture.order: input should be greater",
        ),
        (
            "counted.kneser_ney.architecture",
            None,
            "params.yaml: counted.kneser_ney.architecture: must be a mapping ({} if empty)",
        ),
        (
            "counted.kneser_ney.block",
            "x",
            "params.yaml: counted.kneser_ney.block: input should be a valid integer, not 'x'",
        ),
        (
            "counted.kneser_ney.quick",
            {},
            "params.yaml: counted.kneser_ney.quick: unknown key 'quick' (allowed: model, ",
        ),
        (
            "counted.kneser_ney.sampling.top_k",
            0,
            "params.yaml: counted.kneser_ney.sampling.top_k: input should be greater",
        ),
        (
            "counted.lstm",
            {"model": "kneser_ney", "architecture": {"order": 2}, "block": 8, "sampling": {}},
            "params.yaml: counted.lstm: the zoo has an entry of this name already",
        ),
        (
            "reproductions.rnn_all.entri",
            "rnn",
            "params.yaml: reproductions.rnn_all.entri: unknown key 'entri' (did you mean 'entry'?)",
        ),
        (
            "adaptive.lstm.evry",
            3,
            "params.yaml: adaptive.lstm.evry: unknown key 'evry' (did you mean 'every'?)",
        ),
        (
            "adaptive.kneser_ney",
            {"every": 40, "learning_rate": 0.1, "epsilon": 0.1, "decay": 0.0}
            | {"statistics": 9, "recount": 9},
            "params.yaml: adaptive.kneser_ney: unknown model 'kneser_ney' (allowed: perceptron_",
        ),
        (
            "adaptive.lstm.every",
            0,
            "params.yaml: adaptive.lstm.every: input should be greater than or equal to 1",
        ),
        ("mixtures", None, "params.yaml: mixtures: must be a mapping ({} if empty)"),
        (
            "mixtures.mixture.first",
            "lstn",
            "params.yaml: mixtures.mixture.first: unknown model 'lstn' (did you mean 'lstm'?); "
            "without it, leave mixture out too",
        ),
        (
            "mixtures.mixture.second",
            "mixture",
            "params.yaml: mixtures.mixture.second: unknown model 'mixture'",
        ),
        (
            "mixtures.mixture.first",
            "lstm",
            "params.yaml: mixtures.mixture.second: lstm is the first member already",
        ),
        (
            "mixtures.mixture.mixing",
            "sum",
            "params.yaml: mixtures.mixture.mixing: input should be 'linear', 'geometric' or 'best'",
        ),
        (
            "mixtures.mixture.model",
            "lstm",
            "params.yaml: mixtures.mixture.model: unknown model 'lstm' (allowed: mixture)",
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
            "reproductions.rnn_all.entry",
            "rnm",
            "params.yaml: reproductions.rnn_all.entry: unknown model 'rnm' (did you mean 'rnn'?)",
        ),
        (
            "reproductions.rnn_all.model",
            "gru",
            "params.yaml: reproductions.rnn_all.model: must be rnn, as in models.rnn",
        ),
        (
            "reproductions.rnn_all.trained_on",
            "train",
            "params.yaml: reproductions.rnn_all.trained_on: input should be 'all'",
        ),
        (
            "reproductions.rnn",
            {"entry": "rnn", "model": "rnn", "trained_on": "all"},
            "params.yaml: reproductions.rnn: the zoo has an entry of this name",
        ),
        (
            "repeats.bigram_2.entry",
            "bigrm",
            "params.yaml: repeats.bigram_2.entry: unknown model 'bigrm' (did you mean 'bigram'?)",
        ),
        (
            "repeats.rnn_all",
            {"entry": "rnn", "model": "rnn", "seed": 1},
            "params.yaml: repeats.rnn_all: the zoo has an entry of this name",
        ),
        ("repeats.bigram_2.seed", -1, "params.yaml: repeats.bigram_2.seed: input should be"),
        (
            "reproductions.Bad",
            {"entry": "rnn", "model": "rnn", "trained_on": "all"},
            "params.yaml: reproductions: 'Bad' cannot be a name",
        ),
    ],
)
def test_each_mistake_is_one_line_naming_file_and_key(content, key, value, expected):
    set_key(content, key, value)
    assert message(content).startswith(expected)


def test_a_reproduction_is_its_entry_on_all_of_the_text(content):
    parsed = params.parse(content, "p")
    ours, theirs = parsed.model("mlp"), parsed.model("mlp_all")
    assert (ours.trained_on, theirs.trained_on) == ("train", "all")
    assert theirs.name == "mlp_all"
    assert theirs.training == ours.training
    assert list(parsed.trained)[: len(parsed.models)] == list(parsed.models)
    assert "mlp_all" not in parsed.ranked


def test_a_repeat_is_its_entry_with_another_seed(content):
    parsed = params.parse(content, "p")
    ours, again = parsed.model("bigram"), parsed.model("bigram_2")
    assert again == ours.model_copy(update={"name": "bigram_2"})
    assert "bigram_2" not in {**parsed.ranked, **parsed.trained}
    assert parsed.seeds_of("bigram") == parsed.seeds
    seeds = parsed.seeds_of("bigram_2")
    assert (seeds.initialisation, seeds.training, seeds.sampling) == (11, 11, parsed.seeds.sampling)


def test_a_model_that_counts_is_ranked_and_has_no_budget(content):
    parsed = params.parse(content, "p")
    assert list(parsed.ranked) == [*parsed.by_steps, "kneser_ney", "mixture"]
    assert set(parsed.entries) == {*parsed.ranked, *parsed.reproductions, *parsed.repeats}
    assert parsed.counts("kneser_ney").architecture == {"order": 7}
    assert parsed.entry("kneser_ney").sampling == parsed.sampling
    with pytest.raises(UserError, match="unknown model 'kneser_ney'"):
        parsed.model("kneser_ney")
    with pytest.raises(UserError, match=r"unknown counted model 'lstm' \(allowed: kneser_ney\)"):
        parsed.counts("lstm")


def test_documents_have_their_own_sampling(content):
    """Temperature 0.5 (A), the block read again from token 0 (B), token 0 (D), top-k 5 (E)."""
    parsed = params.parse(content, "p")
    shake = parsed.model("shake_lstm").sampling
    assert (shake.temperature, shake.length) == (0.5, 500)
    assert shake.prompt == "To be or not to be that is the question"
    lmnet = parsed.model("lmnet_all").sampling
    assert (lmnet.prompt, lmnet.context, lmnet.length, lmnet.top_k) == (None, "block", 1000, None)
    bigram = parsed.model("bigram").sampling
    assert (bigram.prompt, bigram.length, bigram.temperature) == (None, 1000, 1.0)
    for name, prompt in (("rnn", "H"), ("lstm_scratch", "M")):
        drawn = parsed.model(name).sampling
        assert (drawn.prompt, drawn.top_k, drawn.length, drawn.context) == (prompt, 5, 500, None)
    assert parsed.model("lstm").sampling == parsed.sampling


def test_a_missing_key_says_where_it_belongs(content):
    del content["models"]["lstm"]["quick"]["steps"]
    assert message(content) == (
        "params.yaml: models.lstm.quick: 'steps' is missing "
        "(it belongs there or in models.lstm.training)"
    )
    del content["seeds"]
    assert message(content) == "params.yaml: seeds: missing"


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

    for path in list(paths(content)):
        zoo = ("models", "residuals", "counted", "mixtures", "adaptive")
        # Without a member a mixture is refused, in other words.
        entry = path[0] in (*zoo, "reproductions", "repeats") and len(path) == 2
        own_sampling = path[0] in zoo and "sampling" in path[:-1]
        if path == ("models",) or entry or own_sampling:
            continue
        broken = copy.deepcopy(content)
        if path[0] == "models":
            # One entry alone, so that each of a thousand checks is short.
            alone = {
                section: {}
                for section in ("residuals", "mixtures", "adaptive", "reproductions", "repeats")
            }
            broken |= {**alone, "models": {path[1]: broken["models"][path[1]]}}
        inner = broken
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        assert "missing" in message(broken), path


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


def test_sizes_and_habits_share_no_key():
    """A scale section mixes them, so that a shared name would mean two things."""
    for name in models.names():
        assert not set(models.architecture(name).model_fields) & set(Training.model_fields)


def test_the_architecture_read_without_torch_is_the_files_own():
    for name in models.names():
        module = __import__(f"charlm.models.{name}", fromlist=["Architecture"])
        read = models.architecture(name)
        assert read.model_json_schema() == module.Architecture.model_json_schema()


def test_the_check_imports_neither_torch_nor_mlflow():
    code = (
        "import sys; from charlm import params; params.load();"
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
