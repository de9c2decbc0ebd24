"""Ensembles: the weights of trained models, fitted on a text that none of them was trained on.

Both problems are convex, so that there is one answer whatever the way to it.

Shapes: K members, N targets, P of them at once, V vocabulary.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from charlm import saved_model
from charlm.data.encoding import Ids
from charlm.errors import UserError
from charlm.evaluation import loss
from charlm.models.base import LanguageModel
from charlm.models.ensemble import combine

if TYPE_CHECKING:
    from charlm.config.params import Ensemble

Floats = NDArray[np.float64]

MEMBERS = 2
"""Of an ensemble in params.yaml."""

PART_BYTES = 1 << 28
"""Size of the log-probabilities that are worked on at once, in float64."""

ENOUGH = 1e-10
"""Change of the mean nats of one round at which expectation-maximisation ends."""


@dataclass(frozen=True)
class Fit:
    """Weights of an ensemble, for each way of mixing.

    Attributes:
        alone_K: nats per character of each member by itself.
        likelier_K: share of the targets to which each gives the highest probability of all.
        ways: by the name of the way of mixing, its weights and the nats per character they give.
    """

    alone_K: Floats
    likelier_K: Floats
    ways: dict[str, tuple[Floats, float]]

    @property
    def best(self) -> str:
        """The way with the lowest loss."""
        return min(self.ways, key=lambda way: self.ways[way][1])

    def table(self, names: tuple[str, ...], mixing: str) -> dict[str, Any]:
        """Return it as JSON.

        Args:
            names: of the members.
            mixing: the way of the ensemble.
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


def fit(log_p_KNV: NDArray[np.floating], targets_N: NDArray[np.integer]) -> Fit:
    """Fit every way of mixing; arguments as in `geometric`."""
    nats_KN = -log_p_KNV[:, np.arange(len(targets_N)), targets_N].astype(np.float64)
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
        total_N = np.logaddexp.reduce(log_p_KN, axis=0)
        mean = float(-total_N.mean())
        if not before - mean >= ENOUGH:
            weights_K: Floats = np.exp(log_weights_K)
            return weights_K, mean
        before = mean
        shares_K = np.exp(log_p_KN - total_N).mean(axis=1)
        with np.errstate(divide="ignore"):
            log_weights_K = np.log(shares_K / shares_K.sum())


