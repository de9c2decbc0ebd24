"""What flows through a model: mean absolute value and spread of every layer and its gradient.

Hooks look on; the models know nothing of it. At initialisation these numbers say whether training
starts from not knowing (logits near 0, a loss of ln V) or from being sure of nonsense.

Source: the "perceptron to MLP" document (document C of docs/published.md); Glorot and Bengio,
"Understanding the difficulty of training deep feedforward neural networks", 2010.

Shapes: B batch, T time, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charlm.models.base import LanguageModel

CHARACTERS = 1024
"""About how many characters the statistics are taken over."""

FIRST_VALUES = 5
"""How many raw values of the first character are kept, as the document prints them."""


def statistics(model: LanguageModel, ids_N: Tensor, block: int) -> dict[str, Any]:
    """Return the statistics of one pass over windows spread evenly over a text.

    Dropout is off, so that only the weights decide. The gradient is that of the mean loss.

    Args:
        model: left as it was found, without gradients.
        ids_N: the text, on the model's device.
        block: characters a window.

    Returns:
        `nats_per_char` and `layers`, a list in the order of the flow: the one-hot input, the output
        of every module that holds no other, the logits (`output`), the softmax `predictions`, and
        `weights`, of which only the gradient is given. Each has `mean_abs`, `sd`,
        `gradient_mean_abs`, `gradient_sd` (None where there is none) and `first_values`.
    """
    block = min(block, len(ids_N) - 1)
    last = len(ids_N) - 1 - block
    # Beyond 2^24 float32 rounds, and may round up.
    starts_B = torch.linspace(0, last, max(1, CHARACTERS // block)).long().clamp(max=last)
    offsets_T = torch.arange(block + 1, device=ids_N.device)
    taken = ids_N[starts_B.to(ids_N.device)[:, None] + offsets_T].long()
    inputs_BT, targets_BT = taken[:, :-1], taken[:, 1:]

    seen: dict[str, tuple[str, list[Tensor]]] = {}
    hooks = [
        module.register_forward_hook(_look(seen, name))
        for name, module in model.named_modules()
        if name and not any(True for _ in module.children())
    ]
    was_training = model.training
    model.eval()
    # cuDNN's recurrences have no backward pass in evaluation mode.
    with torch.backends.cudnn.flags(enabled=False):
        logits_BTV, _ = model(inputs_BT)
        for hook in hooks:
            hook.remove()
        logits_BTV.retain_grad()
        loss = functional.cross_entropy(logits_BTV.flatten(0, 1), targets_BT.flatten())
        loss.backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    model.zero_grad(set_to_none=True)
    model.train(was_training)

    size = logits_BTV.shape[-1]
    rows = [_row("input", "one-hot", [functional.one_hot(inputs_BT, size).float()])]
    for name, (kind, outputs) in seen.items():
        if not any(output is logits_BTV for output in outputs):
            rows.append(_row(name, kind, outputs))
    rows.append(_row("output", "logits", [logits_BTV]))
    rows.append(_row("predictions", "softmax", [logits_BTV.detach().softmax(-1)]))
    mean_abs, sd = _moments(torch.cat(gradients))
    weights: dict[str, Any] = dict.fromkeys(rows[0])
    weights |= {"layer": "weights", "kind": "all", "gradient_mean_abs": mean_abs, "gradient_sd": sd}
    return {"nats_per_char": float(loss.detach()), "layers": [*rows, weights]}


def _look(seen: dict[str, tuple[str, list[Tensor]]], name: str) -> Any:
    """Return a hook that keeps what a module gives, which may be called at every time step."""

    def hook(module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        known = {kept.data_ptr() for _, outputs in seen.values() for kept in outputs}
        if tensor.data_ptr() in known:
            return  # a dropout that is off passes on what another module gave
        if tensor.requires_grad:
            tensor.retain_grad()
        # What has no module of its own, as a recurrence written out, shows where dropout takes it.
        key = "hidden" if isinstance(module, nn.Dropout) else name
        kind = "before dropout" if isinstance(module, nn.Dropout) else type(module).__name__
        seen.setdefault(key, (kind, []))[1].append(tensor)

    return hook


def _row(name: str, kind: str, outputs: list[Tensor]) -> dict[str, Any]:
    """Return the statistics of one layer's outputs and of their gradients."""
    mean_abs, sd = _moments(torch.cat([output.detach().flatten() for output in outputs]))
    grads = [output.grad.flatten() for output in outputs if output.grad is not None]
    gradient_mean_abs, gradient_sd = _moments(torch.cat(grads)) if grads else (None, None)
    return {
        "layer": name,
        "kind": kind,
        "mean_abs": mean_abs,
        "sd": sd,
        "gradient_mean_abs": gradient_mean_abs,
        "gradient_sd": gradient_sd,
        "first_values": outputs[0].detach().flatten()[:FIRST_VALUES].tolist(),
    }


def _moments(values: Tensor) -> tuple[float, float]:
    """Return mean absolute value and standard deviation."""
    return float(values.abs().mean()), float(values.std(correction=0))
