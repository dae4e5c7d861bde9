"""Whoever wrote a plugin that breaks its contract is told what to change."""

import ast
from pathlib import Path

import pytest

import bench
from bench.errors import ContractBroken, DataError
from bench.executors import worker
from bench.testing.findings import found

HOME = Path(bench.__file__).resolve().parent.parent
FOLDERS = ("bench", "attacks", "targets", "reports")


def without_a_hint(source):
    """The lines of a module where a broken contract is made without a hint."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [
        call.lineno
        for call in calls
        if ast.unparse(call.func).rpartition(".")[2] == "ContractBroken"
        and not any(
            keyword.arg == "hint" and ast.unparse(keyword.value) not in ("None", "''")
            for keyword in call.keywords
        )
    ]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_broken_contract_says_what_to_change(folder):
    silent = [
        f"{path.relative_to(HOME)}:{line}"
        for path in sorted((HOME / folder).rglob("*.py"))
        for line in without_a_hint(path.read_text(encoding="utf-8"))
    ]
    assert not silent, "ContractBroken without hint="


def test_what_is_looked_for_is_found():
    text = "raise ContractBroken('a', hint='b')\nraise errors.ContractBroken('a')\n"
    assert without_a_hint(text + "ContractBroken('a', hint=None)") == [2, 3]


def test_a_finding_keeps_the_hint():
    def check():
        raise ContractBroken("it is wrong", hint="mend it")

    assert found("it is right", check).hint == "mend it"
    assert not found("it is right", lambda: None).hint


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(ContractBroken("it is wrong", hint="mend it"), "invalid", id="contract"),
        pytest.param(DataError("it is wrong", hint="mend it"), "failed", id="data"),
    ],
)
def test_the_reason_of_a_cell_without_numbers_holds_the_hint(monkeypatch, error, status):
    def broken(*arguments):
        raise error

    monkeypatch.setattr(worker, "_compute", broken)
    event = worker.perform(None, "cpu", lambda event: None)
    assert (event.status, event.reason) == (status, "it is wrong; mend it")


def test_plugin_test_prints_the_hint(gatebench):
    code, out, _ = gatebench("plugin", "test", "liar", "--set", "lie=mask")
    assert code == 7
    assert "declare what execute multiplies in this thread" in out
