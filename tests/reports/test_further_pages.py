"""The pages beyond the board: curves, fronts, transfer, paper, audits; and what a cell says of an
ensemble or a fit.
"""

from __future__ import annotations

import io
import re
import tomllib
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from synthetic import full_board, png

from bench.errors import UnknownName
from bench.plans.resolve import load_plan
from bench.results.records import Board, BoardCell, Transferred
from bench.results.stats import Estimate
from bench.store.latency import Latency, Machine, Timed
from reports.html.pages.audits import audits_page
from reports.html.pages.board import leaderboard_row
from reports.html.pages.cell import Gallery, Limits, cell_view
from reports.html.pages.curves import curves_page
from reports.html.pages.defenses import defenses_page
from reports.html.pages.fronts import fronts_page
from reports.html.pages.paper import paper_page, published
from reports.html.pages.rounding import rounding_page
from reports.html.pages.transfer import transfer_page
from reports.html.pictures import normalized_error
from reports.html.sections import SectionPage
from reports.leaderboard import Leaderboard
from reports.publication import Publication


def texts(sheet: SectionPage) -> list[str]:
    return [entry.text for section in sheet.sections for row in section.rows for entry in row]


def small(**changes: object) -> Board:
    board = full_board(n=4)
    return replace(
        board,
        cells=tuple(
            cell for cell in board.cells if cell.target == "skipnet-20-budget" and not cell.defense
        ),
        **changes,
    )


def attacked(
    cell: BoardCell, name: str, preset: str = "", label: str = "", **params: object
) -> BoardCell:
    return replace(
        cell,
        attack=label or cell.attack,
        key=f"{label}{cell.key}",
        inputs={**cell.inputs, "attack": {"name": name, "preset": preset, "params": params}},
    )


def test_curves_end_where_the_traces_do() -> None:
    sheet = curves_page(small())
    assert sheet is not None
    (section,) = sheet.sections
    assert section.heading == "skipnet-20-budget"
    ends = [float(row[2].sort) for row in section.rows]  # type: ignore[union-attr]
    saved = [float(row[1].sort) for row in section.rows]  # type: ignore[union-attr]
    assert saved == sorted(saved, reverse=True)
    assert all(-1 <= end <= 1 for end in ends)
    assert section.drawings[0].document is not None
    assert curves_page(replace(small(), cells=())) is None


def test_fronts_join_boards_of_several_floors() -> None:
    one = small()
    cells = tuple(
        replace(cell, pooled_psnr=(cell.pooled_psnr or 0) + 8, recovery=Estimate(0.1))
        for cell in one.cells
        if cell.status == "ok"
    )
    assert fronts_page([one]) is None, "one point a series is no front"
    sheet = fronts_page([one, replace(one, name="other", cells=cells)])
    assert sheet is not None
    row = next(
        row for section in sheet.sections for row in section.rows if row[0].text == "gradauto"
    )
    assert row[2].text == "2"


def test_the_transfer_matrix_marks_the_diagonal() -> None:
    pairs = tuple(
        Transferred(a, "gradauto", b, Estimate(0.9 if a == b else 0.1, 0.0, 1.0), 5.0)
        for a in "pq"
        for b in "pq"
    )
    assert transfer_page(small()) is None
    sheet = transfer_page(small(transfers=pairs))
    assert sheet is not None
    rows = sheet.sections[0].rows
    assert [[entry.text for entry in row[1:]] for row in rows] == [
        ["90.0\u00a0%", "10.0\u00a0%"],
        ["10.0\u00a0%", "90.0\u00a0%"],
    ]
    assert "its own" in rows[0][1].below
    assert "its own" not in rows[0][2].below


