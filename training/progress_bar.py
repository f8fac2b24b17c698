"""The progress bar of a training: how far it is, how long it will take, and when to stop."""

import time

import torch
from tqdm import tqdm

from training import distributed
from utils.interrupt import StopRequest

LONG_MINUTES = 20  # a run that takes longer gets a hint at a shorter one

HINT = "without a GPU, python train.py --config configs/cpu.yaml takes a fraction of that"

WARM_UP, TIMED = 2, 4  # steps that are left out, and that are timed, to foretell the rest


class StepBar:
    """A bar that counts steps, and after the first ones prints how long the rest will take.

    Inside it (`with`), Ctrl-C lets the step under way finish.

    Args:
        total: steps of the whole run.
        done: steps of earlier starts.
        hint: whether to hint at a shorter run, if this one takes long.
    """

    def __init__(self, total: int, done: int = 0, hint: bool = False) -> None:
        self.total, self.done, self.hint, self.taken = total, done, hint, 0
        self.writes = distributed.is_writer()
        self.bar = tqdm(total=total, initial=done, unit="step", disable=not self.writes or None)
        self.stop = StopRequest("stopping after this step; Ctrl-C again to stop at once")
        self.now = self.warm = time.perf_counter()

    def __enter__(self) -> "StepBar":
        self.stop.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.__exit__(*error)
        self.bar.close()

    def stopped(self, device: torch.device) -> bool:
        """Return whether the user has asked any of the processes to stop."""
        return bool(distributed.total(self.stop.requested, device))

    def step(self, epoch: int = 0, loss: float | None = None) -> float:
        """Count a step of an epoch, from 0, with the mean loss so far; returns its seconds."""
        before, self.now = self.now, time.perf_counter()
        self.done, self.taken = self.done + 1, self.taken + 1
        self.bar.update()
        self.bar.set_postfix(epoch=epoch + 1, **({} if loss is None else {"loss": loss}))
        if self.taken == WARM_UP:
            self.warm = self.now
        left = self.total - self.done
        if self.taken == WARM_UP + TIMED < left:
            minutes = round(left * (self.now - self.warm) / TIMED / 60)
            hours = f"{minutes // 60} h {minutes % 60} min"
            hint = f"; {HINT}" if self.hint and minutes > LONG_MINUTES else ""
            self.say(f"to go: about {hours if minutes >= 60 else f'{max(1, minutes)} min'}{hint}")
        return self.now - before

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.writes:
            self.bar.write(text)
