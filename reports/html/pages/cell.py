"""What the page of one cell says: numbers, charts, pictures, gate maps, the resolved inputs and how
to repeat it.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.results.records import BoardCell
from bench.results.row_table import RowTable
from bench.results.rows import ImageRow
from reports import numbers
from reports.html.encode import safe_link
from reports.html.fields import changed_words, estimate_field
from reports.html.gates import GateMap, gate_map, owners
from reports.html.links import page_of
from reports.html.pages.board import document
from reports.html.pictures import (
    Cutout,
    Pixels,
    amplification,
    amplified_difference,
    contact_sheet,
    pixels,
)
from reports.vocabulary import STATUSES, flag_words


@dataclass(frozen=True)
class Limits:
    """How much of a cell is shown in pictures.

    Attributes:
        showcase: images at the top, spread evenly over the ranks of recovered MACs.
        browse: images to browse at most, in the order of the data.
        picture_bytes: browsing stops where the pictures of one cell are larger than this together.
    """

    showcase: int = 6
    browse: int = 0
    picture_bytes: int = 4_000_000


@dataclass(frozen=True)
class Exhibit:
    """One image: where its pictures lie on the sheet (None for none), and its gate map."""

    id: str
    label: str
    clean_prediction: str
    adversarial_prediction: str
    kept: bool
    clean: Cutout | None
    adversarial: Cutout | None
    difference: Cutout | None
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
            f"pooled; {changed_words(cell)}",
        ),
        ("SSIM", numbers.plain(cell.ssim, 3), "1 is equal"),
        ("L2", numbers.plain(cell.l2, 3), "mean, pixel values in [0,1]"),
        ("Largest change", numbers.plain(cell.linf), "of 255 gray levels, over all images"),
        ("Evaluations", numbers.plain(cell.evaluations), "forward-equivalents an image, mean"),
        (
            "Gates flipped back",
            numbers.percent(cell.flip_rate, 2),
            "of those open at one evaluation, closed at the next",
        ),
    ]


def _ceilings(cell: BoardCell) -> str:
    """The target's own ceiling, and the undefended one where it is another."""
    own = f"ceiling {numbers.macs(cell.ceiling)}"
    return (
        own
        if cell.reference in (None, cell.ceiling)
        else f"{own}, undefended {numbers.macs(cell.reference)}"
    )


def _pair(estimate: Any) -> tuple[str, str]:
    shown = estimate_field(estimate)
    return shown.text, shown.below


def spread(table: RowTable, count: int) -> list[int]:
    """Places of `count` images, evenly spread over the ranks of recovered MACs."""
    order = by_recovery(table)
    count = min(count, len(order))
    if count <= 1:
        return order[-1:] if count else []
    return [order[round(place * (len(order) - 1) / (count - 1))] for place in range(count)]


def by_recovery(table: RowTable) -> list[int]:
    """The places of the images, least recovered MACs first."""
    recovered = (table["adversarial_macs"] - table["clean_macs"]).tolist() if len(table) else []
    return sorted(range(len(table)), key=lambda place: (recovered[place], table.ids[place]))