def test_published_values_are_what_the_source_prints_and_nothing_doubtful() -> None:
    """Every number of the data file, against the literature's three tables; and none from a line
    that is marked unverified.
    """
    found = {
        name: [
            (row["dataset"], row["target"], row["attack"], row.get("recovery"), row.get("psnr"))
            for row in table["row"]
        ]
        for name, table in published().items()
    }
    assert found["gradauto-table1"] == [
        ("CIFAR-10", "SkipNet SP", "ILFO", 84.29, None),
        ("CIFAR-10", "SkipNet SP", "GradAuto", 100.0, None),
        ("CIFAR-10", "SACT", "ILFO", 72.49, None),
        ("CIFAR-10", "SACT", "GradAuto", 100.0, None),
        ("CIFAR-10", "ManiDP", "ILFO", 80.3, None),
        ("CIFAR-10", "ManiDP", "GradAuto", 100.0, None),
        ("ImageNet", "SkipNet HRL", "ILFO", 46.9, 54.39),
        ("ImageNet", "SkipNet HRL", "GradAuto", 88.9, 54.54),
    ]
    assert [row[3] for row in found["gradauto-table2"]] == [None, 52.3, 86.9, 88.9]
    assert [row[3:] for row in found["gradauto-table3"]] == [
        (46.9, 54.39),
        (71.0, 78.13),
        (85.2, 67.60),
        (87.0, 57.57),
        (88.9, 54.54),
        (88.9, 53.92),
        (88.9, 53.87),
    ]
    text = files("reports.published").joinpath("gradauto.toml").read_text(encoding="utf-8")
    assert "[?]" not in text
    assert tomllib.loads(text)["source"]["citation"].endswith("ECCV 2022")


@pytest.mark.parametrize("name", ["gradauto-table1", "gradauto-table2", "gradauto-table3"])
def test_every_published_row_is_answered_by_a_cell_of_its_suite(name: str) -> None:
    plan = load_plan(name)
    assert plan.pages == {"paper": name}
    cells = {(cell.target.label, cell.attack.label) for cell in plan.cells}
    for row in published()[name]["row"]:
        assert any((target, row["ours"]["attack"]) in cells for target in row["ours"]["target"]), (
            row
        )
    assert any(cell.attack.name == "contrast" for cell in plan.cells)
    assert plan.boards[0][0].protocol.threat.norm == "none"
    known = published()[name]["known"]
    assert all(
        deviation in known for row in published()[name]["row"] for deviation in row.get("notes", ())
    )
    assert all(deviation in known for deviation in published()[name]["deviations"])


def paper_board() -> Board:
    board = small(plan={"pages": {"paper": "gradauto-table2"}}, dataset="cifar10-jpeg:test")
    first = next(cell for cell in board.cells if cell.status == "ok" and not cell.control)
    control = next(cell for cell in board.cells if cell.attack == "contrast")
    ours = replace(attacked(first, "gradauto", "code", "RM only"), target="skipnet-38-hrl")
    broken = replace(
        attacked(first, "gradauto", "code", "RD only"),
        target="skipnet-38-hrl",
        status="failed",
        reason="it fell over",
        key="ff",
    )
    return replace(
        board, cells=(ours, broken, replace(attacked(control, "contrast"), target="skipnet-38-hrl"))
    )


def test_published_and_measured_share_no_column() -> None:
    sheet = paper_page(paper_board())
    assert sheet is not None
    rows = {row[0].text: row for row in sheet.sections[0].rows}
    heads = [head for head, _ in sheet.sections[0].columns]
    row = rows["RM only on SkipNet HRL"]
    assert row[heads.index("Published recovery")].text == "86.9 %"
    cell = paper_board().cells[0]
    assert row[heads.index("n")].text == str(cell.n)
    assert row[heads.index("Recovery (MACs)")].sort == cell.recovery.value
    assert row[heads.index("Recovery (MACs)")].below.startswith("[")
    theirs = float(row[heads.index("PSNR as published")].text.split("\u00a0")[0])
    assert theirs == pytest.approx(
        normalized_error([(one.image, one.adversarial) for one in cell.rows()]), abs=0.06
    )
    assert rows["neither (baseline) on SkipNet HRL"][1].text == "–", (
        "what the paper does not state is a dash"
    )
    assert rows["neither (baseline) on SkipNet HRL"][3].text == "not in this plan"
    assert "it fell over" in rows["RD only on SkipNet HRL"][-1].text
    assert texts(replace(sheet, sections=[sheet.sections[1]]))[0].startswith("contrast")
    points = " ".join(sheet.sections[2].points)
    assert "cifar10-jpeg" in points
    assert "ImageNet" in points
    on_imagenet = paper_page(replace(paper_board(), dataset="imagenet:val"))
    assert on_imagenet is not None
    assert "cifar10-jpeg" not in " ".join(on_imagenet.sections[2].points)


