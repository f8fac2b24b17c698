"""The learning rate along a run."""

from utils.config import TrainConfig


def learning_rate(train: TrainConfig, epochs_done: float) -> float:
    """The learning rate once `epochs_done` epochs, a fraction counts too, are behind.

    It stays at `train.lr` and falls in a straight line to zero over the last `train.cooldown` of
    the epochs. That takes out the noise of the last steps, which a network that restores images
    would show in its heatmaps; unlike a cosine, it lets a run be lengthened until it sets in
    (Haegele et al., "Scaling laws and compute-optimal training beyond fixed training durations",
    NeurIPS 2024).
    """
    left = train.epochs - epochs_done
    span = train.cooldown * train.epochs
    return train.lr * min(1.0, left / span) if span else train.lr
