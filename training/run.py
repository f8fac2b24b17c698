"""A training run: its folder, how far it has come, what is saved of it, and who writes that."""

import argparse
import json
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from data.good_images import GoodImages
from inspection.threshold import Calibration, dropped
from models import refuse_unread
from training import distributed
from training.checkpoint import Checkpoint, Progress, load_checkpoint, restore, save_checkpoint
from training.folders import find_run, new_run
from utils.config import Config, resumed_config
from utils.device import pick_device
from utils.errors import UserError
from utils.files import write_whole
from utils.flags import overrides_from
from utils.memory import peak_mib

LONGER = 0.25
"""Share of its epochs that a network goes on for if images are added and no number is given."""


class Run:
    """One run of train.py, new or resumed.

    Args:
        config: its settings.
        folder: of a run that is resumed.
        checkpoint: what it was left as.

    Attributes:
        config: see above.
        folder: see above; None until a new run is first saved.
        good: the good images that it knows.
        progress: how far it has come.
        history: loss and seconds of each epoch.
        calibrations: what it was calibrated to at its start, if it was finished.
        known: the first so many of the good images are those that a fit took in at earlier starts.
        resumed: whether there was a checkpoint to go on from.
        device: what it runs on.
        recipe: file of settings that a new run was started with.
        additions: images, folders or patterns of what is added to a finished run, else empty.
    """

    def __init__(
        self, config: Config, folder: Path | None = None, checkpoint: Checkpoint | None = None
    ) -> None:
        if config.train.log is not None:
            _check_tensorboard()
        self.resumed = checkpoint is not None
        start = checkpoint or Checkpoint(config, GoodImages(), {}, None, Progress())
        self.config, self.folder, self._start = config, folder, start
        self.good, self.progress, self.history = start.good, start.progress, start.history
        self.calibrations = start.calibrations
        self.known = len(start.good.names) if start.progress.epoch else 0
        self.recipe: Path | None = None
        self.additions: list[str] = []
        self.device = pick_device(config.device)
        self._earlier = sum(row["seconds"] for row in self.history) + self.progress.seconds
        self._started = time.perf_counter()
        self._first_epoch, self._log = self.progress.epoch + 1, None

    @classmethod
    def named(cls, args: argparse.Namespace) -> "Run":
        """The run that the flags of train.py ask for."""
        if args.resume is None and not args.add:
            run = cls(args.settings)
            run.recipe = args.config
            return run
        overrides = overrides_from(args)
        named = None if args.resume == Path() else args.resume
        category, model = overrides.get("data.category"), overrides.get("model")
        file = find_run(named, category, model, finished=bool(args.add), exact=True)
        checkpoint = load_checkpoint(file)
        refuse_unread(checkpoint.config.model, overrides)
        learns, done = checkpoint.optimizer is not None, checkpoint.progress.epoch
        if args.add and not checkpoint.calibrations:
            first = f"finish it first with: python train.py --resume {file.parent}"
            raise UserError(f"{file.parent} is not finished, so nothing is added; {first}")
        if args.add and learns:
            overrides = {"train.epochs": done + math.ceil(LONGER * done)} | overrides
        config = resumed_config(checkpoint.config, overrides)
        if learns and config.train.epochs < done:
            raise UserError(
                f"{file.parent} has {done} epochs behind it and cannot go back to "
                f"{config.train.epochs}; take as many, or more, or leave out --resume"
            )
        run = cls(config, file.parent, checkpoint)
        run.additions = args.add
        return run

    @property
    def way_on(self) -> str:
        """What to do once the user has stopped it."""
        if self._whole_or_not_at_all:
            return f"{self.folder} is as it was"
        return f"go on with: python train.py --resume {self.folder}"

    @property
    def _whole_or_not_at_all(self) -> bool:
        """Whether it is a finished fit that images are added to: replaced once all is done."""
        return bool(self.additions) and self._start.optimizer is None

    @property
    def complete(self) -> bool:
        """Whether there is nothing left to do: all is learned, and the verdict is set."""
        if not self.calibrations or self.additions:
            return False
        return self._start.optimizer is None or self.progress.epoch >= self.config.train.epochs

    @property
    def may_be_slow(self) -> bool:
        """Whether it runs on a CPU by settings that no recipe for one has set."""
        return self.device.type == "cpu" and self.recipe is None

    def warn(self, text: str | None) -> None:
        """Print a line to stderr, once for all processes, if there is anything to say."""
        if text is not None and distributed.is_writer():
            print(text, file=sys.stderr)

    def begin(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, how: str) -> None:
        """Save a new run before anything is learned, and say what it learns from, and how."""
        if not self.resumed:
            self.save(model, optimizer)
        self.warn(dropped(self.calibrations, "the detector learns on"))
        data, learned = self.config.data, len(self.good.learned)
        self.say(
            f"{self.config.model} on {', '.join(self.good.by_category())}: {learned} good images, "
            f"{len(self.good.names) - learned} held out, {data.size[0]}x{data.size[1]}, "
            f"{self.device}, {how} -> {self.folder}"
        )

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """Bring both to where the checkpoint left them, if there is one."""
        if self.resumed:
            restore(self.folder / "last.pt", self._start, model, optimizer)

    def save(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None,
        calibrations: dict[str, Calibration] | None = None,
    ) -> None:
        """Write the checkpoint, with the calibrations of a run that is finished."""
        if not distributed.is_writer() or (self._whole_or_not_at_all and not calibrations):
            return
        if self.folder is None:
            self.folder = new_run(self.config)
        if calibrations:
            seconds = self._earlier + time.perf_counter() - self._started
            took = {"seconds": seconds, "peak_mib": peak_mib()}
            write_whole(self.folder / "fit.json", json.dumps(took))
        checkpoint = Checkpoint(
            config=self.config,
            good=self.good,
            model=model.state_dict(),
            optimizer=None if optimizer is None else optimizer.state_dict(),
            progress=self.progress,
            history=self.history,
            calibrations=calibrations or {},
        )
        save_checkpoint(self.folder, checkpoint)

    def say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if distributed.is_writer():
            print(text)

    def log(self, **values: float | np.ndarray) -> None:
        """Write numbers, and pictures uint8 [H, W, 3], of the epochs so far for TensorBoard."""
        if self.config.train.log is None or not distributed.is_writer():
            return
        if self._log is None:
            from torch.utils.tensorboard import SummaryWriter  # late: an optional package

            # In place of what a kill left of these epochs.
            folder = str(self.folder / "tensorboard")
            self._log = SummaryWriter(folder, purge_step=self._first_epoch)
        epoch = self.progress.epoch
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                self._log.add_image(name, value, epoch, dataformats="HWC")
            else:
                self._log.add_scalar(name, value, epoch)
        self._log.flush()

    def end_epoch(
        self, loss: float | None = None, optimizer: torch.optim.Optimizer | None = None
    ) -> str:
        """Note that an epoch, of this mean loss, is over; returns a line to print of it."""
        progress = self.progress
        entry = {"epoch": progress.epoch + 1, "seconds": progress.seconds}
        self.history.append(entry if loss is None else {"loss": loss, **entry})
        self.progress = Progress(epoch=progress.epoch + 1, micro_batch=progress.micro_batch)
        if optimizer is not None:
            lr = optimizer.param_groups[0]["lr"]
            self.log(loss=loss, lr=lr, seconds=progress.seconds)
        about = "" if loss is None else f"/{self.config.train.epochs}  loss {loss:.5f}"
        return f"epoch {entry['epoch']}{about}  {progress.seconds:.1f} s"


def _check_tensorboard() -> None:
    """Raise `UserError` if TensorBoard cannot be written."""
    try:
        import torch.utils.tensorboard  # noqa: F401  (whether it can be)
    except ImportError:
        raise UserError(
            "train.log=tensorboard needs the package tensorboard; install it with: "
            "pip install tensorboard, or leave out train.log"
        ) from None