def test_a_paper_that_is_not_known_names_the_nearest() -> None:
    assert paper_page(small()) is None
    with pytest.raises(UnknownName, match="did you mean 'gradauto-table2'"):
        paper_page(small(plan={"pages": {"paper": "gradauto-tabl2"}}))


def test_the_published_psnr_convention_by_hand() -> None:
    """One grey level everywhere: an error of (1/255/s)^2 in each channel, peak 255."""
    clean = np.full((32, 32, 3), 100, dtype=np.uint8)
    std = np.array([0.2023, 0.1994, 0.2010])
    expected = 10 * np.log10(255**2 / ((1 / 255 / std) ** 2).mean())
    assert normalized_error([(png(clean), png(clean + 1))]) == pytest.approx(expected)
    true = 20 * np.log10(255)
    assert expected - true == pytest.approx(
        20 * np.log10(255) + 10 * np.log10(1 / (1 / std**2).mean())
    )
    assert 33.5 < expected - true < 35, "CIFAR-10's std; ImageNet's makes it 35.2"
    assert normalized_error([(png(clean), png(clean))]) is None
    assert normalized_error([(b"", b"")]) is None


def audit_board() -> Board:
    board = small(plan={"pages": {"audits": True}})
    ok = [cell for cell in board.cells if cell.status == "ok" and not cell.control]
    known = {"optimiser": "adam", "lr": 0.01}
    cells = [
        replace(
            attacked(ok[0], "gradauto", "clean", "both", **known, rm=True, rd=True),
            recovery=Estimate(0.6),
            flip_rate=0.01,
        ),
        replace(
            attacked(ok[0], "gradauto", "clean", "RD", **known, rm=False, rd=True),
            recovery=Estimate(0.4),
            flip_rate=0.05,
        ),
        replace(
            attacked(ok[0], "gradauto", "clean", "RM", **known, rm=True, rd=False),
            recovery=Estimate(0.5),
            flip_rate=0.2,
        ),
        replace(
            attacked(ok[0], "gradauto", "clean", "R", **known, rm=True, rd=True, rounding="end"),
            recovery=Estimate(0.9),
            flip_rate=None,
        ),
        attacked(ok[1], "gradauto", "code", "released", **known, rm=True, rd=True),
        attacked(next(cell for cell in board.cells if cell.attack == "contrast"), "contrast"),
    ]
    return replace(board, cells=tuple(cells))


def test_audits_compare_like_with_like() -> None:
    assert audits_page(small()) is None
    sheet = audits_page(audit_board())
    assert sheet is not None
    magnitude, flips, contrast, closed = sheet.sections
    ((*_, gain),) = magnitude.rows
    assert gain.text == "+20.0 points", (
        "0.6 with RM and RD, 0.4 with RD alone; RM alone and another rounding have no partner"
    )
    assert [row[2].text for row in flips.rows] == ["1.00\u00a0%", "5.00\u00a0%", "20.00\u00a0%"]
    assert [row[0].text for row in contrast.rows] == ["released", "contrast"]
    (row,) = closed.rows
    cells = audit_board().cells
    never = np.ones(len(cells[0].units), dtype=bool)
    for cell in cells:
        for image in cell.rows():
            never &= ~(np.array(image.clean_decisions) | np.array(image.adversarial_decisions))
    assert row[2].text == str(int(never.sum()))


