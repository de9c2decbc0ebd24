"""Weights of a mixture: a handful of numbers, fitted on a text that no member was trained on.

Both problems are convex, so that there is one answer whatever the way to it.

Shapes: K members, N targets, V vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logsumexp

Floats = NDArray[np.float64]

ENOUGH = 1e-10
"""Change of the mean nats of one round at which expectation-maximisation ends."""


@dataclass(frozen=True)
class Fit:
    """What mixing some members gives.

    Attributes:
        alone_K: nats per character of each member by itself.
        likelier_K: share of the targets of which each gives the best probability of all.
        ways: by the name of the way of mixing, its weights and the nats per character they give.
    """

    alone_K: Floats
    likelier_K: Floats
    ways: dict[str, tuple[Floats, float]]

    @property
    def best(self) -> str:
        """The way that loses least."""
        return min(self.ways, key=lambda way: self.ways[way][1])

    def table(self, names: tuple[str, ...], mixing: str) -> dict[str, Any]:
        """Return it as JSON.

        Args:
            names: of the members.
            mixing: the way that was taken.
        """
        return {
            "mixing": mixing,
            "members": [
                {
                    "name": name,
                    "validation_nats_per_char": float(self.alone_K[place]),
                    "likelier": float(self.likelier_K[place]),
                    **{way: float(weights_K[place]) for way, (weights_K, _) in self.ways.items()},
                }
                for place, name in enumerate(names)
            ],
            "validation_nats_per_char": {way: nats for way, (_, nats) in self.ways.items()},
        }


def fit(log_p_KNV: Floats, targets_N: NDArray[np.integer]) -> Fit:
    """Fit every way of mixing; arguments as in `geometric`."""
    nats_KN = -log_p_KNV[:, np.arange(len(targets_N)), targets_N]
    return Fit(
        nats_KN.mean(axis=1),
        (nats_KN == nats_KN.min(axis=0)).mean(axis=1),
        {"linear": linear(nats_KN), "geometric": geometric(log_p_KNV, targets_N)},
    )


def linear(nats_KN: Floats) -> tuple[Floats, float]:
    """Return the weights that mix probabilities best, and the nats per character that they give.

    Expectation-maximisation: each target is shared out among the members by how much of its
    probability each gives, and a member's weight becomes its share of all targets.

    Args:
        nats_KN: what each target costs each member alone.

    >>> linear(np.array([[1.0, 1.0], [2.0, 2.0]]))[0].round(3).tolist()
    [1.0, 0.0]
    """
    count = len(nats_KN)
    log_weights_K, before = np.full(count, -np.log(count)), np.inf
    while True:
        with np.errstate(divide="ignore"):
            log_p_KN = log_weights_K[:, None] - nats_KN
        total_N = logsumexp(log_p_KN, axis=0)
        mean = float(-total_N.mean())
        if before - mean < ENOUGH:
            weights_K: Floats = np.exp(log_weights_K)
            return weights_K, mean
        before = mean
        shares_K = np.exp(log_p_KN - total_N).mean(axis=1)
        with np.errstate(divide="ignore"):
            log_weights_K = np.log(shares_K / shares_K.sum())


def geometric(log_p_KNV: Floats, targets_N: NDArray[np.integer]) -> tuple[Floats, float]:
    """Return the exponents that mix distributions best, and the nats per character they give.

    Args:
        log_p_KNV: each member's log-probabilities of every symbol.
        targets_N: ids of the symbols that came.
    """
    count, targets = len(log_p_KNV), np.arange(len(targets_N))

    def loss(weights_K: Floats) -> tuple[float, Floats]:
        logits_NV = np.tensordot(weights_K, log_p_KNV, axes=1)
        total_N = logsumexp(logits_NV, axis=1)
        p_NV = np.exp(logits_NV - total_N[:, None])
        slope_K = np.array(
            [((p_NV * of).sum(axis=1) - of[targets, targets_N]).mean() for of in log_p_KNV]
        )
        return float((total_N - logits_NV[targets, targets_N]).mean()), slope_K

    found = minimize(loss, np.full(count, 1 / count), jac=True, method="L-BFGS-B", tol=1e-12)
    weights_K: Floats = found.x
    return weights_K, float(found.fun)
