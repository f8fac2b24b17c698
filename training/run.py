"""A run of train.py: its folder, its state, and what is saved and printed of it."""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.optim import Optimizer

from data.good_images import DecodedImages, GoodImages
from data.known_defects import KnownDefect, load_known_defects
from data.mvtec import Category
from data.tiles import with_ratio
from data.training_set import load_images
from models import refuse_unread
from training import distributed
from training.checkpoint import Checkpoint, Progress, load_checkpoint, restore, save_checkpoint
from training.folders import find_run, new_run
from utils.config import Config, changed, differences
from utils.device import peak_mib, pick_device
from utils.errors import UserError
from utils.files import write_whole
from utils.flags import overrides_from

# Settings that a resumed run may change: they alter nothing that it has learned so far.
RESUMABLE = ["device", "data.root", "data.max_megapixels", "data.mm_per_pixel", "train.epochs"]

# Share of its epochs that a network goes on for if images are added and no number is given.
LONGER = 0.25


def resumed_config(config: Config, overrides: dict[str, Any]) -> Config:
    """Return a run's settings with `overrides`; raises `UserError` for what cannot change."""
    resumed = changed(config, overrides)
    for key, (old, new) in differences(config, resumed).items():
        if key not in RESUMABLE:
            raise UserError(
                f"{key} is {old!r:.80} in this run and cannot change to {new!r:.80} on --resume "
                f"(only {', '.join(RESUMABLE)} can); leave out --resume to start a new run"
            )
    return resumed


