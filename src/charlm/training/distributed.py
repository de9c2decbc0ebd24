"""One training by several processes, each with a part of every batch (data-parallel).

torchrun starts the processes and says in the environment which is which. Each sees the batches that
one process would see and takes its rows of them, so that the global batch, and with it the result,
is the same however many share it. Gradients are averaged by torch's DistributedDataParallel.
"""

import os
from dataclasses import dataclass

import torch
from torch import nn

from charlm.data.batches import Batch
from charlm.errors import UserError


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this one is.

    Attributes:
        rank: counted from 0; rank 0 writes, shows and tracks.
        size: how many processes there are.
    """

    rank: int = 0
    size: int = 1

    def share(self, batch: Batch) -> tuple[Batch, float]:
        """Return this process's rows of a batch, and the weight of their mean loss.

        Where rows do not divide evenly the weights make the average over processes the mean over
        all characters.

        Raises:
            ValueError: there are fewer rows than processes.
        """
        if self.size == 1:
            return batch, 1.0
        rows = len(batch.inputs_BT)
        if rows < self.size:
            raise ValueError(f"{rows} sequences cannot be shared by {self.size} processes")
        first, last = (rows * rank // self.size for rank in (self.rank, self.rank + 1))
        features_BTKV = batch.features_BTKV
        mine = Batch(
            batch.inputs_BT[first:last],
            batch.targets_BT[first:last],
            batch.fresh,
            None if features_BTKV is None else features_BTKV[first:last],
        )
        return mine, (last - first) * self.size / rows

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a model whose gradients are averaged over all processes."""
        if self.size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        # No buffer changes in training, and those of counts are large.
        return DistributedDataParallel(model, broadcast_buffers=False)

    def mean(self, value: float) -> float:
        """Return the mean of a number over all processes."""
        if self.size == 1:
            return value
        device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
        summed = torch.tensor(value, dtype=torch.float64, device=device)
        torch.distributed.all_reduce(summed)
        return float(summed) / self.size

    def any(self, answer: bool) -> bool:
        """Return whether any process says yes."""
        return self.mean(float(answer)) > 0

    def agree(self, number: int) -> bool:
        """Return whether all processes have the same number."""
        return not self.any(self.mean(float(number)) != number)


ALONE = Ranks()


def launched() -> bool:
    """Return whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def start(device: torch.device) -> tuple[Ranks, torch.device]:
    """Join the processes that torchrun started, if it did; return the device of this one too.

    Raises:
        UserError: there are fewer GPUs than processes on this machine.
    """
    if not launched():
        return ALONE, device
    if device.type == "cuda":
        here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if here > devices:
            raise UserError(f"{here} processes need as many GPUs, and there are {devices}")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return Ranks(torch.distributed.get_rank(), torch.distributed.get_world_size()), device


def stop() -> None:
    """Leave the other processes."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
