"""Boards for model hubs: evaluation results that a model's page shows, and a data set that viewers
open.

    models/TARGET/.eval_results/gatebench.yaml   to be put into the repository of the model
    dataset/README.md, eval.yaml                 the card, and the tasks that results refer to
    dataset/data/board/TASK.parquet              a row a cell
    dataset/data/images/TASK/CELL.parquet        a row an image, with both pictures

Nothing is sent anywhere; whoever wants to, uploads the folders with the tools of the hub. The
format of results is that of the Hugging Face Hub (its page "Evaluation results", and
`huggingface_hub.EvalResultEntry`).
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contracts.report import BoardReport
from bench.errors import PlanError
from bench.files.links import safe_link
from bench.results.records import Board, BoardCell, TargetStanding
from bench.terminal import counted, fixed
from reports import numbers, sheets
from reports.answers import summary
from reports.html.encode import clean
from reports.html.site import File, write_site

_DATASET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_SHOWN = (
    *("id", "label", "clean_prediction", "adversarial_prediction", "clean_macs"),
    *("adversarial_macs", "float_macs", "jpeg_macs", "linf", "squared", "l2", "psnr", "ssim"),
    *("evaluations", "overshoot"),
)
"""Fields of a row that stand beside its pictures."""


@dataclass(frozen=True, kw_only=True)
class Hub(BoardReport):
    """Evaluation results and a data set with card, for model hubs.

    Attributes:
        dataset: "OWNER/NAME" that the data set will have there.
        source: a link that results name as their source, "" for none.
        license: of the data set, as its card states it.
        images: images of each cell in the data set; None for all.
    """

    dataset: str = "owner/board"
    source: str = ""
    license: str = "other"
    images: int | None = None

    def __post_init__(self) -> None:
        if not _DATASET.fullmatch(self.dataset):
            raise PlanError(f"dataset {self.dataset!r} is no OWNER/NAME")
        if self.source and safe_link(self.source) is None:
            raise PlanError(f"source {self.source!r} is no link")
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license):
            raise PlanError(f"license {self.license!r} is no identifier such as cc-by-4.0")

    def render(self, board: Board, out: Path) -> None:
        """Write one board; see `render_all`."""
        self.render_all([board], out)

    def render_all(self, boards: Sequence[Board], out: Path) -> None:
        """Write the boards into the folder `out`, in place of an older export.

        Args:
            boards: what is exported; each is a task of the data set.
            out: the folder.
        """
        write_site(self.files(boards), Path(out))

    def files(self, boards: Sequence[Board]) -> Iterator[File]:
        """Every file of the export."""
        tasks = _told_apart([board.name for board in boards])
        for name, entries in self._results(boards, tasks).items():
            yield f"models/{name}/.eval_results/gatebench.yaml", entries
        yield "dataset/README.md", self._card(boards, tasks)
        yield "dataset/eval.yaml", _tasks_file(boards, tasks)
        for board, task in zip(boards, tasks, strict=True):
            yield f"dataset/data/board/{task}.parquet", _with_features(sheets.parquet_bytes(board))
            for number, cell in enumerate(board.cells):
                if cell.status == "ok":
                    place = f"dataset/data/images/{task}/{number:04d}-{_slug(cell.label)}.parquet"
                    yield place, self._images(cell)

    def _results(self, boards: Sequence[Board], tasks: Sequence[str]) -> dict[str, bytes]:
        """Folder of a model -> its results, an entry a board.

        A folder a network: two that differ may have one label in two runs, or labels that make one
        name of a folder.
        """
        found: dict[tuple[str, str], list[str]] = {}
        for board, task in zip(boards, tasks, strict=True):
            for standing in board.standings:
                if standing.surviving_saving.value is None or standing.strongest is None:
                    continue
                cell = next(
                    one
                    for one in board.cells
                    if (*one.who, one.attack)
                    == (standing.target, standing.defense, standing.strongest)
                )
                model = standing.defended, cell.network
                found.setdefault(model, []).append(self._entry(board, standing, cell, task))
        names = _told_apart([defended for defended, _ in found])
        return {
            name: "".join(entries).encode()
            for name, entries in zip(names, found.values(), strict=True)
        }

    def _entry(self, board: Board, standing: TargetStanding, cell: BoardCell, task: str) -> str:
        """The saving that survives the strongest attack, in percent."""
        value = fixed(100 * (standing.surviving_saving.value or 0.0), 2)
        notes = (
            f"saving left, % of the ceiling's MACs, under {standing.strongest}; "
            f"{fixed(100 * (standing.clean_saving.value or 0))} on clean images; {board.terms}, "
            f"{counted(cell.n, 'image')}; interval {numbers.interval(standing.surviving_saving)}"
        )
        if standing.lacks:
            notes += f"; not ranked, lacks {', '.join(standing.lacks)}"
        lines = [
            "- dataset:",
            f"    id: {_text(self.dataset)}",
            f"    task_id: {_text(task)}",
            f"  value: {value}",
            "  evaluation_framework: gatebench",
        ]
        if self.source:
            lines += ["  source:", f"    url: {_text(self.source)}", "    name: gatebench"]
        return "\n".join([*lines, f"  notes: {_text(notes)}"]) + "\n"

    def _card(self, boards: Sequence[Board], tasks: Sequence[str]) -> bytes:
        """README.md: what viewers read first, then words."""
        lines = ["---", f"license: {self.license}", "tags: [gatebench, adversarial]", "configs:"]
        for task in tasks:
            lines += [
                f"- config_name: {_text(task)}",
                "  data_files:",
                "  - split: board",
                f"    path: {_text(f'data/board/{task}.parquet')}",
                f"- config_name: {_text(f'{task}-images')}",
                "  data_files:",
                "  - split: images",
                f"    path: {_text(f'data/images/{task}/*.parquet')}",
            ]
        lines += ["---", "", f"# {self.dataset.rpartition('/')[2]}", ""]
        lines += [
            "Boards of gatebench: how much of the work that dynamic neural networks save an attack "
            "wins back, in multiply-accumulates that were really executed.",
            "",
            "| config | board | cells | networks |",
            "|---|---|---|---|",
        ]
        for board, task in zip(boards, tasks, strict=True):
            words = _cell(f"{board.name}: {summary(board)}")
            lines.append(f"| `{task}` | {words} | {len(board.cells)} | {len(board.standings)} |")
        lines += ["", "Rows of `CONFIG-images` hold both pictures of every image.", ""]
        credits = dict.fromkeys(line for board in boards for line in board.credits)
        lines += (
            ["## Credits", "", *(f"- {_cell(line)}" for line in credits), ""] if credits else []
        )
        lines += ["## Commands", ""]
        for board in boards:
            lines += [f"    {_cell(board.command)}", ""]
        return "\n".join(lines).encode()

    def _images(self, cell: BoardCell) -> bytes:
        """The rows of a cell with their pictures."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = cell.some_rows(range(cell.n if self.images is None else min(self.images, cell.n)))
        columns: dict[str, list[Any]] = {
            name: [clean(getattr(cell, name))] * len(rows)
            for name in ("target", "defense", "attack")
        }
        columns |= {name: [getattr(row, name) for row in rows] for name in _SHOWN}
        picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table(columns)
        for name in ("image", "adversarial"):
            pictures = [{"bytes": getattr(row, name), "path": None} for row in rows]
            table = table.append_column(name, pa.array(pictures, picture))
        out = io.BytesIO()
        pq.write_table(_featured(table), out, compression="zstd", write_statistics=False)
        return out.getvalue()


