"""Training one run in several processes (data-parallel): the same batches, and the same result but for rounding.

Each process has the whole network and works on its rows of every batch; batch norm, gradients and losses are averaged
over all of them. ``DistributedDataParallel`` itself cannot do that here: it wants one backward pass for each forward
pass, while a generator and its discriminator share theirs, and its batch norm works on GPUs alone. Without
:func:`start` all of this does nothing. Run with ``torchrun``, see harness/torchrun.py.
"""

import functools
import os
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from inpaintlib import BadInput


class Followed(RuntimeError):
    """This process has done its part of a training that the first process goes on to measure."""


def start() -> None:
    """Joins the processes that torchrun has started, if it has; each takes a GPU of its own where there is one."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not dist.is_initialized():
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        dist.init_process_group("nccl" if gpu else "gloo")


def rank() -> int:
    """This process's number; 0 measures and saves."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


class _Sum(torch.autograd.Function):
    """The sum over all processes; each one's gradient reaches every other."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def mean(x: Tensor) -> Tensor:
    """The mean of x over all processes; gradients flow to each of them. x itself where there is one process."""
    if size() == 1:
        return x
    return _Sum.apply(x) / size()


def agreed(value):
    """The first process's value, everywhere."""
    box = [value]
    if size() > 1:
        dist.broadcast_object_list(box)
    return box[0]


def anywhere(value: bool) -> bool:
    """Whether the value is true in any process."""
    if size() == 1:
        return value
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(mean(torch.tensor(float(value), device=device)) > 0)


def average_gradients(optimiser: torch.optim.Optimizer, *_) -> None:
    """A hook before an optimiser's step: each gradient becomes its mean over all processes, in one exchange."""
    gradients = [p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None]
    if gradients:
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        for gradient, new in zip(gradients, (flat / size()).split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(new.view_as(gradient))


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over the batch of all processes, in training; gradients flow through the statistics of each."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide, shape = x.float(), (1, -1, 1, 1)
        average = mean(wide.mean((0, 2, 3)))
        variance = mean((wide - average.view(shape)).square().mean((0, 2, 3)))
        with torch.no_grad():
            n = size() * x.numel() / x.shape[1]
            self.num_batches_tracked += 1
            self.running_mean.lerp_(average, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return ((wide - average.view(shape)) * scale.view(shape) + self.bias.view(shape)).to(x.dtype)


def sharded(update: Callable[..., dict[str, Tensor]], networks: list[nn.Module]) -> Callable[..., dict[str, Tensor]]:
    """The update on this process's rows of each tensor, batch norm over all rows; returns the losses of all."""
    for layer in (layer for network in networks for layer in network.modules()):
        if type(layer) is nn.BatchNorm2d:
            layer.__class__ = BatchNorm

    @functools.wraps(update)
    def of_rows(**tensors: Tensor) -> dict[str, Tensor]:
        n = len(next(iter(tensors.values())))
        if n % size():
            raise BadInput(f"batch: {n} photos a step do not divide among {size()} processes; choose a multiple")
        losses = update(**{name: tensor.chunk(size())[rank()] for name, tensor in tensors.items()})
        everywhere = mean(torch.stack([loss.detach().float() for loss in losses.values()]))
        return dict(zip(losses, everywhere.unbind(), strict=True))

    return of_rows
