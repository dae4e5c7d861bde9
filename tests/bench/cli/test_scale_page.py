"""The files to copy in docs/scale.md: they parse, their commands exist, and the array runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.runs.share import Share, parse_share

PAGE = (Path(__file__).parents[3] / "docs" / "scale.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_file_names_options_that_there_are():
    from bench.cli.merge import merge
    from bench.cli.run import run

    for name, command in (("run", run), ("merge", merge)):
        known = {option for parameter in command.params for option in parameter.opts}
        lines = re.findall(rf"gatebench {name} (.*?)(?:`|#|$)", PAGE.replace("\\\n", " "), re.M)
        assert len(lines) >= 4
        for line in lines:
            assert set(re.findall(r"--[a-z-]+", line)) <= known, line


def test_the_indexed_job_covers_every_share():
    (job, matrix) = blocks("yaml")
    completions = int(re.search(r"completions: (\d+)", job)[1])
    assert int(re.search(r"parallelism: (\d+)", job)[1]) == completions
    (expression,) = re.findall(r'--share "(\$\(\(JOB_COMPLETION_INDEX \+ 1\)\)/\d+)"', job)
    for index in range(completions):
        shown = subprocess.run(
            ["bash", "-c", f'echo "{expression}"'],
            env={"JOB_COMPLETION_INDEX": str(index)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        assert parse_share(shown) == Share(index + 1, completions)
    numbers = re.search(r"share: \[(.*)\]", matrix)[1].split(", ")
    assert numbers == [str(i + 1) for i in range(len(numbers))]
    assert f'matrix.share }}}}/{len(numbers)}"' in matrix
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(job)["spec"]["completionMode"] == "Indexed"
    assert set(yaml.safe_load(matrix)["jobs"]) == {"share", "merge"}


def test_the_files_for_ray_are_scripts_and_the_plan_names_its_executor():
    import tomllib

    from bench.plugins import registry

    scripts = [text for text in blocks("bash") if "ray start" in text]
    assert len(scripts) == 2
    for text in scripts:
        subprocess.run(["bash", "-n"], input=text, text=True, check=True)
        (head,) = set(re.findall(r"--port=(\d+)", text))
        assert f"RAY_ADDRESS=$(hostname):{head}" in text or f"RAY_ADDRESS=$head:{head}" in text
    (plan,) = [tomllib.loads(text) for text in blocks("toml")]
    assert plan["run"]["executor"] in registry.names("executor")


@pytest.mark.slow  # every share is a process of its own
def test_the_array_runs_and_merges(gatebench, tmp_path, child_environment):
    share, union = [text for text in blocks("bash") if "ray start" not in text]
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "gatebench").write_text(f'#!/bin/bash\nexec {sys.executable} -m bench "$@"\n')
    (bin_ / "gatebench").chmod(0o755)
    path = os.pathsep.join([str(bin_), os.environ["PATH"]])
    plan = (
        (tmp_path / "plan.toml")
        .read_text()
        .replace('device = "cpu"', 'device = "cpu"\nworkers = 1')
    )
    (tmp_path / "plan.toml").write_text(plan)

    def script(text, **variables):
        done = subprocess.run(
            [shutil.which("bash"), "-c", text],
            cwd=tmp_path,
            env=child_environment(PATH=path, **variables),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    for task in ("1", "2"):
        said = script(share, SLURM_ARRAY_TASK_ID=task, SLURM_ARRAY_TASK_COUNT="2")
        assert f"share {task}/2: 6 images computed in runs/big-{task}of2" in said
    assert "2 of 2 cells in runs/big" in script(union)
    assert (tmp_path / "runs" / "big" / "report" / "index.html").is_file()
