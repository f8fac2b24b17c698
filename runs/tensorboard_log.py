"""Curves and pictures of a run for TensorBoard, in its run folder: `tensorboard --logdir RUN`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from utils.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

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


def open_log(run: Path, epoch: int) -> SummaryWriter:
    """What writes the events of a run from this epoch on, in place of what a kill left of it."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(run / FOLDER), purge_step=epoch)
