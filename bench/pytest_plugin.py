"""pytest plugin: attack a target in a test; fail when its saving does not survive.

    def test_the_cap_holds(gatebench):
        result = gatebench.run(
            target="skipnet-20-budget@digits-m", defense="cap", attack="gradauto", images=64
        )
        assert_saving_survives(result, at_least=0.30)
        assert_no_regression(result, "baselines/cap.json")

`gatebench.run` makes a plan of its arguments and runs it as `gatebench run` does, in this process;
`gatebench.plan(FILE)` runs a plan of your own. Results are kept in pytest's cache: what was
computed before, by the same plan and the same code, is not computed again, and under xdist workers
that want the same run wait for each other. Nothing of torch is imported until a test asks for a
run.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from bench.contracts.threat import PSNR_CAP
from bench.python.result import Result
from bench.results.limits import ROUNDING, places_apart
from bench.terminal import percent, printable

if TYPE_CHECKING:
    from bench.results.records import BoardCell
    from bench.runs.execute import RunRequest

__all__ = ["Gatebench", "Result", "assert_no_regression", "assert_saving_survives", "gatebench"]

WAIT = 1800
"""Seconds that a worker waits for another one on the same run."""
_ELSEWHERE = "choose another folder with --gatebench-cache"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("gatebench", "energy attacks on dynamic neural networks")
    group.addoption(
        "--gatebench-images",
        type=int,
        metavar="N",
        help="Images of every run, whatever the test says; for a quick look.",
    )
    group.addoption(
        "--gatebench-device",
        metavar="DEVICE",
        help='Where to compute: "cpu", "cuda" …; default: auto.',
    )
    group.addoption(
        "--gatebench-data-root",
        metavar="FOLDER",
        help="Where data sets lie that do not come along.",
    )
    group.addoption(
        "--gatebench-cache",
        metavar="FOLDER",
        help="Where runs are kept; default: in pytest's cache.",
    )
    group.addoption(
        "--gatebench-update-baselines",
        action="store_true",
        help="Write baselines again instead of comparing with them.",
    )
    parser.addini(
        "gatebench_device", "Where to compute, where the command line says nothing.", default="auto"
    )
    parser.addini(
        "gatebench_data_root",
        "Where data sets lie, where the command line says nothing.",
        default="",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "gatebench: attacks a network; takes seconds to minutes (deselect with -m 'not gatebench')",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that use the fixture carry the marker."""
    for item in items:
        if "gatebench" in getattr(item, "fixturenames", ()):
            item.add_marker("gatebench")


@pytest.fixture(scope="session")
def gatebench(request: pytest.FixtureRequest) -> Gatebench:
    """Runs targets against attacks; see `Gatebench.run` and `Gatebench.plan`."""
    config = request.config
    chosen = config.getoption("--gatebench-cache")
    if not chosen and getattr(config, "cache", None) is None:
        raise pytest.UsageError(
            "pytest's cache is off, so there is no place for runs; give one with --gatebench-cache "
            "FOLDER"
        )
    images = config.getoption("--gatebench-images")
    if images is not None and images < 1:
        raise pytest.UsageError(f"--gatebench-images {images}: at least 1")
    return Gatebench(
        folder=Path(chosen) if chosen else Path(config.cache.mkdir("gatebench")),
        root=config.rootpath,
        images=images,
        device=config.getoption("--gatebench-device") or config.getini("gatebench_device"),
        data_root=config.getoption("--gatebench-data-root")
        or config.getini("gatebench_data_root")
        or None,
        update=bool(config.getoption("--gatebench-update-baselines")),
    )


@dataclass(frozen=True)
class Gatebench:
    """What the fixture hands to a test.

    Attributes:
        folder: where runs are kept.
        images: overrides every test's own number.
        device: as in `gatebench run`.
        data_root: as in `gatebench run`.
        update: baselines are written instead of compared with.
        root: of the project; relative paths start from it.
    """

    folder: Path
    images: int | None = None
    device: str = "auto"
    data_root: str | None = None
    update: bool = False
    root: Path = field(default_factory=Path)

    def run(
        self,
        *,
        target: str | Mapping[str, Any],
        attack: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]] = "gradauto",
        defense: str | Mapping[str, Any] | None = None,
        dataset: str = "digits-m:test",
        images: int = 100,
        threat: str | Mapping[str, Any] | None = None,
        budget: int = 60,
        batch: int = 32,
        seed: int = 0,
    ) -> Result:
        """Run one target, with its defense if there is one, against one or several attacks.

        Args:
            target: the name of weights ("skipnet-20-budget@digits-m"), or a table as in a plan
                ({"use": …, "weights": …, "params": …}).
            attack: a name ("gradauto"), with a preset ("gradmdm:clean"), a table
                ({"use": …, "params": …}), or a list of these.
            defense: a name ("jpeg") or a table; None for none.
            dataset: "NAME:SPLIT".
            images: how many; `--gatebench-images` overrides it.
            threat: as in a plan; {"norm": "psnr", "floor": 35} unless given.
            budget: forward-equivalents an image.
            batch: images evaluated together.
            seed: of all random draws.

        Raises:
            PlanError: with all mistakes at once.
            DataError: the data set is missing or damaged.
            DiskError: the disk refused.
            WeightsError: the weights are missing or damaged.
        """
        from bench.files.toml import dump_document
        from bench.files.writing import make_folder
        from bench.python.plan import PSNR35, plan_document
        from bench.python.target import target_table

        attacks = [attack] if isinstance(attack, str | Mapping) else list(attack)
        document = plan_document(
            target=target_table(target),
            attacks=[_table(one) for one in attacks],
            defense=None if defense is None else _table(defense),
            dataset=dataset,
            images=self.images or images,
            threat=PSNR35 if threat is None else threat,
            budget=budget,
            batch=batch,
            seed=seed,
        )
        make_folder(self.folder, elsewhere=_ELSEWHERE)
        from bench.files.canonical import digest

        path = self.folder / f"plan-{digest(json.loads(json.dumps(document)))[:16]}.toml"
        from bench.files.atomic import write_atomic

        write_atomic(path, dump_document(document).encode())
        return self._run_plan(str(path), [], defended_only=defense is not None)

    def plan(self, source: str | Path, *, overrides: Sequence[str] = ()) -> Result:
        """Run a plan: a suite's name or a TOML file.

        Args:
            overrides: "protocol.budget=60" and the like.
        """
        images = [f"protocol.images={self.images}"] if self.images else []
        file = self.root / source
        return self._run_plan(
            str(file if file.is_file() else source), [*overrides, *images], defended_only=False
        )

    def _run_plan(self, source: str, overrides: Sequence[str], *, defended_only: bool) -> Result:
        from bench.files.writing import make_folder
        from bench.plans.resolve import load_plan
        from bench.runs.execute import RunRequest

        make_folder(self.folder, elsewhere=_ELSEWHERE)
        plan = load_plan(source, overrides=[*overrides, f'run.device="{self.device}"'])
        if defended_only:
            boards = tuple(
                tuple(cell for cell in board if cell.defense is not None) for board in plan.boards
            )
            plan = replace(plan, boards=boards)
        request = RunRequest(
            plan=plan,
            command=f"gatebench run {Path(source).name}",
            out=self.folder,
            name=f"run-{plan.digest[:16]}",
            data_root=Path(self.data_root) if self.data_root else None,
            renew=True,
            in_process=True,
        )
        found = _computed_in_turn(request)
        return _Checked(found.folder, found.boards, self.update, self.root)