def geometric(
    log_p_KNV: NDArray[np.floating], targets_N: NDArray[np.integer]
) -> tuple[Floats, float]:
    """Return the exponents that mix distributions best, and the nats per character they give.

    Args:
        log_p_KNV: each member's log-probabilities of every symbol.
        targets_N: ids of the symbols that came.
    """
    count, targets, symbols = log_p_KNV.shape
    per_part = max(1, PART_BYTES // (8 * count * symbols))

    def mean_nats(weights_K: Floats) -> tuple[float, Floats]:
        nats, slope_K = 0.0, np.zeros(count)
        for first in range(0, targets, per_part):
            part = slice(first, first + per_part)
            more, steeper_K = sums(weights_K, log_p_KNV[:, part].astype(np.float64), part)
            nats, slope_K = nats + more, slope_K + steeper_K
        return nats / targets, slope_K / targets

    def sums(weights_K: Floats, log_p_KPV: Floats, part: slice) -> tuple[float, Floats]:
        came_P = targets_N[part]
        places = np.arange(len(came_P))
        logits_PV = np.tensordot(weights_K, log_p_KPV, axes=1)
        logits_PV -= logits_PV.max(axis=1, keepdims=True)
        p_PV = np.exp(logits_PV)
        total_P = p_PV.sum(axis=1)
        p_PV /= total_P[:, None]
        slope_K = [(p_PV * p).sum() - p[places, came_P].sum() for p in log_p_KPV]
        return float((np.log(total_P) - logits_PV[places, came_P]).sum()), np.array(slope_K)

    found = minimize(mean_nats, np.full(count, 1 / count), jac=True, method="L-BFGS-B", tol=1e-12)
    weights_K: Floats = found.x
    return weights_K, float(found.fun)


def build(
    entry: "Ensemble",
    members: list[tuple[LanguageModel, saved_model.Config]],
    log_p_KNV: NDArray[np.floating],
    targets_N: Ids,
) -> tuple[LanguageModel, saved_model.Config, Fit]:
    """Return an ensemble with copies of its members and weights fitted on a text.

    Args:
        entry: of params.yaml.
        members: the saved models, on one device.
        log_p_KNV: their log-probabilities at each place of validation.
        targets_N: its ids.
    """
    configs = [config for _, config in members]
    weights = fit(log_p_KNV, targets_N.astype(np.int64))
    mixing = weights.best if entry.mixing == "best" else entry.mixing
    config = saved_model.Config(
        model="ensemble",
        block=max(config.block for config in configs),
        text="train",
        symbols=configs[0].symbols,
        architecture={
            "mixing": mixing,
            "members": [
                {"model": c.model, "block": c.block, "architecture": c.architecture, "code": c.code}
                for c in configs
            ],
        },
        training={},
        seed=0,
        code=saved_model.code_digest("ensemble"),
    )
    model = config.build().eval()
    for place, (member, _) in enumerate(members):
        model.get_submodule(f"members.{place}").load_state_dict(member.state_dict())
    weights_K = torch.tensor(weights.ways[mixing][0], dtype=torch.float32)
    model.register_buffer("weights_K", weights_K)
    return model, config, weights


def log_probabilities(
    rows_RV: NDArray[np.float16],
    model: LanguageModel,
    train: Ids,
    holdout: Ids,
    device: torch.device,
    log_p_NV: NDArray[np.float16],
) -> None:
    """Write down what a member says at each place of the holdout.

    Args:
        rows_RV: what evaluation kept of it.
        model: reads the holdout if evaluation did not keep everything.
        train: ids of the training split; the last is the first input.
        holdout: ids of the holdout.
        device: that the model is on.
        log_p_NV: is filled.
    """
    if len(rows_RV) == len(holdout):
        log_p_NV[:] = rows_RV
        return
    ids = torch.tensor(np.concatenate([train[-1:], holdout]))
    loss.streaming(model, ids.to(device), rows_RV=torch.from_numpy(log_p_NV))


def check_memory(name: str, targets: int, symbols: int) -> None:
    """Refuse an ensemble whose members say more than memory holds.

    Args:
        name: of the ensemble.
        targets: characters of the holdout.
        symbols: of the vocabulary.

    Raises:
        UserError: it does not fit; the message has the numbers.
    """
    needed, available = 2 * MEMBERS * targets * symbols, psutil.virtual_memory().available
    if needed > available:
        raise UserError(
            f"{name} needs {needed:,} bytes for what its members say at {targets:,} characters of "
            f"{symbols:,} symbols, but {available:,} are available: use a shorter holdout"
        )


def scores(
    log_p_KNV: NDArray[np.floating], targets_N: Ids, weights_K: Floats, mixing: str, rows_RV: Tensor
) -> loss.Scores:
    """Score a text by what the members said about it; charlm.models.ensemble has the formulas.

    Args:
        log_p_KNV: the members' log-probabilities at each place.
        targets_N: ids of the text.
        weights_K: of the members.
        mixing: linear or geometric.
        rows_RV: filled with the ensemble's log-probabilities at the first R places.
    """
    collected = loss.Collected(len(targets_N), rows_RV)
    weights_K11 = torch.tensor(weights_K, dtype=torch.float32)[:, None, None]
    for first in range(0, len(targets_N), loss.CHARACTERS_PER_PASS):
        some = slice(first, first + loss.CHARACTERS_PER_PASS)
        part_KNV = torch.from_numpy(np.asarray(log_p_KNV[:, some], dtype=np.float32))
        logits_NV = combine(part_KNV, weights_K11, mixing)
        collected.add(logits_NV, torch.from_numpy(targets_N[some].astype(np.int64)))
    return collected.scores
