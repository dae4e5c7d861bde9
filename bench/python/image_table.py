"""The numbers of a cell's images as a table for programs and notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.results.records import BoardCell
from bench.terminal import counted

if TYPE_CHECKING:
    import pyarrow as pa

    from bench.results.stats import Array

SHOWN = 10
"""Rows that are shown; all of them are there."""
_NAMES = {
    "label": "label",
    "clean_prediction": "clean",
    "adversarial_prediction": "adversarial",
    "clean_macs": "clean MACs",
    "adversarial_macs": "MACs",
    "psnr": "PSNR",
    "ssim": "SSIM",
    "linf": "linf",
    "evaluations": "evaluations",
}
"""The columns that are shown, and their heads."""


@dataclass(frozen=True, repr=False)
class ImageTable:
    """One row an image, one column a number.

    Attributes:
        columns: name -> (n,) values; "id" first. They are described in `bench.results.rows`:
            `clean_macs` and `adversarial_macs` are the MACs executed on the clean and on the saved
            image, `psnr` is in dB, `linf` in gray levels, `evaluations` in forward-equivalents.
    """

    columns: Mapping[str, Array]

    @classmethod
    def of(cls, cell: BoardCell) -> ImageTable:
        """The rows of a cell with numbers."""
        import numpy as np

        table = cell.table()
        units = {
            "clean_units": table.clean_decisions.sum(1),
            "adversarial_units": table.adversarial_decisions.sum(1),
        }
        return cls({"id": np.array(table.ids, dtype=object), **table.columns, **units})

    def __len__(self) -> int:
        return len(self.columns["id"])

    def __getitem__(self, name: str) -> Array:
        """A column by its name."""
        return self.columns[name]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """One dictionary an image."""
        columns = {name: values.tolist() for name, values in self.columns.items()}
        return iter(
            [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        )

    def arrow(self) -> pa.Table:
        """The same as a pyarrow table: `.to_pandas()` where pandas is installed."""
        import pyarrow as pa

        return pa.table({name: values.tolist() for name, values in self.columns.items()})

    def __repr__(self) -> str:
        lines = ["  ".join(cells) for cells in self._shown()]
        return "\n".join([*lines, *([self._more()] if len(self) > SHOWN else [])])

    def _repr_html_(self) -> str:
        head, *rows = [[html.escape(text.strip()) for text in cells] for cells in self._shown()]
        top = "".join(f"<th>{text}</th>" for text in head)
        body = "".join(
            f"<tr>{''.join(f'<td>{text}</td>' for text in cells)}</tr>" for cells in rows
        )
        more = f"<p>{self._more()}</p>" if len(self) > SHOWN else ""
        return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>{more}"

    def _more(self) -> str:
        return f"… {counted(len(self) - SHOWN, 'more image')}"

    def _shown(self) -> list[list[str]]:
        """Heads and the first rows, each column padded to one width."""
        texts = [["id", *map(str, self.columns["id"][:SHOWN])]]
        for name, head in _NAMES.items():
            texts.append([head, *(_text(value) for value in self.columns[name][:SHOWN].tolist())])
        widths = [max(map(len, column)) for column in texts]
        return [
            [text.rjust(width) for text, width in zip(row, widths, strict=True)]
            for row in zip(*texts, strict=True)
        ]


def _text(value: float | int) -> str:
    return f"{value:.2f}" if isinstance(value, float) else f"{value:,}"
