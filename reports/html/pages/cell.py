"""What the page of one cell says: numbers, charts, pictures, gate maps, the resolved inputs and how to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench.results.records import BoardCell
from bench.results.rows import TRACE_POINTS, ImageRow
from reports import numbers
from reports.html.charts import TracePoint
from reports.html.fields import estimate_field
from reports.html.gates import GateMap, gate_map, owners
from reports.html.links import page_of
from reports.html.pages.board import document
from reports.html.pictures import amplification, amplified_difference, file_name, is_png
from reports.vocabulary import STATUSES, flag_words


@dataclass(frozen=True)
class Limits:
    """How much of a cell is shown in pictures.

    Attributes:
        showcase: images at the top, spread evenly over the ranks of recovered MACs.
        browse: images to browse at most, in the order of the data.
        picture_bytes: pictures stop when those of one cell are larger than this together.
    """

    showcase: int = 6
    browse: int = 60
    picture_bytes: int = 4_000_000


@dataclass(frozen=True)
class Exhibit:
    """One image with its pictures (file names, None where there is none) and its gate map."""

    id: str
    label: str
    clean_prediction: str
    adversarial_prediction: str
    kept: bool
    clean: str | None
    adversarial: str | None
    difference: str | None
    facts: tuple[tuple[str, str], ...]
    gates: GateMap | None


def class_name(cell: BoardCell, index: int) -> str:
    """The class by name where there is one."""
    return cell.classes[index] if 0 <= index < len(cell.classes) else str(index)


def key_numbers(cell: BoardCell) -> list[tuple[str, str, str]]:
    """(word, value, remark) of everything measured in the cell."""
    recovery, gap = estimate_field(cell.recovery), estimate_field(cell.float_recovery)
    return [
        ("Recovery", recovery.text, recovery.below),
        ("Recovery of the float image", gap.text, "before it was saved with 8 bits"),
        ("Recovery after JPEG-90", *_pair(cell.jpeg_recovery)),
        ("Recovery, mean of images", *_pair(cell.mean_recovery)),
        (
            "Recovery in blocks",
            numbers.percent(cell.block_recovery),
            "the same ratio in units instead of MACs, as the original code prints it",
        ),
        ("Clean MACs", numbers.macs(cell.clean_macs), f"floor {numbers.macs(cell.floor)}"),
        ("Adversarial MACs", numbers.macs(cell.adversarial_macs), _ceilings(cell)),
        ("Clean saving", *_pair(cell.clean_saving)),
        ("Saving left", *_pair(cell.surviving_saving)),
        ("Efficacy, clean", *_pair(cell.clean_efficacy)),
        ("Efficacy, adversarial", *_pair(cell.adversarial_efficacy)),
        ("Accuracy, clean", *_pair(cell.clean_accuracy)),
        ("Accuracy, adversarial", *_pair(cell.adversarial_accuracy)),
        ("Prediction kept", *_pair(cell.agreement)),
        (
            "PSNR",
            numbers.decibel(cell.overall_psnr),
            f"pooled; mean of the images {numbers.decibel(cell.psnr)}",
        ),
        ("SSIM", numbers.plain(cell.ssim, 3), "1 is equal"),
        ("L2", numbers.plain(cell.l2, 3), "mean, pixel values in [0,1]"),
        ("Largest change", numbers.plain(cell.linf), "of 255 grey levels, over all images"),
        ("Evaluations", numbers.plain(cell.evaluations), "forward-equivalents an image, mean"),
        (
            "Gates flipped back",
            numbers.percent(cell.flip_rate, 2),
            "of those open at one evaluation, closed at the next",
        ),
    ]


def _ceilings(cell: BoardCell) -> str:
    """The target's own ceiling, and the undefended one where savings are measured against another."""
    own = f"ceiling {numbers.macs(cell.ceiling)}"
    return (
        own
        if cell.reference in (None, cell.ceiling)
        else f"{own}, undefended {numbers.macs(cell.reference)}"
    )


def _pair(estimate: Any) -> tuple[str, str]:
    shown = estimate_field(estimate)
    return shown.text, shown.below


def spread(rows: Sequence[ImageRow], count: int) -> list[int]:
    """Indices of `count` rows, evenly spread over the ranks of recovered MACs, the least and the most included."""
    order = sorted(
        range(len(rows)),
        key=lambda index: (rows[index].adversarial_macs - rows[index].clean_macs, rows[index].id),
    )
    count = min(count, len(order))
    if count <= 1:
        return order[-1:] if count else []
    return [order[round(place * (len(order) - 1) / (count - 1))] for place in range(count)]


def mean_trace(rows: Sequence[ImageRow]) -> list[TracePoint]:
    """The mean over images of a step function each: an image stands at its clean MACs until its first point."""
    if not any(row.trace for row in rows):
        return []
    last = max(
        max(row.evaluations, *(point[0] for point in row.trace)) for row in rows if row.trace
    )
    marks = sorted({point[0] for row in rows for point in row.trace} | {0, last})
    if len(marks) > TRACE_POINTS:
        marks = sorted(
            {
                marks[round(place * (len(marks) - 1) / (TRACE_POINTS - 1))]
                for place in range(TRACE_POINTS)
            }
        )
    return [TracePoint(mark, sum(_at(row, mark) for row in rows) / len(rows)) for mark in marks]


