"""Training in several processes started by torchrun; in a plain run every function is a no-op."""

import os

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start(device: torch.device) -> None:
    """Join the process group if torchrun started this process (NCCL on CUDA, else Gloo)."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_writer() -> bool:
    """Whether this process is the one that prints and writes files."""
    return rank() == 0


def total(value: float, device: torch.device) -> float:
    """Sum of a number over all processes."""
    return _reduced(value, device, dist.ReduceOp.SUM) if dist.is_initialized() else value


def smallest(value: int, device: torch.device) -> int:
    """Smallest of a whole number over all processes."""
    return int(_reduced(value, device, dist.ReduceOp.MIN)) if dist.is_initialized() else value


def _reduced(value: float, device: torch.device, operation: dist.ReduceOp) -> float:
    tensor = torch.tensor(value, dtype=torch.float32, device=device)
    dist.all_reduce(tensor, operation)
    return tensor.item()


def sum_gradients(model: nn.Module) -> None:
    """Add up the gradients of all processes, in one message."""
    if not dist.is_initialized():
        return
    gradients = [
        torch.zeros_like(p) if p.grad is None else p.grad
        for p in model.parameters()
        if p.requires_grad
    ]
    summed = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(summed)
    trainable = [p for p in model.parameters() if p.requires_grad]
    pieces: tuple[Tensor, ...] = summed.split([p.numel() for p in trainable])
    for parameter, piece in zip(trainable, pieces, strict=True):
        parameter.grad = piece.view(parameter.shape)


def average_buffers(model: nn.Module) -> None:
    """Average running statistics over all processes, each of which saw other images."""
    if not dist.is_initialized():
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world_size()
