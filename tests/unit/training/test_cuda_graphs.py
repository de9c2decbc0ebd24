"""Steps replayed as CUDA graphs against plain ones; a stand-in runs again what was captured."""

import contextlib
from functools import partial
from itertools import islice
from types import SimpleNamespace

import pytest
import torch

from charlm.data.batches import Batch, streams, windows, with_features
from charlm.training import cuda_graphs
from charlm.training.trainer import Trainer


class Graph:
    """What torch.cuda.CUDAGraph is, as far as it goes without a device."""

    runner = None
    replays = 0

    def replay(self):
        Graph.replays += 1
        Graph.runner._run()


@pytest.fixture
def captured(monkeypatch):
    """Capturing runs nothing here, so that replaying is all that happens."""
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", contextlib.nullcontext)
    monkeypatch.setattr(Graph, "replays", 0)


class Counter:
    """A step whose weight remembers every batch, rate and state, in order."""

    def __init__(self):
        self.weight = torch.zeros((), dtype=torch.float64)

    def __call__(self, batch, rate, state):
        carried = torch.zeros(2) if state is None else state[0]
        self.weight.mul_(0.9).add_(float(batch.inputs_BT.sum()) * rate + carried.sum())
        new = carried * 0.5 + batch.targets_BT[0, 0]
        return self.weight.clone(), (new, (new[:1] + 1,))


def one_by_one(step):
    """Return what takes one step after the other, as a trainer does."""
    return partial(Trainer.take_steps, SimpleNamespace(step=step))


def runs(batches, rates, carries, chunks, steps):
    """Return losses, weight and state of plain and of replayed steps."""
    found = []
    for kind in ("plain", "replayed"):
        step, state, losses, at = Counter(), None, [], 0
        take = None
        if kind == "replayed":
            take = cuda_graphs.GraphedSteps(one_by_one(step), carries, steps)
            take._run, run = lambda: None, take._run
            Graph.runner = type("Runner", (), {"_run": staticmethod(run)})
        for count in chunks:
            some, their = batches[at : at + count], rates[at : at + count]
            if take is None:
                new, state = one_by_one(step)(some, their, state)
            else:
                new, state = take(some, their, state)
            losses += [float(loss) for loss in new]
            at += count
        found.append((losses, float(step.weight), cuda_graphs.cloned(state)))
    return found


@pytest.mark.parametrize("chunks", [[5, 20, 15], [1, 9, 10, 3, 17], [4, 4, 4, 28]])
def test_streams_replayed_are_the_plain_ones(captured, chunks):
    """Fresh batches and remainders are taken one by one, and the state goes through all."""
    ids = torch.arange(300) % 7
    stream = streams(ids, 3, 8, torch.Generator().manual_seed(1))
    batches = [next(stream) for _ in range(40)]
    assert sum(batch.fresh for batch in batches) > 2
    rates = [0.1 / (step + 1) for step in range(40)]
    (losses, weight, state), (losses2, weight2, state2) = runs(batches, rates, True, chunks, 4)
    assert Graph.replays > 0
    assert losses2 == pytest.approx(losses)
    assert weight2 == pytest.approx(weight)
    torch.testing.assert_close(state2, state)


def test_windows_need_no_state(captured):
    ids = torch.arange(300) % 7
    stream = windows(ids, 3, 8, torch.Generator().manual_seed(1))
    batches = [next(stream) for _ in range(30)]
    plain, replayed = runs(batches, [0.1] * 30, False, [10, 20], 10)
    assert Graph.replays == 2
    assert replayed[0] == pytest.approx(plain[0])


def test_features_travel_with_their_batch(captured):
    ids, features_NKV = torch.arange(300) % 7, torch.randn(299, 2, 7)
    places = streams(torch.arange(300), 3, 8, torch.Generator().manual_seed(1))
    batches = list(islice(with_features(places, ids, features_NKV), 12))
    stacked = cuda_graphs._stacked(batches[:4])
    assert [tuple(part.shape) for part in stacked] == [(4, 3, 8), (4, 3, 8), (4, 3, 8, 2, 7)]
    seen = []

    def step(batch, rate, state):
        seen.append(batch.features_BTKV.clone())
        return torch.zeros(()), torch.zeros(1)

    steps = cuda_graphs.GraphedSteps(one_by_one(step), True, 4)
    steps._run, run = lambda: None, steps._run
    Graph.runner = type("Runner", (), {"_run": staticmethod(run)})
    _, state = steps(batches[:4], [0.1] * 4, None)
    steps(batches[4:], [0.1] * 8, state)
    assert Graph.replays == 2
    assert all(torch.equal(b.features_BTKV, found) for b, found in zip(batches, seen, strict=True))


def test_a_batch_of_another_shape_is_taken_by_itself(captured):
    batches = [Batch(torch.ones(2, 3), torch.ones(2, 3), True) for _ in range(6)]
    batches += [Batch(torch.ones(1, 3), torch.ones(1, 3), True) for _ in range(4)]
    plain, replayed = runs(batches, [0.1] * 10, False, [2, 8], 2)
    assert Graph.replays == 2
    assert replayed[0] == pytest.approx(plain[0])


def test_what_the_graph_reads_is_not_what_the_caller_holds():
    state = (torch.ones(2), (torch.zeros(1), None))
    own = cuda_graphs.cloned(state)
    cuda_graphs.copy((torch.full((2,), 3.0), (torch.ones(1), None)), own)
    assert own[0].tolist() == [3.0, 3.0]
    assert own[1][0].tolist() == [1.0]
    assert state[0].tolist() == [1.0, 1.0]
