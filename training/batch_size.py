"""How many images pass through the network at once, in training and at inference."""

import torch

from models.detector import Detector
from utils.config import Config
from utils.device import free_memory, peak_memory

CPU_PIXELS = 16 * 256 * 256
"""Pixels that pass at once in training on a CPU, where larger pieces gain no time: at 256x256 a
step took as long an image for 1, 2 and 4. Smaller ones leave batch normalisation too few images."""

GPU_PIXELS = 24 * 512 * 512
"""The same on a GPU, which wants to be busy: a whole batch of the defaults."""

INFERENCE = 32  # images at most that are inspected at once: a GPU has long been busy by then


def pick_micro_batch(config: Config, device: torch.device) -> int:
    """Images, from 1 to `train.batch`, that pass through the network at once in training.

    "auto" follows from the size and the kind of device, not from the memory at hand: batch
    normalisation takes its statistics of the images that pass at once, so that another number
    learns something else.
    """
    train = config.train
    if train.micro_batch != "auto":
        return min(train.micro_batch, train.batch)
    height, width = (train.crop, train.crop) if train.crop else config.data.size
    pixels = CPU_PIXELS if device.type == "cpu" else GPU_PIXELS
    return max(1, min(pixels // (height * width), train.batch))


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
