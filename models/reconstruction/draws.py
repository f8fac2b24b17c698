"""Random numbers for a batch, from torch's generator of the CPU, which a training step seeds.

Drawn on the CPU wherever the batch lies, so that equal seeds give equal numbers on every device.
"""

import math

import torch
from torch import Tensor


def uniform(low: float, high: float, count: int) -> Tensor:
    """Random numbers [count] between `low` and `high`."""
    return low + (high - low) * torch.rand(count)


def log_uniform(low: float, high: float, count: int) -> Tensor:
    """Random numbers [count] between `low` and `high`, each factor of two as likely as another."""
    return uniform(math.log(low), math.log(high), count).exp()


def coins(count: int, chance: float = 0.5) -> Tensor:
    """Bool [count], each True with the given chance."""
    return torch.rand(count) < chance
