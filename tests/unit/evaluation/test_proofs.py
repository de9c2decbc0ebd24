"""What makes a loss a loss, for every entry, ensemble and learner, on the holdout itself.

A loss that is too good comes from probabilities that do not sum to 1, from a look at what is to be
predicted, or from a sum that is not of all characters. None of it survives a decoder.
"""

import copy
import math

import pytest
import torch

from charlm.config.params import Dynamic
from charlm.data.vocabulary import Vocabulary
from charlm.evaluation import arithmetic_coding, dynamic, loss
from tests.zoo import NAMES, build

N = 2000
"""Characters of the holdout."""

WEIGHTS = "0" * 64
HOW = Dynamic(
    every=50,
    learning_rate=1e-4,
    epsilon=1e-3,
    decay=0.01,
    statistics=200,
    recount=500,
    context_rate=0.0,
)
MIXING = HOW.model_copy(update={"context_rate": 0.03})
LEARNERS = {"lstm, dynamic": HOW, "mixture, dynamic with context mixing": MIXING}
CASES = [*NAMES, *LEARNERS]


class Case:
    """A model of the zoo with fresh weights, static or learning on the way."""

    def __init__(self, case, corpus_ids, corpus_text):
        self.name, self.how = case.partition(", ")[0], LEARNERS.get(case)
        self.vocabulary = Vocabulary("".join(sorted(set(corpus_text))))
        self.symbols = self.vocabulary.symbols
        self.past_M = corpus_ids["train"][-5000:].long()
        self.first = int(self.past_M[-1])
        self.targets_N = torch.cat([corpus_ids["validation"], corpus_ids["test"]])[:N].long()
        self.model, self.block = build(self.name, len(self.vocabulary))
        self.model.recount(self.past_M)

    def fresh(self):
        """What has learned is not what it was."""
        return copy.deepcopy(self.model)

    def log_p_NV(self, targets_N):
        """Return what is said at each place, by the code that the reported losses come from."""
        if self.how:
            pieces = dynamic.pieces(self.fresh(), self.past_M, targets_N, self.how, self.symbols)
            return torch.cat([logits_SV for logits_SV, _ in pieces]).log_softmax(-1)
        rows_NV = torch.empty(len(targets_N), len(self.vocabulary))
        with torch.no_grad():
            loss.streaming(self.model, self.with_first(targets_N), rows_RV=rows_NV)
        return rows_NV

    def nats(self):
        if self.how:
            text = self.past_M, self.targets_N
            return dynamic.scores(self.fresh(), *text, self.how, self.symbols)[0]
        with torch.no_grad():
            return loss.streaming(self.model, self.with_first(self.targets_N))[0]

    def with_first(self, targets_N):
        return torch.cat([torch.tensor([self.first]), targets_N])


@pytest.fixture(scope="module", params=CASES)
def case(request, corpus_ids, corpus_text):
    torch.manual_seed(0)
    return Case(request.param, corpus_ids, corpus_text)


@pytest.fixture(scope="module")
def log_p_NV(case):
    return case.log_p_NV(case.targets_N)


def test_probabilities_are_positive_and_sum_to_one(case, log_p_NV):
    p_NV = log_p_NV.double().exp()
    assert p_NV.shape == (N, len(case.vocabulary))
    assert (p_NV > 0).all()
    assert (p_NV.sum(-1) - 1).abs().max() < 1e-6


def test_the_loss_is_that_of_these_probabilities_at_every_place(case, log_p_NV):
    expected = -log_p_NV[torch.arange(N), case.targets_N].double()
    assert torch.allclose(case.nats().double(), expected, atol=1e-4)


@pytest.mark.parametrize("at", [3, 1234])
def test_nothing_rests_on_its_own_target_or_a_later_one(case, log_p_NV, at):
    changed_N = case.targets_N.clone()
    changed_N[at] = (changed_N[at] + 7) % len(case.vocabulary)
    said_NV = case.log_p_NV(changed_N)
    assert torch.equal(said_NV[: at + 1], log_p_NV[: at + 1])
    # Otherwise this could not fail: what follows does see it.
    assert not torch.equal(said_NV[at + 1 :], log_p_NV[at + 1 :])


def test_in_pieces_it_says_what_it_says_of_the_whole(case):
    """A model that sees a block alone is asked block by block."""
    inputs_N = case.with_first(case.targets_N)[:N]
    length = min(N, case.model.context_length or N)
    with torch.no_grad():
        for start in range(0, N, length):
            part_N = inputs_N[start : start + length]
            whole_TV = case.model(part_N[None])[0][0]
            state, said = None, []
            for piece in part_N.split(max(1, length // 3)):
                logits_BTV, state = case.model(piece[None], state)
                said.append(logits_BTV[0])
            assert torch.allclose(torch.cat(said), whole_TV, atol=1e-4)


def test_a_decoder_restores_the_text_at_the_length_that_the_loss_says(case):
    ids = case.targets_N.tolist()
    lessons = arithmetic_coding.Lessons(case.past_M.tolist(), case.how) if case.how else None
    how = (case.vocabulary, WEIGHTS)
    content = arithmetic_coding.compress(case.fresh(), ids, case.first, *how, lessons=lessons)
    text = arithmetic_coding.restore(case.fresh(), content, *how, lessons=lessons)
    assert text == case.vocabulary.decode(ids)
    bits = 8 * (len(content) - arithmetic_coding.HEADER.size)
    # What a model all but rules out, as untrained ones may, costs 24 bits at most.
    expected_N = (case.nats().double() / math.log(2)).clamp(max=24)
    assert bits == pytest.approx(float(expected_N.sum()), rel=0.005)
