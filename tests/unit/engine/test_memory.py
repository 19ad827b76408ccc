"""Memory that is kept costs no new pages. In a process of its own: it stays so."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

MEASURE = """
import resource, threading
import numpy as np
from engine.memory import keep_freed

def pictures():
    for _ in range(50):
        [np.ones((600, 800, 3), np.float32) for _ in range(4)]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    worker = threading.Thread(target=pictures)
    pictures(), worker.start(), worker.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = faults(), faults()
assert keep_freed()
print(before[1], [faults() for _ in range(3)][-1])
"""


def test_pictures_are_worked_out_in_memory_that_was_freed_before() -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("not glibc")
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    before, after = (int(number) for number in done.stdout.split())
    assert after < before / 10
