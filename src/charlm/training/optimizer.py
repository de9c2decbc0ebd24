"""Optimisers and their learning rate."""

import inspect
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from charlm.models.base import LanguageModel, PairEmbedding

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


class Muon(torch.optim.Optimizer):
    """Hidden matrices by Muon, which makes each update orthogonal, and all else by AdamW.

    Updates of matrices are scaled to the size of AdamW's, so that one learning rate serves both.

    Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; Liu et
    al., "Muon is Scalable for LLM Training", 2025 (the scale).

    Args:
        matrices: hidden ones.
        others: embeddings, the head, biases and gains: AdamW's parameter groups.
        weight_decay: of the matrices.
        shared: options of both.
        adam: further options of AdamW.
    """

    def __init__(
        self,
        matrices: list[nn.Parameter],
        others: list[dict[str, Any]],
        weight_decay: float,
        shared: dict[str, Any],
        adam: dict[str, Any],
    ) -> None:
        scaled = {"weight_decay": weight_decay, "adjust_lr_fn": "match_rms_adamw"}
        both = [
            without_compiler(torch.optim.Muon)(matrices, **shared, **scaled),
            without_compiler(torch.optim.AdamW)(others, **shared, **adam),
        ]
        self._both = both
        self.param_groups = [group for each in both for group in each.param_groups]
        self.state = both[0].state
        both[1].state = self.state

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move all weights."""
        for each in self._both:
            each.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for each in self._both:
            each.zero_grad(set_to_none)


def hidden_matrices(model: LanguageModel) -> list[nn.Parameter]:
    """Return the matrices that are neither embeddings nor the head."""
    outside = {
        parameter
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding | PairEmbedding) or name == "output"
        for parameter in module.parameters()
    }
    return [p for p in model.parameters() if p.dim() == 2 and p not in outside]


def make_optimizer(model: LanguageModel, plan: "Training") -> torch.optim.Optimizer:
    """Return the optimiser; only matrices decay, as in nanoGPT, never biases and gains.

    Its `step` must be called without gradients. On a CUDA device its learning rate is a tensor
    there, so that a graph can read it; Muon takes a number only.
    """
    matrices = hidden_matrices(model) if plan.optimizer == "muon" else []
    taken = set(matrices)
    parameters = [parameter for parameter in model.parameters() if parameter not in taken]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": plan.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    device, rate = next(model.parameters()).device, plan.learning_rate
    cuda = device.type == "cuda" and not matrices
    shared = {"lr": torch.tensor(rate, device=device) if cuda else rate}
    if plan.optimizer == "sgd":
        momentum = plan.momentum
        return without_compiler(torch.optim.SGD)(groups, **shared, momentum=momentum, fused=cuda)
    adam = {"betas": (plan.betas[0], plan.betas[1]), "fused": True, "capturable": cuda}
    if matrices:
        return Muon(matrices, groups, plan.weight_decay, shared, adam)
    kind = torch.optim.Adam if plan.optimizer == "adam" else torch.optim.AdamW
    return without_compiler(kind)(groups, **shared, **adam)


class Average:
    """A moving average of a model's weights, which predicts better than the weights of a step.

    It is kept with what the optimiser remembers, and so in checkpoints.

    Source: Polyak and Juditsky, 1992; Izmailov et al., "Averaging Weights Leads to Wider Optima and
    Better Generalization", 2018.

    Args:
        model: that is trained.
        optimizer: of its weights.
        decay: share of the average that a step keeps; 0 keeps no average.
    """

    KEY = "average"

    def __init__(
        self, model: LanguageModel, optimizer: torch.optim.Optimizer, decay: float
    ) -> None:
        self._weights = list(model.parameters())
        self._optimizer, self._decay = optimizer, decay

    def add(self) -> None:
        """Take the weights after a step in."""
        if not self._decay:
            return
        for weight in self._weights:
            remembered = self._optimizer.state[weight]
            if self.KEY not in remembered:
                remembered[self.KEY] = weight.detach().clone()
            remembered[self.KEY].lerp_(weight.detach(), 1 - self._decay)

    def swap(self) -> None:
        """Put the average in the weights' place, and the weights in its; again to undo it."""
        if not self._decay or self.KEY not in self._optimizer.state[self._weights[0]]:
            return
        # Copied, because CUDA graphs and cuDNN know weights by their place in memory.
        for weight in self._weights:
            average = self._optimizer.state[weight][self.KEY]
            before = weight.detach().clone()
            weight.data.copy_(average)
            average.copy_(before)


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
