"""`gatebench weights`: list and verify weights, and write their cards."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from bench.cli.weights_import import import_weights
from bench.cli.weights_measure import measure_weights
from bench.terminal import FittedColumn, FittedTable, cell, console, counted, page, percent, say

if TYPE_CHECKING:
    from bench.weights.entry import Entry

_COLUMNS = (
    FittedColumn("name", name=True),
    FittedColumn("accuracy"),
    FittedColumn("static", 2),
    FittedColumn("saving"),
    FittedColumn("spread", 1),
    FittedColumn("MB", 4),
    FittedColumn("from", 3, name=True),
)


@click.group("weights")
def weights() -> None:
    """List, verify and import weights.

    Shipped weights come with gatebench and its plugins; your own lie in GATEBENCH_HOME/weights.
    """


weights.add_command(import_weights)
weights.add_command(measure_weights)


@weights.command("list")
def list_weights() -> None:
    """Show all weights with what is known of them.

    Accuracy and saving are on clean test images; spread is the standard deviation of the executed
    MACs between images, as a share of the ceiling. A dash is something that was not measured.
    Nothing is read but the manifests.
    """
    from bench import weights as store

    found = store.entries()
    if found:
        from rich.padding import Padding

        out = console()
        rows = [
            [
                name,
                *map(percent, (entry.accuracy, entry.static_accuracy)),
                *map(percent, (entry.clean_saving, entry.spread)),
                f"{entry.bytes / 1e6:.1f}" if entry.bytes is not None else "-",
                entry.origin,
            ]
            for name, entry in found.items()
        ]
        table = FittedTable(_COLUMNS, rows, out.width)
        for number, (row, entry) in enumerate(zip(rows, found.values(), strict=True)):
            out.print(table.table([row], heads=number == 0))
            out.print(Padding(cell(_story(entry), "dim"), (0, 0, 0, 2)))
    else:
        say(
            "no weights yet; 'gatebench train' makes some, 'gatebench weights import' "
            "brings some in"
        )
    for manifest in store.manifests():
        if manifest.problem:
            say(f"left out, from {manifest.origin}: {manifest.problem}", err=True)


@weights.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
def verify(names: tuple[str, ...]) -> None:
    """Check the digest of every weights file, or of those named.

    Ends with exit code 3 if any file or manifest is missing, cut short or altered; all are checked
    before. Weights on a package that is not installed are told, and count where they are named.
    """
    from bench import weights as store
    from bench.errors import WeightsError

    chosen = {name: store.find(name) for name in names} if names else store.entries()
    problems = (
        []
        if names
        else [
            f"{manifest.origin}: {manifest.problem}"
            for manifest in store.manifests()
            if manifest.problem
        ]
    )
    for name, entry in chosen.items():
        try:
            store.read_record(entry)
            store.check_files(entry)
        except store.NotInstalled as error:
            if names:
                problems.append(f"{error.message}; {error.hint}")
            say(f"-    {name}: {error.message.partition(': ')[2]}; {error.hint}")
        except WeightsError as error:
            problems.append(error.message)
            say(f"BAD  {name}")
        else:
            say(f"ok   {name}")
    if problems:
        raise WeightsError(
            "\n".join(problems), hint="restore the files, or train or import these weights again"
        )


@weights.command("card")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="All weights that come with gatebench.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write a file each, and README.md as their index.",
)
def write_cards(names: tuple[str, ...], everything: bool, out: Path | None) -> None:
    """Print the model card of weights, or write it.

    A card tells network, training, curves, accuracy, savings and opening rates.

    \b
    gatebench weights card skipnet-20-budget@digits-m
    gatebench weights card --all --out docs/cards
    """
    from bench import weights as store
    from bench.errors import PlanError
    from bench.files.atomic import write_atomic
    from bench.files.writing import make_folder
    from bench.weights import cards

    if bool(names) == everything:
        raise PlanError(
            "name the weights, or say --all", hint="'gatebench weights list' shows what there is"
        )
    known = store.entries().values()
    chosen = (
        [entry for entry in known if entry.origin == "gatebench"]
        if everything
        else [store.find(name) for name in names]
    )
    pages = {cards.file_name(entry): cards.card(entry) for entry in chosen}
    if out is None:
        page("\n".join(pages.values()))
        return
    if everything:
        pages["README.md"] = cards.index(chosen)
    make_folder(out)
    for name, text in pages.items():
        _check_card(out / name, text)
    for name, text in pages.items():
        write_atomic(out / name, text.encode())
    say(f"wrote {counted(len(pages), 'file')} to {out}")


def _check_card(path: Path, text: str) -> None:
    """Refuse a file that has another title than the card that is to take its place.

    Raises:
        PlanError: somebody else wrote it.
    """
    from bench.errors import PlanError
    from bench.files.regular import read_regular
    from bench.files.writing import refused

    title = text.encode().partition(b"\n")[0]
    try:
        if path.is_file() and read_regular(path).partition(b"\n")[0].rstrip() != title.rstrip():
            raise PlanError(
                f"{path} is there, and no card of gatebench; it was left alone",
                hint="choose another folder with --out",
            )
    except OSError as error:
        raise refused(error, path, "read") from error


def _story(entry: Entry) -> str:
    """Network, data set and recipe in a line."""
    parameters = " ".join(f"{key}={value}" for key, value in entry.params.items())
    parts = [
        f"{entry.target} {parameters}".strip(),
        entry.dataset and f"on {entry.dataset}",
        " ".join((entry.recipe, entry.stage)).strip(),
    ]
    return ", ".join(part for part in parts if part)