def test_the_audit_suite_has_what_its_page_compares() -> None:
    plan = load_plan("gradauto-audits")
    assert plan.pages == {"audits": True}
    forms = {
        (cell.attack.params["optimiser"], cell.attack.params["rm"], cell.attack.params["rd"])
        for cell in plan.cells
        if cell.attack.name == "gradauto" and cell.attack.preset == "clean"
    }
    assert forms == {
        (name, rm, rd)
        for name in ("adam", "sgd", "normalised")
        for rm in (True, False)
        for rd in (True, False)
    }


def test_an_ensemble_says_who_won_and_what_it_cost() -> None:
    board = small()
    member = next(cell for cell in board.cells if cell.status == "ok" and not cell.control)
    combination = {
        "budget": 300,
        "members": [
            {"key": member.key, "label": "gradauto", "wins": 3, "evaluations": 400},
            {"key": "javascript:x", "label": "b", "wins": 1, "evaluations": 4},
        ],
        "left_out": [{"label": "ilfo:ponder", "reason": "nothing halts"}],
    }
    cell = replace(member, attack="autoenergy", key="ab" * 32, combination=combination)
    view = cell_view(cell, cell.table(), Gallery(cell, cell.table(), Limits()))["ensemble"]
    assert [entry["wins"] for entry in view["members"]] == ["3 of 4", "1 of 4"]
    assert view["members"][0]["page"] == f"{member.key[:12]}.html"
    assert view["members"][1]["page"] == "javascriptx.html"
    assert (
        leaderboard_row(cell, "row-p", "p").fields["evaluations"].below == "budget 300: 2 members"
    )
    assert (
        leaderboard_row(replace(member, fit={"images": 9, "evaluations": 1000}), "row-p", "p")
        .fields["evaluations"]
        .below.startswith("fit: 1")
    )


def test_the_site_has_every_page_and_links_to_it(tmp_path: Path) -> None:
    pairs = (Transferred("a", "x", "a", Estimate(1.0), 1.0),)
    boards = [replace(paper_board(), transfers=pairs), replace(audit_board(), name="second")]
    Leaderboard().render_all(boards, tmp_path / "site")
    folders = sorted(
        path for path in (tmp_path / "site").iterdir() if path.name[:2] in ("01", "02")
    )
    first, second = ((folder / "index.html").read_text() for folder in folders)
    assert 'href="paper.html"' in first
    assert 'href="transfer.html"' in first
    assert 'href="audits.html"' in second
    for folder, names in zip(
        folders, (("paper", "transfer", "curves"), ("audits", "curves")), strict=True
    ):
        for name in names:
            page = (folder / f"{name}.html").read_text()
            assert "../assets/style.css" in page
            assert "Published beside measured" in page or name != "paper"


def test_pictures_of_the_synthetic_boards_are_pictures() -> None:
    row = small().cells[0].rows()[0]
    assert Image.open(io.BytesIO(row.image)).size == (32, 32)


def test_rounding_pairs_the_same_attack() -> None:
    assert rounding_page([small()]) is None
    ok = next(cell for cell in small().cells if cell.status == "ok" and not cell.control)
    after = attacked(ok, "gradauto", "", "gradauto", K=1, rounding="after")
    inside = replace(
        attacked(ok, "gradauto", "", "rounded", K=1, rounding="inside"),
        rows=lambda: [
            replace(row, adversarial_macs=row.adversarial_macs + 1000) for row in ok.rows()
        ],
    )
    other = attacked(ok, "gradauto", "", "other", K=2, rounding="inside")
    board = replace(
        small(),
        cells=(after, inside, other),
        protocol={**small().protocol, "threat": {"norm": "psnr", "floor": "35"}},
    )
    sheet = rounding_page([board])
    assert sheet is not None
    ((row,),) = [section.rows for section in sheet.sections]
    assert "PSNR 35 dB" in sheet.sections[0].heading
    reserve = sum((ok.ceiling or 0) - one.clean_macs for one in ok.rows())
    assert row[-1].sort == pytest.approx(4 * 1000 / reserve)


