"""CUDA graphs: training steps captured once and replayed, so that a GPU never waits for Python.

Most models here are small: a GPU computes a step in less time than Python needs to ask for it. So
several steps, with their dropout, clipping and optimiser, are captured as one graph, which one call
starts. It runs the same kernels in the same order as the plain loop, and leaves the same bytes.

Source: Ng et al., "Accelerating PyTorch with CUDA Graphs", 2021.

Shapes: K steps, B batch, T time.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from charlm.data.batches import Batch
from charlm.models.base import State

Steps = Callable[[Iterable[Batch], Sequence[float | Tensor], State], tuple[list[Tensor], State]]
"""Takes batches, a learning rate for each, and the state; returns losses and the state after."""


class GraphedSteps:
    """Takes steps as a trainer does, K at a time by a CUDA graph.

    Steps that the graph does not fit are taken one by one: those of the first call, in which the
    optimiser and cuDNN prepare what a graph must find ready; fewer than K; a batch of another
    shape; and, where the state is carried, a batch that starts afresh.

    Args:
        take_steps: takes one step after the other. It must read nothing from the device and leave
            its results where they are.
        carries: whether a state goes from one batch to the next.
        steps: K.
    """

    def __init__(self, take_steps: Steps, carries: bool, steps: int) -> None:
        self._take_steps = take_steps
        self._carries = carries
        self._steps = steps
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = False

    def __call__(
        self, batches: Iterable[Batch], rates: Sequence[float | Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        """Arguments and results as of `take_steps`."""
        if not self._warm:
            self._warm = True
            return self._take_steps(batches, rates, state)
        losses: list[Tensor] = []
        coming = iter(batches)
        for first in range(0, len(rates), self._steps):
            some_rates = rates[first : first + self._steps]
            some = list(islice(coming, len(some_rates)))
            take = self._replay if self._fits(some, state) else self._take_steps
            found, state = take(some, some_rates, state)
            losses += found
        return losses, state

    def _fits(self, batches: list[Batch], state: State) -> bool:
        if len(batches) < self._steps or len({batch.inputs_BT.shape for batch in batches}) > 1:
            return False
        if self._carries and (state is None or any(batch.fresh for batch in batches)):
            return False
        return self._graph is None or batches[0].inputs_BT.shape == self._batches[0].shape[1:]

    def _replay(
        self, batches: list[Batch], rates: Sequence[float | Tensor], state: State
    ) -> tuple[list[Tensor], State]:
        new = _stacked(batches)
        rates_K = torch.tensor(rates).to(new[0].device)
        if self._graph is None:
            self._capture(new, rates_K, state)
        assert self._graph is not None
        copy(new, self._batches)
        self._rates_K.copy_(rates_K)
        if self._carries:
            copy(state, self._state)
        self._graph.replay()
        return list(self._losses_K.clone().unbind()), self._state

    def _capture(self, batches: tuple[Tensor, ...], rates_K: Tensor, state: State) -> None:
        self._batches = cloned(batches)
        self._rates_K = rates_K.clone()
        self._state = cloned(state) if self._carries else None
        self._graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(self._graph):
            self._run()

    def _run(self) -> None:
        """Take K steps from what the graph reads; leave losses and state where it leaves them."""
        batches = [
            Batch(inputs_BT, targets_BT, not self._carries, *features)
            for inputs_BT, targets_BT, *features in zip(*self._batches, strict=True)
        ]
        losses, state = self._take_steps(batches, self._rates_K.unbind(), self._state)
        self._losses_K = torch.stack(losses)
        if self._carries:
            copy(state, self._state)


def _stacked(batches: list[Batch]) -> tuple[Tensor, ...]:
    """Return inputs and targets of K batches, K x B x T, and features if they have any."""
    parts = [[batch.inputs_BT for batch in batches], [batch.targets_BT for batch in batches]]
    features = [b.features_BTKV for b in batches if b.features_BTKV is not None]
    return tuple(torch.stack(part) for part in ([*parts, features] if features else parts))


def cloned(state: State) -> State:
    """Return a state in memory of its own."""
    if isinstance(state, Tensor):
        return state.clone()
    return tuple(cloned(part) for part in state) if isinstance(state, tuple) else state


def copy(source: State, target: State) -> None:
    """Write a state into the tensors of another one of the same form."""
    if isinstance(source, Tensor):
        if source is not target:
            target.copy_(source)
    elif isinstance(source, tuple):
        for part, into in zip(source, target, strict=True):
            copy(part, into)
