"""Random numbers from torch's generator of the CPU, which a training step seeds."""

import math

import torch


def uniform(low: float, high: float) -> float:
    """A random number between `low` and `high`."""
    return low + (high - low) * torch.rand(()).item()


def log_uniform(low: float, high: float) -> float:
    """A random number between `low` and `high`, each factor of two as likely as another."""
    return math.exp(uniform(math.log(low), math.log(high)))


def coin(chance: float = 0.5) -> bool:
    """True with the given chance."""
    return torch.rand(()).item() < chance