def test_a_publication_has_every_row_and_eight_pictures_a_cell_and_no_dead_link(
    tmp_path: Path,
) -> None:
    board = full_board(n=10)
    Publication().render(board, tmp_path / "site")
    finished = [cell for cell in board.cells if cell.status == "ok"]
    rows = pq.read_table(tmp_path / "site" / "rows.parquet")
    assert rows.num_rows == 10 * len(finished)
    assert not {"image", "adversarial"} & set(rows.column_names)
    first = rows.to_pylist()[0]
    assert np.unpackbits(np.frombuffer(first["clean_decisions"], dtype=np.uint8))[
        : len(finished[0].units)
    ].astype(bool).tolist() == list(finished[0].rows()[0].clean_decisions)
    page = (tmp_path / "site" / "pictures.html").read_text()
    strips = [
        Image.open(io.BytesIO(path.read_bytes()))
        for path in (tmp_path / "site" / "pictures").glob("*.png")
    ]
    assert strips
    assert {strip.size for strip in strips} == {(8 * 34 - 2, 32)}
    for cell in finished:
        if any(row.squared for row in cell.rows()[:8]):
            assert f"<figcaption>{cell.attack}" in page
    pages = {path.name: path for path in (tmp_path / "site").glob("*.html")}
    assert not (tmp_path / "site" / "cells").exists()
    for path in pages.values():
        for link in re.findall(r'(?:href|src)="([^"#]+)"', path.read_text()):
            assert link.startswith("http") or (path.parent / link).exists(), (path.name, link)


def defended(
    defense: str, attack: str, saved: float, sees: str = "gates", **others: object
) -> BoardCell:
    """A cell of 40 images, of which every other saves 5 points more and less than `saved`, paired
    over all cells.
    """
    cell = next(cell for cell in full_board().cells if cell.status == "ok" and not cell.control)
    row = cell.rows()[0]
    savings = [saved + 0.05 * (-1) ** i + 0.004 * (i % 5 - 2) * bool(defense) for i in range(40)]
    rows = tuple(
        replace(row, id=f"i{i}", adversarial_macs=round(1_000_000 * (1 - one)))
        for i, one in enumerate(savings)
    )
    return replace(
        cell,
        target="net",
        defense=defense,
        attack=attack,
        sees=sees,
        reference=1_000_000,
        surviving_saving=Estimate(saved, saved - 0.02, saved + 0.02),
        clean_accuracy=others.pop("clean_accuracy", Estimate(0.9, 0.85, 0.95)),
        flags=(),
        rows=lambda: rows,
        **others,  # type: ignore[arg-type]
    )


def test_a_defense_is_judged_by_who_knows_it() -> None:
    cells = (
        defended("", "strong", 0.20),
        defended("jpeg", "unaware", 0.35, "network"),
        defended("jpeg", "strong", 0.20),
        defended("bit-depth", "unaware", 0.35, "network"),
        defended("bit-depth", "strong", 0.23),
        defended("cap", "unaware", 0.40, "network"),
        defended("cap", "strong", 0.32),
        defended("monitor", "strong", 0.01),
        defended("median", "unaware", 0.20, "network"),
        defended("median", "strong", 0.20, clean_accuracy=Estimate(0.7, 0.65, 0.75)),
    )
    board = replace(full_board(), cells=cells, ranked=True)
    sheet = defenses_page(board)
    assert sheet is not None
    glance, section = sheet.sections
    said = {
        point.partition(":")[0]: point.replace("\N{NO-BREAK SPACE}", " ")
        for point in section.points
    }
    assert (
        "falls to an attacker who knows it (20.0 % saved from one who knows it, 35.0 % from one "
        "who does not" in said["jpeg"]
    )
    assert "falls for the most part" in said["bit-depth"], "3 of 15 points are left"
    assert "holds" in said["cap"]
    assert "does harm" in said["monitor"]
    assert "changes nothing that these images could show" in said["median"]
    assert "clean accuracy falls from 90.0 % to 70.0 %" in said["median"]
    assert "accuracy" not in said["cap"]
    assert [row[0].text for row in section.rows] == [
        "none",
        "jpeg",
        "bit-depth",
        "cap",
        "monitor",
        "median",
    ]
    assert [row[1].below for row in glance.rows] == [
        "",
        "falls",
        "falls for the most part",
        "holds",
        "does harm",
        "no difference",
    ]
    gain = section.rows[3][4]
    assert gain.text == "+12.0\N{NO-BREAK SPACE}points" or gain.text == "+12.0 points"
    assert defenses_page(replace(full_board(), cells=cells[:1])) is None
    assert "Time" not in {name for name, _ in section.columns}