def _computed_in_turn(request: RunRequest) -> Result:
    """Run to the end, after whoever else is at the same run."""
    from bench.errors import InUse
    from bench.python.run import computed

    began = time.monotonic()
    while True:
        try:
            return computed(request)
        except InUse:
            if time.monotonic() - began > WAIT:
                raise
            time.sleep(0.5)


@dataclass(frozen=True, repr=False)
class _Checked(Result):
    """A result that knows what the test run was told about baselines.

    Attributes:
        update: baselines are written instead of compared with.
        root: what relative paths of baselines start from.
    """

    update: bool = False
    root: Path = field(default_factory=Path)


def assert_saving_survives(result: Result, at_least: float, *, confidently: bool = False) -> None:
    """Fail unless at least this share of the ceiling is still saved under the strongest attack.

    Args:
        at_least: share, 0.2 is 20 %.
        confidently: the lower end of the interval must reach it, not the mean alone.
    """
    __tracebackhide__ = True
    cell = result.strongest
    saving = cell.surviving_saving
    reached = saving.low if confidently else saving.value
    if reached is None or not reached >= at_least - ROUNDING:
        places = 1 if reached is None else places_apart(100 * reached, 100 * at_least)
        what = (
            "the lower end of the interval of the surviving saving"
            if confidently
            else "the surviving saving"
        )
        pytest.fail(
            f"{what} of {cell.defended} is {_percent(reached, places)}, below the "
            f"{_percent(at_least, places)} asked for\n"
            f"  under {cell.attack}: {_percent(saving.value)} [{_percent(saving.low)}, "
            f"{_percent(saving.high)}] of {cell.n} images' MACs\n"
            f"  on clean images: saving {_percent(cell.clean_saving.value)}, accuracy "
            f"{_percent(cell.clean_accuracy.value)}\n"
            f"  {cell.attack} won back {_percent(cell.recovery.value)} at {_decibel(cell)}\n"
            f"  run: {result.folder}",
            pytrace=False,
        )


def assert_no_regression(
    result: Result,
    baseline: str | Path,
    *,
    effects: Mapping[str, float] | None = None,
    alpha: float = 0.05,
) -> None:
    """Fail when something got worse than the committed baseline, as `gatebench check` judges it.

    Args:
        baseline: the file, from the root of the project; with --gatebench-update-baselines it is
            written instead.
        effects: measure -> share by which it may get worse.
        alpha: share of checks of an unchanged project that may fail.

    Raises:
        NotComparable: the baseline was not measured like this run.
        DiskError: the disk refused a baseline that was to be written.
    """
    __tracebackhide__ = True
    from bench.files.writing import make_folder
    from bench.regression.baseline import Baseline
    from bench.regression.check import check

    known = result if isinstance(result, _Checked) else _Checked(result.folder, result.boards)
    now, file = Baseline.of_run(result.folder), known.root / baseline
    if known.update:
        make_folder(file.parent, elsewhere="name another file")
        now.write(file)
        return
    verdict = check(Baseline.read(file), now, effects=effects, alpha=alpha)
    if not verdict.passed:
        lines = [
            verdict.summary(),
            *(f"  {one.words}" for one in verdict.failures),
            *(f"  note: {note}" for note in verdict.notes),
        ]
        pytest.fail(printable("\n".join([*lines, f"  run: {result.folder}"])), pytrace=False)
    for note in verdict.notes:
        if note.isupper() or note.split(":")[0].isupper():
            warnings.warn(f"gatebench: {note}", stacklevel=2)


def _decibel(cell: BoardCell) -> str:
    """PSNR of the mean squared error, as boards show it."""
    value = cell.overall_psnr
    return "no distortion" if value is None or value >= PSNR_CAP else f"{value:.1f} dB"


def _percent(value: float | None, places: int = 1) -> str:
    return "undefined" if value is None else percent(value, places)


def _table(entry: str | Mapping[str, Any]) -> dict[str, Any]:
    return {"use": entry} if isinstance(entry, str) else dict(entry)
