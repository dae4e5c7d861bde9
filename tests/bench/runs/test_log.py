"""The log of a run."""

import os

import pytest

from bench.errors import DiskError
from bench.runs.log import RunLog


def test_texts_go_to_its_end_whatever_they_hold(tmp_path):
    log = RunLog(tmp_path)
    log.write("one \n")
    with log.opened() as write:
        write("two \udcff")
    assert [line[9:] for line in log.path.read_text().splitlines()] == ["one", "two \\udcff"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no such device here")
def test_a_full_disk_names_the_log(tmp_path):
    (tmp_path / "log.txt").symlink_to("/dev/full")
    with pytest.raises(DiskError, match=r"cannot write .*log\.txt: ") as said:
        RunLog(tmp_path).write("x")
    assert "free some space" in said.value.hint
