"""Choosing the device, and what suits it: memory layout, precision, memory.

torch is imported by the functions that need it: exported detectors run where it is not installed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    import torch
    from torch import nn


def pick_device(name: str = "auto") -> torch.device:
    """Return the device that `name` asks for; "auto" takes CUDA, then MPS, then the CPU.

    "cuda:1" is a certain GPU. Under torchrun "cuda" is that of the process's local rank.

    Raises:
        UserError: if that device is not there, naming those that are.
    """
    import torch

    gpus = {"cuda": torch.cuda, "mps": torch.backends.mps}
    there = [*(kind for kind, gpu in gpus.items() if gpu.is_available()), "cpu"]
    if name == "auto":
        name = there[0]
    kind, _, number = name.partition(":")
    if kind not in there or (number and kind != "cuda"):
        raise UserError(
            f"device {name} is not available here; use one of: auto, {', '.join(there)}"
        )
    if number:
        count = torch.cuda.device_count()
        if int(number) >= count:
            raise UserError(f"device {name} is not here; this machine has {count}, from cuda:0 on")
        if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
            raise UserError(f"device {name} is a single GPU; under torchrun use --device cuda")
        return torch.device("cuda", int(number))
    if name == "cuda":
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"process {local_rank} has no GPU of its own: this machine has "
                f"{torch.cuda.device_count()}; lower --nproc-per-node or use --device cpu"
            )
        return torch.device("cuda", local_rank)
    return torch.device(name)


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move a model to the device, in the memory layout that is fastest there.

    Convolutions on CPU and CUDA run faster with channels last; `python -m benchmarks.train_step`
    measures it.
    """
    import torch

    if device.type == "mps":
        return model.to(device)
    return model.to(device, memory_format=torch.channels_last)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of the forward pass in training, for the setting `train.precision`.

    "auto" is bfloat16 on CUDA devices that compute in it, and float32 elsewhere: it gains nothing
    on the CPU. Inference is always in float32, so that scores do not depend on it.
    """
    import torch

    if precision == "auto":
        native = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        precision = "bfloat16" if native else "float32"
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")


def free_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take on the device."""
    import psutil
    import torch

    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    free = psutil.virtual_memory().available
    # A container may be allowed less than the machine has (cgroup v2).
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    with contextlib.suppress(OSError, ValueError):  # no cgroup, or "max": no limit
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def peak_memory(device: torch.device, work: Callable[[], object]) -> int:
    """Return the peak bytes that some work takes on a GPU, CUDA or MPS, beyond those before it.

    Memory that lies unused in PyTorch's cache is given back first, and so becomes free memory.
    """
    import torch

    torch.get_device_module(device).empty_cache()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    before = torch.mps.driver_allocated_memory()
    work()
    return torch.mps.driver_allocated_memory() - before  # what was freed stays in the cache


def peak_mib() -> float | None:
    """Return the largest resident memory of this process so far, in MiB; None on Windows."""
    try:
        import resource  # not on Windows, which has no such count
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, else KiB
