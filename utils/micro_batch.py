"""How many images pass through the network at once, so that they fit the memory at hand."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from utils.device import free_memory, peak_memory

if TYPE_CHECKING:
    from models.detector import Detector, TrainedDetector

PEAK_OVER_SAVED = 1.2
"""Peak memory of a step over the activations saved for the backward pass: 1.0 to 1.1 was measured
for U-Nets of width 16 and 32 on the CPU; the rest is gradients and scratch space."""

CPU_PIXELS = 16 * 256 * 256
"""On the CPU larger pieces gain no time: at 256x256 a step took as long an image for 1, 2 and 4.
Much smaller ones would leave batch normalisation too few images."""

INFERENCE = 32
"""Images at most that are inspected at once: a GPU has long been busy by then."""


def pick_micro_batch(setting: int | str, model: TrainedDetector, image: Tensor, batch: int) -> int:
    """Resolve the setting `train.micro_batch` to a number of images from 1 to `batch`.

    "auto" takes as many as fit half of the free memory, judged by the bytes that one image leaves
    saved for the backward pass, so it holds for every detector and size.

    Args:
        setting: a number, or "auto".
        model: the detector, on its device.
        image: [1, 3, H, W] float in [0, 1], on the same device.
        batch: images per optimiser step.
    """
    if setting != "auto":
        return min(int(setting), batch)
    fitting = batch
    if any(p.requires_grad for p in model.parameters()):
        fitting = int(free_memory(image.device) / 2 / (PEAK_OVER_SAVED * saved_bytes(model, image)))
    if image.device.type == "cpu":
        fitting = min(fitting, CPU_PIXELS // (image.shape[-2] * image.shape[-1]))
    return max(1, min(fitting, batch))


def saved_bytes(model: TrainedDetector, image: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of learning from an image [1, 3, H, W]."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    # A copy, since learning from an image may change running statistics.
    probe = copy.deepcopy(model).train()
    sample = probe.prepare(image)
    parameters = {p.untyped_storage().data_ptr() for p in probe.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        # Kept until counted: a freed storage's address could be counted once for two tensors.
        loss = probe.loss(*sample)
        total = sum(size for pointer, size in storages.items() if pointer not in parameters)
    del loss
    return max(1, total)


@torch.inference_mode()
def pick_inference_batch(setting: int | str, model: Detector, device: torch.device) -> int:
    """Resolve "auto" to the number of images that a detector inspects at once.

    On a CPU it is 1. On a GPU it is what fits half of the free memory, `INFERENCE` at most, judged
    by the peak of one image. That of more images is lower than as many times that, for search
    blocks and scratch space do not grow with them.

    Args:
        setting: a number, or "auto".
        model: the detector, on its device, in evaluation mode.
        device: that device.
    """
    if setting != "auto":
        return int(setting)
    if device.type == "cpu":
        return 1
    image = torch.zeros(1, 3, *model.config.data.size, device=device)
    peak = peak_memory(device, lambda: model(image))  # before the rest: it also loads libraries
    return max(1, min(INFERENCE, free_memory(device) // 2 // max(1, peak)))