class Run:
    """One run of train.py, new or resumed.

    Args:
        config: its settings.
        folder: of a run that is resumed.
        checkpoint: what that holds.
        additions: images, folders or patterns to add to a finished run.

    Attributes:
        config: see above; `set_size` and `load_images` complete that of a new run.
        folder: see above; None until a new run is first saved.
        good: its good images.
        progress: how far a training has come.
        known_defects: digests of the images of `data.defects`; `load_known_defects` sets them.
        history: loss and seconds of each epoch.
        device: what it runs on.
    """

    def __init__(
        self,
        config: Config,
        folder: Path | None = None,
        checkpoint: Checkpoint | None = None,
        additions: Sequence[str] = (),
    ) -> None:
        if config.train.log is not None and find_spec("tensorboard") is None:
            raise UserError(
                "train.log=tensorboard needs the package tensorboard; install it with: "
                "pip install tensorboard, or leave out train.log"
            )
        self.checkpoint = checkpoint or Checkpoint(config, GoodImages(), {}, None, Progress())
        self.config, self.folder, self.additions = config, folder, additions
        self.good, self.history = self.checkpoint.good, self.checkpoint.history
        self.progress, self.known_defects = self.checkpoint.progress, self.checkpoint.known_defects
        self.device = pick_device(config.device)
        # fit.json counts earlier starts, too.
        earlier = sum(row["seconds"] for row in self.history) + self.progress.seconds
        self._started = time.perf_counter() - earlier
        self._first_epoch, self._log = self.progress.epoch + 1, None

    @classmethod
    def from_flags(cls, args: argparse.Namespace) -> "Run":
        """Return the run that the flags of train.py ask for."""
        if args.resume is None and not args.add:
            return cls(args.settings)
        overrides = overrides_from(args)
        named = None if args.resume == Path() else args.resume
        category, model = overrides.get("data.category"), overrides.get("model")
        file = find_run(named, category, model, finished=bool(args.add), exact=True)
        checkpoint = load_checkpoint(file)
        refuse_unread(checkpoint.config.model, overrides)
        is_network, done = checkpoint.optimizer is not None, checkpoint.progress.epoch
        if args.add and not checkpoint.calibrations:
            first = f"finish it first with: python train.py --resume {file.parent}"
            raise UserError(f"{file.parent} is not finished, so nothing is added; {first}")
        if args.add and is_network:  # the rate has fallen to zero by now, and rises again
            overrides = {"train.epochs": done + math.ceil(LONGER * done)} | overrides
        config = resumed_config(checkpoint.config, overrides)
        if is_network and config.train.epochs < done:
            raise UserError(
                f"{file.parent} has {done} epochs behind it and cannot go back to "
                f"{config.train.epochs}; take as many, or more, or leave out --resume"
            )
        return cls(config, file.parent, checkpoint, args.add)

    @property
    def complete(self) -> bool:
        """Return whether all is learned and calibrated."""
        if not self.checkpoint.calibrations or self.additions:
            return False
        return self.checkpoint.optimizer is None or self.progress.epoch >= self.config.train.epochs

    def set_size(self) -> None:
        """Set `data.size` of a new run by the ratio of its images; a model is built for it."""
        if self.good.names:
            return
        chosen = Category.chosen(self.config.data)
        paths = [path for category in chosen for path in category.train_images()]
        self.config, line = with_ratio(self.config, paths)
        if line and distributed.is_writer():
            print(line, file=sys.stderr)

    def load_images(self, hold_out: bool) -> DecodedImages:
        """Decode the good images, and set `good` of a run that is new or has additions.

        Args:
            hold_out: whether some are kept from training; fitted detectors take all.
        """
        if not hold_out and distributed.world_size() > 1:
            name = self.config.model
            raise UserError(f"{name} is fitted in one process; start it without torchrun")
        known, share = len(self.good.names), self.config.calibration.holdout if hold_out else 0
        self.config, self.good, images = load_images(
            self.config, self.good, self.additions, share, quiet=not distributed.is_writer()
        )
        if self.additions:
            self.say(f"good images: {known} known, {len(self.good.names) - known} added")
        if side := self.config.data.tile:
            count = len(images.tile_indices(range(len(images))))
            self.say(f"{len(images)} good images are {count} tiles of {side}x{side}")
        return images

    def load_known_defects(self, images: DecodedImages) -> list[KnownDefect]:
        """Read the known defects, of which none may be among the good images.

        Raises:
            UserError: if they cannot be read, or are not those that the run began with.
        """
        categories = list(self.good.by_category())
        defects = load_known_defects(self.config.data, categories, images.digests)
        digests = sorted(defect.digest for defect in defects)
        if self.known_defects not in ([], digests):
            raise UserError("data.defects holds other images than when the run began; restore them")
        self.known_defects = digests
        return defects

    def begin(self, model: nn.Module, optimizer: Optimizer | None, how: str) -> None:
        """Save a new run before anything is learned, and print what it learns from, and how."""
        if self.folder is None:
            self.save(model, optimizer)
        data, learned = self.config.data, len(self.good.learned)
        known = f"{len(self.known_defects)} known defects, " if self.known_defects else ""
        self.say(
            f"{self.config.model} on {', '.join(self.good.by_category())}: {learned} good images, "
            f"{len(self.good.names) - learned} held out, {known}{data.size[0]}x{data.size[1]}, "
            f"{self.device}, {how} -> {self.folder}"
        )

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Load the state of a resumed training."""
        restore(self.folder / "last.pt", self.checkpoint, model, optimizer)

    def save(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        calibrations: dict[str, dict[str, Any]] | None = None,
    ) -> None:
        """Write the checkpoint, with the calibrations of a run that is finished."""
        if not distributed.is_writer():
            return
        if self.folder is None:
            self.folder = new_run(self.config)
        if calibrations:
            values = [one[key] for one in calibrations.values() for key in ("scores", "peaks")]
            if not np.isfinite(np.concatenate(values)).all():
                raise diverged(self.config, "scores of good images are not finite")
            took = {"seconds": time.perf_counter() - self._started, "peak_mib": peak_mib()}
            write_whole(self.folder / "fit.json", json.dumps(took))
        checkpoint = Checkpoint(
            config=self.config,
            good=self.good,
            model=model.state_dict(),
            optimizer=None if optimizer is None else optimizer.state_dict(),
            progress=self.progress,
            history=self.history,
            calibrations=calibrations or {},
            known_defects=self.known_defects,
        )
        save_checkpoint(self.folder, checkpoint)

    def end_epoch(self, loss: float, optimizer: Optimizer) -> str:
        """Record an epoch and its mean loss; returns a line to print of it."""
        number, seconds = self.progress.epoch + 1, self.progress.seconds
        self.history.append({"loss": loss, "epoch": number, "seconds": seconds})
        kept = {"first_loss": self.progress.first_loss, "micro_batch": self.progress.micro_batch}
        self.progress = Progress(epoch=number, **kept)
        self.log(loss=loss, lr=optimizer.param_groups[0]["lr"], seconds=seconds)
        return f"epoch {number}/{self.config.train.epochs}  loss {loss:.5f}  {seconds:.1f} s"

    def log(self, **values: float | np.ndarray) -> None:
        """Write numbers, and pictures uint8 [H, W, 3], of the epochs so far for TensorBoard."""
        if self.config.train.log is None or not distributed.is_writer():
            return
        if self._log is None:
            from torch.utils.tensorboard import SummaryWriter  # late: an optional package

            # In place of what a kill left of these epochs.
            folder = str(self.folder / "tensorboard")
            self._log = SummaryWriter(folder, purge_step=self._first_epoch)
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                self._log.add_image(name, value, self.progress.epoch, dataformats="HWC")
            else:
                self._log.add_scalar(name, value, self.progress.epoch)
        self._log.flush()

    def say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if distributed.is_writer():
            print(text)


def diverged(config: Config, reason: str) -> UserError:
    """Return the error that a training diverged."""
    rate = config.train.lr
    return UserError(f"training diverged: {reason}; lower train.lr, which is {rate:g}")
