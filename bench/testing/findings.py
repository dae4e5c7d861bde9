"""What a contract test found: one promise, and why it does not hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.errors import GatebenchError


@dataclass(frozen=True)
class Finding:
    """One promise of a contract.

    Attributes:
        promise: in words.
        problem: why it does not hold; "" if it does.
        skipped: why it does not apply, so that nothing was looked at; "" if it does.
        hint: what to change, where the check knows it; "" otherwise.
    """

    promise: str
    problem: str = ""
    skipped: str = ""
    hint: str = ""


class NotKept(GatebenchError):
    """A promise that does not hold."""


class NotApplying(GatebenchError):
    """A promise that there is nothing to look at for."""


def problems(findings: list[Finding]) -> list[str]:
    """What does not hold, in words; empty if all is well."""
    return [f"{finding.promise}: {finding.problem}" for finding in findings if finding.problem]


def found(promise: str, check: Callable[[], object]) -> Finding:
    """The finding of a check, which raises where the promise does not hold."""
    try:
        check()
    except NotApplying as error:
        return Finding(promise, skipped=error.message)
    except GatebenchError as error:
        return Finding(promise, error.message, hint=error.hint or "")
    except (Exception, SystemExit) as error:
        return Finding(promise, f"{type(error).__name__}: {error}")
    return Finding(promise)
