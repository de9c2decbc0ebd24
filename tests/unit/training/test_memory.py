import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from charlm.errors import UserError
from charlm.training import memory
from tests.workspace import PROJECT
from tests.zoo import SMOKE, build


def test_a_training_that_does_not_fit_is_refused_with_the_numbers(monkeypatch):
    model, _ = build("bigram", 65)
    plan = SMOKE.run("bigram").training
    # Gradient and two moments of 65 x 65 numbers; logits and their gradient of 32 x 8 characters.
    needed = 4 * 3 * 65 * 65 + 4 * 2 * 32 * 8 * 65
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
    memory.check("bigram", model, plan, 10_000, 65)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    with pytest.raises(UserError, match="bigram needs at least 50,700 bytes for 4,225 parameters"):
        memory.check("bigram", model, plan, 10_000, 65)


def test_a_batch_that_no_memory_holds_is_refused():
    model, _ = build("bigram", 65)
    plan = SMOKE.run("bigram").training.model_copy(update={"batch": 10**12})
    with pytest.raises(UserError, match="for 8,000,000,000,000 characters per step of 65 symbols"):
        memory.check("bigram", model, plan, 10_000, 65)


CODE = """
import resource, sys
import torch
from charlm import saved_model
from charlm.training import memory
from charlm.errors import UserError
from tests.zoo import SMOKE
memory.SMALL = int(sys.argv[1])
layers, width = map(int, sys.argv[2:])
sizes = {"layers": layers, "heads": 8, "width": width, "dropout": 0.0, "bias": False}
entry = SMOKE.run("gpt").model_copy(update={"architecture": sizes})
config = saved_model.Config.of(entry, "abc")
torch.manual_seed(1)
try:
    built = memory.build("gpt", config)
    torch.manual_seed(1)
    twice = config.build()
    assert all(map(torch.equal, built.parameters(), twice.parameters()))
except UserError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10)
"""


def built(*arguments):
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_model_of_which_each_part_fits_but_not_the_whole_is_refused_before_it_is_built():
    """Three hundred layers of 3.2 GB: the system would kill the process at one of them."""
    said, peak = built(memory.SMALL, 300, 8192)
    assert said.startswith("gpt needs 966,")
    assert "are available: choose smaller sizes" in said
    assert int(peak) < 2000


def test_a_large_model_is_counted_first_and_then_built_from_the_same_seed():
    assert len(built(1 << 26, 2, 1024)) == 1