def test_a_defense_that_lacks_an_attack_is_not_judged() -> None:
    """An attack that came to no end behind it may be the one that it falls to."""
    cells = tuple(
        defended(defense, attack, saved)
        for defense in ("", "cap", "jpeg")
        for attack, saved in (("weak", 0.32), ("strong", 0.2))
    )
    assert (cells[3].defense, cells[3].attack) == ("cap", "strong")
    cells = (*cells[:3], replace(cells[3], status="timeout"), *cells[4:])
    board = replace(full_board(), cells=cells, ranked=True)
    board = replace(
        board,
        standings=(
            replace(board.standings[0], target="net", defense="cap", lacks=("strong",), rank=None),
        ),
    )
    sheet = defenses_page(board)
    assert sheet is not None
    glance, section = sheet.sections
    assert [row[1].below for row in glance.rows] == ["", "not judged", "no difference"]
    assert section.rows[1][4].text == "–"
    assert section.points[0] == (
        "cap: not judged, since attacks came to no end or were not run behind it or without a "
        "defense: strong"
    )


def test_a_defense_is_not_judged_by_an_attack_that_it_had_not_to_stand() -> None:
    """One that was handed in against the bare network, or that is skipped behind the defense."""
    cells = (
        defended("", "strong", 0.02),
        defended("", "weak", 0.26),
        defended("jpeg", "weak", 0.26),
    )
    sheet = defenses_page(replace(full_board(), cells=cells, ranked=True))
    assert sheet is not None
    glance, section = sheet.sections
    assert [row[1].below for row in glance.rows] == ["", "not judged"]
    assert section.points[0].endswith("behind it or without a defense: strong")


def test_time_stands_beside_what_multiplies_nothing() -> None:
    latency = Latency(
        Machine("cpu", 1, "2", "3"),
        (
            Timed("net", "", 1.0, 1.0, None, 2, 2),
            Timed("net", "jpeg", 1.234, 1.3, 1.234, 2, 2),
        ),
    )
    board = replace(
        full_board(),
        cells=(defended("", "strong", 0.2), defended("jpeg", "strong", 0.2)),
        ranked=True,
        latency=latency,
    )
    sheet = defenses_page(board)
    assert sheet is not None
    _, section = sheet.sections
    assert section.columns[-1] == ("Time", True)
    assert [row[-1].text for row in section.rows] == ["–", "× 1.23"]


def test_a_publication_without_members_still_judges_by_them() -> None:
    """The strongest attacks are members here: pages, rows and pictures leave them out, the page of
    defenses does not.
    """
    bare, member = (
        defended("", "ensemble", 0.2),
        defended("jpeg", "member", 0.3, "network", key="b" * 64),
    )
    inside = [{"label": "member", "key": member.key, "wins": 1, "evaluations": 3}]
    whole = defended(
        "jpeg",
        "ensemble",
        0.2,
        key="c" * 64,
        combination={"budget": 60, "members": inside, "left_out": []},
    )
    board = replace(
        full_board(), cells=(bare, member, whole), standings=(), transfers=(), ranked=True
    )
    pages = dict(Publication(members=False).files([board], version="1"))
    assert "30.0" in pages["defenses.html"].decode()
    assert ">member<" not in pages["index.html"].decode()
    assert "curves.html" not in pages
    assert set(pq.read_table(io.BytesIO(pages["rows.parquet"]))["attack"].to_pylist()) == {
        "ensemble"
    }
    every = dict(Publication().files([board], version="1"))
    assert "member" in every["index.html"].decode()
    assert set(pq.read_table(io.BytesIO(every["rows.parquet"]))["attack"].to_pylist()) == {
        "ensemble",
        "member",
    }
