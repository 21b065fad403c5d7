"""Freed memory is used again."""

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from metarl.core.machine.allocation import keep_freed_memory

is_set = keep_freed_memory() if sys.argv[1] == "keep" else False
torch.set_num_threads(1)
for _ in range(10):
    torch.ones(10_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(10_000_000)
print(is_set, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(choice):
    command = [sys.executable, "-c", PROGRAM, choice]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return found[0] == "True", int(found[1])


def test_freed_memory_is_not_mapped_again():
    is_set, kept = page_faults("keep")
    if not is_set:
        pytest.skip("the C library has no mallopt")
    assert page_faults("return")[1] > 2 * kept
