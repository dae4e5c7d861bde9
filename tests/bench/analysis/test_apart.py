"""Plugins of others work in processes of their own, one for each target."""

import multiprocessing
import os
import time

import pytest
from mischief_site import TOY_PLAN

import bench.analysis.transfer
from bench.analysis.apart import apart
from bench.analysis.transfer import transfer
from bench.errors import PluginError, RunFolderError
from bench.plans.resolve import load_plan
from bench.runs.layout import lay_out
from bench.runs.run import Run

TWO = TOY_PLAN + '[[target]]\nuse = "toy"\nweights = "random:1"\nlabel = "second"\n'


def laid(folder, text):
    (folder / "plan.toml").write_text(text)
    return lay_out(load_plan(folder / "plan.toml"), folder, "r", "gatebench run plan.toml", None)


def test_a_foreign_plugin_works_in_another_process(plugins, tmp_path):
    (cell, *_) = laid(tmp_path, TOY_PLAN).plan.cells.values()
    assert apart(cell, os.getpid) != os.getpid()


def refuses():
    raise RunFolderError("another target", hint="look")


def test_an_error_of_ours_stays_what_it_is(plugins, tmp_path):
    (cell, *_) = laid(tmp_path, TOY_PLAN).plan.cells.values()
    with pytest.raises(RunFolderError, match="another target") as caught:
        apart(cell, refuses)
    assert caught.value.hint == "look"


def test_what_hangs_is_given_up(plugins, tmp_path):
    (cell, *_) = laid(tmp_path, TOY_PLAN).plan.cells.values()
    began = time.monotonic()
    with pytest.raises(PluginError, match=r"took longer than 0\.5 s"):
        apart(cell, time.sleep, 600, deadline=0.5)
    assert time.monotonic() - began < 300
    assert not multiprocessing.active_children()


def test_transfer_scores_each_target_apart(plugins, tmp_path, monkeypatch):
    made = laid(tmp_path, TWO)
    Run(made, in_process=True)(lambda tasks, there: None, lambda event: None)
    asked = []

    def noted(cell, work, *arguments):
        asked.append(cell.target.label)
        return apart(cell, work, *arguments)

    monkeypatch.setattr(bench.analysis.transfer, "apart", noted)
    transfer(made.folder)
    assert asked == ["toy random:0", "second"]