class Gallery:
    """The pictures of one cell: which are shown, and the one file that holds them."""

    def __init__(self, cell: BoardCell, table: RowTable, limits: Limits) -> None:
        changes = [change for change in table["linf"].tolist() if change] if len(table) else []
        self.factor = amplification(_typical(changes))
        self._cell, self._groups = cell, owners(cell.units)
        first = spread(table, limits.showcase)
        rows = dict(zip(first, cell.some_rows(first), strict=True))
        seen = sum(len(row.image) + len(row.adversarial) for row in rows.values())
        browsed: list[int] = []
        for start in range(0, min(len(table), limits.browse), _BLOCK):
            if seen > limits.picture_bytes:
                break
            block = range(start, min(start + _BLOCK, len(table), limits.browse))
            for place, row in zip(block, cell.some_rows(block), strict=True):
                if seen > limits.picture_bytes:
                    break
                seen += len(row.image) + len(row.adversarial)
                rows[place] = row
                browsed.append(place)
        shown = list(rows)
        self.sheet = contact_sheet([self._pictures(rows[place]) for place in shown])
        exhibits = {
            place: self._exhibit(rows[place], cutouts)
            for place, cutouts in zip(shown, self.sheet.places, strict=True)
        }
        self.showcase = [exhibits[place] for place in first]
        self.browse = [exhibits[place] for place in browsed]
        self.wide = any(cutout is not None and cutout.width > 64 for cutout in self._cutouts())

    def _cutouts(self) -> list[Cutout | None]:
        return [cutout for line in self.sheet.places for cutout in line]

    def _pictures(self, row: ImageRow) -> list[Pixels | None]:
        """The clean and the adversarial image, and their difference where there are both."""
        clean, adversarial = pixels(row.image), pixels(row.adversarial)
        if clean is None or adversarial is None or clean.shape != adversarial.shape:
            return [clean, adversarial, None]
        return [clean, adversarial, amplified_difference(clean, adversarial, self.factor)]

    def _exhibit(self, row: ImageRow, cutouts: Sequence[Cutout | None]) -> Exhibit:
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
        clean, adversarial, difference = cutouts
        return Exhibit(
            id=row.id,
            label=class_name(cell, row.label),
            clean_prediction=class_name(cell, row.clean_prediction),
            adversarial_prediction=class_name(cell, row.adversarial_prediction),
            kept=row.clean_prediction == row.adversarial_prediction,
            clean=clean,
            adversarial=adversarial,
            difference=difference,
            facts=tuple(facts),
            gates=gate_map(self._groups, cell.units, row) if cell.units else None,
        )


_BLOCK = 32
"""Images to browse that are read at once."""


def _typical(changes: list[int]) -> int:
    """The median, 0 for none: one far-off pixel in one image must not make every difference of the
    cell invisible.
    """
    return sorted(changes)[len(changes) // 2] if changes else 0


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
                "adds": f"{100 * member.get('adds', 0.0):.2f}",
                "spent": numbers.plain(member["evaluations"] / max(cell.n, 1)),
            }
            for member in found["members"]
        ],
        "left_out": [(entry["label"], entry["reason"]) for entry in found["left_out"]],
        "adaptive": list(found.get("adaptive", ())),
    }


def submission_view(cell: BoardCell) -> list[tuple[str, str, str | None]]:
    """(word, text, link or None) of who handed in; [] where the images were made here."""
    found = cell.submission
    if found is None:
        return []
    told = [
        ("who", found.who, None),
        ("what", found.what, None),
        ("license of the images", found.license, None),
        ("paper", found.paper, safe_link(found.paper)),
        ("code", found.code, safe_link(found.code)),
        ("sha256 of the archive", found.archive, None),
    ]
    return [entry for entry in told if entry[1]]


def cell_view(
    cell: BoardCell, table: RowTable, gallery: Gallery, board_name: str = ""
) -> dict[str, Any]:
    """Everything that the template of a cell needs, but for charts and links."""
    beaten = bool(board_name) and cell.status == "ok" and not cell.control
    return {
        "cell": cell,
        "ensemble": ensemble_view(cell),
        "fit": [
            ("images", str(cell.fit["images"])),
            ("forward-equivalents together", numbers.plain(cell.fit["evaluations"])),
        ]
        if cell.fit
        else [],
        "submission": submission_view(cell),
        "beat": f"gatebench beat {shlex.quote(board_name)} {cell.key[:12]}" if beaten else "",
        "status_words": STATUSES.get(cell.status, ""),
        "numbers": key_numbers(cell) if cell.status == "ok" else [],
        "flags": [(flag, flag_words(flag)) for flag in cell.flags],
        "showcase": gallery.showcase,
        "browse": gallery.browse,
        "sheet": gallery.sheet,
        "images": len(table),
        "unchanged": int((table["squared"] == 0).sum()) if len(table) else 0,
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
