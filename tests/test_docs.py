"""What the documents show works: their code, their plan, the commands and flags that they name."""

import re
import tomllib
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
DEFENCES = (ROOT / "docs/defences.md").read_text(encoding="utf-8")
REGRESSION = (ROOT / "docs/regression.md").read_text(encoding="utf-8")


def blocks(text, language):
    return [part.split("```")[0] for part in text.split(f"```{language}\n")[1:]]


def test_the_defence_in_the_documents_is_one():
    from bench.evaluation import target_checks
    from bench.testing import ToyTarget, check_target, problems, sample_images

    (code,) = blocks(DEFENCES, "python")
    space: dict = {}
    exec(code, space)  # as a reader would type it
    toy = ToyTarget()
    target = space["Dim"](factor=0.5).wrap(toy)
    target_checks.freeze(target)
    assert not problems(check_target(target))
    with torch.no_grad():
        assert torch.equal(
            target(sample_images((3, 8, 8))).logits, toy(sample_images((3, 8, 8)) * 0.5).logits
        )


def test_the_plan_of_defences_is_valid(tmp_path):
    from bench.plans.resolve import load_plan

    plans = [text for text in blocks(DEFENCES, "toml") if "[[attack]]" in text]
    assert plans
    for text in plans:
        head = '[protocol]\ndataset = "digits-m:test"\nthreat = { norm = "psnr", floor = 35 }\n'
        head += '[[target]]\nuse = "skipnet"\nweights = "skipnet-20-budget@digits-m"\n[[defense]]\nuse = "monitor"\n'
        tomllib.loads(head + text)
        path = tmp_path / "plan.toml"
        path.write_text(head + text, encoding="utf-8")
        assert {cell.attack.label for cell in load_plan(path).cells} >= {"unaware", "autoenergy"}


def test_every_defence_and_every_flag_is_told():
    from bench.plugins import registry
    from reports.vocabulary import FLAGS

    for name in registry.names("defense"):
        assert f"`{name}`" in DEFENCES, name
    told = set(re.findall(r"^\| `([a-z-]+)` \| ", DEFENCES, re.MULTILINE))
    asked = {
        "zero-gradient",
        "misleading-gradient",
        "saturated-gates",
        "hard-masks",
        "randomised",
        "not-converged",
        "black-box-leads",
    }
    assert asked | {"transfer-leads", "shrinks-with-radius"} <= told
    assert told - set(registry.names("defense")) - {"surviving-saving"} <= set(FLAGS)


def test_exit_codes_and_options_of_the_gate_are_those_that_there_are():
    from bench.cli.check import check
    from bench.errors import EXIT_CODES
    from bench.regression.check import EFFECTS

    for code in re.findall(r"^\| (\d+) \|", REGRESSION, re.MULTILINE):
        assert int(code) in EXIT_CODES
    known = {option for parameter in check.params for option in parameter.opts}
    (workflow,) = blocks(REGRESSION, "yaml")
    for line in (
        line
        for line in [*workflow.splitlines(), *REGRESSION.splitlines()]
        if "gatebench check " in line
    ):
        assert set(re.findall(r"--[a-z-]+", line)) <= known, line
    for measure, effect in EFFECTS.items():
        assert re.search(rf"\| `{measure}` \| {100 * effect:g} point", REGRESSION), measure


@pytest.mark.parametrize("text", [DEFENCES, REGRESSION])
def test_commands_that_are_named_exist(text):
    from bench.cli import COMMANDS

    for name in re.findall(r"gatebench ([a-z]+) (?!/)", text):
        assert name in {*COMMANDS, "already"}, name
