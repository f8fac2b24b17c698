"""The progress bar of a training, which also says how long it will take."""

import time

from tqdm import tqdm

PATIENCE = 20
"""Minutes that a run may take without a hint at a shorter one."""

WARM_UP, TIMED = 2, 4
"""Steps that are left out, and that are timed, to foretell the rest."""


class StepBar(tqdm):
    """Counts steps; after the first ones it prints how long the rest will take.

    Args:
        total: steps of the whole run.
        done: steps of earlier starts.
        show: whether this process is the one that prints.
        hint: what to add if it takes long.
    """

    def __init__(self, total: int, done: int, show: bool, hint: str = "") -> None:
        super().__init__(total=total, initial=done, unit="step", disable=not show or None)
        self.show, self.hint, self.taken, self.done = show, hint, 0, done
        self.warm = time.perf_counter()

    def step(self, epoch: int, loss: float | None = None) -> None:
        """Note that a step of an epoch, from 0, is done, with the mean loss so far."""
        self.update()
        self.done += 1
        self.taken += 1
        self.set_postfix(epoch=epoch + 1, **({} if loss is None else {"loss": loss}))
        if self.taken == WARM_UP:
            self.warm = time.perf_counter()
        left = self.total - self.done
        if self.taken == WARM_UP + TIMED < left:
            seconds = (time.perf_counter() - self.warm) / TIMED
            self.say(outlook(left * seconds, self.hint))

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.show:
            self.write(text)


def outlook(seconds: float, hint: str = "") -> str:
    """How long a run goes on, in words; with the hint if that is long."""
    minutes = round(seconds / 60)
    text = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
    return f"to go: about {text}" + (f"; {hint}" if hint and minutes > PATIENCE else "")
