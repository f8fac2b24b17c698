"""Timing work that takes turns, so that a noisy machine strikes all alike, and what is timed."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch

from inspection.inspector import Inspector
from inspection.open_run import chosen_categories


def test_images(args: argparse.Namespace, inspector: Inspector) -> list[Path]:
    """As many images of the test split as `--images` says, evenly spread."""
    categories = chosen_categories(args, inspector)
    paths = [test.path for category in categories for test in category.test_images()]
    return paths[:: max(1, len(paths) // args.images)][: args.images]


def seconds(work: Callable[[], object]) -> float:
    """Wall time of some work, until a GPU is done with it, too."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_turns(works: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Seconds of each piece of work in each repeat; one more repeat, the first, warms up."""
    rounds = [[seconds(work) for work in works] for _ in range(repeats + 1)]
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def spread(values: Sequence[float], unit: str, digits: int) -> str:
    """Median and range of measurements, in words."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}f} {unit} ({low:.{digits}f} to {high:.{digits}f})"


def ratio(usual: Sequence[float], ours: Sequence[float]) -> str:
    """How many times as fast ours is, in words, from pairs that were measured side by side."""
    ratios = [theirs / our for theirs, our in zip(usual, ours, strict=True)]
    return f"{spread(ratios, 'times as fast', 2)}, {len(ratios)} pairs"
