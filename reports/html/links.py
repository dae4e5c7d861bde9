"""Where the page of a cell lies."""

from __future__ import annotations

from bench.results.records import Board, BoardCell


def cell_page(cell: BoardCell) -> str:
    """Where a cell's page lies, from the index."""
    return f"cells/{page_of(cell.key)}"


def row_name(page: str) -> str:
    """The anchor of a cell's row on the index, by its page: "row-0123456789ab"."""
    return f"row-{page.removeprefix('cells/').removesuffix('.html')}"


def page_of(key: str) -> str:
    """The file of a cell's page, by its key; letters and digits only, whatever the key is."""
    return f"{''.join(c for c in key if c.isascii() and c.isalnum())[:12] or 'cell'}.html"


def pages(board: Board) -> dict[str, str]:
    """Key -> page of every cell; should two keys agree in their first digits, the later one gets a
    longer name.
    """
    taken: dict[str, str] = {}
    for index, cell in enumerate(board.cells):
        page = cell_page(cell)
        taken[cell.key] = (
            page if page not in taken.values() else page.replace(".html", f"-{index}.html")
        )
    return taken
