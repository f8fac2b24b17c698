"""Training in several processes started by torchrun; in a plain run every function is a no-op."""

import os
import re
import sys
import time
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

# Variables that torchrun sets in the environment of its processes.
TORCHRUN = re.compile(
    r"(\w+_)?(RANK|WORLD_SIZE)|ROLE_NAME|MASTER_(ADDR|PORT)|TORCHELASTIC_\w+|TORCH_NCCL_ASYNC\w+"
)


def start(device: torch.device, patience: timedelta | None = None) -> None:
    """Join the process group if torchrun started this process (NCCL on CUDA, else Gloo).

    `patience` is how long it waits for the others before it fails; None for torch's default.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=patience)


def stop() -> None:
    """Leave the process group."""
    if dist.is_initialized():
        dist.destroy_process_group()


def rank() -> int:
    """Return the number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_writer() -> bool:
    """Return whether this process is the one that prints and writes files."""
    return rank() == 0


def total(value: float, device: torch.device) -> float:
    """Return the sum of a number over all processes."""
    if not dist.is_initialized():
        return value
    tensor = torch.tensor(value, dtype=torch.float32, device=device)
    dist.all_reduce(tensor)
    return tensor.item()


def sum_gradients(model: nn.Module) -> None:
    """Add up the gradients of all processes, in one message."""
    if not dist.is_initialized():
        return
    trainable = [p for p in model.parameters() if p.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in trainable]
    summed = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(summed)
    pieces = summed.split([p.numel() for p in trainable])
    for parameter, piece in zip(trainable, pieces, strict=True):
        parameter.grad = piece.view(parameter.shape)


def average_buffers(model: nn.Module) -> None:
    """Average running statistics over all processes, each of which saw other images.

    Those of frozen parts, which stay in evaluation mode, are left as they are.
    """
    if not dist.is_initialized():
        return
    learning = [module for module in model.modules() if module.training]
    for buffer in (b for module in learning for b in module.buffers(recurse=False)):
        if buffer.is_floating_point():
            dist.all_reduce(buffer)
            buffer /= world_size()


def gather(value: Any) -> list[Any]:
    """Return the plain data that each process gives, in order of their ranks."""
    if not dist.is_initialized():
        return [value]
    all_here = dist.barrier(async_op=True)  # unlike a gather, it can be interrupted
    while not all_here.is_completed():
        time.sleep(0.2)
    values = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def child_environment() -> dict[str, str]:
    """Return the environment for runs of other scripts, outside of the process group.

    Each process starts one at a time. They share the cores and the free memory of the machine, and
    each gets the GPU of the process that starts it.
    """
    environment = {k: value for k, value in os.environ.items() if not TORCHRUN.fullmatch(k)}
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if processes > 1:
        cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
        environment["OMP_NUM_THREADS"] = str(max(1, cores // processes))
        environment["LOCAL_WORLD_SIZE"] = str(processes)  # for free_memory of utils/device.py
    if "LOCAL_RANK" in os.environ and (count := torch.cuda.device_count()):
        default = ",".join(map(str, range(count)))
        there = os.environ.get("CUDA_VISIBLE_DEVICES", default).split(",")[:count]
        environment["CUDA_VISIBLE_DEVICES"] = there[int(os.environ["LOCAL_RANK"]) % count]
    return environment
