"""One error tree: the offending name, the nearest valid one, the next command to type.

Every error that a user can cause derives from `GatebenchError` and carries the exit code of the
command that it ends. The codes are part of the interface (see `EXIT_CODES`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_CODES = {
    0: "everything asked for was done",
    1: "an unexpected error inside gatebench",
    2: "a mistake in the plan, the command line or a name",
    3: "data or weights are missing, damaged or of the wrong kind",
    4: "the run finished, but a cell is invalid, failed, timeout or oom",
    5: "the run folder is not there, is in use, or holds results of another plan or environment",
    6: "the disk refused a write; everything sealed before is intact",
    7: "a plugin does not keep its contract",
    8: "`check` found that something got worse",
    9: "`check`, `compare` or `baseline` refused: what is there cannot be compared",
    10: "`verify` found results that do not hold, or `accept` refused what was handed in",
    130: "stopped by Ctrl-C; the same command goes on where it stopped",
}


_LONGEST_NAME = 200
_MOST_NAMES = 5000

LISTED = ("targets", "attacks", "defenses", "datasets", "suites", "weights", "recipes")
"""What `gatebench list` can show."""


class GatebenchError(Exception):
    """Base of all errors with a message meant for people.

    Args:
        message: what is wrong, naming the culprit and the place.
        hint: what to type or change next; printed on its own line.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  {self.hint}" if self.hint else self.message


class PlanError(GatebenchError):
    """One or more mistakes in a plan or a command line; `problems` lists them all."""

    exit_code = 2

    def __init__(self, problems: str | Iterable[str], *, hint: str | None = None) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems), hint=hint)


class UnknownName(PlanError):
    """A target, attack, data set, suite … that no package provides."""

    def __init__(
        self, kind: str, name: str, known: Iterable[str], *, where: str | None = None
    ) -> None:
        place = f"{where}: " if where else ""
        plural = f"{kind.replace(' ', '').removesuffix('s')}s"
        super().__init__(
            f"{place}unknown {kind} {name!r}{did_you_mean(name, known)}",
            hint=f"'gatebench list {plural}' shows what there is" if plural in LISTED else None,
        )


class DataError(GatebenchError):
    """A data set that is not there, is damaged, or is not what it claims to be."""

    exit_code = 3


class WeightsError(GatebenchError):
    """Weights that are missing, damaged, forbidden, or of another network."""

    exit_code = 3


class RunFolderError(GatebenchError):
    """The run folder is busy, or what lies in it does not belong to this plan or environment."""

    exit_code = 5


class InUse(RunFolderError):
    """Another process works on the run; it can be waited for."""


class NotComparable(GatebenchError):
    """Two results that were not measured alike, or one that is not whole."""

    exit_code = 9


class SubmissionError(GatebenchError):
    """An archive that was handed in and cannot be accepted."""

    exit_code = 10


class DiskError(GatebenchError):
    """A write that the disk refused."""

    exit_code = 6


class PluginError(GatebenchError):
    """A plugin that cannot be imported, or breaks its contract."""

    exit_code = 7


class ContractBroken(PluginError):
    """A target or an attack did what its contract forbids; the cell becomes `invalid`."""


class BudgetSpent(GatebenchError):
    """An attack asked for an evaluation that its budget no longer covers.

    What was charged before stays charged.
    """


def in_words(error: BaseException) -> str:
    """`TYPE: MESSAGE` of any exception, even of one whose message cannot be made."""
    try:
        return f"{type(error).__name__}: {error}"
    except (Exception, SystemExit):  # its own __str__ raised
        return f"{type(error).__name__}, whose message cannot be printed"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`'; did you mean …?'` for the nearest known name, or the list of all when none is near.

    Args:
        name: what was written.
        known: the valid names.
    """
    options = sorted(set(known))
    if len(name) <= _LONGEST_NAME and len(options) <= _MOST_NAMES:  # the search is quadratic
        near = difflib.get_close_matches(name, options, n=1, cutoff=0.5)
        if near:
            return f"; did you mean {near[0]!r}?"
    if not options:
        return "; there are none"
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"; known: {shown}"
