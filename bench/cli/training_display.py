"""How a training looks on the terminal while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from bench.terminal import console, message
from bench.training.settings import Epoch, Watch

SAY_SECONDS = 30.0
"""Where output is no terminal: seconds between two lines within an epoch."""


class TrainingDisplay:
    """Live progress on a terminal; elsewhere a line an epoch, and one every half minute within."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.said = clock()
        self.console = console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeRemainingColumn(),
        )
        self.progress = (
            Progress(*columns, console=self.console) if self.console.is_terminal else None
        )
        self.task = self.progress.add_task("training", total=None) if self.progress else None

    def __enter__(self) -> Watch:
        if self.progress:
            self.progress.start()
        return Watch(within=self._within, epoch=self._epoch, note=self._say)

    def __exit__(self, *error: object) -> None:
        if self.progress:
            self.progress.stop()

    def _within(self, epoch: Epoch) -> None:
        if self.progress and self.task is not None:
            self.progress.update(
                self.task,
                completed=(epoch.number - 1) * epoch.steps + epoch.step,
                total=epoch.of * epoch.steps,
                description=f"epoch {epoch.number}/{epoch.of}  loss {epoch.means['loss']:.3f}",
            )
        elif self.clock() - self.said >= SAY_SECONDS and epoch.step < epoch.steps:
            self._say(
                f"epoch {epoch.number:>3}/{epoch.of}  step {epoch.step}/{epoch.steps}  "
                f"{_shown(epoch)}"
            )

    def _epoch(self, epoch: Epoch) -> None:
        self._say(f"epoch {epoch.number:>3}/{epoch.of}  {_shown(epoch)}")

    def _say(self, text: str) -> None:
        self.said = self.clock()
        self.console.print(Text(message(text)))


def _shown(epoch: Epoch) -> str:
    means = "  ".join(f"{name} {value:.3f}" for name, value in epoch.means.items())
    return f"{means}  {epoch.seconds:.0f} s"
