"""Withdrawing a row: it stays on its board with the reason, without numbers and out of the ranking.

Nothing is deleted: the rows and images of the cell stay in the run's folder.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.contracts.cell import Cell
from bench.errors import PlanError, did_you_mean
from bench.files.remove import remove
from bench.plans.stored import read_plan
from bench.store.folder import RunFolder
from bench.store.submission import WITHDRAWN, Withdrawal
from bench.submissions.document import MOST_WORDS, is_showable


def withdraw(run: RunFolder, row: str, reason: str) -> Sequence[Cell]:
    """Withdraw the rows of a run that a text names, or take that back.

    Args:
        run: whose board the rows are on.
        row: a label, `TARGET / ATTACK`, the label of an attack, or the first digits of a key.
        reason: to be shown; "" takes the withdrawal back.

    Returns:
        The cells.

    Raises:
        PlanError: no row is called that, or the reason cannot be shown.
    """
    if reason and not is_showable(reason):
        raise PlanError(f"a reason is one line of at most {MOST_WORDS} visible characters")
    with run.locked():
        cells = read_plan(run).cells
        chosen = {
            key: cell
            for key, cell in cells.items()
            if row in (cell.label, cell.attack.label) or (len(row) >= 8 and key.startswith(row))
        }
        if not chosen:
            known = [cell.label for cell in cells.values()]
            raise PlanError(f"{run.path} has no row {row!r}{did_you_mean(row, known)}")
        for key in chosen:
            place = run.cell(key, create=True).path
            if reason:
                Withdrawal(reason).write(place)
            else:
                remove(place / WITHDRAWN)
        return tuple(chosen.values())
