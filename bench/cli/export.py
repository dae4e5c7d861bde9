"""`gatebench export`: boards for model hubs."""

from __future__ import annotations

from pathlib import Path

import click

from bench.terminal import say


@click.command()
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder to write; an older export or report there is replaced as a whole.",
)
@click.option(
    "--dataset", required=True, metavar="OWNER/NAME", help="What the data set is called on the hub."
)
@click.option("--source", default="", metavar="LINK", help="That results name as their source.")
@click.option("--license", default="other", show_default=True, help="Of the data set.")
@click.option(
    "--images", type=click.IntRange(0), help="Images of each cell in the data set. Default: all."
)
def export(
    runs: tuple[str, ...], out: Path, dataset: str, source: str, license: str, images: int | None
) -> None:
    """Write the boards of RUN... for model hubs; nothing is sent anywhere.

    \b
      models/TARGET/.eval_results/gatebench.yaml  results for the repository of a model
      dataset/                                    a data set with card: boards, rows, pictures

    The value of a result is the saving that survives the strongest attack on the network, in
    percent of its ceiling's MACs. Upload the folders with the tools of the hub.
    """
    from bench.cli.report import write_report
    from bench.store.folder import find_run

    options = {"dataset": dataset, "source": source, "license": license, "images": images}
    write_report([find_run(run) for run in runs], out, name="hub", options=options)
    say(str(out))
