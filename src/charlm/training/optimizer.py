"""Optimisers and their learning rate."""

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from charlm.models.base import LanguageModel

if TYPE_CHECKING:
    from charlm.config.training import Training


def learning_rate_at(step: int, steps: int, plan: "Training") -> float:
    """Return the learning rate of a step, counted from 0, of `steps` in all.

    Linear warm-up over `warmup` steps; constant until `decay_after` (a share of all steps); then
    along a line or half a cosine to `final_learning_rate`, which step `steps` would have.
    """
    peak, final = plan.learning_rate, plan.final_learning_rate
    if step < plan.warmup:
        return peak * (step + 1) / (plan.warmup + 1)
    start = max(plan.warmup, plan.decay_after * steps)
    if plan.decay == "none" or step < start:
        return peak
    done = (step - start) / (steps - start)
    if plan.decay == "linear":
        return peak + (final - peak) * done
    return final + (peak - final) * (1 + math.cos(math.pi * done)) / 2


def make_optimizer(model: LanguageModel, plan: "Training") -> torch.optim.Optimizer:
    """Return the optimiser; only matrices decay, as in nanoGPT, never biases and gains.

    Its `step` must be called without gradients. On a CUDA device its learning rate is a tensor
    there, so that a graph can read it.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    device, rate = parameters[0].device, plan.learning_rate
    cuda = device.type == "cuda"
    shared = {"lr": torch.tensor(rate, device=device) if cuda else rate}
    if plan.optimizer == "sgd":
        return without_compiler(torch.optim.SGD)(groups, **shared, fused=cuda)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    betas = (plan.betas[0], plan.betas[1])
    return without_compiler(kind)(groups, **shared, betas=betas, fused=True, capturable=cuda)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> None:
    """Set the learning rate of the next step; a tensor's must not leave its device."""
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = rate
        elif isinstance(rate, Tensor):
            group["lr"].copy_(rate)
        else:
            group["lr"].fill_(rate)


def without_compiler(kind: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """Return an optimiser whose methods do not import torch's compiler.

    Decorators of these three methods tell the compiler to leave them alone, and import it for that:
    0.9 s at the start of every training, against 1.3 s for torch. Nothing here is compiled.
    """
    bare = {
        name: inspect.unwrap(getattr(kind, name))
        for name in ("add_param_group", "zero_grad", "step")
    }
    return type(kind.__name__, (kind,), bare)