def _at(row: ImageRow, mark: int) -> int:
    value = row.clean_macs
    for evaluations, macs, _ in row.trace:
        if evaluations > mark:
            break
        value = macs
    return value


class Gallery:
    """The pictures of one cell: which are shown, and the files that they need."""

    def __init__(self, cell: BoardCell, rows: Sequence[ImageRow], limits: Limits) -> None:
        self.factor = amplification(_typical([row.linf for row in rows if row.linf]))
        self.files: dict[str, bytes] = {}
        self._cell, self._rows, self._limits = cell, rows, limits
        self._groups = owners(cell.units)
        self._exhibits: dict[int, Exhibit] = {}
        self.showcase = [self._exhibit(index) for index in spread(rows, limits.showcase)]
        self.browse = list(self._browse())
        self.wide = any(_width(row.image) > 64 for row in rows[:1])

    def _browse(self) -> Iterator[Exhibit]:
        for index in range(min(len(self._rows), self._limits.browse)):
            if sum(map(len, self.files.values())) > self._limits.picture_bytes:
                return
            yield self._exhibit(index)

    def _exhibit(self, index: int) -> Exhibit:
        if index not in self._exhibits:
            self._exhibits[index] = self._make(self._rows[index])
        return self._exhibits[index]

    def _make(self, row: ImageRow) -> Exhibit:
        cell = self._cell
        recovered = row.adversarial_macs - row.clean_macs
        reserve = (cell.reference or 0) - row.clean_macs
        facts = [
            ("MACs", f"{numbers.macs(row.clean_macs)} → {numbers.macs(row.adversarial_macs)}"),
            ("recovered", numbers.percent(recovered / reserve) if reserve > 0 else numbers.DASH),
            ("PSNR", numbers.decibel(row.psnr)),
            ("SSIM", numbers.plain(row.ssim, 3)),
            ("largest change", f"{row.linf} of 255"),
            ("evaluations", numbers.plain(row.evaluations)),
        ]
        if row.float_macs != row.adversarial_macs:
            facts.append(("before saving", numbers.macs(row.float_macs)))
        if row.near_threshold:
            facts.append(("gates near threshold", str(row.near_threshold)))
        if row.overshoot:
            facts.append(("left its threat", "pulled back"))
        return Exhibit(
            id=row.id,
            label=class_name(cell, row.label),
            clean_prediction=class_name(cell, row.clean_prediction),
            adversarial_prediction=class_name(cell, row.adversarial_prediction),
            kept=row.clean_prediction == row.adversarial_prediction,
            clean=self._file(row.image),
            adversarial=self._file(row.adversarial),
            difference=self._file(
                amplified_difference(row.image, row.adversarial, self.factor) or b""
            ),
            facts=tuple(facts),
            gates=gate_map(self._groups, row) if cell.units else None,
        )

    def _file(self, data: bytes) -> str | None:
        if not is_png(data):
            return None
        name = file_name(data)
        self.files[name] = data
        return name


def _typical(changes: list[int]) -> int:
    """The median, 0 for none: one far-off pixel in one image must not make every difference of the cell invisible."""
    return sorted(changes)[len(changes) // 2] if changes else 0


def _width(data: bytes) -> int:
    """The width that a PNG declares, 0 for anything else."""
    return int.from_bytes(data[16:20], "big") if is_png(data) and len(data) >= 24 else 0


def ensemble_view(cell: BoardCell) -> dict[str, Any] | None:
    """Who an ensemble is made of, and on how many images each won; None for other cells."""
    found = cell.combination
    if not found:
        return None
    return {
        "budget": numbers.plain(found["budget"]),
        "members": [
            {
                "label": member["label"],
                "page": page_of(str(member["key"])),
                "wins": f"{member['wins']} of {cell.n}",
                "spent": numbers.plain(member["evaluations"] / max(cell.n, 1)),
            }
            for member in found["members"]
        ],
        "left_out": [(entry["label"], entry["reason"]) for entry in found["left_out"]],
        "adaptive": list(found.get("adaptive", ())),
    }


def cell_view(cell: BoardCell, rows: Sequence[ImageRow], gallery: Gallery) -> dict[str, Any]:
    """Everything that the template of a cell needs, but for charts and links."""
    return {
        "cell": cell,
        "ensemble": ensemble_view(cell),
        "fit": [
            ("images", str(cell.fit["images"])),
            ("forward-equivalents together", numbers.plain(cell.fit["evaluations"])),
        ]
        if cell.fit
        else [],
        "status_words": STATUSES.get(cell.status, ""),
        "numbers": key_numbers(cell) if cell.status == "ok" else [],
        "flags": [(flag, flag_words(flag)) for flag in cell.flags],
        "showcase": gallery.showcase,
        "browse": gallery.browse,
        "images": len(rows),
        "unchanged": sum(1 for row in rows if row.squared == 0),
        "wide": gallery.wide,
        "factor": gallery.factor,
        "inputs": document(cell.inputs),
        "environment": [
            (
                str(key),
                document(value, indent=None)
                if isinstance(value, dict | list | tuple)
                else str(value),
            )
            for key, value in sorted(cell.environment.items())
        ],
    }
