"""Contract tests of reports."""

from __future__ import annotations

import io
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

from bench.contracts.report import BoardReport
from bench.results.records import Board, BoardCell, TargetStanding
from bench.results.rows import ImageRow, UnitRow
from bench.results.stats import Estimate
from bench.testing.findings import Finding, NotKept, found

HOSTILE = "<script>alert('x')</script> [bold] \u202e \n line"
"""A label that page and terminal have to show as plain text."""


def check_report(report: BoardReport) -> list[Finding]:
    """Check a report of boards against its contract.

    Args:
        report: to be tested; it is given `sample_board` and worse ones.

    Returns:
        One finding a promise; `problems` lists those that are broken.

    Examples:
        >>> from bench.testing import check_report, problems
        >>> from reports.sheets import Sheets
        >>> problems(check_report(Sheets()))
        []
    """
    return [
        found("it writes something, the same bytes each time", partial(_repeats, report)),
        found("it shows cells without numbers", partial(_renders, report, sample_board(ok=False))),
        found("it shows labels of any text", partial(_escapes, report)),
        found("several boards are one report or a folder each", partial(_all, report)),
    ]


def _written(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _renders(report: BoardReport, *boards: Board) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "out"
        report.render(boards[0], out) if len(boards) == 1 else report.render_all(boards, out)
        found = _written(out)
        beside = [path.name for path in Path(place).iterdir() if path != out]
    if beside:
        raise NotKept(f"it wrote beside the folder that it was given: {beside[0]}")
    if not found:
        raise NotKept("it wrote no file into the folder that it was given")
    return found


def _repeats(report: BoardReport) -> None:
    first, second = _renders(report, sample_board()), _renders(report, sample_board())
    other = [name for name in first if first[name] != second.get(name)]
    if other or set(first) != set(second):
        raise NotKept(f"two reports of one board differ in {(other or ['their files'])[0]}")


def _escapes(report: BoardReport) -> None:
    for name, content in _renders(report, sample_board(name=HOSTILE)).items():
        if name.endswith((".html", ".svg")) and b"<script>alert('x')" in content:
            raise NotKept(f"{name} holds a label as markup; escape what plans and plugins wrote")


def _all(report: BoardReport) -> None:
    _renders(report, sample_board(), sample_board(name="another"))


def sample_board(*, name: str = "sample", ok: bool = True) -> Board:
    """A small board of one target: an attack, a control, and a cell that was skipped.

    Args:
        name: of the target and of the first attack.
        ok: whether the attack and the control have numbers.
    """
    cells = [_cell(name, control=False, ok=ok), _cell("identity", control=True, ok=ok)]
    skipped = BoardCell("2" * 64, name, "", "other", _inputs(), "skipped", "needs margins")
    first = cells[0]
    standing = TargetStanding(
        name, "", 1 if ok else None, name if ok else None, first.surviving_saving,
        first.clean_saving, first.clean_accuracy, first.adversarial_accuracy, first.recovery,
        first.psnr,
    )  # fmt: skip
    protocol = {
        "dataset": "sample:test", "images": 2, "batch": 2, "budget": 60, "seed": 0, "audit": 1,
        "threat": {"norm": "psnr", "floor": 35},
        "fit": {"split": "train", "images": 1, "budget": 1},
    }  # fmt: skip
    return Board(
        name="sample-board",
        protocol=protocol,
        plan={"schema": 1, "name": "sample-board", "pages": {}, "boards": []},
        command="gatebench run sample.toml",
        dataset="sample:test",
        dataset_note="made up",
        credits=(),
        preliminary=True,
        ranked=True,
        intervals="95% intervals",
        version="0",
        cells=(*cells, skipped),
        standings=(standing,),
        terms="psnr>=35, budget 60, seed 0",
    )


def _inputs() -> dict[str, object]:
    part = {"name": "sample", "distribution": "sample", "value": "sample:Sample", "params": {}}
    return {"target": part, "defense": None, "attack": part, "protocol": {}}


def _cell(attack: str, *, control: bool, ok: bool) -> BoardCell:
    target = attack if not control else "sample"
    if not ok:
        return BoardCell("0" * 64, target, "", attack, _inputs(), "failed", "no such gate")
    won = 0 if control else 100
    return BoardCell(
        key=("1" if control else "0") * 64, target=target, defense="", attack=attack,
        inputs=_inputs(), status="ok", control=control, n=2, classes=("a", "b"), floor=100,
        ceiling=400, reference=400, clean_macs=200.0, adversarial_macs=200.0 + won,
        float_macs=200.0 + won, recovery=Estimate(won / 200, 0.0, 1.0),
        clean_saving=Estimate(0.5, 0.4, 0.6), surviving_saving=Estimate((200 - won) / 400, 0, 1),
        clean_accuracy=Estimate(1.0, 0.3, 1.0), adversarial_accuracy=Estimate(0.5, 0.1, 0.9),
        psnr=120.0 if control else 36.0, pooled_psnr=None if control else 36.0,
        ssim=1.0 if control else 0.9, l2=0.0, linf=0, evaluations=0.0 if control else 60.0,
        attack_rank=None if control else 1, series=attack,
        units=(UnitRow("block0", "block", "blocks", (), 100, 0.5),),
        rows=lambda: [_row(place, won) for place in range(2)],
    )  # fmt: skip


def _row(place: int, won: int) -> ImageRow:
    return ImageRow(
        id=f"test-{place}", label=0, clean_prediction=0, adversarial_prediction=place,
        clean_macs=200, adversarial_macs=200 + won, float_macs=200 + won, clean_decisions=(False,),
        adversarial_decisions=(won > 0,), linf=3 if won else 0, squared=100 if won else 0, l2=0.1,
        psnr=36.0 if won else 120.0, ssim=0.9, evaluations=60, forwards=20, backwards=20,
        near_threshold=0, overshoot=False, trace=((1, 200, 0.0), (60, 200 + won, 100.0)),
        image=_png(place, 0), adversarial=_png(place, 3 if won else 0), jpeg_macs=200,
    )  # fmt: skip


def _png(seed: int, shift: int) -> bytes:
    from PIL import Image

    pixels = np.random.default_rng(seed).integers(10, 240, (8, 8, 3))
    out = io.BytesIO()
    Image.fromarray((pixels + shift).astype(np.uint8)).save(out, format="PNG")
    return out.getvalue()
