"""Curves and pictures of a run for TensorBoard, in its run folder: `tensorboard --logdir RUN`."""

from pathlib import Path
from typing import Any

from utils.errors import UserError

FOLDER = "tensorboard"


def check_log(log: str | None) -> None:
    """Raise `UserError` if TensorBoard is asked for and cannot be written."""
    if log is not None:
        try:
            import torch.utils.tensorboard  # noqa: F401  (whether it can be)
        except ImportError:
            raise UserError(
                "train.log=tensorboard needs the package tensorboard; install it with: "
                "pip install tensorboard, or leave out train.log"
            ) from None


def open_log(run: Path, epoch: int) -> Any:
    """A `SummaryWriter` of a run from this epoch on, in place of what a kill left of it."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / FOLDER), purge_step=epoch)
