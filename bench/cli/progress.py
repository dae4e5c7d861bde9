"""What a long run shows: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from bench.terminal import LONGEST_LINE, console, counted, fixed, message, one_line

if TYPE_CHECKING:
    from bench.contracts.executor import Event, Task
    from bench.runs.layout import Laid


class Tally:
    """Images done, and the recovery of each cell so far."""

    def __init__(self, laid: Laid) -> None:
        self.images = {key: cell.protocol.images for key, cell in laid.cells.items()}
        self.left: dict[str, int] = {}
        self.sums: dict[str, tuple[int, int, int]] = {}
        self.running: dict[tuple[str, int], float] = {}
        self.total = self.there = self.done = 0
        self.started = time.monotonic()

    def prepare(self, tasks: Sequence[Task], there: int) -> None:
        self.total, self.there = sum(task.images for task in tasks), there
        for task in tasks:
            self.left[task.key] = self.left.get(task.key, 0) + task.images
        self.started = time.monotonic()

    def hear(self, event: Event) -> None:
        """Count an event; a shard that is computed again is more to do than was told."""
        place = (event.task.key, event.task.first)
        if event.what in ("started", "progress"):
            self.running[place] = event.share * event.task.images
            return
        self.running.pop(place, None)
        if event.what == "done":
            self.done += event.task.images
            left = self.left.get(event.task.key, 0) - event.task.images
            self.left[event.task.key] = max(left, 0)
            self.total += max(-left, 0)
            before = self.sums.get(event.task.key, (0, 0, 0))
            first, second, third = (a + b for a, b in zip(before, event.sums, strict=True))
            self.sums[event.task.key] = (first, second, third)
        else:
            self.total -= self.left.pop(event.task.key, 0)
            self.running = {
                other: share for other, share in self.running.items() if other[0] != event.task.key
            }

    @property
    def position(self) -> float:
        return self.done + sum(self.running.values())

    def recovery(self, key: str) -> float | None:
        """(adversarial - clean) / (ceiling - clean) over the images computed since the start.

        None if undefined.
        """
        clean, adversarial, ceiling = self.sums.get(key, (0, 0, 0))
        return (
            (adversarial - clean) / (ceiling - clean) if ceiling - clean > 0.01 * ceiling else None
        )

    def remaining(self) -> float | None:
        """Seconds left, once a twentieth is done."""
        if self.position < self.total / 20 or not self.position:
            return None
        return (time.monotonic() - self.started) * (self.total - self.position) / self.position


class PlainDisplay:
    """One line a finished shard, for logs and pipes."""

    def __init__(self, laid: Laid, stream: TextIO | None = None) -> None:
        self.tally = Tally(laid)
        self.stream = stream or sys.stdout

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *ignored: object) -> None:
        return None

    def prepared(self, tasks: Sequence[Task], there: int) -> None:
        self.tally.prepare(tasks, there)
        cells = len({task.key for task in tasks})
        self._print(
            f"{counted(self.tally.total, 'image')} in {counted(cells, 'cell')} to do, "
            f"{there} there already"
        )

    def listen(self, event: Event) -> None:
        self.tally.hear(event)
        label = one_line(event.task.label)
        if event.what == "done":
            recovery = _recovery(self.tally, event.task.key)
            took = f", {event.seconds:.1f} s"
            self._print(f"{_counts(self.tally)} {label}{recovery}{took}{_left(self.tally)}")
        elif event.what == "problem":
            reason = one_line(event.reason, LONGEST_LINE)
            self._print(f"{_counts(self.tally)} {label}: {event.status}, {reason}")

    def _print(self, line: str) -> None:
        print(message(line), file=self.stream, flush=True)


class Live:
    """A live display: a bar over all images, and a line for each shard in flight."""

    def __init__(self, laid: Laid, console: Any) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        self.tally = Tally(laid)
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[counts]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            transient=True,
        )
        self.bars: dict[tuple[str, int], Any] = {}
        self.overall: Any = None

    def __enter__(self) -> Live:
        self.progress.start()
        return self

    def __exit__(self, *ignored: object) -> None:
        self.progress.stop()

    def prepared(self, tasks: Sequence[Task], there: int) -> None:
        self.tally.prepare(tasks, there)
        counts = f"0/{counted(self.tally.total, 'image')}" + (
            f", {there} there already" if there else ""
        )
        self.overall = self.progress.add_task(
            "all cells",
            total=max(self.tally.total, 1),
            counts=counts,
            note="starting workers" if tasks else "",
        )

    def listen(self, event: Event) -> None:
        from rich.text import Text

        self.tally.hear(event)
        label = one_line(event.task.label)
        place = (event.task.key, event.task.first)
        if event.what == "started":
            self.bars[place] = self.progress.add_task(
                _short(label), total=1.0, counts=f"{counted(event.task.images, 'image')}", note=""
            )
        elif event.what == "progress":
            self.progress.update(self.bars[place], completed=event.share)
        else:
            for other in (
                [place]
                if event.what == "done"
                else [other for other in self.bars if other[0] == event.task.key]
            ):
                if other in self.bars:
                    self.progress.remove_task(self.bars.pop(other))
            if event.what == "problem":
                style = "yellow" if event.status == "skipped" else "red"
                reason = one_line(event.reason, LONGEST_LINE)
                line = f"  {event.status:8s} {label}: {reason}"
                self.console.print(Text(line, style=style))
            elif not self.tally.left.get(event.task.key):
                recovery = _recovery(self.tally, event.task.key)
                self.console.print(Text(f"  done     {label}{recovery}"))
        counts = f"{self.tally.done}/{counted(self.tally.total, 'image')}"
        self.progress.update(
            self.overall,
            completed=self.tally.position,
            total=max(self.tally.total, 1),
            counts=counts,
            note=_left(self.tally).lstrip(", "),
        )


def make_display(laid: Laid, *, aside: bool = False, plain: bool = False) -> PlainDisplay | Live:
    """A live display if there is a terminal, else plain lines.

    Args:
        laid: the plan.
        aside: show it on standard error.
        plain: lines on a terminal too.
    """
    out, stream = console(err=aside), sys.stderr if aside else sys.stdout
    live = stream.isatty() and out.is_terminal and not out.is_dumb_terminal
    return Live(laid, out) if live and not plain else PlainDisplay(laid, stream)


def _counts(tally: Tally) -> str:
    return f"[{tally.done}/{counted(tally.total, 'image')}]"


def _recovery(tally: Tally, key: str) -> str:
    value = tally.recovery(key)
    return "" if value is None else f": recovery so far {fixed(100 * value)}%"


def _left(tally: Tally) -> str:
    seconds = tally.remaining()
    return (
        "" if seconds is None or tally.position >= tally.total else f", about {seconds:.0f} s left"
    )


def _short(label: str) -> str:
    return label if len(label) <= 44 else label[:43] + "…"
