from types import SimpleNamespace

import psutil
import pytest

from charlm import memory
from charlm.errors import UserError
from tests.zoo import SMOKE, build


def test_a_training_that_does_not_fit_is_refused_with_the_numbers(monkeypatch):
    model, _ = build("bigram", 65)
    budget = SMOKE.model("bigram").training
    # Gradient and two moments of 65 x 65 numbers; logits and their gradient of 32 x 8 characters.
    needed = 4 * 3 * 65 * 65 + 4 * 2 * 32 * 8 * 65
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed))
    memory.check("bigram", model, budget, 10_000, 65)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    with pytest.raises(UserError, match="bigram needs at least 50,700 bytes for 4,225 parameters"):
        memory.check("bigram", model, budget, 10_000, 65)


def test_a_batch_that_no_memory_holds_is_refused():
    model, _ = build("bigram", 65)
    budget = SMOKE.model("bigram").training.model_copy(update={"batch": 10**12})
    with pytest.raises(UserError, match="for 8,000,000,000,000 characters a step of 65 symbols"):
        memory.check("bigram", model, budget, 10_000, 65)
