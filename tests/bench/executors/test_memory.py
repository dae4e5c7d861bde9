"""Freed memory stays in the process."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from bench.executors.memory import keep_freed_memory
kept = keep_freed_memory()
import torch
def work():
    graph = [torch.ones(2**19) for _ in range(64)]
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_large_blocks_are_reused_without_page_faults():
    """64 blocks of 2 MiB, held together and freed together as a graph is, are 32,768 pages of 4 KiB
    if faulted in anew."""
    kept, faults = subprocess.run(
        [sys.executable, "-c", FAULTS], check=True, capture_output=True, text=True
    ).stdout.split()
    assert kept == "True"
    assert int(faults) < 8000
