"""Fronts: recovery against PSNR over sweeps, threats and boards, with the area under each and the
PSNR that a recovery costs.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.results.fronts import HIGHEST, LOWEST, Front, fronts
from bench.results.records import Board
from bench.terminal import counted
from reports import numbers
from reports.html import charts
from reports.html.fields import Field
from reports.html.sections import Drawing, Section, SectionPage


def fronts_page(boards: Sequence[Board]) -> SectionPage | None:
    """The page of several boards; None where no series has two points."""
    found = fronts(boards)
    if not any(len(front.points) > 1 for front in found):
        return None
    groups: dict[str, list[Front]] = {}
    for front in found:
        groups.setdefault(front.defended, []).append(front)
    return SectionPage(
        path="fronts.html",
        title="Fronts: recovery against visibility",
        lead=(
            "A point is a cell of any board of this report: its recovery, at the pooled PSNR of "
            f"its saved images. The area is the mean, from {LOWEST:g} to {HIGHEST:g} dB, of the "
            "largest recovery that keeps to that PSNR; a perturbation of more PSNR fits under "
            "every lower floor, and doing nothing recovers 0. Floors that were not run add "
            "nothing, so the area is a lower bound."
        ),
        sections=[
            _section(name, members, place) for place, (name, members) in enumerate(groups.items())
        ],
        teaser=(
            "recovery against PSNR over all boards, the area under each front, PSNR at 50 % and "
            "90 %"
        ),
    )


def _section(name: str, members: Sequence[Front], place: int) -> Section:
    order = sorted(members, key=lambda front: (front.control, -front.area, front.series))
    points = [
        charts.FrontPoint(
            name,
            _series(front, members),
            front.control,
            point.psnr,
            point.recovery,
            point.low,
            point.high,
        )
        for front in order
        for point in front.points
    ]
    rows = [
        [
            Field(_series(front, members), below="control" if front.control else ""),
            Field(front.budget),
            Field(str(len(front.points)), sort=len(front.points)),
            Field(numbers.percent(front.area), sort=front.area),
            _psnr(front.psnr_at(0.5)),
            _psnr(front.psnr_at(0.9)),
        ]
        for front in order
    ]
    columns = (
        ("Attack", False),
        ("Budget", True),
        ("Points", True),
        ("Area", True),
        ("PSNR at 50 %", True),
        ("PSNR at 90 %", True),
    )
    drawing = Drawing(
        f"target-{place}",
        f"Recovery against PSNR on {name}",
        "Lines join the cells of one attack.",
        charts.front_lines(points),
    )
    return Section(name, columns=columns, rows=rows, drawings=[drawing])


def _series(front: Front, members: Sequence[Front]) -> str:
    """The series by name, with what tells it from others of the same name on the same target: its
    budget, images, data set and seed, and its board where all of these are the same."""
    told, twins = front.series, [one for one in members if one.series == front.series]
    for own, all_of in (
        (f"budget {front.budget}", {one.budget for one in twins}),
        (counted(front.images, "image"), {one.images for one in twins}),
        (front.dataset, {one.dataset for one in twins}),
        (f"seed {front.seed}", {one.seed for one in twins}),
    ):
        told += f", {own}" if len(all_of) > 1 else ""
    terms = [(one.budget, one.images, one.dataset, one.seed) for one in twins]
    if terms.count((front.budget, front.images, front.dataset, front.seed)) > 1:
        told += f", {front.points[0].board}"
    return told


def _psnr(value: float | None) -> Field:
    return Field(numbers.DASH if value is None else numbers.decibel(value), sort=value)