def _told_apart(labels: Sequence[str]) -> list[str]:
    """A name of a file for each label that tells it from the others, on every disk."""
    found: list[str] = []
    for label in labels:
        name, number = _slug(label), 2
        while name.casefold() in (one.casefold() for one in found):
            name, number = f"{_slug(label)}-{number}", number + 1
        found.append(name)
    return found


def _tasks_file(boards: Sequence[Board], tasks: Sequence[str]) -> bytes:
    """eval.yaml: what makes a data set one that results refer to."""
    lines = [
        "name: gatebench",
        "description: "
        + _text(
            "The share of the ceiling's multiply-accumulates that a dynamic network still saves "
            "under the strongest energy-oriented attack, in percent."
        ),
        "evaluation_framework: gatebench",
        "tasks:",
    ]
    for task in tasks:
        lines += [f"- id: {_text(task)}", f"  config: {_text(task)}", "  split: board"]
    return ("\n".join(lines) + "\n").encode()


def _with_features(data: bytes) -> bytes:
    import pyarrow.parquet as pq

    out = io.BytesIO()
    table = pq.read_table(io.BytesIO(data))
    pq.write_table(_featured(table), out, compression="zstd", write_statistics=False)
    return out.getvalue()


def _featured(table: Any) -> Any:
    """A table whose metadata names the type of every column, as viewers of data sets read it."""
    import pyarrow as pa

    features: Mapping[str, Mapping[str, str]] = {
        field.name: {"_type": "Image"}
        if pa.types.is_struct(field.type)
        else {"dtype": str(field.type).replace("double", "float64"), "_type": "Value"}
        for field in table.schema
    }
    info = json.dumps({"info": {"features": features}})
    return table.replace_schema_metadata({"huggingface": info})


def _slug(text: str) -> str:
    """A name of a file and of a configuration: letters, digits, '.', '_' and '-'."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", clean(text)).strip("-.")[:80] or "board"


def _text(text: str) -> str:
    """A string in YAML; those of JSON are some."""
    return json.dumps(clean(text), ensure_ascii=False)


def _cell(text: str) -> str:
    """Text that stays in its line and its column of a Markdown table."""
    return re.sub(r"([|<>`\[\]])", r"\\\1", " ".join(clean(text).split()))
