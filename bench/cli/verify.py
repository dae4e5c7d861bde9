"""`gatebench verify`: can a run folder be believed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click

from bench.cli.options import as_json, data_root_option, device_option, emit
from bench.terminal import cell, console, counted, say


@click.command()
@click.argument("run")
@click.option(
    "--images",
    default=8,
    show_default=True,
    type=click.IntRange(1),
    help="Images of each cell to execute again, chosen at random.",
)
@click.option("--all", "everything", is_flag=True, help="Execute every image of every cell again.")
@click.option(
    "--seed",
    type=click.IntRange(0),
    help="Chooses the images; by default another one each time, so that none can be foreseen.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="TEXT",
    help="Execute only cells with TEXT in their label; everything is read all the same.",
)
@data_root_option("; clean images are compared with it")
@device_option("Where to execute")
@click.option(
    "--json", "json_file", metavar="FILE", help='Write what was found as JSON; "-" is the terminal.'
)
def verify(
    run: str,
    images: int,
    everything: bool,
    seed: int | None,
    only: Sequence[str],
    data_root: str | None,
    device: str,
    json_file: str | None,
) -> int:
    """Check the results in RUN, and execute a random part of them again.

    For every cell, recomputes the key from the plan, digests and sums from the shards, distances
    from the pictures, MACs from the decisions, flags from the rows, and ensembles from their
    members. Images and labels are compared with the data set, descriptions and gradients with the
    targets; skipped attacks are asked again. Then some images are evaluated again from the stored
    pictures, and once more after JPEG: predictions, decisions and MACs must be the same, as
    integers, and ptflops must count the same executions. What cannot be made again is named.

    Exit code 10 when something does not hold. A difference where a margin lies within float noise
    (another device, another version of torch) is a remark. What an attack did to find its images is
    not repeated.
    """
    import secrets

    from bench.store.folder import RunFolder, find_run
    from bench.store.provenance import deterministic, resolve_devices
    from bench.verify.verify import verify as examine

    folder = find_run(run)
    deterministic(threads=1)
    quiet = json_file == "-"
    found = examine(
        RunFolder(folder),
        images=None if everything else images,
        seed=secrets.randbits(32) if seed is None else seed,
        only=only,
        data_root=data_root,
        device=str(resolve_devices(device)[0]),
        tell=_progress(quiet),
    )
    for remark in found.remarks:
        say(f"remark: {remark}", err=quiet)
    for problem in found.problems:
        say(f"WRONG: {problem}", err=quiet)
    emit(json_file, as_json(found.document()))
    looked = (
        f"{counted(found.cells, 'cell')}, {counted(found.images, 'row')} read, "
        f"{counted(found.executed, 'image')} executed again, "
        f"{found.counted} counted, seed {found.seed}"
    )
    for what in found.unchecked:
        say(f"not checked: {what}", err=quiet)
    holds = "everything that was checked holds"
    count = len(found.problems)
    wrong = f"{counted(count, 'thing')} {'does' if count == 1 else 'do'} not hold"
    verdict = holds if found.holds else wrong
    say(f"verify: {looked}: {verdict}", err=quiet)
    return 0 if found.holds else 10


def _progress(quiet: bool) -> Callable[[str], None]:
    """A status line on a terminal; nothing elsewhere."""
    out = console(err=True)
    if quiet or not out.is_terminal:
        return lambda line: None
    return lambda line: out.print(cell(line), end="\r", overflow="ellipsis", no_wrap=True)
